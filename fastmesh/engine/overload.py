"""What the workers measure of their use, and what there is to tell of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from fastmesh._native.core.engine import Engine
from fastmesh.model import Limits
from fastmesh.model.ceilings import Ceilings
from fastmesh.model.stats import OverloadStats, Resource, ResourceStats
from fastmesh.units import format_size

RESOURCES: tuple[Resource, ...] = ("connections", "descriptors", "memory")
_WHAT: Mapping[Resource, str] = {
    "connections": "client connections",
    "descriptors": "file descriptors",
    "memory": "memory",
}
_THEN: Mapping[int, str] = {
    1: "answers close their connections, idle clients are closed, new ones are taken more slowly",
    2: "what is new is refused with 503",
}


class MemoryFiles:
    """The files that tell the workers what is used, open for as long as they run."""

    def __init__(self, engine: Engine, ceilings: Ceilings) -> None:
        self._open: list[int] = []
        group = ceilings.group
        engine.watch_memory(
            self._opened("/proc/self/statm"),
            self._opened(group.used) if group is not None else -1,
            self._opened(group.kinds) if group is not None else -1,
            group is not None and group.version == "v1",
            os.sysconf("SC_PAGE_SIZE"),
        )

    def _opened(self, path: str) -> int:
        with suppress(OSError):  # what cannot be read is not looked at
            self._open.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            return self._open[-1]
        return -1

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()


def limit_memory(engine: Engine, ceilings: Ceilings, limits: Limits) -> None:
    group = ceilings.group
    engine.limit_memory(limits.memory or ceilings.memory, group.limit if group is not None else 0)


def read(engine: Engine) -> OverloadStats:
    uses, levels, closed = engine.overload()
    (*counted, resident, group) = uses
    # Of the two that are memory, the one that is nearer to its limit
    memory = max(resident, group, key=lambda pair: pair[0] / pair[1] if pair[1] else -1.0)
    resources = [
        ResourceStats(name, used, limit, level, times)
        for name, (used, limit), (level, times) in zip(RESOURCES, (*counted, memory), levels, strict=True)
    ]
    return OverloadStats(tuple(resources), *closed)


class News:
    """Turns levels into log lines: one when a level begins, one when it ends."""

    def __init__(self) -> None:
        self._before: dict[Resource, ResourceStats] = {}

    def tell(self, stats: OverloadStats) -> tuple[str, ...]:
        lines = []
        for now in stats.resources:
            before = self._before.get(now.resource)
            level, times = (before.level, before.times) if before is not None else (0, 0)
            if now.level > level:
                state = "short" if now.level == 1 else "used up"
                lines.append(f"{_use(now)}: {state}; {_THEN[now.level]}")
            elif now.level < level:
                lines.append(f"{_use(now)}: {'enough again' if now.level == 0 else 'still short'}")
            elif now.level == 0 and now.times > times:
                lines.append(f"{_use(now)}: short for a moment, enough again")
            self._before[now.resource] = now
        return tuple(lines)


def _use(item: ResourceStats) -> str:
    """`memory: 230MiB of 256MiB`."""
    if item.resource == "memory":
        return f"memory: {_rounded(item.used)} of {_rounded(item.limit)}"
    return f"{_WHAT[item.resource]}: {item.used} of {item.limit}"


def _rounded(size: int) -> str:
    mib = 1 << 20
    return format_size(size // mib * mib) if size >= mib else format_size(size)
