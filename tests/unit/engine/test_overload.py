"""What is read of the workers' measuring, and which log lines come of it."""

from __future__ import annotations

import resource
import threading
from typing import Any

import pytest

from fastmesh._native.core.engine import Engine
from fastmesh.engine import DataPlane, overload
from fastmesh.model import Config, Limits
from fastmesh.model.ceilings import Ceilings, MemoryGroup
from fastmesh.model.stats import OverloadStats, Resource, ResourceStats
from support.descriptors import open_descriptors

MIB = 1 << 20


class Counted:
    """What `Engine.overload` says."""

    def __init__(self, resident: tuple[int, int], group: tuple[int, int]) -> None:
        self._memory = (resident, group)

    def overload(self) -> tuple[Any, ...]:
        return (((5, 10), (7, 0), *self._memory), ((1, 3), (0, 0), (2, 1)), (11, 12))


@pytest.mark.parametrize(
    ("resident", "group", "used", "limit"),
    [
        ((50, 100), (900, 1000), 900, 1000),
        ((95, 100), (900, 1000), 95, 100),
        ((50, 100), (0, 0), 50, 100),
        ((50, 0), (10, 1000), 10, 1000),
        ((50, 0), (0, 0), 50, 0),
    ],
)
def test_memory_is_what_is_nearer_to_its_limit(
    resident: tuple[int, int], group: tuple[int, int], used: int, limit: int
) -> None:
    stats = overload.read(Counted(resident, group))  # type: ignore[arg-type]
    connections, descriptors, memory = stats.resources
    assert connections == ResourceStats("connections", 5, 10, 1, 3)
    assert connections.share == 0.5
    assert descriptors == ResourceStats("descriptors", 7, 0)
    assert descriptors.share == 0
    assert memory == ResourceStats("memory", used, limit, 2, 1)
    assert (stats.closed_clients, stats.closed_endpoints, stats.level) == (11, 12, 2)


def seen(name: Resource, used: int, limit: int, level: int, times: int = 1) -> OverloadStats:
    return OverloadStats((ResourceStats(name, used, limit, level, times),))


def test_a_level_is_told_when_it_begins_and_when_it_ends() -> None:
    news = overload.News()
    assert news.tell(seen("connections", 10, 100, 0, 0)) == ()
    assert news.tell(seen("connections", 93, 100, 1)) == (
        "client connections: 93 of 100: short; answers close their connections, idle clients are closed, "
        "new ones are taken more slowly",
    )
    assert news.tell(seen("connections", 94, 100, 1)) == ()
    assert news.tell(seen("connections", 98, 100, 2)) == (
        "client connections: 98 of 100: used up; what is new is refused with 503",
    )
    assert news.tell(seen("connections", 94, 100, 1)) == ("client connections: 94 of 100: still short",)
    assert news.tell(seen("connections", 9, 100, 0)) == ("client connections: 9 of 100: enough again",)
    assert news.tell(seen("connections", 9, 100, 0)) == ()


def test_what_nobody_saw_is_told_afterwards() -> None:
    news = overload.News()
    assert news.tell(seen("descriptors", 9, 100, 0, 2)) == (
        "file descriptors: 9 of 100: short for a moment, enough again",
    )
    assert news.tell(seen("descriptors", 9, 100, 0, 2)) == ()


def test_memory_is_told_in_whole_units() -> None:
    (line,) = overload.News().tell(seen("memory", 250 * MIB + 4096, 256 * MIB, 2))
    assert line.startswith("memory: 250MiB of 256MiB: used up")


def test_the_machine_is_measured_while_no_worker_runs() -> None:
    engine = Engine(1, 10)
    files = overload.MemoryFiles(engine, Ceilings())
    try:
        engine.limit_memory(1 << 40, 0)
        connections, descriptors, memory = overload.read(engine).resources
        assert (connections.limit, descriptors.limit, memory.limit) == (10, 0, 1 << 40)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        assert 0.2 * peak < memory.used < 1.2 * peak
    finally:
        files.close()
        engine.close()


def test_files_that_are_not_there_are_not_looked_at(tmp_path: Any) -> None:
    engine = Engine(1, 10)
    (tmp_path / "used").write_text("77\n")
    group = MemoryGroup("v2", 100, str(tmp_path / "used"), str(tmp_path / "missing"))
    files = overload.MemoryFiles(engine, Ceilings(group=group))
    try:
        engine.limit_memory(0, 100)
        assert overload.read(engine).resources[2] == ResourceStats("memory", 77, 100)
        assert open_descriptors(str(tmp_path)) == [str(tmp_path / "used")]
    finally:
        files.close()
        engine.close()
    assert open_descriptors(str(tmp_path)) == []


def test_a_change_of_the_limit_is_in_force_at_once() -> None:
    threads = threading.active_count()
    plane = DataPlane(workers=1, connection_limit=10, ceilings=Ceilings(descriptors=500, memory=1 << 40))
    plane.apply(Config({}, {}), {})
    plane.start()
    try:
        limits = [item.limit for item in plane.stats().overload.resources]
        assert limits == [10, 500, 1 << 40]
        plane.apply(Config({}, {}, limits=Limits(memory=16 * MIB)), {})
        assert plane.stats().overload.resources[2].limit == 16 * MIB
    finally:
        plane.stop()
    assert threading.active_count() == threads
