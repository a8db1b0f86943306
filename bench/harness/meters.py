"""Clocks and gauges of processes and of the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time that the processes have used with all their threads, ended ones too, in ns.

    Reads each process's CPU clock (clock_getcpuclockid(3): the number is made from the pid), which counts
    nanoseconds; `/proc/PID/stat` counts ticks of 10 ms.
    """
    total = 0
    for pid in pids:
        try:
            total += time.clock_gettime_ns((~pid << 3) | 2)
        except OSError:  # ended meanwhile
            continue
    return total


@dataclass(frozen=True)
class MachineTime:
    """Busy time since boot in ns, in steps of a tick (10 ms)."""

    busy_by_cpu: dict[int, int]

    @property
    def busy(self) -> int:
        return sum(self.busy_by_cpu.values())


def machine_time() -> MachineTime:
    busy: dict[int, int] = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            busy[int(name[3:])] = (user + nice + system + irq + softirq + steal) * _TICK_NS
    return MachineTime(busy)


@dataclass(frozen=True)
class Memory:
    """Of a process tree, in bytes. A page that two processes share is in `resident` twice."""

    resident: int
    proportional: int


def memory(pids: Iterable[int]) -> Memory:
    resident = proportional = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        lines = [line.split() for line in text.splitlines() if line.endswith(" kB")]
        sizes = {fields[0]: int(fields[1]) * 1024 for fields in lines}
        resident += sizes.get("Rss:", 0)
        proportional += sizes.get("Pss:", 0)
    return Memory(resident, proportional)
