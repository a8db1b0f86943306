"""What clients see when something happens: an endpoint dies, slows down or fails, the configuration changes,
the proxy drains.

Each case puts an open loop of `RATE` requests a second on a proxy in front of three endpoints with processes
of their own, lets the event happen and counts what clients saw. The policy is `least_request`; what a peer
does about a bad endpoint by default is what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bench.contenders import RELOADABLE, Running
from bench.harness.openloop import OpenLoop, OpenLoopResult, merged
from bench.harness.origin import Origin
from bench.harness.place import BenchError, free_ports
from bench.latency import summed
from bench.measure import START_SECONDS, Bench
from bench.progress import Progress
from bench.scenarios import FURTHER

RATE = 2000
ENDPOINTS = 3
CHANGES = 20
# Failures that a draining proxy must not cause; a refused connection is what a stopped one looks like.
_LOST = ("reset", "cut", "timeout", "status", "protocol")


@dataclass(frozen=True)
class Stage:
    """What a case plays on: the proxy under load, and the endpoints behind it."""

    running: Running
    origins: Sequence[Origin]
    load: OpenLoop
    figures: dict[str, float]

    def wait(self, seconds: float) -> None:
        """Lets the load go on; BenchError if it ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.load.running():
                raise BenchError("the load ended before the case did")
            time.sleep(0.01)

    @property
    def ports(self) -> list[int]:
        return [origin.ports[0] for origin in self.origins]


@dataclass(frozen=True)
class Case:
    """`play` makes the event happen while the load goes on for `seconds`."""

    name: str
    title: str
    play: Callable[[Stage], None]
    seconds: float
    timeout_seconds: float = 1.0
    connections: int = 64
    behaviour: str = "normal"  # of the endpoints, from the start
    survives: bool = True  # the proxy is there at the end
    rounds: int = 3
    contenders: tuple[str, ...] = FURTHER


def _kill_one(stage: Stage) -> None:
    stage.wait(1.0)
    stage.origins[0].kill()
    stage.wait(1.5)
    stage.origins[0].restart()


def _slow_one(stage: Stage) -> None:
    stage.wait(1.0)
    stage.origins[0].behave(stage.ports[0], "delay fixed 500ms")
    stage.wait(2.0)
    stage.origins[0].behave(stage.ports[0], "normal")


def _fail_one(stage: Stage) -> None:
    stage.wait(1.0)
    before = [origin.count(port) for origin, port in zip(stage.origins, stage.ports, strict=True)]
    stage.origins[0].behave(stage.ports[0], "fail status 500")
    stage.wait(2.0)
    after = [origin.count(port) for origin, port in zip(stage.origins, stage.ports, strict=True)]
    stage.origins[0].behave(stage.ports[0], "normal")
    sent = [now - then for now, then in zip(after, before, strict=True)]
    stage.figures["share of requests sent to the failing endpoint"] = sent[0] / max(1, sum(sent))


def _change(stage: Stage) -> None:
    """Adds and removes an endpoint by turns."""
    slowest = 0.0
    for step in range(CHANGES):
        stage.wait(0.1)
        begin = time.monotonic()
        stage.running.reload(origin_ports=tuple(stage.ports[: ENDPOINTS - 1 + step % 2]))
        slowest = max(slowest, time.monotonic() - begin)
    stage.figures["slowest change, ms"] = slowest * 1000


def _drain(stage: Stage) -> None:
    stage.wait(1.0)
    begin = time.monotonic()
    stage.running.drain()
    if stage.running.child.wait(10) is None:
        raise BenchError(f"{stage.running.contender.name} did not end within 10 s of the drain's begin")
    stage.figures["seconds to the end"] = time.monotonic() - begin
    stage.wait(0.5)  # the load goes on, so that the end itself is in it


CASES: tuple[Case, ...] = (
    Case(
        "changes",
        f"{CHANGES} changes of configuration: an endpoint is added, removed",
        _change,
        seconds=0,  # as long as the changes take
        timeout_seconds=5.0,
    ),
    Case("killed", "one of three endpoints is killed for 1.5 s", _kill_one, seconds=4),
    # So many connections that those which wait for the slow endpoint keep none from the others.
    Case("slow", "one of three endpoints takes 500 ms for 2 s", _slow_one, seconds=4, connections=1024),
    Case("failing", "one of three endpoints answers 500 at once for 2 s", _fail_one, seconds=4),
    Case(
        "drain",
        "the proxy drains while each request takes 20 ms",
        _drain,
        seconds=0,  # until it has ended
        behaviour="delay fixed 20ms",
        survives=False,
    ),
)


