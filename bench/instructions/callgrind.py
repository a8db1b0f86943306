"""Runs `bench.instructions.cases` under valgrind and reads the counts that callgrind dumped.

The loops are marked by two empty functions (`src_ext/fastmesh/_native/sys/fm_count.h`): callgrind zeroes its
counts when it enters the one and dumps them when it enters the other, so that neither the interpreter's
start nor the making of a loop's input counts. What could make two runs differ is held still: the seed of
Python's hashes, addresses, and the linker's lazy binding, which would count in the first calls.

Addresses matter because libc's memchr and memcmp take another way near the end of a page. valgrind places
mappings the same way each time. The stack begins below the program's arguments and environment, so their
length is made the same everywhere. In the process of the native loops malloc maps all but the smallest
blocks, so that where a block lies in its page does not depend on what was allocated before; Python's own
cost is counted in another process, with malloc as it is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.place import ROOT, BenchError, find_tool
from bench.instructions.cases import Case

BEGIN, END = "fm_count_begin", "fm_count_end"
_REBUILD = (
    "build the test modules: make build, or FASTMESH_TEST_MODULES=1 python setup.py build_ext --inplace"
)
_STACK_BYTES = 4096  # of arguments and environment
_NATIVE = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=128"}
_PART = re.compile(
    rf"^desc: Trigger: --dump-before={END}$.*?^(?:totals|summary): (\d+)$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Count:
    """Instructions per operation of one benchmark, and how many operations were counted."""

    name: str
    per_operation: float
    operations: int
    note: str


def valgrind_version() -> str:
    result = subprocess.run(
        [find_tool("valgrind", "valgrind"), "--version"], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise BenchError(f"valgrind --version failed:\n{result.stderr}")
    return result.stdout.strip().removeprefix("valgrind-")


def parse_dumps(text: str) -> list[int]:
    """The instructions of each dump that the closing mark caused, in order; the one at the program's end is
    none.
    """
    return [int(total) for total in _PART.findall(text)]


def count(cases: Sequence[Case], folder: Path, say: Callable[[str], None]) -> list[Count]:
    """Counts the cases, in their order. `folder` takes the dumps; `say` is told the name of each case that
    begins.
    """
    counted: dict[str, Count] = {}
    for kind, extra in (("native", _NATIVE), ("python", {})):
        group = [case for case in cases if case.native == (kind == "native")]
        if group:
            part = folder / kind
            part.mkdir()
            counted |= {count.name: count for count in _count_in_one_process(group, extra, part, say)}
    return [counted[case.name] for case in cases]


def _count_in_one_process(
    cases: Sequence[Case], extra: Mapping[str, str], folder: Path, say: Callable[[str], None]
) -> list[Count]:
    job, dumps, log = folder / "job.json", folder / "callgrind.out", folder / "valgrind.log"
    job.write_text(json.dumps([case.name for case in cases]))
    program = [sys.executable, "-m", "bench.instructions.cases", str(job)]
    argv = [
        find_tool("valgrind", "valgrind"),
        "--tool=callgrind",
        f"--zero-before={BEGIN}",
        f"--dump-before={END}",
        "--combine-dumps=yes",
        f"--callgrind-out-file={dumps}",
        f"--log-file={log}",
        *program,
    ]
    _run(argv, _environment(program, extra), log, say)
    operations = json.loads(job.read_text())
    totals = parse_dumps(dumps.read_text())
    if len(totals) != len(operations):
        raise BenchError(f"{len(operations)} benchmarks ran and {len(totals)} were counted; {_REBUILD}")
    return [
        Count(case.name, total / made, made, case.note)
        for case, total, made in zip(cases, totals, operations, strict=True)
    ]


def _environment(program: Sequence[str], extra: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the caller's; filled up, so that the stack begins at the same address."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "PYTHONMALLOC": "default",
        "LC_ALL": "C.UTF-8",
        "LD_BIND_NOW": "1",
        **extra,
    }
    # The program's path stands there twice: as its name, and for the loader.
    used = sum(len(text.encode()) for text in (*program, program[0], *environment, *environment.values()))
    return {**environment, "FILLED_UP": "." * max(0, _STACK_BYTES - used)}


def _run(argv: Sequence[str], environment: Mapping[str, str], log: Path, say: Callable[[str], None]) -> None:
    """What the program writes to stderr is said line by line, and is in the error when it fails."""
    said: list[str] = []
    with subprocess.Popen(argv, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            for line in child.stderr:
                said.append(line)
                say(line.rstrip())
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        told = "".join(said[-12:]) or (log.read_text() if log.exists() else "")
        raise BenchError(f"the benchmarks failed under valgrind ({child.returncode}):\n{told}\n{_REBUILD}")
