"""`python -m bench.instructions`: instructions per operation of the hot paths, counted under callgrind."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.harness.place import RESULTS, BenchError, workspace
from bench.instructions.callgrind import count
from bench.instructions.cases import CASES, Case
from bench.instructions.table import as_document, count_table, instruction_table, load
from bench.progress import Progress
from bench.report import write_json
from bench.session import exit_code_of


def choose(wanted: Sequence[str]) -> list[Case]:
    """The cases that are named, or whose name begins so; all of them when nothing is named."""
    for prefix in wanted:
        if not any(case.name.startswith(prefix) for case in CASES):
            raise BenchError(f"no benchmark {prefix!r}; there are: {', '.join(case.name for case in CASES)}")
    return [case for case in CASES if not wanted or case.name.startswith(tuple(wanted))]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--only", action="append", metavar="NAME", help="only what has this name or begins so; repeatable")
    add("--out", type=Path, help="where the JSON goes, in place of bench/results/")
    add("--compare", type=Path, metavar="OLD.json", help="an older result to show the changes against")
    add("--quiet", action="store_true", help="no progress")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_options()
    old = load(options.compare) if options.compare else None
    cases = choose(options.only or [])
    seconds = {case.name: case.seconds for case in cases}
    progress = Progress(quiet=options.quiet)
    progress.expect(sum(seconds.values()))

    def say(line: str) -> None:
        """A name: that case begins."""
        if line in seconds:
            progress.say(line)
            progress.finish(seconds[line])

    with workspace() as folder:
        counts = count(cases, folder, say)
    document = as_document(counts, min(os.sched_getaffinity(0)))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for name in (f"instructions-{stamp}.json", "instructions-latest.json"):
        write_json(document, options.out or RESULTS / name)
    if old is None:
        print(count_table(document))
    else:
        kept = {name: was for name, was in old["instructions"].items() if name in seconds}
        print(instruction_table({**old, "instructions": kept}, document))
    print(f"JSON in {options.out or RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
