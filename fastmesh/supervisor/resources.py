"""What the process may use: CPUs, descriptors, memory, as limited by the affinity mask, cgroups (v1 and v2)
and resource limits. Functions take the roots of the file systems, so that tests hand in trees of their
own."""

import math
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

# Beside connections: the program's own files, listeners and eventfds of each worker, admin and log
# descriptors, and the pipes of splice(2).
DESCRIPTORS_RESERVED = 64
DESCRIPTORS_PER_WORKER = 48
# A proxied connection has a client's side and an upstream's side.
DESCRIPTORS_PER_CONNECTION = 2
# Share of memory for connections, and a mean that lets idle ones (1-2 KiB) outnumber stalled ones (up to
# 64 KiB a direction).
MEMORY_SHARE = 0.5
MEMORY_PER_CONNECTION = 16 * 1024
LEAST_CONNECTIONS = 16


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


def _cgroup_folders(proc: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """("v1" | "v2", folder) of this process's group and each of its ancestors that is visible here."""
    groups = []
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


def cgroup_memory(proc: Path = PROC) -> int | None:
    """The tightest memory limit in bytes; None when there is none."""
    limits = []
    for version, folder in _cgroup_folders(proc, "memory"):
        text = _read(folder / ("memory.max" if version == "v2" else "memory.limit_in_bytes"))
        if text.isdecimal():
            limits.append(int(text))
    return min(limits, default=None)


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
    spare = descriptors - DESCRIPTORS_RESERVED - DESCRIPTORS_PER_WORKER * workers
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
