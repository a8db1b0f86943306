"""Interleaved rounds, and what one round of one contender cost."""

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
from bench.harness.place import BenchError, Pinning
from bench.progress import Progress
from bench.scenarios import Scenario

# Of one CPU in a round: above it somebody else was at work on the machine, and the sample is marked.
NOISY_SHARE = 0.10
# The proxy's core was idle for more than this: the load side was the limit. CPU per request stays valid.
IDLE_SHARE = 0.10
START_SECONDS, WARM_SECONDS, GAP_SECONDS = 0.5, 1, 0.15


@dataclass(frozen=True)
class Sample:
    """One round of one contender. CPU in ns, of the contender's whole process tree."""

    contender: str
    round: int
    requests: int
    bytes: int
    requests_per_second: float
    cpu_ns: int
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
        """NaN if nothing was answered; the sample then has an error."""
        return self.cpu_ns / self.requests / 1000 if self.requests else float("nan")


@dataclass
class Outcome:
    """All samples of a scenario, and who could not take part and why."""

    scenario: Scenario
    samples: list[Sample] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def of(self, contender: str) -> list[Sample]:
        return [sample for sample in self.samples if sample.contender == contender]

    def error(self, contender: str) -> str:
        """Why this contender's figures must not be used, or an empty string."""
        if contender in self.absent:
            return self.absent[contender]
        samples = self.of(contender)
        if not samples:
            return "not measured"
        return next((sample.error for sample in samples if sample.error), "")

    def median(self, contender: str, figure: Callable[[Sample], float]) -> float:
        return statistics.median(figure(sample) for sample in self.of(contender))

    def ratios(self, contender: str, base: str) -> list[float]:
        """CPU per request, contender ÷ base, of each round: neighbours in time share the machine's mood."""
        bases = {sample.round: sample.cpu_us_per_request for sample in self.of(base)}
        return [s.cpu_us_per_request / bases[s.round] for s in self.of(contender) if s.round in bases]

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.scenario.name,
            "title": self.scenario.title,
            "connections": self.scenario.connections,
            "seconds": self.scenario.seconds,
            "path": self.scenario.path,
            "listener": self.scenario.listener,
            "absent": self.absent,
            "samples": [
                {**asdict(s), "cpu_us_per_request": s.cpu_us_per_request if s.requests else None}
                for s in self.samples
            ],
        }


@dataclass(frozen=True)
class Bench:
    """What all measurements share: the pinning, a folder, the origin, and the contenders that take part."""

    pinning: Pinning
    folder: Path
    origin_ports: tuple[int, ...]
    origin_pid: int
    contenders: Mapping[str, Contender]
    absent: Mapping[str, str]

    def start(self, name: str, variant: str = who.PLAIN) -> Running:
        return who.start(
            self.contenders[name],
            variant,
            origin_ports=self.origin_ports[:1],
            cpu=self.pinning.proxy,
            folder=self.folder,
        )

    def select(self, names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
        """Splits the names into those that can run and those that cannot, with the reason."""
        present = [name for name in names if name in self.contenders]
        return present, {name: self.absent.get(name, "left out") for name in names if name not in present}


def load_on(bench: Bench, running: Running, scenario: Scenario, seconds: float | None = None) -> Load:
    return Load(
        f"http://127.0.0.1:{running.port(scenario.listener)}{scenario.path}",
        log=bench.folder / "wrk.log",
        cpu=bench.pinning.load,
        connections=scenario.connections,
        seconds=scenario.seconds if seconds is None else seconds,
        headers=scenario.headers,
    )


def take_sample(bench: Bench, running: Running, scenario: Scenario, number: int) -> Sample:
    """One round: wrk from start to end, and the clocks just before and just after."""
    tree = running.child.tree()
    machine_before = machine_time()
    ours_before = _own_cpu_ns(bench)
    proxy_before = cpu_ns(tree)
    load = load_on(bench, running, scenario)
    result = load.result(running.child.check_alive)
    proxy_ns = cpu_ns(tree) - proxy_before
    machine_ns = machine_time().busy - machine_before.busy
    wall_ns = max(1, result.duration_us * 1000)
    foreign = max(0.0, (machine_ns - proxy_ns - _own_cpu_ns(bench) + ours_before) / wall_ns)
    idle = max(0.0, 1 - proxy_ns / wall_ns)
    marks = []
    if foreign > NOISY_SHARE:
        marks.append("noisy")
    if idle > IDLE_SHARE:
        marks.append("load-limited")
    running.trim_log()
    return Sample(
        contender=running.contender.name,
        round=number,
        requests=result.requests,
        bytes=result.bytes,
        requests_per_second=result.requests_per_second,
        cpu_ns=proxy_ns,
        p50_us=result.p50_us,
        p90_us=result.p90_us,
        p99_us=result.p99_us,
        max_us=result.max_us,
        proxy_core_idle=idle,
        foreign_share=foreign,
        error=_what_is_wrong(result, scenario),
        marks=tuple(marks),
    )


def _own_cpu_ns(bench: Bench) -> int:
    """Of the suite itself: this process, wrk (once it was waited for) and the origin."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return cpu_ns([bench.origin_pid]) + sum(int((u.ru_utime + u.ru_stime) * 1e9) for u in used)


def _what_is_wrong(result: LoadResult, scenario: Scenario) -> str:
    if result.failed:
        return f"failed requests: {result.error_text()}"
    if not result.requests:
        return "no request was answered"
    if result.bytes < result.requests * scenario.least_bytes:
        return f"answers are short: {result.bytes / result.requests:.0f} bytes each"
    return ""


def run_scenario(bench: Bench, scenario: Scenario, progress: Progress) -> Outcome:
    """A B C A B C: every contender runs all the while, and has one round in each turn."""
    outcome = Outcome(scenario)
    present, outcome.absent = bench.select(scenario.contenders)
    running: list[Running] = []
    try:
        for name in present:
            try:
                running.append(bench.start(name, scenario.variant))
                load_on(bench, running[-1], scenario, WARM_SECONDS).result(running[-1].child.check_alive)
            except BenchError as error:
                outcome.absent[name] = str(error)
                progress.say(f"{scenario.name} {name}: {error}")
        for number in range(scenario.rounds):
            taking_part = [r for r in running if r.contender.name not in outcome.absent]
            _run_round(bench, scenario, taking_part, number, outcome, progress)
    finally:
        for contender in running:
            contender.stop()
    return outcome


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
            outcome.absent[name] = str(error)
            progress.say(f"{scenario.name} {number + 1}/{scenario.rounds} {name}: {error}")
            continue
        outcome.samples.append(sample)
        figures = f"{sample.requests_per_second:,.0f} req/s, {sample.cpu_us_per_request:.2f} µs CPU/req"
        notes = " ".join((*sample.marks, sample.error))
        progress.say(f"{scenario.name} {number + 1}/{scenario.rounds} {name}: {figures} {notes}")


def estimate(bench: Bench, scenario: Scenario) -> float:
    present, _ = bench.select(scenario.contenders)
    each = scenario.rounds * (scenario.seconds + GAP_SECONDS) + START_SECONDS + WARM_SECONDS
    return len(present) * each
