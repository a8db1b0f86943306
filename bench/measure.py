"""Interleaved rounds of closed-loop load, and what one round of one contender cost."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import contenders as who
from bench.contenders import Contender, Running
from bench.harness.load import Load, LoadResult
from bench.harness.meters import cpu_ns, machine_time
from bench.harness.origin import Origin
from bench.harness.place import BenchError, Pinning
from bench.progress import Progress
from bench.scenarios import Scenario

# Of one CPU in a round: above it somebody else was at work on the machine, and the sample is marked.
NOISY_SHARE = 0.10
# The proxy's core was idle for more than this: the load side was the limit. CPU per request stays valid.
IDLE_SHARE = 0.10
# A contender's middle rounds lie further apart than this share of their median: no figure is made of them.
WIDE_SPREAD = 0.20
START_SECONDS, WARM_SECONDS, GAP_SECONDS = 0.5, 1, 0.15


def spread(values: Sequence[float]) -> float:
    """Distance of the quartiles as a share of the median; 0 for fewer than three values."""
    if len(values) < 3:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else 0.0


def doubt(rounds: Mapping[str, Mapping[int, float]], contender: str) -> float:
    """How far a contender's rounds are apart, as a share, without what the others had in common with it.

    `rounds` has a figure by contender and round. A round in which everything took longer is no doubt about a
    contender: each figure is also taken ÷ what its round cost the others (the median of their figures, each ÷
    its own median). One of the others that goes wild is none either: the lesser of both spreads counts.
    """
    own = rounds[contender]
    others = {name: figures for name, figures in rounds.items() if name != contender}
    usual = {name: statistics.median(figures.values()) for name, figures in others.items()}
    steadied = []
    for number, value in own.items():
        shares = [figures[number] / usual[name] for name, figures in others.items() if number in figures]
        steadied.append(value / statistics.median(shares) if shares else value)
    return min(spread(list(own.values())), spread(steadied))


@dataclass(frozen=True)
class Sample:
    """One round of one contender. CPU in ns: of the contender's whole process tree, and of the whole machine.

    `cpu_ns` is None for `direct`, which has no process of its own.
    """

    contender: str
    round: int
    requests: int
    bytes: int
    requests_per_second: float
    cpu_ns: int | None
    machine_ns: int
    p50_us: int
    p90_us: int
    p99_us: int
    max_us: int
    proxy_core_idle: float
    foreign_share: float
    error: str = ""
    marks: tuple[str, ...] = ()

    @property
    def cpu_us_per_request(self) -> float:
        """NaN if nothing was answered (the sample then has an error) or there is no process."""
        if not self.requests or self.cpu_ns is None:
            return float("nan")
        return self.cpu_ns / self.requests / 1000

    def as_json(self) -> dict[str, object]:
        cost = self.cpu_us_per_request
        return {**asdict(self), "cpu_us_per_request": cost if cost == cost else None}


@dataclass
class Outcome:
    """All samples of a scenario, and who could not take part and why."""

    scenario: Scenario
    samples: list[Sample] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def of(self, contender: str) -> list[Sample]:
        return [sample for sample in self.samples if sample.contender == contender]

    def failure(self, contender: str) -> str:
        """What went wrong in one of its rounds, or an empty string."""
        if contender in self.failed or contender in self.absent:
            return self.failed.get(contender, "") or self.absent[contender]
        samples = self.of(contender)
        return next((sample.error for sample in samples if sample.error), "") if samples else "not measured"

    def error(self, contender: str) -> str:
        """Why its figures must not be used, or an empty string: a failure, or rounds too far apart."""
        apart = self.spread(contender)
        noise = f"the rounds are {apart:.0%} apart" if apart > WIDE_SPREAD else ""
        return self.failure(contender) or noise

    def spread(self, contender: str) -> float:
        """Of the CPU a request took in its rounds, as a share, without what all contenders shared."""
        costs: dict[str, dict[int, float]] = {}
        for sample in self.samples:
            if sample.cpu_ns is not None and sample.requests:
                costs.setdefault(sample.contender, {})[sample.round] = sample.cpu_us_per_request
        return doubt(costs, contender) if contender in costs else 0.0

    def median(self, contender: str, figure: Callable[[Sample], float]) -> float:
        return statistics.median(figure(sample) for sample in self.of(contender))

    def ratios(self, contender: str, base: str) -> list[float]:
        """CPU per request, contender ÷ base, of each round: neighbours in time share the machine's mood."""
        bases = {sample.round: sample.cpu_us_per_request for sample in self.of(base)}
        return [s.cpu_us_per_request / bases[s.round] for s in self.of(contender) if s.round in bases]

    def summary(self, contender: str) -> dict[str, object]:
        """The medians of its rounds, with what must be known to judge them."""
        samples = self.of(contender)
        costs = [sample.cpu_us_per_request for sample in samples if sample.cpu_ns is not None]
        answered = [sample for sample in samples if sample.requests]
        machine = [sample.machine_ns / sample.requests / 1000 for sample in answered]
        return {
            "requests_per_second": self.median(contender, lambda s: s.requests_per_second),
            "cpu_us_per_request": _median_or_none(costs),
            "low": min((cost for cost in costs if cost == cost), default=None),
            "high": max((cost for cost in costs if cost == cost), default=None),
            "spread": self.spread(contender),
            "machine_us_per_request": _median_or_none(machine),
            "p50_us": self.median(contender, lambda s: s.p50_us),
            "p99_us": self.median(contender, lambda s: s.p99_us),
            "proxy_core_idle": self.median(contender, lambda s: s.proxy_core_idle),
            "marks": sorted({mark for sample in samples for mark in sample.marks}),
            "invalid": self.error(contender),
        }

    def as_json(self) -> dict[str, object]:
        measured = [name for name in self.scenario.contenders if self.of(name)]
        measured += sorted({sample.contender for sample in self.samples} - set(measured))
        return {
            "name": self.scenario.name,
            "title": self.scenario.title,
            "group": self.scenario.group,
            "connections": self.scenario.connections,
            "seconds": self.scenario.seconds,
            "path": self.scenario.path,
            "listener": self.scenario.listener,
            "absent": {n: why for n, why in {**self.absent, **self.failed}.items() if n not in measured},
            "summary": {name: self.summary(name) for name in measured},
            "samples": [sample.as_json() for sample in self.samples],
        }


