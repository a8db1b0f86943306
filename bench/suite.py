"""What `bench.quick` and `bench` have in common: options, steps, and the end of a run."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from bench.changes import change_under_load
from bench.compare import Document, compared, load
from bench.contenders import CONTENDERS, Contender, fastmesh_python, parse_peer, with_peers
from bench.environment import environment
from bench.faults import Case, estimate_case, run_case
from bench.gauges import connection_memory, idle_memory, system_calls
from bench.harness.place import RESULTS, ROOT, BenchError
from bench.latency import estimate_latency, run_latency
from bench.measure import Bench, Outcome, estimate, run_scenario
from bench.progress import Progress
from bench.report import as_json, as_text, write_json
from bench.rows import ROWS, SUBJECT, Judged, Results, Row, judge_all
from bench.scenarios import SMALL, LatencyScenario, Scenario
from bench.session import Session, open_session

CHANGES = 100
_Load = TypeVar("_Load", Scenario, LatencyScenario)
# Neither has a process that grows with its connections, or one of its own at all.
_NO_GAUGES = ("direct",)
_NO_MEMORY = ("direct", "floor")


@dataclass(frozen=True)
class Step:
    """A part of the run that serves the rows whose `steps` name `serves`; writes into the results."""

    name: str
    serves: str
    seconds: float
    run: Callable[[Results], None]


def scenario_steps(bench: Bench, scenarios: Iterable[Scenario], progress: Progress) -> list[Step]:
    def step(scenario: Scenario) -> Step:
        def run(results: Results) -> None:
            results.outcomes[scenario.name] = run_scenario(bench, scenario, progress)

        return Step(scenario.name, scenario.name, estimate(bench, scenario), run)

    return [step(scenario) for scenario in scenarios]


def latency_steps(bench: Bench, scenarios: Iterable[LatencyScenario], progress: Progress) -> list[Step]:
    """They take their rate from `small`; where that was not run, from a short run of it."""

    def capacity(results: Results) -> Outcome:
        if SMALL.name not in results.outcomes:
            progress.say("latency: what the slowest peer can do")
            short = replace(SMALL, contenders=tuple(bench.contenders), rounds=3, seconds=1)
            results.capacity = results.capacity or run_scenario(bench, short, progress)
            return results.capacity
        return results.outcomes[SMALL.name]

    def step(scenario: LatencyScenario) -> Step:
        def run(results: Results) -> None:
            results.latency[scenario.name] = run_latency(bench, scenario, capacity(results), progress)

        return Step(scenario.name, scenario.name, estimate_latency(bench, scenario), run)

    return [step(scenario) for scenario in scenarios]


def fault_steps(bench: Bench, cases: Iterable[Case], progress: Progress) -> list[Step]:
    def step(case: Case) -> Step:
        def run(results: Results) -> None:
            results.faults[case.name] = run_case(bench, case, progress)

        return Step(f"fault-{case.name}", f"fault-{case.name}", estimate_case(bench, case), run)

    return [step(case) for case in cases]


def gauge_steps(bench: Bench, names: Sequence[str]) -> list[Step]:
    def calls(name: str) -> Callable[[Results], None]:
        return lambda results: results.system_calls.__setitem__(name, system_calls(bench, name))

    def idle(name: str) -> Callable[[Results], None]:
        return lambda results: results.idle.__setitem__(name, idle_memory(bench, name))

    def connections(name: str) -> Callable[[Results], None]:
        return lambda results: results.connections.__setitem__(name, connection_memory(bench, name))

    processes = [name for name in names if name not in _NO_GAUGES]
    proxies = [name for name in names if name not in _NO_MEMORY]
    return [
        *(Step(f"syscalls-{name}", "syscalls", 5.0, calls(name)) for name in processes),
        *(Step(f"idle-{name}", "idle", 0.7, idle(name)) for name in proxies),
        *(Step(f"connections-{name}", "connections", 4.5, connections(name)) for name in proxies),
    ]


def _run_helper(module: str) -> Any:
    """The JSON that `python -m bench.<module> --json` prints, run by the Python that has fastmesh."""
    argv = [fastmesh_python(), "-m", f"bench.{module}", "--json"]
    result = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    if result.returncode:
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(f"bench.{module} failed: {last_line}")
    return json.loads(result.stdout)


def subject_steps(bench: Bench) -> list[Step]:
    """What only fastmesh is asked for."""
    if SUBJECT not in bench.contenders:
        return []

    def changes(results: Results) -> None:
        results.changes = change_under_load(bench, CHANGES)

    def picks(results: Results) -> None:
        results.picks = _run_helper("micro_pick")

    def publish(results: Results) -> None:
        results.publish = _run_helper("publish")

    return [
        Step("changes", "changes", 15.0, changes),
        Step("picks", "picks", 10.0, picks),
        Step("publish", "publish", 6.0, publish),
    ]


def run_steps(steps: Sequence[Step], progress: Progress) -> Results:
    results = Results()
    for step in steps:
        progress.say(step.name)
        begin = progress.done
        try:
            step.run(results)
        except (BenchError, OSError, ValueError, subprocess.SubprocessError) as error:
            results.problems[step.name] = str(error)
            progress.say(f"{step.name}: {error}")
        progress.finish_to(begin + step.seconds)
    progress.end()
    return results


def add_options(parser: argparse.ArgumentParser, steps: Sequence[str]) -> None:
    add = parser.add_argument
    add("--contender", action="append", choices=list(CONTENDERS), help="only this one; repeatable")
    add("--scenario", action="append", choices=steps, help="only this one; repeatable")
    add(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=/path",
        help="a binary of one's own for a contender; NAME@LABEL=/path adds it as a further contender",
    )
    add("--rounds", type=at_least_one, help="rounds of each scenario, in place of its own number")
    add("--seconds", type=at_least_one, help="length of each round, in place of the scenario's own")
    add("--compare", type=Path, metavar="OLD.json", help="print this run beside an earlier one")
    add("--out", type=Path, metavar="NEW.json", help="where the JSON goes, in place of bench/results/")
    add("--quiet", action="store_true", help="no progress")


def at_least_one(text: str) -> int:
    """For argparse: a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def earlier_run(options: argparse.Namespace) -> Document | None:
    """What `--compare` names, read before anything is measured; BenchError if that or `--out` cannot be."""
    if options.out and options.out.is_dir():
        raise BenchError(f"--out {options.out} is a folder; name a file in it")
    if not options.compare:
        return None
    earlier = load(options.compare)
    if earlier["suite"] == "instructions":
        raise BenchError(f"{options.compare} is a count of instructions, which a run cannot be compared with")
    return earlier


