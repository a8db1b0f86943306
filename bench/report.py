"""The table that is printed and the JSON that is kept (`schema.json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.faults import FaultOutcome
from bench.latency import QUANTILES, LatencyOutcome
from bench.measure import Outcome
from bench.rows import Judged, Results

SCHEMA_VERSION = 2


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose columns line up: the first `left` and the last to the left, the others right."""
    columns = list(zip(header, *lines, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i < left or i == len(widths) - 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths[:-1])]
    rule.append("-" * widths[-1])
    return "\n".join([line(header), line(rule), *(line(cells) for cells in lines)])


def _number(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if value == int(value) and unit != "×" else f"{value:.2f}"
    return text if unit in ("", "×") else f"{text} {unit}"


def _cell(text: str) -> str:
    """One line that fits into a table; the JSON has all of it."""
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= 120 else line[:119] + "…"


def budget_table(judged: Sequence[Judged]) -> str:
    lines = []
    for item in judged:
        row, figure = item.row, item.figure
        spread = ""
        if figure is not None and figure.low is not None and figure.high is not None:
            spread = f"{figure.low:.2f}-{figure.high:.2f}"
        lines.append(
            (
                row.title,
                "-" if figure is None else _number(figure.value, row.unit),
                spread,
                _number(row.must, row.unit),
                "" if row.goal is None else _number(row.goal, row.unit),
                item.verdict,
                _cell("; ".join(part for part in (figure.basis if figure else "", item.note) if part)),
            )
        )
    return aligned(("what", "measured", "rounds", "must", "goal", "verdict", "from"), lines)


def _scenario_lines(outcome: Outcome) -> list[tuple[str, ...]]:
    lines = []
    for name, one in summaries(outcome).items():
        cost = one["cpu_us_per_request"]
        marks = [*one["marks"], *([f"INVALID: {_cell(one['invalid'])}"] if one["invalid"] else [])]
        lines.append(
            (
                outcome.scenario.name,
                name,
                f"{one['requests_per_second']:,.0f}",
                "-" if cost is None else f"{cost:.2f}",
                "-" if cost is None else f"{one['low']:.2f}-{one['high']:.2f}",
                "-" if one["machine_us_per_request"] is None else f"{one['machine_us_per_request']:.2f}",
                f"{one['p50_us']:,.0f}",
                f"{one['p99_us']:,.0f}",
                f"{one['proxy_core_idle']:.0%}",
                "; ".join(marks),
            )
        )
    return lines + _absent_lines(outcome, columns=7)


def summaries(outcome: Outcome | LatencyOutcome) -> dict[str, Any]:
    found: Any = outcome.as_json()["summary"]
    return dict(found)


def _absent_lines(outcome: Outcome | LatencyOutcome | FaultOutcome, columns: int) -> list[tuple[str, ...]]:
    described: Any = outcome.as_json()
    return [
        (described["name"], name, *["-"] * columns, _cell(reason.splitlines()[0]))
        for name, reason in described["absent"].items()
    ]


def scenario_table(outcomes: Mapping[str, Outcome]) -> str:
    lines = [line for outcome in outcomes.values() for line in _scenario_lines(outcome)]
    header = (
        "scenario",
        "contender",
        "req/s",
        "CPU µs/req",
        "rounds",
        "machine µs/req",
        "p50 µs",
        "p99 µs",
        "core idle",
        "marks",
    )
    return aligned(header, lines, left=2) if lines else ""


def _quantile(one: Mapping[str, Any]) -> str:
    return f"{one['value']:,.0f}" if one["shown"] else "-"


def latency_table(outcomes: Mapping[str, LatencyOutcome]) -> str:
    """A quantile is left out where the generator's own error is a tenth of it or more."""
    lines = []
    for outcome in outcomes.values():
        errors = [outcome.generator_error_us(percent) for percent in QUANTILES]
        own = ["-" if error is None else f"{error:,.0f}" for error in errors]
        lines.append((outcome.scenario.name, "(the generator's error)", f"{outcome.rate:,}", *own, "", ""))
        for name, one in summaries(outcome).items():
            marks = [*one["marks"], *([f"INVALID: {_cell(one['invalid'])}"] if one["invalid"] else [])]
            quantiles = [_quantile(one["quantiles_us"][f"{percent:g}"]) for percent in QUANTILES]
            cost = one["cpu_us_per_request"]
            figures = (f"{outcome.rate:,}", *quantiles, "-" if cost is None else f"{cost:.2f}")
            lines.append((outcome.scenario.name, name, *figures, "; ".join(marks)))
        lines += _absent_lines(outcome, columns=6)
    quantile_names = [f"p{percent:g} µs" for percent in QUANTILES]
    header = ("latency", "contender", "req/s", *quantile_names, "CPU µs/req", "marks")
    return aligned(header, lines, left=2) if lines else ""


def fault_table(outcomes: Mapping[str, FaultOutcome]) -> str:
    lines = []
    for outcome in outcomes.values():
        for name in outcome.results:
            one: Any = outcome.summary(name)
            figures = [f"{label}: {value:,.2f}" for label, value in one["figures"].items()]
            errors = [f"{number} {kind}" for kind, number in one["errors"].items()]
            invalid = [f"INVALID: {_cell(one['invalid'])}"] if one["invalid"] else []
            lines.append(
                (
                    outcome.case.name,
                    name,
                    f"{one['requests']:,}",
                    f"{one['failed']:,}",
                    f"{one['p50_us']:,.0f}",
                    f"{one['p99_us']:,.0f}",
                    f"{one['max_us']:,.0f}",
                    "; ".join((*invalid, *errors, *figures)),
                )
            )
        lines += _absent_lines(outcome, columns=5)
    header = ("what happens", "contender", "requests", "failed", "p50 µs", "p99 µs", "max µs", "notes")
    return aligned(header, lines, left=2) if lines else ""


def gauge_table(results: Results) -> str:
    """Memory and system calls, a line a contender."""
    names = [*dict.fromkeys((*results.system_calls, *results.idle, *results.connections))]
    lines = []
    for name in names:
        idle, use = results.idle.get(name), results.connections.get(name)
        calls = results.system_calls.get(name)
        lines.append(
            (
                name,
                f"{idle.resident / 2**20:.1f}" if idle else "-",
                f"{idle.proportional / 2**20:.1f}" if idle else "-",
                f"{use.per_connection / 1024:.2f}" if use else "-",
                f"{calls.reads_and_writes:.2f}" if calls else "-",
                f"{calls.per_request('epoll_ctl'):.3f}" if calls else "-",
                f"{sum(calls.by_name.values()) / calls.requests:.2f}" if calls else "-",
            )
        )
    header = (
        "contender",
        "idle RSS MiB",
        "idle PSS MiB",
        "KiB/connection",
        "reads+writes/req",
        "epoll_ctl/req",
        "all calls/req",
    )
    return aligned(header, lines) if lines else ""


def failures(results: Results) -> list[str]:
    """What went wrong, a line each: these results are invalid for another reason than noise."""
    outcomes = (*results.outcomes.values(), *results.latency.values(), *results.faults.values())
    found = [f"{name}: {problem}" for name, problem in results.problems.items()]
    for outcome in outcomes:
        described: Any = outcome.as_json()
        for name in dict.fromkeys((*described["summary"], *outcome.failed)):
            failure = outcome.failure(name)
            if failure:
                found.append(f"{described['name']} {name}: {failure}")
    return [_cell(line) for line in found]


def as_text(results: Results, judged: Sequence[Judged]) -> str:
    tables = (
        budget_table(judged) if judged else "",
        scenario_table(results.outcomes),
        latency_table(results.latency),
        fault_table(results.faults),
        gauge_table(results),
    )
    wrong = failures(results)
    told = ("THIS RUN IS INVALID:\n" + "\n".join(f"- {line}" for line in wrong)) if wrong else ""
    return "\n\n".join(part for part in (*tables, told) if part) + "\n"


def as_json(
    suite: str,
    results: Results,
    judged: Sequence[Judged],
    environment: Mapping[str, object],
    seconds: float,
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": suite,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "environment": dict(environment),
        "invalid": failures(results),
        "rows": [_row_json(item) for item in judged],
        "scenarios": [outcome.as_json() for outcome in results.outcomes.values()],
        "latency": [outcome.as_json() for outcome in results.latency.values()],
        "faults": [outcome.as_json() for outcome in results.faults.values()],
        "system_calls": {
            name: {
                "requests": calls.requests,
                "reads_and_writes_per_request": calls.reads_and_writes,
                "by_name": calls.by_name,
            }
            for name, calls in results.system_calls.items()
        },
        "idle_memory": {name: asdict(idle) for name, idle in results.idle.items()},
        "connection_memory": {
            name: {**asdict(use), "per_connection": use.per_connection}
            for name, use in results.connections.items()
        },
        "picks": results.picks,
        "changes": None if results.changes is None else asdict(results.changes),
        "publish_ms": results.publish,
        "problems": results.problems,
    }


def _row_json(item: Judged) -> dict[str, Any]:
    figure = item.figure
    return {
        "name": item.row.name,
        "title": item.row.title,
        "unit": item.row.unit,
        "must": item.row.must,
        "goal": item.row.goal,
        "value": None if figure is None else figure.value,
        "low": None if figure is None else figure.low,
        "high": None if figure is None else figure.high,
        "basis": "" if figure is None else figure.basis,
        "verdict": item.verdict,
        "note": item.note,
    }


def write_json(document: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".partial")
    fresh.write_text(json.dumps(document, indent=1) + "\n")
    fresh.rename(path)
