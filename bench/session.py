"""Sets the stage for a benchmark: pinning, folder, origin, versions; ends all of it whatever happens."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bench.contenders import CONTENDERS, Contender
from bench.harness.origin import Origin
from bench.harness.place import BenchError, choose_pinning, free_ports, raise_descriptor_limit, workspace
from bench.measure import Bench

ORIGIN_PORTS = 4


@dataclass(frozen=True)
class Session:
    bench: Bench
    versions: Mapping[str, str]


@contextmanager
def open_session(chosen: Mapping[str, Contender]) -> Iterator[Session]:
    """An origin that runs and contenders that are known to be installed; BenchError names what is missing."""
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, contender in chosen.items():
        try:
            versions[name] = contender.version()
        except BenchError as error:
            missing[name] = str(error)
    if missing:
        reasons = "\n".join(f"{name} cannot take part: {reason}" for name, reason in missing.items())
        rest = " ".join(f"--contender {name}" for name in versions)
        raise BenchError(f"{reasons}\n(to go on without: {rest})" if rest else reasons)
    raise_descriptor_limit()
    pinning = choose_pinning()
    with workspace() as folder:
        os.sched_setaffinity(0, {pinning.load})
        origin = Origin(free_ports(ORIGIN_PORTS), cpu=pinning.load, folder=folder)
        try:
            absent = {name: "left out" for name in CONTENDERS if name not in chosen}
            yield Session(Bench(pinning, folder, origin, chosen, absent), versions)
            origin.check_alive()
        finally:
            origin.stop()


def exit_code_of(main: Callable[[], int]) -> int:
    """Runs a command: BenchError becomes a message and 1; TERM ends it in order, as INT does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        return main()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
