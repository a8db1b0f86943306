"""Where things run: CPUs, ports, folders, limits."""

from __future__ import annotations

import os
import random
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
BIN = BENCH / "bin"
RESULTS = BENCH / "results"
# Below the range that the kernel picks source ports from, so that wrk's connections never take one of ours.
_PORTS = range(20000, 32000)


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Pinning:
    """CPU numbers: one for the load (wrk, origin, this program), one for the proxy."""

    load: int
    proxy: int


def choose_pinning() -> Pinning:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise BenchError("two CPUs are needed: one for the proxy, one for wrk and the origin")
    return Pinning(load=usable[0], proxy=usable[-1])


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise BenchError(f"no {count} free ports in {_PORTS.start}-{_PORTS.stop - 1}")


def raise_descriptor_limit(wanted: int = 65536) -> int:
    """Raises our limit of open files, which all that is started inherits, as far as we may. Returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        except (ValueError, PermissionError):  # only root may go above the hard limit
            pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for configurations and logs that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fastmesh-bench-"))
    folder.chmod(0o755)  # a proxy that drops root must still reach it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_tool(name: str, package: str) -> str:
    """Path of a program, searched in the sbin folders too."""
    search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    path = shutil.which(name, path=search)
    if path is None:
        raise BenchError(f"{name} is missing; install it: apt-get install {package}")
    return path
