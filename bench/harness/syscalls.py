"""Counts system calls of a running process with strace."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

from bench.harness.place import find_tool
from bench.harness.process import Child, wait_until

READS = frozenset({"read", "readv", "recv", "recvfrom", "recvmsg", "recvmmsg", "pread64", "preadv"})
WRITES = frozenset({"write", "writev", "send", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice"})


def parse_counts(table: str) -> dict[str, int]:
    """Calls by name, failed ones counted too, from the table of `strace -c -U calls,name`."""
    counts: dict[str, int] = {}
    for line in table.splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[0].isdigit() and fields[1] != "total":
            counts[fields[1]] = int(fields[0])
    return counts


def reads_and_writes(counts: Mapping[str, int]) -> int:
    return sum(count for name, count in counts.items() if name in READS | WRITES)


class Tracer:
    """strace on all threads of a process tree, from construction to `counts()`."""

    def __init__(self, pids: list[int], log: Path) -> None:
        self._table = log.with_suffix(".table")
        argv = [find_tool("strace", "strace"), "-f", "-c", "-U", "calls,name", "-o", str(self._table)]
        for pid in pids:
            argv += ["-p", str(pid)]
        self._child = Child("strace", argv, log=log)
        try:
            wait_until(lambda: all(_is_traced(pid) for pid in pids), self._child, "attach to the proxy", 5)
        except BaseException:
            self.stop()
            raise

    def counts(self) -> dict[str, int]:
        self.stop()
        return parse_counts(self._table.read_text())

    def stop(self) -> None:
        """INT lets strace detach and print its table."""
        if self._child.exit_code() is None:
            self._child.signal(signal.SIGINT)
            self._child.wait(5)
        self._child.stop()


def _is_traced(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if "TracerPid:\t0\n" in (task / "status").read_text():
            return False
    return True
