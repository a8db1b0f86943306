"""What the process may use: CPUs, descriptors, memory, as limited by the affinity mask, cgroups (v1 and v2)
and resource limits. Functions take the roots of the file systems, so that tests hand in trees of their
own."""

import math
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastmesh.model.ceilings import Ceilings, MemoryGroup
from fastmesh.units import format_size

PROC = Path("/proc")

# The control plane's: its own files, sockets and logs (64), the admin API's connections (64), active checks
# (256). Where few are allowed in all, a quarter, and at least its own.
DESCRIPTORS_RESERVED = 384
DESCRIPTORS_OWN = 64
RESERVED_SHARE = 4
# Beside connections: a worker's pollers, listening sockets, and some of its pipes for splice(2).
DESCRIPTORS_PER_WORKER = 48
POLLERS_PER_WORKER = 1  # the one thing that a worker does not count itself
# A proxied connection has a client's side and an upstream's side.
DESCRIPTORS_PER_CONNECTION = 2
# Share of memory for connections, and a mean that lets idle ones (1-2 KiB) outnumber stalled ones (up to
# 64 KiB a direction).
MEMORY_SHARE = 0.5
MEMORY_PER_CONNECTION = 16 * 1024
LEAST_CONNECTIONS = 16
# What is used already must leave so much of limits.memory that requests are served.
MEMORY_AT_LEAST = 1.25
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    """``connections`` over all workers, and what to tell the user about it (empty: nothing)."""

    connections: int
    warning: str = ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _mounts(proc: Path) -> Iterator[tuple[str, str, Path, set[str]]]:
    """(type, root inside the file system, mount point, controllers) of each cgroup mount."""
    for line in _read(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) >= 5 and len(kind) >= 3 and kind[0] in ("cgroup", "cgroup2"):
            yield kind[0], fields[3], Path(fields[4]), set(kind[2].split(","))


