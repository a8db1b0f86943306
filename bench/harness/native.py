"""Compiles our own C programs, of benchmarks and fault tests, when a source is newer than the binary."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.harness.place import BENCH, BIN, BenchError

_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wconversion")
_OWN_HEADER = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def built(program: str, folder: Path = BENCH, binaries: Path = BIN, flags: Sequence[str] = ()) -> Path:
    """Path of `<binaries>/<program>`, built from `<folder>/<program>.c` if it or a header of it is newer."""
    source, binary = folder / f"{program}.c", binaries / program
    if binary.exists() and binary.stat().st_mtime >= _changed(source):
        return binary
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchError("no C compiler; install one: apt-get install gcc libc6-dev")
    binaries.mkdir(parents=True, exist_ok=True)
    fresh = binaries / f"{program}.{os.getpid()}"
    result = subprocess.run(
        [compiler, *_FLAGS, *flags, str(source), "-o", str(fresh)],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise BenchError(f"{compiler} failed on {source}:\n{result.stderr}")
    fresh.rename(binary)
    return binary


def _changed(source: Path) -> float:
    """When the newest of the source and the headers that it includes, however deep, was changed."""
    files = [source]
    for path in files:  # grows meanwhile
        headers = (path.parent / name for name in _OWN_HEADER.findall(path.read_text()))
        files.extend(header for header in headers if header.exists() and header not in files)
    return max(path.stat().st_mtime for path in files)
