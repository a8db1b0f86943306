"""Compiles the benchmark's own C programs when their source is newer than the binary."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from bench.harness.place import BENCH, BIN, BenchError

_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wconversion")
_OWN_HEADER = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def built(program: str) -> Path:
    """Path of `bench/bin/<program>`, built from `bench/<program>.c` if it or a header beside it is newer."""
    source, binary = BENCH / f"{program}.c", BIN / program
    if binary.exists() and binary.stat().st_mtime >= _changed(source):
        return binary
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchError("no C compiler; install one: apt-get install gcc libc6-dev")
    BIN.mkdir(exist_ok=True)
    fresh = BIN / f"{program}.{os.getpid()}"
    result = subprocess.run(
        [compiler, *_FLAGS, str(source), "-o", str(fresh)], capture_output=True, text=True, check=False
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
