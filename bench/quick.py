"""`make bench-quick`: the budget table in under four minutes.

Runs the rounds of `scenarios.QUICK`, the gauges, the micro-benchmark of picks and the changes under load,
prints the tables and writes `bench/results/quick-<time>.json` and `bench/results/quick-latest.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench import suite
from bench.harness.place import BenchError
from bench.measure import Bench
from bench.progress import Progress
from bench.rows import ROWS, Row
from bench.scenarios import QUICK
from bench.session import exit_code_of
from bench.suite import Step

CONTENDERS = ("floor", "fastmesh", "nginx", "haproxy")


def plan(bench: Bench, options: argparse.Namespace, progress: Progress) -> list[Step]:
    steps = suite.scenario_steps(bench, [suite.in_rounds(s, options) for s in QUICK], progress)
    steps += suite.gauge_steps(bench, list(bench.contenders))
    steps += suite.subject_steps(bench)
    wanted = {step for row in ROWS if not options.row or row.name in options.row for step in row.steps}
    return [step for step in steps if step.serves in (options.scenario or wanted)]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quick", description=(__doc__ or "").partition("\n")[0]
    )
    suite.add_options(parser, sorted({step for row in ROWS for step in row.steps}))
    add = parser.add_argument
    add("--row", action="append", choices=[row.name for row in ROWS], help="only this row; repeatable")
    add("--check", action="store_true", help="exit 1 unless each row that was run reached its must")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_options()

    def rows_of(ran: set[str]) -> list[Row]:
        asked = [row for row in ROWS if not options.row or row.name in options.row]
        return [row for row in asked if ran.intersection(row.steps)]

    document, _, judged = suite.run("quick", options, CONTENDERS, plan, rows_of)
    bad = [item for item in judged if item.verdict not in ("ok", "GOAL")]
    if options.check and not judged:
        raise BenchError("--check: no row was run; leave --row or --scenario out")
    return 1 if document["invalid"] or (options.check and bad) else 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
