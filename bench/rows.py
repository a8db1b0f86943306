"""What is claimed: the rows of the budget table, each computed from the measurements."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.changes import ChangesUnderLoad
from bench.faults import FaultOutcome
from bench.gauges import ConnectionMemory, SystemCalls
from bench.harness.meters import Memory
from bench.latency import LatencyOutcome
from bench.measure import Outcome

SUBJECT = "fastmesh"
_MIB, _KIB = 1024 * 1024, 1024
# Rounds that differ by more than this, as a share of the median, say that the machine was not quiet.
WIDE_SPREAD = 0.15


@dataclass
class Results:
    """All that one run measured. `problems` says, by step, why something is missing."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    capacity: Outcome | None = None
    latency: dict[str, LatencyOutcome] = field(default_factory=dict)
    faults: dict[str, FaultOutcome] = field(default_factory=dict)
    system_calls: dict[str, SystemCalls] = field(default_factory=dict)
    idle: dict[str, Memory] = field(default_factory=dict)
    connections: dict[str, ConnectionMemory] = field(default_factory=dict)
    picks: Sequence[Mapping[str, Any]] | None = None
    changes: ChangesUnderLoad | None = None
    publish: Mapping[str, float] | None = None
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A measured value, with its range over the rounds and what it was computed from."""

    value: float
    low: float | None = None
    high: float | None = None
    basis: str = ""
    note: str = ""


class NoFigureError(Exception):
    """The row cannot be computed; the message says why. `measured`: there are figures, not to be used."""

    def __init__(self, why: str, *, measured: bool = False) -> None:
        super().__init__(why)
        self.measured = measured


@dataclass(frozen=True)
class Row:
    """A budget: `must` has to be reached, `goal` is aimed at; smaller is better."""

    name: str
    title: str
    must: float
    goal: float | None
    unit: str
    steps: tuple[str, ...]
    compute: Callable[[Results], Figure]

    def judge(self, results: Results) -> Judged:
        try:
            figure = self.compute(results)
        except NoFigureError as error:
            return Judged(self, None, "INVALID" if error.measured else "NONE", str(error))
        if self.goal is not None and figure.value <= self.goal:
            verdict = "GOAL"
        elif figure.value <= self.must:
            verdict = "ok"
        else:
            verdict = "MISS"
        return Judged(self, figure, verdict, figure.note)


@dataclass(frozen=True)
class Judged:
    """A row and its verdict: GOAL, ok, MISS, INVALID (measured, not to be used) or NONE (not measured)."""

    row: Row
    figure: Figure | None
    verdict: str
    note: str


def _usable(results: Results, scenario: str, contender: str) -> Outcome:
    outcome = results.outcomes.get(scenario)
    if outcome is None:
        raise NoFigureError(results.problems.get(scenario, "not run"))
    error = outcome.error(contender)
    if error:
        measured = bool(outcome.of(contender))
        prefix = "invalid: " if measured else ""
        raise NoFigureError(f"{prefix}{contender}: {error.splitlines()[0]}", measured=measured)
    return outcome


def _cost(outcome: Outcome, contender: str) -> float:
    return outcome.median(contender, lambda sample: sample.cpu_us_per_request)


def cpu_ratio(scenario: str, *bases: str) -> Callable[[Results], Figure]:
    """CPU per request, fastmesh ÷ the cheapest of the bases; median of the ratios of each round."""

    def compute(results: Results) -> Figure:
        for contender in (SUBJECT, *bases):
            _usable(results, scenario, contender)
        outcome = results.outcomes[scenario]
        base = min(bases, key=lambda name: _cost(outcome, name))
        ratios = outcome.ratios(SUBJECT, base)
        value = statistics.median(ratios)
        spread = (max(ratios) - min(ratios)) / value
        ours, theirs = _cost(outcome, SUBJECT), _cost(outcome, base)
        return Figure(
            value,
            min(ratios),
            max(ratios),
            basis=f"{ours:.2f} µs ÷ {base} {theirs:.2f} µs",
            note=f"rounds differ by {spread:.0%}" if spread > WIDE_SPREAD else "",
        )

    return compute


def _system_calls(results: Results) -> Figure:
    calls = results.system_calls.get(SUBJECT)
    if calls is None:
        raise NoFigureError(results.problems.get(f"syscalls-{SUBJECT}", "not run"))
    polls = sum(calls.per_request(name) for name in ("epoll_wait", "epoll_pwait", "epoll_pwait2"))
    basis = f"epoll_ctl {calls.per_request('epoll_ctl'):.3f}, epoll_wait {polls:.2f}"
    return Figure(calls.reads_and_writes, basis=basis)


def _idle_memory(results: Results) -> Figure:
    idle = results.idle.get(SUBJECT)
    if idle is None:
        raise NoFigureError(results.problems.get(f"idle-{SUBJECT}", "not run"))
    return Figure(idle.resident / _MIB, basis=f"proportional {idle.proportional / _MIB:.1f} MiB")


def _connection_memory(results: Results) -> Figure:
    use = results.connections.get(SUBJECT)
    if use is None:
        raise NoFigureError(results.problems.get(f"connections-{SUBJECT}", "not run"))
    return Figure(use.per_connection / _KIB, basis=f"{use.connections} connections")


# The policies that the budget names; `micro_pick` measures more.
_BUDGETED_POLICIES = ("round_robin", "least_request", "maglev")


def _picks(endpoints: int) -> Callable[[Results], Figure]:
    """The dearest pick of the budgeted policies, over all shapes of the service (weighted, busy)."""

    def compute(results: Results) -> Figure:
        if results.picks is None:
            raise NoFigureError(results.problems.get("picks", "not run"))
        costs: dict[str, float] = {}
        for row in results.picks:
            if row["endpoints"] == endpoints and row["policy"] in _BUDGETED_POLICIES:
                costs[row["policy"]] = max(row["ratio"], costs.get(row["policy"], 0.0))
        missing = [policy for policy in _BUDGETED_POLICIES if policy not in costs]
        if missing:
            raise NoFigureError(f"not measured: {', '.join(missing)}")
        basis = ", ".join(f"{policy} {ratio:.2f}" for policy, ratio in costs.items())
        return Figure(max(costs.values()), basis=basis)

    return compute


def _changes(results: Results) -> Figure:
    changes = results.changes
    if changes is None:
        raise NoFigureError(results.problems.get("changes", "not run"))
    slowest = max(changes.seconds_each) * 1000
    basis = f"{changes.applied} changes, {changes.requests} requests, slowest change {slowest:.0f} ms"
    return Figure(changes.failed, basis=basis, note=changes.errors)


def _publish(size: str) -> Callable[[Results], Figure]:
    def compute(results: Results) -> Figure:
        if results.publish is None:
            raise NoFigureError(results.problems.get("publish", "not run"))
        return Figure(results.publish[size], basis="median of repeats")

    return compute


ROWS: tuple[Row, ...] = (
    Row(
        "small-floor",
        "CPU per small keep-alive request, 64 connections, ÷ relay floor",
        1.20,
        1.10,
        "×",
        ("small",),
        cpu_ratio("small", "floor"),
    ),
    Row(
        "small-peers",
        "the same ÷ the better of nginx and HAProxy",
        0.90,
        0.80,
        "×",
        ("small",),
        cpu_ratio("small", "nginx", "haproxy"),
    ),
    Row(
        "logged",
        "the same with the access log on ÷ nginx with its log on",
        0.90,
        0.80,
        "×",
        ("logged",),
        cpu_ratio("logged", "nginx"),
    ),
    Row("syscalls", "read and write system calls per request", 4.5, 4.3, "", ("syscalls",), _system_calls),
    Row(
        "body-http",
        "CPU per 1 MiB response body ÷ HAProxy, HTTP",
        1.0,
        0.8,
        "×",
        ("body-1m",),
        cpu_ratio("body-1m", "haproxy"),
    ),
    Row(
        "body-tcp",
        "CPU per 1 MiB response body ÷ HAProxy, TCP",
        1.0,
        0.8,
        "×",
        ("body-1m-tcp",),
        cpu_ratio("body-1m-tcp", "haproxy"),
    ),
    Row(
        "body-16k",
        "CPU per 16 KiB response body ÷ the better of nginx and HAProxy",
        0.9,
        0.8,
        "×",
        ("body-16k",),
        cpu_ratio("body-16k", "nginx", "haproxy"),
    ),
    Row(
        "close",
        "a new client connection for each request, ÷ the better of nginx and HAProxy",
        1.0,
        0.85,
        "×",
        ("close",),
        cpu_ratio("close", "nginx", "haproxy"),
    ),
    Row("memory-idle", "resident memory, idle", 36, 32, "MiB", ("idle",), _idle_memory),
    Row(
        "memory-connection",
        "memory of each of 10,000 connections, idle after one request",
        2,
        1,
        "KiB",
        ("connections",),
        _connection_memory,
    ),
    Row(
        "picks-100",
        "a pick among 100 endpoints ÷ `random` among 2 (worst policy)",
        4,
        2,
        "×",
        ("picks",),
        _picks(100),
    ),
    Row(
        "picks-10000",
        "a pick among 10,000 endpoints ÷ `random` among 2 (worst policy)",
        8,
        4,
        "×",
        ("picks",),
        _picks(10_000),
    ),
    Row("changes", "100 effective changes under load: failed requests", 0, 0, "", ("changes",), _changes),
    Row(
        "publish-routes",
        "from validated model to adoption: 1,000 routes",
        20,
        10,
        "ms",
        ("publish",),
        _publish("routes_1000"),
    ),
    Row(
        "publish-endpoints",
        "from validated model to adoption: 10,000 endpoints",
        200,
        100,
        "ms",
        ("publish",),
        _publish("endpoints_10000"),
    ),
)


def judge_all(results: Results, rows: Sequence[Row] = ROWS) -> list[Judged]:
    return [row.judge(results) for row in rows]
