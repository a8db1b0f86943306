"""Latency at a constant rate: interleaved open-loop rounds of every contender, and what may be shown of them.

The rate is a share of what the slowest peer can do, so that every contender has the same work and none is
overloaded. Latency counts from the moment at which a request was due: a stall of the proxy delays all that
were due meanwhile, and each of them shows it. Who is not measured is paused: it would take the core for
milliseconds now and then.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.contenders import Running
from bench.harness.openloop import (
    OpenLoop,
    OpenLoopResult,
    distribution,
    error_us,
    merged,
    shown,
    write_hgrm,
)
from bench.harness.place import BenchError
from bench.measure import (
    GAP_SECONDS,
    START_SECONDS,
    WARM_SECONDS,
    WIDE_SPREAD,
    Bench,
    CostMeter,
    Outcome,
    doubt,
    marks_of,
    start_all,
    stop_all,
)
from bench.progress import Progress
from bench.scenarios import LatencyScenario

QUANTILES = (50.0, 90.0, 99.0, 99.9)
# Before each round, so that one which was paused is awake again.
AWAKE_SECONDS = 0.25
# Who has no process to be slow, or does nothing that a user would want, sets no rate.
NO_PEERS = ("direct", "floor")


@dataclass(frozen=True)
class LatencySample:
    """One round of one contender."""

    contender: str
    round: int
    result: OpenLoopResult
    cpu_ns: int | None
    marks: tuple[str, ...]


@dataclass
class LatencyOutcome:
    """All rounds of a scenario at one rate (requests a second)."""

    scenario: LatencyScenario
    rate: int
    samples: list[LatencySample] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def of(self, contender: str) -> list[LatencySample]:
        return [sample for sample in self.samples if sample.contender == contender]

    def failure(self, contender: str) -> str:
        """What went wrong in one of its rounds, or an empty string."""
        if contender in self.failed or contender in self.absent:
            return self.failed.get(contender, "") or self.absent[contender]
        samples = self.of(contender)
        failed = next((s.result.error_text() for s in samples if s.result.failed), "")
        if failed:
            return f"failed requests: {failed}"
        return "" if samples else "not measured"

    def error(self, contender: str) -> str:
        """Why its figures must not be used, or an empty string: a failure, or rounds too far apart."""
        failure = self.failure(contender)
        if failure:
            return failure
        medians: dict[str, dict[int, float]] = {}
        for sample in self.samples:
            medians.setdefault(sample.contender, {})[sample.round] = sample.result.quantile_us(50)
        apart = doubt(medians, contender)
        return f"the rounds are {apart:.0%} apart" if apart > WIDE_SPREAD else ""

    def generator_error_us(self, percent: float) -> float | None:
        """The generator's own error, from the rounds of `direct`; None when it did not take part."""
        return self.error_us("direct", percent)

    def error_us(self, contender: str, percent: float) -> float | None:
        """As `generator_error_us`, with how late the generator was in this contender's own rounds.

        The median over the rounds, as what it is held against is.
        """
        if self.failure("direct"):
            return None
        own = {sample.round: sample.result for sample in self.of(contender)}
        errors = [error_us(sample.result, percent, own.get(sample.round, ())) for sample in self.of("direct")]
        return statistics.median(errors) if errors else None

    def quantiles(self, contender: str) -> dict[str, dict[str, object]]:
        """By per cent: the median of the rounds' quantiles in µs, and if the generator's error allows it."""
        found: dict[str, dict[str, object]] = {}
        for percent in QUANTILES:
            rounds = [sample.result.quantile_us(percent) for sample in self.of(contender)]
            value = statistics.median(rounds)
            error = self.error_us(contender, percent)
            found[f"{percent:g}"] = {
                "value": value,
                "low": min(rounds),
                "high": max(rounds),
                "shown": error is not None and shown(value, error),
            }
        return found

    def summary(self, contender: str) -> dict[str, object]:
        samples = self.of(contender)
        results = [sample.result for sample in samples]
        histogram = merged([result.latency for result in results])
        answered = sum(result.answered for result in results)
        costs = [
            s.cpu_ns / s.result.answered / 1000 for s in samples if s.cpu_ns is not None and s.result.answered
        ]
        return {
            "answered": answered,
            "failed": sum(result.failed for result in results),
            "errors": summed([result.errors for result in results]),
            "quantiles_us": self.quantiles(contender),
            "max_us": histogram.get_max_value() / 1000,
            "cpu_us_per_request": statistics.median(costs) if costs else None,
            "distribution": distribution(histogram),
            "marks": sorted({mark for sample in samples for mark in sample.marks}),
            "invalid": self.error(contender),
            "hgrm": self.hgrm_name(contender),
        }

    def hgrm_name(self, contender: str) -> str:
        return f"{self.scenario.name}-{contender.replace('@', '-')}.hgrm"

    def write_hgrm(self, folder: Path) -> None:
        """A file of percentiles for each contender, as HdrHistogram's plotter reads it (µs)."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in dict.fromkeys(sample.contender for sample in self.samples):
            write_hgrm(merged([s.result.latency for s in self.of(name)]), folder / self.hgrm_name(name))

    def as_json(self) -> dict[str, object]:
        measured = list(dict.fromkeys(sample.contender for sample in self.samples))
        return {
            "name": self.scenario.name,
            "title": self.scenario.title,
            "share": self.scenario.share,
            "rate": self.rate,
            "connections": self.scenario.connections,
            "seconds": self.scenario.seconds,
            "absent": {n: why for n, why in {**self.absent, **self.failed}.items() if n not in measured},
            "generator_error_us": {f"{p:g}": self.generator_error_us(p) for p in QUANTILES},
            "summary": {name: self.summary(name) for name in measured},
        }


def summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Failures by kind over several results, without the kinds that never came."""
    total: dict[str, int] = {}
    for count in counts:
        for kind, number in count.items():
            total[kind] = total.get(kind, 0) + number
    return {kind: number for kind, number in total.items() if number}