@dataclass
class FaultOutcome:
    case: Case
    results: dict[str, list[OpenLoopResult]] = field(default_factory=dict)
    figures: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def failure(self, contender: str) -> str:
        """Why it could not be measured to the end, or an empty string."""
        return self.failed.get(contender, "")

    def failed_requests(self, contender: str) -> int:
        """Requests without a whole good answer; after a drain refused connections do not count."""
        errors = summed([result.errors for result in self.results[contender]])
        kinds = errors if self.case.survives else [kind for kind in errors if kind in _LOST]
        return sum(errors[kind] for kind in kinds)

    def summary(self, contender: str) -> dict[str, object]:
        results = self.results[contender]
        histogram = merged([result.latency for result in results])
        figures = self.figures[contender]
        return {
            "requests": sum(result.intended for result in results),
            "failed": self.failed_requests(contender),
            "errors": summed([result.errors for result in results]),
            "p50_us": histogram.get_value_at_percentile(50) / 1000,
            "p99_us": histogram.get_value_at_percentile(99) / 1000,
            "max_us": histogram.get_max_value() / 1000,
            "figures": {label: max(f[label] for f in figures) for label in figures[0]} if figures else {},
            "invalid": self.failure(contender),
        }

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.case.name,
            "title": self.case.title,
            "rate": RATE,
            "absent": {n: why for n, why in {**self.absent, **self.failed}.items() if n not in self.results},
            "summary": {name: self.summary(name) for name in self.results},
        }


@contextmanager
def endpoints(bench: Bench, case: Case) -> Iterator[list[Origin]]:
    with ExitStack() as stack:
        found = []
        for port in free_ports(ENDPOINTS):
            origin = Origin([port], cpu=bench.pinning.load, folder=bench.folder)
            stack.callback(origin.stop)
            origin.behave(port, case.behaviour)
            origin.go_first(True)
            found.append(origin)
        yield found


def play(bench: Bench, case: Case, name: str) -> tuple[OpenLoopResult, dict[str, float]]:
    """One round on a fresh proxy: the load, the event, and what clients saw."""
    with endpoints(bench, case) as origins:
        ports = [origin.ports[0] for origin in origins]
        running = bench.start(name, RELOADABLE, origin_ports=ports, policy="least_request")
        try:
            load = OpenLoop(
                running.port("http"),
                "/",
                rate=RATE,
                seconds=case.seconds or 120,
                connections=case.connections,
                log=bench.folder / "openloop.log",
                cpu=bench.pinning.load,
                timeout_seconds=case.timeout_seconds,
            )
            stage = Stage(running, origins, load, {})
            try:
                load.wait_started()
                case.play(stage)
                result = load.result() if case.seconds else load.finish()
            finally:
                load.stop()
            if case.survives:
                running.check_alive()
        finally:
            running.stop()
    return result, stage.figures


def run_case(bench: Bench, case: Case, progress: Progress) -> FaultOutcome:
    outcome = FaultOutcome(case)
    present, outcome.absent = bench.select(case.contenders)
    for number in range(case.rounds):
        for name in present:
            if name in outcome.failed:
                continue
            prefix = f"{case.name} {number + 1}/{case.rounds} {name}"
            progress.finish(_round_seconds(case))
            try:
                result, figures = play(bench, case, name)
            except BenchError as error:
                outcome.failed[name] = str(error)
                progress.say(f"{prefix}: {error}")
                continue
            outcome.results.setdefault(name, []).append(result)
            outcome.figures.setdefault(name, []).append(figures)
            progress.say(f"{prefix}: {result.failed} of {result.intended} failed {result.error_text()}")
    return outcome


def _round_seconds(case: Case) -> float:
    return START_SECONDS + (case.seconds or CHANGES * 0.17)


def estimate_case(bench: Bench, case: Case) -> float:
    present, _ = bench.select(case.contenders)
    return len(present) * case.rounds * _round_seconds(case)
