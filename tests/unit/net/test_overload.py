"""Levels and their shares, and what is measured of memory, from files as kernels write them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastmesh._native.net import _t_net as net

V2 = """\
anon 3000000
file 9000000
kernel 700000
sock 300000
shmem 100000
inactive_anon 50
active_anon 60
inactive_file 4000000
active_file 4900000
slab_reclaimable 500000
slab_unreclaimable 200000
slab 700000
"""
V1 = """\
cache 9000000
rss 3000000
inactive_file 1
active_file 2
total_cache 9000000
total_inactive_file 4000000
total_active_file 4900000
total_unevictable 0
"""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str, str], int]]:
    """Descriptors of files, by name and text."""
    descriptors: list[int] = []

    def open_file(name: str, text: str) -> int:
        (tmp_path / name).write_text(text)
        descriptors.append(os.open(tmp_path / name, os.O_RDONLY))
        return descriptors[-1]

    yield open_file
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("limit", "percent", "share"),
    [(1000, 92, 920), (1000, 97, 970), (100, 95, 95), (101, 92, 93), (12, 92, 12), (13, 92, 12), (1, 92, 1)],
)
def test_a_share_of_a_limit(limit: int, percent: int, share: int) -> None:
    """Rounded up, so that a small limit is all for those who come."""
    assert net.share(limit, percent) == share


def test_where_levels_begin_and_end() -> None:
    """Each ends 2 % below where it began: what stands at its edge does not flap."""
    used = [0, 919, 920, 919, 900, 899, 919, 969, 970, 969, 950, 949, 969, 1200, 899, 975, 900, 0]
    assert net.levels(1000, used) == [0, 0, 1, 1, 1, 0, 0, 1, 2, 2, 2, 1, 1, 2, 0, 2, 1, 0]


def test_small_limits_are_short_when_they_are_reached() -> None:
    assert net.levels(2, [0, 1, 2, 1]) == [0, 0, 2, 0]
    assert net.levels(20, [18, 19, 20, 19, 18]) == [0, 1, 2, 2, 1]


def test_without_a_limit_there_is_no_level() -> None:
    assert net.levels(0, [0, 1 << 60]) == [0, 0]


def test_resident_pages(opened: Callable[[str, str], int]) -> None:
    memory = net.Memory(opened("statm", "12345 678 90 1 0 2000 0\n"), page_bytes=4096)
    assert memory.measure(1000) == (678 * 4096, 0)


def test_what_a_group_uses_without_what_the_kernel_can_take_back(opened: Callable[[str, str], int]) -> None:
    used = opened("current", "13100000\n")
    v2 = net.Memory(group_used_fd=used, group_stat_fd=opened("stat2", V2))
    assert v2.measure(1000) == (0, 13100000 - 4000000 - 4900000 - 500000)
    v1 = net.Memory(group_used_fd=used, group_stat_fd=opened("stat1", V1), v1=True)
    assert v1.measure(1000) == (0, 13100000 - 4000000 - 4900000)


@pytest.mark.parametrize("text", ["", "none\n", "5\n", "5"])
def test_a_statm_of_another_kind_says_nothing(opened: Callable[[str, str], int], text: str) -> None:
    assert net.Memory(opened("statm", text)).measure(1000) == (0, 0)


def test_without_its_parts_all_of_a_group_counts(opened: Callable[[str, str], int]) -> None:
    used = opened("current", "5000000\n")
    assert net.Memory(group_used_fd=used).measure(1000) == (0, 5000000)
    assert net.Memory(group_used_fd=used, group_stat_fd=opened("stat", "")).measure(1000) == (0, 5000000)


def test_numbers_of_two_moments_never_go_below_nothing(opened: Callable[[str, str], int]) -> None:
    """The two files are read one after the other."""
    memory = net.Memory(group_used_fd=opened("current", "8000000\n"), group_stat_fd=opened("stat", V2))
    assert memory.measure(1000) == (0, 0)


def test_it_is_read_again_when_its_time_has_come(opened: Callable[[str, str], int], tmp_path: Path) -> None:
    """The process ten times a second, the group once."""
    memory = net.Memory(opened("statm", "9 1 1"), opened("current", "10"), page_bytes=1)
    assert memory.measure(5000) == (1, 10)
    (tmp_path / "statm").write_text("9 2 1")
    (tmp_path / "current").write_text("20")
    assert memory.measure(5099) == (1, 10)
    assert memory.measure(5100) == (2, 10)
    assert memory.measure(5999) == (2, 10)
    assert memory.measure(6000) == (2, 20)
    (tmp_path / "statm").write_text("9 3 1")
    assert memory.measure(5998) == (2, 20), "a thread whose clock was read before does not begin anew"
