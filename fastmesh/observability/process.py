"""The ``process_*`` metrics that every Prometheus client library has, read from /proc."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from fastmesh.observability.exposition import Exposition

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def start_time() -> float:
    """When the process started, in seconds since the epoch."""
    after_boot = int(_stat_fields()[19]) / _TICKS
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + after_boot


def _stat_fields() -> list[str]:
    """Fields of /proc/self/stat from the third on (the second, a name, may hold anything)."""
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()


def add(out: Exposition) -> None:
    fields = _stat_fields()
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    cpu = used.ru_utime + used.ru_stime
    out.simple("process_cpu_seconds_total", "counter", "User and system CPU time spent.", [({}, cpu)])
    descriptors = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208  (its own descriptor left out)
    out.simple("process_open_fds", "gauge", "Open file descriptors.", [({}, descriptors)])
    out.simple("process_max_fds", "gauge", "Allowed file descriptors.", [({}, max(soft, 0))])
    out.simple("process_threads", "gauge", "Threads.", [({}, int(fields[17]))])
    out.simple("process_virtual_memory_bytes", "gauge", "Virtual memory.", [({}, int(fields[20]))])
    resident = int(fields[21]) * _PAGE
    out.simple("process_resident_memory_bytes", "gauge", "Resident memory.", [({}, resident)])
    started = round(start_time(), 2)
    out.simple("process_start_time_seconds", "gauge", "Start, since the epoch.", [({}, started)])
