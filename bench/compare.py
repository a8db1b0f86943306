"""`python -m bench.compare OLD.json NEW.json`: two results of the suite side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.harness.place import BenchError
from bench.instructions.table import instruction_table
from bench.report import SCHEMA_VERSION, aligned
from bench.session import exit_code_of

Document = Mapping[str, Any]


def load(path: Path) -> Document:
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BenchError(f"{path} is not JSON: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise BenchError(f"{path} has schema_version {version}, not {SCHEMA_VERSION}: measure again")
    if version is None or any(key not in document for key in ("suite", "finished", "environment")):
        raise BenchError(f"{path} is no result of this suite")
    return document


def change(old: float | None, new: float | None) -> str:
    """New against old, in per cent of old."""
    if old is None or new is None or old == 0:
        return ""
    return f"{(new - old) / old:+.1%}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3f}"


def row_table(old: Document, new: Document) -> str:
    """Each budget row's value and verdict before and after."""
    before = {row["name"]: row for row in old["rows"]}
    lines = []
    for row in new["rows"]:
        was = before.get(row["name"], {"value": None, "verdict": "NONE"})
        lines.append(
            (
                row["title"],
                _text(was["value"]),
                _text(row["value"]),
                change(was["value"], row["value"]),
                was["verdict"]
                if was["verdict"] == row["verdict"]
                else f"{was['verdict']} -> {row['verdict']}",
            )
        )
    return aligned(("what", "old", "new", "change", "verdict"), lines) if lines else ""


def _costs(document: Document) -> dict[tuple[str, str], tuple[float, float, bool]]:
    """By (scenario, contender), valid ones: median CPU µs a request, half its range over the rounds, and if
    the rounds were too few, or others too busy, to tell noise by that."""
    return {
        (scenario["name"], name): (
            one["cpu_us_per_request"],
            (one["high"] - one["low"]) / 2,
            one["high"] == one["low"] or "noisy" in one["marks"],
        )
        for scenario in document["scenarios"]
        for name, one in scenario["summary"].items()
        if not one["invalid"] and one["cpu_us_per_request"] is not None
    }


def cost_table(old: Document, new: Document) -> str:
    """CPU per request of each contender; a change inside the rounds' own range is marked as noise."""
    before, after = _costs(old), _costs(new)
    lines = []
    for key in after:
        if key not in before:
            continue
        (was, was_range, was_unsure), (now, now_range, now_unsure) = before[key], after[key]
        unsure = "one round, or noisy" if was_unsure or now_unsure else ""
        noise = "within noise" if abs(now - was) <= max(was_range, now_range) else unsure
        lines.append((*key, f"{was:.2f}", f"{now:.2f}", change(was, now), noise))
    return (
        aligned(("scenario", "contender", "old µs", "new µs", "change", ""), lines, left=2) if lines else ""
    )


def latency_table(old: Document, new: Document) -> str:
    """p50 and p99 at each share of the slowest peer; the rates differ where that peer's capacity did."""
    before = {scenario["name"]: scenario for scenario in old["latency"]}
    lines = []
    for scenario in new["latency"]:
        was = before.get(scenario["name"])
        for name, now in scenario["summary"].items():
            if was is None or name not in was["summary"] or now["invalid"] or was["summary"][name]["invalid"]:
                continue
            rates = f"{was['rate']} -> {scenario['rate']}"
            for percent in ("50", "99"):
                both = [s["quantiles_us"][percent] for s in (was["summary"][name], now)]
                if not all(one["shown"] for one in both):
                    continue  # the generator's error is too large a part of it
                then, value = (one["value"] for one in both)
                figures = (f"{then:,.0f}", f"{value:,.0f}", change(then, value), rates)
                lines.append((scenario["name"], f"{name} p{percent}", *figures))
    header = ("scenario", "contender", "old µs", "new µs", "change", "requests/s")
    return aligned(header, lines, left=2) if lines else ""


def compared(old: Document, new: Document) -> str:
    """The tables of both, with a line that says which run each is."""
    lines = [
        f"{name}: {document['suite']}, {document['finished']}, "
        f"commit {document['environment']['commit'][:12]}, {document['environment']['cpu']}"
        for name, document in (("old", old), ("new", new))
    ]
    if old["suite"] == new["suite"] == "instructions":
        return "\n".join((*lines, "", instruction_table(old, new)))
    if "instructions" in (old["suite"], new["suite"]):
        raise BenchError("an instruction count can only be compared with another one")
    tables = (row_table(old, new), cost_table(old, new), latency_table(old, new))
    if not any(tables):
        raise BenchError("the two have nothing in common")
    return "\n\n".join(("\n".join(lines), *(table for table in tables if table)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    print(compared(load(options.old), load(options.new)))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
