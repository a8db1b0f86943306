"""`python -m bench.sensitivity`: does the suite see a fastmesh that is 3 µs a request slower, and only that?

Builds a second fastmesh whose workers burn `--nanoseconds` (3000) of CPU in each exchange and runs it as the
contender `fastmesh@slowed` beside the normal one in the scenario `small`. The difference in CPU per request,
taken within each round, has to be what was added or somewhat more; of two equal builds, next to nothing.

More, because a slower proxy pays for more than its own slowness: once it and not the load is the limit, wrk
and the origin fall asleep between two answers, and each of its sends has to wake one of them. For 6 µs that
were added the profile shows 1.4 µs more in the kernel's wake-ups (docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace

from bench.contenders import CONTENDERS, fastmesh_in, fastmesh_python
from bench.harness.place import BenchError
from bench.harness.slowed import slowed_python_path
from bench.measure import Outcome, estimate, run_scenario
from bench.progress import Progress
from bench.report import scenario_table
from bench.scenarios import SMALL
from bench.session import exit_code_of, open_session
from bench.suite import at_least_one

# Of what was added: what may be seen at least, at most, and of nothing.
LEAST, MOST, OF_NOTHING = 0.8, 1.5, 0.2
ROUNDS = 12


def added_us(outcome: Outcome, slower: str, base: str) -> float:
    """Median over the rounds of how much more CPU µs a request takes; BenchError if either is invalid."""
    for name in (slower, base):
        if outcome.error(name):
            raise BenchError(f"{name} is invalid: {outcome.error(name)}")
    bases = {sample.round: sample.cpu_us_per_request for sample in outcome.of(base)}
    return statistics.median(s.cpu_us_per_request - bases[s.round] for s in outcome.of(slower))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sensitivity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--nanoseconds", type=at_least_one, default=3000, help="what the slowed build burns a request"
    )
    parser.add_argument("--rounds", type=at_least_one, default=ROUNDS)
    options = parser.parse_args()
    progress = Progress()
    normal = CONTENDERS["fastmesh"]
    slowed = fastmesh_in(slowed_python_path(options.nanoseconds, python=fastmesh_python()), "slowed")
    again = replace(normal, name="fastmesh@again")
    chosen = {contender.name: contender for contender in (normal, slowed, again)}
    scenario = replace(SMALL, contenders=("fastmesh",), rounds=options.rounds)
    with open_session(chosen) as session:
        progress.expect(estimate(session.bench, scenario))
        outcome = run_scenario(session.bench, scenario, progress)
    progress.end()
    print(scenario_table({scenario.name: outcome}))
    expected = options.nanoseconds / 1000
    found = added_us(outcome, slowed.name, normal.name)
    nothing = added_us(outcome, again.name, normal.name)
    seen = LEAST <= found / expected <= MOST and abs(nothing) <= OF_NOTHING * expected
    print(f"\nslowed by {expected:.2f} µs: seen as {found:+.2f} µs; the same build again: {nothing:+.2f} µs")
    print("ok" if seen else "NOT what was added")
    return 0 if seen else 1


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
