"""`make bench-quick`: the budget table in under four minutes.

Runs the rounds of `scenarios.QUICK`, the gauges, the micro-benchmark of picks and the changes under load,
prints the tables and writes `bench/results/quick-<time>.json` and `bench/results/quick-latest.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.changes import change_under_load
from bench.contenders import CONTENDERS, fastmesh_python
from bench.environment import environment
from bench.gauges import connection_memory, idle_memory, system_calls
from bench.harness.place import BENCH, RESULTS, ROOT, BenchError
from bench.measure import Bench, estimate, run_scenario
from bench.progress import Progress
from bench.report import as_json, as_text, write_json
from bench.rows import ROWS, SUBJECT, Results, judge_all
from bench.scenarios import QUICK, Scenario
from bench.session import exit_code_of, open_session

CHANGES = 100


@dataclass(frozen=True)
class Step:
    """A part of the run that serves the rows whose `steps` name `serves`; writes into the results."""

    name: str
    serves: str
    seconds: float
    run: Callable[[Results], None]


def _scenario_step(bench: Bench, scenario: Scenario, progress: Progress) -> Step:
    def run(results: Results) -> None:
        results.outcomes[scenario.name] = run_scenario(bench, scenario, progress)

    return Step(scenario.name, scenario.name, estimate(bench, scenario), run)


def _gauge_steps(bench: Bench, names: Sequence[str]) -> list[Step]:
    def calls(name: str) -> Callable[[Results], None]:
        return lambda results: results.system_calls.__setitem__(name, system_calls(bench, name))

    def idle(name: str) -> Callable[[Results], None]:
        return lambda results: results.idle.__setitem__(name, idle_memory(bench, name))

    def connections(name: str) -> Callable[[Results], None]:
        return lambda results: results.connections.__setitem__(name, connection_memory(bench, name))

    proxies = [name for name in names if name != "floor"]
    return [
        *(Step(f"syscalls-{name}", "syscalls", 4.0, calls(name)) for name in names),
        *(Step(f"idle-{name}", "idle", 0.5, idle(name)) for name in proxies),
        *(Step(f"connections-{name}", "connections", 3.5, connections(name)) for name in proxies),
    ]


def _run_helper(module: str) -> Any:
    """The JSON that `python -m bench.<module> --json` prints, run by the Python that has fastmesh."""
    argv = [fastmesh_python(), "-m", f"bench.{module}", "--json"]
    result = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    if result.returncode:
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(f"bench.{module} failed: {last_line}")
    return json.loads(result.stdout)


def _subject_steps(bench: Bench) -> list[Step]:
    """What only fastmesh is asked for."""

    def changes(results: Results) -> None:
        results.changes = change_under_load(bench, CHANGES)

    def picks(results: Results) -> None:
        results.picks = _run_helper("micro_pick")

    def publish(results: Results) -> None:
        results.publish = _run_helper("publish")

    steps = [Step("changes", "changes", 15.0, changes)]
    if (BENCH / "micro_pick.py").exists():
        steps.append(Step("picks", "picks", 10.0, picks))
    if (BENCH / "publish.py").exists():
        steps.append(Step("publish", "publish", 6.0, publish))
    return steps


def plan(bench: Bench, options: argparse.Namespace, progress: Progress) -> list[Step]:
    present, _ = bench.select(CONTENDERS)
    steps = []
    for scenario in QUICK:
        rounds, seconds = options.rounds or scenario.rounds, options.seconds or scenario.seconds
        steps.append(_scenario_step(bench, replace(scenario, rounds=rounds, seconds=seconds), progress))
    steps += _gauge_steps(bench, present)
    if SUBJECT in present:
        steps += _subject_steps(bench)
    wanted = {step for row in ROWS if not options.row or row.name in options.row for step in row.steps}
    return [step for step in steps if step.serves in wanted]


def run_steps(steps: Sequence[Step], progress: Progress) -> Results:
    results = Results()
    for step in steps:
        progress.say(step.name)
        begin = progress.done
        try:
            step.run(results)
        except BenchError as error:
            results.problems[step.name] = str(error)
            progress.say(f"{step.name}: {error}")
        progress.finish_to(begin + step.seconds)
    return results


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quick", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--contender", action="append", choices=list(CONTENDERS), help="only this one; repeatable")
    add("--row", action="append", choices=[row.name for row in ROWS], help="only this row; repeatable")
    add("--rounds", type=int, help="rounds of each scenario, in place of its own number")
    add("--seconds", type=int, help="of each round")
    add("--out", type=Path, help="where the JSON goes, in place of bench/results/")
    add("--quiet", action="store_true", help="no progress")
    add("--check", action="store_true", help="exit 1 unless each row that was run reached its must")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_options()
    begin = time.monotonic()
    with open_session(options.contender or list(CONTENDERS)) as session:
        described = environment(session.bench.pinning, session.versions)
        progress = Progress(quiet=options.quiet)
        steps = plan(session.bench, options, progress)
        progress.expect(sum(step.seconds for step in steps))
        results = run_steps(steps, progress)
    rows = [row for row in ROWS if not options.row or row.name in options.row]
    judged = judge_all(results, rows)
    seconds = time.monotonic() - begin
    document = as_json(results, judged, described, seconds)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for name in (f"quick-{stamp}.json", "quick-latest.json"):
        write_json(document, options.out or RESULTS / name)
    print(as_text(results, judged))
    versions = ", ".join(f"{name}: {version}" for name, version in session.versions.items())
    print(f"{seconds:.0f} s; {versions}; JSON in {options.out or RESULTS}")
    bad = [item for item in judged if item.verdict not in ("ok", "GOAL")]
    return 1 if options.check and bad else 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