def chosen_contenders(options: argparse.Namespace, default: Sequence[str]) -> dict[str, Contender]:
    """By name, with the binaries of `--peer`; BenchError for a peer that does not take part."""
    names = options.contender or default
    for text in options.peer:
        name, _, _ = parse_peer(text)
        if name not in names:
            raise BenchError(f"--peer {text}: {name} does not take part; there are: {', '.join(names)}")
    everyone = with_peers(options.peer)
    return {name: contender for name, contender in everyone.items() if name.partition("@")[0] in names}


def in_rounds(scenario: _Load, options: argparse.Namespace) -> _Load:
    """The scenario with the number and length of rounds that the options say."""
    return replace(
        scenario, rounds=options.rounds or scenario.rounds, seconds=options.seconds or scenario.seconds
    )


def run(
    suite: str,
    options: argparse.Namespace,
    contenders: Sequence[str],
    plan: Callable[[Bench, argparse.Namespace, Progress], list[Step]],
    rows_of: Callable[[set[str]], list[Row]],
) -> tuple[dict[str, Any], Path, list[Judged]]:
    """A whole run: the planned steps, then the rows that `rows_of` makes of what they served; as `finish`."""
    earlier = earlier_run(options)
    begin = time.monotonic()
    with open_session(chosen_contenders(options, contenders)) as session:
        described = environment(session.bench.pinning, session.versions)
        progress = Progress(quiet=options.quiet)
        steps = plan(session.bench, options, progress)
        progress.expect(sum(step.seconds for step in steps))
        results = run_steps(steps, progress)
        rows = rows_of({step.serves for step in steps})
        seconds = time.monotonic() - begin
        return finish(suite, session, results, described, options, earlier, seconds, rows)


def finish(
    suite: str,
    session: Session,
    results: Results,
    described: dict[str, object],
    options: argparse.Namespace,
    earlier: Document | None,
    seconds: float,
    rows: Sequence[Row] = ROWS,
) -> tuple[dict[str, Any], Path, list[Judged]]:
    """Writes and prints the results; returns the document, its file and the judged rows."""
    judged = judge_all(results, rows)
    document = as_json(suite, results, judged, described, seconds)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    if options.out:
        written = [options.out]
    else:
        written = [RESULTS / f"{suite}-{stamp}.json", RESULTS / f"{suite}-latest.json"]
    for path in written:
        write_json(document, path)
        for latency in results.latency.values():
            latency.write_hgrm(path.with_suffix(".hgrm"))
    print(as_text(results, judged))
    if earlier:
        print(compared(earlier, document), end="\n\n")
    versions = ", ".join(f"{name}: {version}" for name, version in session.versions.items())
    print(f"{seconds:.0f} s; {versions}; JSON in {written[0]}")
    return document, written[0], judged
