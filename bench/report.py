"""The table that is printed and the JSON that is kept (`schema.json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import Outcome
from bench.rows import Judged, Results

SCHEMA_VERSION = 1


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
    for contender in outcome.scenario.contenders:
        if not outcome.of(contender):
            reason = outcome.error(contender).splitlines()[0]
            lines.append((outcome.scenario.name, contender, *["-"] * 6, reason))
            continue
        costs = [sample.cpu_us_per_request for sample in outcome.of(contender)]
        marks = sorted({mark for sample in outcome.of(contender) for mark in sample.marks})
        error = outcome.error(contender)
        lines.append(
            (
                outcome.scenario.name,
                contender,
                f"{outcome.median(contender, lambda s: s.requests_per_second):,.0f}",
                f"{outcome.median(contender, lambda s: s.cpu_us_per_request):.2f}",
                f"{min(costs):.2f}-{max(costs):.2f}",
                f"{outcome.median(contender, lambda s: s.p50_us):,.0f}",
                f"{outcome.median(contender, lambda s: s.p99_us):,.0f}",
                f"{outcome.median(contender, lambda s: s.proxy_core_idle):.0%}",
                "; ".join([*marks, *([f"INVALID: {error}"] if error else [])]),
            )
        )
    return lines


def scenario_table(outcomes: Mapping[str, Outcome]) -> str:
    lines = [line for outcome in outcomes.values() for line in _scenario_lines(outcome)]
    header = (
        "scenario",
        "contender",
        "req/s",
        "CPU µs/req",
        "rounds",
        "p50 µs",
        "p99 µs",
        "core idle",
        "marks",
    )
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


def as_text(results: Results, judged: Sequence[Judged]) -> str:
    tables = (budget_table(judged), scenario_table(results.outcomes), gauge_table(results))
    return "\n\n".join(table for table in tables if table) + "\n"


def as_json(
    results: Results, judged: Sequence[Judged], environment: Mapping[str, object], seconds: float
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "environment": dict(environment),
        "rows": [_row_json(item) for item in judged],
        "scenarios": [outcome.as_json() for outcome in results.outcomes.values()],
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