def rate_of(scenario: LatencyScenario, capacity: Outcome) -> int:
    """`share` of what the slowest peer answered under closed-loop load, to whole hundreds a second."""
    peers = {
        name: capacity.median(name, lambda sample: sample.requests_per_second)
        for name in dict.fromkeys(sample.contender for sample in capacity.samples)
        if name not in NO_PEERS and not capacity.failure(name)
    }
    if not peers:
        raise BenchError(f"no capacity to take {scenario.share:.0%} of: no proxy was measured validly")
    return max(100, round(min(peers.values()) * scenario.share / 100) * 100)


def open_loop(
    bench: Bench, running: Running, scenario: LatencyScenario, rate: int, seconds: float
) -> OpenLoop:
    return OpenLoop(
        running.port("http"),
        "/",
        rate=rate,
        seconds=seconds,
        connections=scenario.connections,
        log=bench.folder / "openloop.log",
        cpu=bench.pinning.load,
    )


def run_latency(
    bench: Bench, scenario: LatencyScenario, capacity: Outcome, progress: Progress
) -> LatencyOutcome:
    outcome = LatencyOutcome(scenario, rate_of(scenario, capacity))
    present, outcome.absent = bench.select(scenario.contenders)
    for name in [name for name in present if name not in NO_PEERS and capacity.failure(name)]:
        present.remove(name)  # it may not be able to do so much
        outcome.absent[name] = f"its capacity is not known: {capacity.failure(name)}"

    def start(name: str) -> Running:
        fresh = bench.start(name)
        try:
            open_loop(bench, fresh, scenario, outcome.rate, WARM_SECONDS).result(fresh.check_alive)
        except BaseException:
            fresh.stop()
            raise
        fresh.pause()
        return fresh

    running = start_all(bench, present, outcome.failed, start, progress)
    bench.origin.go_first(True)
    try:
        for number in range(scenario.rounds):
            for contender in running:
                if contender.contender.name not in outcome.failed:
                    _take_round(bench, contender, number, outcome, progress)
    finally:
        bench.origin.go_first(False)
        stop_all(running)
    return outcome


def _take_round(
    bench: Bench, running: Running, number: int, outcome: LatencyOutcome, progress: Progress
) -> None:
    scenario, name = outcome.scenario, running.contender.name
    progress.finish(scenario.seconds + AWAKE_SECONDS + 2 * GAP_SECONDS)
    prefix = f"{scenario.name} {number + 1}/{scenario.rounds} {name}"
    try:
        running.resume()
        open_loop(bench, running, scenario, outcome.rate, AWAKE_SECONDS).result(running.check_alive)
        meter = CostMeter(bench, running)
        result = open_loop(bench, running, scenario, outcome.rate, scenario.seconds).result(
            running.check_alive
        )
        cost = meter.stop(result.duration_us * 1000)
    except BenchError as error:
        outcome.failed[name] = str(error)
        progress.say(f"{prefix}: {error}")
        return
    finally:
        running.pause()
    marks = tuple(mark for mark in marks_of(cost) if mark != "load-limited")  # an open loop is meant to be
    outcome.samples.append(LatencySample(name, number, result, cost.cpu_ns, marks))
    figures = ", ".join(f"p{percent:g} {result.quantile_us(percent):,.0f}" for percent in QUANTILES)
    progress.say(f"{prefix}: {outcome.rate:,} req/s, {figures} µs {result.error_text()}")


def estimate_latency(bench: Bench, scenario: LatencyScenario) -> float:
    present, _ = bench.select(scenario.contenders)
    each = (
        scenario.rounds * (scenario.seconds + AWAKE_SECONDS + 2 * GAP_SECONDS) + START_SECONDS + WARM_SECONDS
    )
    return len(present) * each