def _median_or_none(values: Sequence[float]) -> float | None:
    usable = [value for value in values if value == value]
    return statistics.median(usable) if usable else None


@dataclass(frozen=True)
class Bench:
    """What all measurements share: the pinning, a folder, the origin, and the contenders that take part."""

    pinning: Pinning
    folder: Path
    origin: Origin
    contenders: Mapping[str, Contender]
    absent: Mapping[str, str]

    def start(
        self,
        name: str,
        variant: str = who.PLAIN,
        *,
        endpoints: int = 1,
        policy: str = "round_robin",
        origin_ports: Sequence[int] = (),
    ) -> Running:
        """In front of `origin_ports`, or else of the first `endpoints` ports of the shared origin."""
        return who.start(
            self.contenders[name],
            variant,
            origin_ports=tuple(origin_ports) or tuple(self.origin.ports[:endpoints]),
            policy=policy,
            cpu=self.pinning.proxy,
            folder=self.folder,
        )

    def asked(self) -> int:
        """Requests that the shared origin has received so far."""
        return sum(self.origin.count(port) for port in self.origin.ports)

    def select(self, names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
        """Splits the names into those that can run and those that cannot, with the reason.

        A second build of a contender (`nginx@old`) takes part wherever the first does.
        """
        wanted = list(names)
        extra = [name for name in self.contenders if name.partition("@")[0] in wanted and "@" in name]
        present = [name for name in (*wanted, *extra) if name in self.contenders]
        return present, {name: self.absent.get(name, "left out") for name in wanted if name not in present}


def load_on(bench: Bench, running: Running, scenario: Scenario, seconds: float | None = None) -> Load:
    return Load(
        f"http://127.0.0.1:{running.port(scenario.listener)}{scenario.path}",
        log=bench.folder / "wrk.log",
        cpu=bench.pinning.load,
        connections=scenario.connections,
        seconds=scenario.seconds if seconds is None else seconds,
        headers=scenario.headers,
        script=scenario.script,
    )


@dataclass(frozen=True)
class Cost:
    """CPU of one round, in ns; `foreign_share` is what others used, of one CPU."""

    cpu_ns: int | None
    machine_ns: int
    wall_ns: int
    foreign_share: float

    @property
    def idle(self) -> float:
        """Share of the round in which the proxy's core had nothing to do for the proxy."""
        return max(0.0, 1 - (self.cpu_ns or 0) / self.wall_ns)


class CostMeter:
    """Reads the clocks at construction and at `stop`, which raises if a process of the proxy ended."""

    def __init__(self, bench: Bench, running: Running) -> None:
        self._bench, self._running = bench, running
        self._tree = running.tree()
        self._machine = machine_time()
        self._ours = self._own_cpu_ns()
        self._proxy = cpu_ns(self._tree)

    def stop(self, wall_ns: int) -> Cost:
        proxy_ns = cpu_ns(self._tree) - self._proxy
        machine_ns = machine_time().busy - self._machine.busy
        self._running.check_alive()
        gone = set(self._tree) - set(self._running.tree())
        if gone:
            raise BenchError(
                f"a process of {self._running.contender.name} ended in mid-run (pid {min(gone)})"
            )
        wall_ns = max(1, wall_ns)
        foreign = max(0.0, (machine_ns - proxy_ns - self._own_cpu_ns() + self._ours) / wall_ns)
        return Cost(proxy_ns if self._tree else None, machine_ns, wall_ns, foreign)

    def _own_cpu_ns(self) -> int:
        """Of the suite itself: this process, the load generator (once it was waited for) and the origin."""
        used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        ours = sum(int((u.ru_utime + u.ru_stime) * 1e9) for u in used)
        return cpu_ns([self._bench.origin.pid]) + ours


def take_sample(bench: Bench, running: Running, scenario: Scenario, number: int) -> Sample:
    """One round: wrk from start to end, and the clocks just before and just after."""
    asked_before = bench.asked()
    meter = CostMeter(bench, running)
    result = load_on(bench, running, scenario).result(running.check_alive)
    cost = meter.stop(result.duration_us * 1000)
    asked = bench.asked() - asked_before
    running.trim_log()
    return Sample(
        contender=running.contender.name,
        round=number,
        requests=result.requests,
        bytes=result.bytes,
        requests_per_second=result.requests_per_second,
        cpu_ns=cost.cpu_ns,
        machine_ns=cost.machine_ns,
        p50_us=result.p50_us,
        p90_us=result.p90_us,
        p99_us=result.p99_us,
        max_us=result.max_us,
        proxy_core_idle=cost.idle,
        foreign_share=cost.foreign_share,
        error=_what_is_wrong(result, scenario, asked),
        marks=marks_of(cost),
    )


def marks_of(cost: Cost) -> tuple[str, ...]:
    marks = []
    if cost.foreign_share > NOISY_SHARE:
        marks.append("noisy")
    if cost.cpu_ns is not None and cost.idle > IDLE_SHARE:
        marks.append("load-limited")
    return tuple(marks)


def _what_is_wrong(result: LoadResult, scenario: Scenario, asked: int) -> str:
    if result.failed:
        return f"failed requests: {result.error_text()}"
    if not result.requests:
        return "no request was answered"
    if result.bytes < result.requests * scenario.least_bytes:
        return f"answers are short: {result.bytes / result.requests:.0f} bytes each"
    if asked < result.requests:
        return f"{result.requests - asked} answers did not come from the origin"
    return ""


def start_all(
    bench: Bench,
    names: Sequence[str],
    failed: dict[str, str],
    start: Callable[[str], Running],
    progress: Progress,
) -> list[Running]:
    """Starts each; who cannot gets its reason into `failed`. An interrupt stops what was started."""
    running: list[Running] = []
    try:
        for name in names:
            try:
                running.append(start(name))
            except BenchError as error:
                failed[name] = str(error)
                progress.say(f"{name}: {error}")
    except BaseException:
        stop_all(running)
        raise
    return running


def stop_all(running: Iterable[Running]) -> None:
    for contender in running:
        contender.stop()


def run_scenario(bench: Bench, scenario: Scenario, progress: Progress) -> Outcome:
    """A B C A B C: every contender runs all the while, and has one round in each turn."""
    outcome = Outcome(scenario)
    present, outcome.absent = able(bench, scenario)

    def start(name: str) -> Running:
        fresh = bench.start(name, scenario.variant, endpoints=scenario.endpoints, policy=scenario.policy)
        try:
            load_on(bench, fresh, scenario, WARM_SECONDS).result(fresh.check_alive)
        except BaseException:
            fresh.stop()
            raise
        return fresh

    running = start_all(bench, present, outcome.failed, start, progress)
    try:
        for number in range(scenario.rounds):
            taking_part = [r for r in running if r.contender.name not in outcome.failed]
            _run_round(bench, scenario, taking_part, number, outcome, progress)
    finally:
        stop_all(running)
    return outcome


def able(bench: Bench, scenario: Scenario) -> tuple[list[str], dict[str, str]]:
    """Who of the scenario's contenders is there and has the listener, the variant and the policy; why not."""
    present, absent = bench.select(scenario.contenders)
    for name in list(present):
        contender = bench.contenders[name]
        why = contender.unable(listener=scenario.listener, variant=scenario.variant, policy=scenario.policy)
        if why:
            present.remove(name)
            absent[name] = why
    return present, absent


def _run_round(
    bench: Bench,
    scenario: Scenario,
    running: Sequence[Running],
    number: int,
    outcome: Outcome,
    progress: Progress,
) -> None:
    for contender in running:
        name = contender.contender.name
        progress.finish(scenario.seconds + GAP_SECONDS)
        try:
            sample = take_sample(bench, contender, scenario, number)
        except BenchError as error:
            outcome.failed[name] = str(error)
            progress.say(f"{scenario.name} {number + 1}/{scenario.rounds} {name}: {error}")
            continue
        outcome.samples.append(sample)
        cost = "" if sample.cpu_ns is None else f", {sample.cpu_us_per_request:.2f} µs CPU/req"
        notes = " ".join((*sample.marks, sample.error))
        figures = f"{sample.requests_per_second:,.0f} req/s{cost}"
        progress.say(f"{scenario.name} {number + 1}/{scenario.rounds} {name}: {figures} {notes}")


def estimate(bench: Bench, scenario: Scenario) -> float:
    present, _ = able(bench, scenario)
    each = scenario.rounds * (scenario.seconds + GAP_SECONDS) + START_SECONDS + WARM_SECONDS
    return len(present) * each
