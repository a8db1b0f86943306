"""`python -m tests.chaos`: plays the cases and prints their lines, then a table of what held."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence

from bench.harness.place import BenchError, raise_descriptor_limit, workspace
from bench.progress import Progress
from chaos.changes import changes
from chaos.draining import draining
from chaos.failing import all_failing, fast_failing, slow
from chaos.killed import killed
from chaos.overload import overload
from chaos.partition import partition
from chaos.slow_clients import slow_clients
from chaos.stage import POLICIES, Line, Stage
from chaos.syscalls import syscalls
from chaos.toxics import matrix, posts, toxics

Case = Callable[[Stage], Iterator[Line]]
# With about how many seconds each takes at full size with all policies.
CASES: dict[str, tuple[Case, float]] = {
    "killed": (killed, 140),
    "slow": (slow, 70),
    "fast-failing": (fast_failing, 30),
    "all-failing": (all_failing, 80),
    "posts": (posts, 60),
    "toxics": (toxics, 300),
    "matrix": (matrix, 200),
    "partition": (partition, 30),
    "syscalls": (syscalls, 60),
    "changes": (changes, 110),
    "overload": (overload, 65),
    "slow-clients": (slow_clients, 760),
    "draining": (draining, 50),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.list:
        for name, (case, _) in CASES.items():
            print(f"{name:<14} {(case.__doc__ or '').splitlines()[0]}")
        return 0
    names = options.names or list(CASES)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    raise_descriptor_limit()
    progress = Progress(quiet=options.quiet)
    for name in names:
        progress.expect(CASES[name][1] * options.scale)
    print(f"seed {seed}", flush=True)
    lines: list[Line] = []
    with workspace() as folder:
        stage = Stage(folder, seed, options.scale, options.policy or POLICIES, progress.say)
        for name in names:
            lines += _play(name, stage, progress)
    progress.end()
    _report(lines, seed)
    return 0 if lines and all(line.holds for line in lines) else 1


def _play(name: str, stage: Stage, progress: Progress) -> list[Line]:
    """The lines of a case; one that cannot be played to its end has a line that says so."""
    lines: list[Line] = []
    begin = time.monotonic()
    try:
        for line in CASES[name][0](stage):
            lines.append(line)
            progress.say(line.text())
    except (BenchError, AssertionError, OSError) as error:
        lines.append(Line(name, "not played to its end", {}, [f"{type(error).__name__}: {error}"]))
        progress.say(lines[-1].text())
    progress.finish(CASES[name][1] * stage.scale)
    progress.say(f"{name}: {time.monotonic() - begin:.0f} s")
    return lines


def _report(lines: Sequence[Line], seed: int) -> None:
    print()
    for line in lines:
        print(line.text())
    broken = sum(not line.holds for line in lines)
    print(f"\n{len(lines) - broken} lines hold, {broken} do not; seed {seed}", flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="cases; all without one", choices=[[], *CASES]
    )
    parser.add_argument("--policy", action="append", choices=POLICIES, help="instead of all; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full count of requests")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--list", action="store_true", help="name the cases")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in CASES]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; known: {', '.join(CASES)}")
    return options
