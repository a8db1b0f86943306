"""Where a request's time goes: samples a proxy under load with perf, and counts its system calls.

`python -m bench.profile` prints CPU per request, split by object (kernel, interpreter, each native module)
and by function in microseconds a request, then the table of strace. `--contender nginx` and
`--contender floor` give the figures to compare with.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.contenders import CONTENDERS, Running
from bench.gauges import SystemCalls, system_calls
from bench.harness.place import BenchError, find_tool
from bench.harness.process import Child
from bench.measure import Bench, Sample, load_on, take_sample
from bench.report import aligned
from bench.scenarios import FULL, QUICK, Scenario
from bench.session import exit_code_of, open_session

# A prime rate, so that samples do not keep step with the timer; perf falls back to a software clock in a VM.
_SAMPLES_PER_SECOND = 1999
SCENARIOS = {scenario.name: scenario for scenario in (*FULL, *QUICK)}


def parse_report(text: str) -> list[tuple[float, str, str]]:
    """(share of 1, object, function) from `perf report -t '|' -F overhead,dso,symbol`."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and fields[0].endswith("%"):
            found.append((float(fields[0][:-1]) / 100, Path(fields[1]).name, fields[2]))
    return found


def by_object(functions: Sequence[tuple[float, str, str]]) -> dict[str, float]:
    """Share of 1 by object, largest first."""
    shares: dict[str, float] = defaultdict(float)
    for share, name, _ in functions:
        shares[name] += share
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def record(bench: Bench, running: Running, scenario: Scenario, data: Path) -> None:
    """Samples all threads of the proxy while wrk runs; the samples go to `data`."""
    load = load_on(bench, running, scenario, scenario.seconds + 1)
    pids = ",".join(map(str, running.tree()))
    argv = f"record -q -F {_SAMPLES_PER_SECOND} -g -p {pids} -o {data} -- sleep {scenario.seconds}".split()
    perf = Child("perf", [find_tool("perf", "linux-perf"), *argv], log=data.with_suffix(".log"))
    try:
        load.result(running.check_alive)
        if perf.wait(10) != 0:
            raise BenchError(f"perf record failed:\n{perf.log_tail()}")
    finally:
        perf.stop()
        load.stop()


def report(data: Path, *options: str) -> str:
    argv = [find_tool("perf", "linux-perf"), "report", "-i", str(data), "--stdio", *options]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f"perf report failed:\n{result.stderr}")
    return result.stdout


def function_table(functions: Sequence[tuple[float, str, str]], cost_us: float, count: int) -> str:
    lines = [
        (f"{share:.1%}", f"{share * cost_us:.3f}", name, function)
        for share, name, function in functions[:count]
    ]
    return aligned(("share", "µs/request", "object", "function"), lines, left=0)


def object_table(shares: Mapping[str, float], cost_us: float) -> str:
    lines = [
        (name, f"{share:.1%}", f"{share * cost_us:.2f}") for name, share in shares.items() if share >= 0.002
    ]
    return aligned(("object", "share", "µs/request"), lines)


def call_table(calls: SystemCalls) -> str:
    counts = sorted(calls.by_name.items(), key=lambda item: -item[1])
    return aligned(
        ("system call", "a request"), [(name, f"{n / calls.requests:.3f}") for name, n in counts[:15]]
    )


def profile(bench: Bench, name: str, scenario: Scenario, data: Path) -> Sample:
    """Warm-up, one clean round for the cost, one under perf."""
    running = bench.start(name, scenario.variant, endpoints=scenario.endpoints, policy=scenario.policy)
    try:
        load_on(bench, running, scenario, 1).result(running.check_alive)
        sample = take_sample(bench, running, scenario, 0)
        record(bench, running, scenario, data)
    finally:
        running.stop()
    return sample


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--contender", default="fastmesh", choices=list(CONTENDERS))
    add("--scenario", default="small", choices=list(SCENARIOS))
    add("--seconds", type=int, default=3, help="how long to sample")
    add("--functions", type=int, default=45, help="how many functions to list")
    add("--callers", action="store_true", help="print the call graph too")
    add("--annotate", metavar="FUNCTION", help="print the instructions of a function with their samples")
    add("--no-strace", action="store_true", help="leave the system calls out")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    scenario = SCENARIOS[options.scenario]
    with open_session({options.contender: CONTENDERS[options.contender]}) as session:
        data = session.bench.folder / "perf.data"
        sample = profile(session.bench, options.contender, replace(scenario, seconds=options.seconds), data)
        functions = parse_report(
            report(data, "--no-children", "-g", "none", "-t|", "-F", "overhead,dso,symbol")
        )
        cost = sample.cpu_us_per_request
        print(f"{options.contender}, {scenario.title}: {sample.requests_per_second:,.0f} req/s, ", end="")
        print(f"{cost:.2f} µs CPU a request {' '.join(sample.marks)} {sample.error}\n")
        print(
            object_table(by_object(functions), cost),
            function_table(functions, cost, options.functions),
            sep="\n\n",
        )
        if not options.no_strace:
            print("", call_table(system_calls(session.bench, options.contender)), sep="\n")
        if options.callers:
            print(report(data, "--children", "--percent-limit", "1"))
        if options.annotate:
            argv = ["perf", "annotate", "-i", str(data), "--stdio", "-s", options.annotate]
            subprocess.run(argv, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
