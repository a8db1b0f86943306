"""`make bench`: fastmesh beside every proxy that a user would pick instead, in under 40 minutes.

The core scenarios and the open-loop latency for all contenders, the further ones, policies and faults for
those written in C and C++; memory and system calls. Prints the tables, writes percentile files, pictures and
`bench/results/full-<time>.json`. `python -m bench.page RESULT.json` puts a run into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from bench import suite
from bench.faults import CASES
from bench.measure import Bench
from bench.pictures import draw
from bench.progress import Progress
from bench.rows import ROWS
from bench.scenarios import ALL, BODY_TCP, FULL, LATENCY, LOGGED_SMALL
from bench.session import exit_code_of
from bench.suite import Step

# Of the short suite, so that the budget table is whole.
_BUDGETS = (
    replace(LOGGED_SMALL, rounds=5, group="further"),
    replace(BODY_TCP, rounds=5, group="further"),
)
_SCENARIOS = (*FULL, *_BUDGETS)
_GAUGES = ("syscalls", "idle", "connections", "changes", "picks", "publish")
STEPS = (*(s.name for s in (*_SCENARIOS, *LATENCY)), *(f"fault-{case.name}" for case in CASES), *_GAUGES)


def plan(bench: Bench, options: argparse.Namespace, progress: Progress) -> list[Step]:
    cases = [replace(case, rounds=options.rounds or case.rounds) for case in CASES]
    steps = suite.scenario_steps(bench, [suite.in_rounds(s, options) for s in _SCENARIOS], progress)
    steps += suite.latency_steps(bench, [suite.in_rounds(s, options) for s in LATENCY], progress)
    steps += suite.fault_steps(bench, cases, progress)
    steps += suite.gauge_steps(bench, list(bench.contenders))
    steps += suite.subject_steps(bench)
    return [step for step in steps if not options.scenario or step.serves in options.scenario]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    suite.add_options(parser, STEPS)
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_options()
    document, path, _ = suite.run(
        "full", options, ALL, plan, lambda ran: [row for row in ROWS if ran.issuperset(row.steps)]
    )
    if pictures := draw(document, path.with_suffix(".pictures")):
        print("Pictures:", *pictures, sep="\n  ")
    return 1 if document["invalid"] else 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