def _cgroup_folders(proc: Path, controller: str) -> Iterator[tuple[Literal["v1", "v2"], Path]]:
    """("v1" | "v2", folder) of this process's group and each of its ancestors that is visible here."""
    groups: list[tuple[Literal["v1", "v2"], str, str]] = []
    for line in _read(proc / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            groups.append(("v2", "cgroup2", path))
        elif controller in names.split(","):
            groups.append(("v1", "cgroup", path))
    for version, kind, path in groups:
        for mount_kind, root, point, controllers in _mounts(proc):
            if mount_kind != kind or (version == "v1" and controller not in controllers):
                continue
            # In a container the mount shows a part of the tree: what lies above its root is left out.
            inside = path[len(root.rstrip("/")) :] if path.startswith(root.rstrip("/")) else "/"
            folder = point / inside.strip("/")
            while True:
                yield version, folder
                if folder == point or point not in folder.parents:
                    break
                folder = folder.parent
            break


def cgroup_cpus(proc: Path = PROC) -> float | None:
    """The tightest CPU quota in CPUs; None when there is none."""
    quotas = []
    for version, folder in _cgroup_folders(proc, "cpu"):
        if version == "v2":
            quota, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0 and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_group(proc: Path = PROC) -> MemoryGroup | None:
    """The control group with the tightest limit of memory; None when there is none.

    ``memory.high`` is a limit too: beyond it the kernel slows the process down until little of it is left."""
    return min(_memory_groups(proc), key=lambda group: group.limit, default=None)


def _memory_groups(proc: Path) -> Iterator[MemoryGroup]:
    """This process's own group, and those around it, where each has a limit."""
    for version, folder in _cgroup_folders(proc, "memory"):
        names = ("memory.max", "memory.high") if version == "v2" else ("memory.limit_in_bytes",)
        texts = [_read(folder / name) for name in names]
        limits = [int(text) for text in texts if text.isdecimal()]
        if limits:
            used = str(folder / ("memory.current" if version == "v2" else "memory.usage_in_bytes"))
            yield MemoryGroup(version, min(limits), used, str(folder / "memory.stat"))


def own_memory_group(proc: Path = PROC) -> MemoryGroup | None:
    """The group with the tightest limit, if it is this process's own: what others use of one around it would
    not become less by closing our connections."""
    group = memory_group(proc)
    for version, folder in _cgroup_folders(proc, "memory"):
        if group is not None and version == group.version:
            return group if group.kinds == str(folder / "memory.stat") else None
    return None


def cgroup_memory(proc: Path = PROC) -> int | None:
    """The tightest memory limit in bytes; None when there is none."""
    group = memory_group(proc)
    return group.limit if group is not None else None


def available_cpus(proc: Path = PROC) -> int:
    """CPUs that this process may use: the affinity mask, lowered by a quota (rounded up), at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = cgroup_cpus(proc)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def available_memory(proc: Path = PROC) -> int:
    """Bytes of memory that this process may use at most."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _read(proc / "meminfo").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
    return min(total, cgroup_memory(proc) or total)


def resident_memory(proc: Path = PROC) -> int:
    """Bytes of memory that this process uses; 0: not known."""
    fields = _read(proc / "self/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def memory_warning(wanted: int | None, proc: Path = PROC) -> str:
    """What to tell the user about ``limits.memory`` (empty: nothing)."""
    resident = resident_memory(proc)
    if wanted is None or wanted >= resident * MEMORY_AT_LEAST:
        return ""
    needed = math.ceil(resident * MEMORY_AT_LEAST / MIB)
    return (
        f"limits.memory is {format_size(wanted)}, of which {resident // MIB}MiB are in use before the first "
        f"request: most will be refused; set it to {needed}MiB or more"
    )


def ceilings(*, descriptors: int, workers: int, proc: Path = PROC) -> Ceilings:
    """What the workers may use, of ``descriptors`` that the process may have. A group that allows more than
    the machine has is no limit."""
    memory = available_memory(proc)
    group = own_memory_group(proc)
    spare = descriptors - control_descriptors(descriptors) - POLLERS_PER_WORKER * workers
    return Ceilings(
        descriptors=max(spare, 2 * LEAST_CONNECTIONS),
        memory=memory,
        group=group if group is not None and group.limit == memory else None,
    )


def control_descriptors(descriptors: int) -> int:
    """How many of them are kept for the control plane, so that the admin API can always answer."""
    return min(DESCRIPTORS_RESERVED, max(DESCRIPTORS_OWN, descriptors // RESERVED_SHARE))


def raise_descriptor_limit() -> int:
    """Raises the soft RLIMIT_NOFILE to the hard one and returns what is in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass
    return sys_maximum() if soft == resource.RLIM_INFINITY else soft


def sys_maximum(proc: Path = PROC) -> int:
    """The kernel's ceiling for a process's descriptors."""
    text = _read(proc / "sys/fs/nr_open")
    return int(text) if text.isdecimal() else 1_048_576


def connection_limit(wanted: int | None, *, descriptors: int, memory: int, workers: int) -> ConnectionLimit:
    """How many client connections to allow: ``wanted`` (None: as many as descriptors and memory allow),
    lowered with a warning when there are too few descriptors for it."""
    beside = control_descriptors(descriptors) + DESCRIPTORS_PER_WORKER * workers
    spare = descriptors - beside
    by_descriptors = max(LEAST_CONNECTIONS, spare // DESCRIPTORS_PER_CONNECTION)
    if wanted is None:
        by_memory = max(LEAST_CONNECTIONS, int(memory * MEMORY_SHARE) // MEMORY_PER_CONNECTION)
        chosen = min(by_descriptors, by_memory)
        if chosen < 1000 and by_descriptors <= by_memory:
            return ConnectionLimit(
                chosen,
                f"only {descriptors} file descriptors are allowed, so at most {chosen} connections are "
                "served; raise the hard limit (ulimit -Hn, LimitNOFILE= of systemd) to serve more",
            )
        return ConnectionLimit(chosen)
    if wanted <= by_descriptors:
        return ConnectionLimit(wanted)
    needed = wanted * DESCRIPTORS_PER_CONNECTION + DESCRIPTORS_RESERVED + DESCRIPTORS_PER_WORKER * workers
    return ConnectionLimit(
        by_descriptors,
        f"limits.connections is {wanted}, which needs {needed} file descriptors, but only {descriptors} are "
        f"allowed: lowered to {by_descriptors}; raise the hard limit (ulimit -Hn, LimitNOFILE= of systemd)",
    )
