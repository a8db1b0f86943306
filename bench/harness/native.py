"""Compiles the benchmark's own C programs when their source is newer than the binary."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.harness.place import BENCH, BIN, BenchError

_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wconversion")


def built(program: str) -> Path:
    """Path of `bench/bin/<program>`, built from `bench/<program>.c` if need be."""
    source, binary = BENCH / f"{program}.c", BIN / program
    if binary.exists() and binary.stat().st_mtime >= source.stat().st_mtime:
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
