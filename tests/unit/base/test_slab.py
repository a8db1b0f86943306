"""Slabs hand out what is not in use, count it, and fail when told to; pending bytes keep their order."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh._native.base import _t_slab as memory

BUF_MAX = 1 << 17
CLASSES = [1024, 8192, 36864, BUF_MAX]


@pytest.mark.parametrize("size", [1, 8, 16, 17, 200, 4096, 32768, 40000])
def test_objects_do_not_overlap_and_are_used_again(size: int) -> None:
    slab = memory.Slab(size)
    assert slab.object_bytes >= size
    assert slab.object_bytes % 16 == 0
    count = 2 * slab.per_chunk + 1
    items = [slab.new() for _ in range(count)]
    assert slab.live == count
    places = sorted(items)
    assert all(b - a >= slab.object_bytes for a, b in itertools.pairwise(places))
    for item in items[::2]:
        slab.delete(item)
    assert slab.live == count // 2
    assert {slab.new() for _ in items[::2]} == set(items[::2])
    for item in items:
        slab.delete(item)
    assert slab.live == 0


def test_a_slab_fails_when_told_to() -> None:
    slab = memory.Slab(64)
    slab.fail_after(2)
    assert slab.new() is not None
    assert slab.new() is not None
    assert slab.new() is None
    assert slab.new() is None
    assert slab.live == 2
    slab.fail_after(-1)
    assert slab.new() is not None


@pytest.mark.parametrize(
    ("size", "capacity"),
    [(0, 1024), (1, 1024)]
    + [
        pair
        for c, d in zip(CLASSES, [*CLASSES[1:], 0], strict=True)
        for pair in [(c, c), *([(c + 1, d)] if d else [])]
    ],
)
def test_a_buffer_is_the_smallest_that_suffices(size: int, capacity: int) -> None:
    buffers = memory.Buffers()
    place, got = buffers.new(size)
    assert got == capacity
    assert buffers.live == 1
    buffers.delete(place, got)
    assert buffers.live == 0
    assert buffers.new(size) == (place, got)


def test_no_buffer_is_larger_than_the_largest() -> None:
    buffers = memory.Buffers()
    assert buffers.new(BUF_MAX + 1) is None
    assert buffers.live == 0


def test_a_class_keeps_a_bounded_amount() -> None:
    buffers = memory.Buffers()
    for size in CLASSES:
        held = [buffers.new(size) for _ in range((1 << 20) // size + 40)]
        for place, capacity in held:
            buffers.delete(place, capacity)
    assert buffers.live == 0
    for cached, size in zip(buffers.cached, CLASSES, strict=True):
        assert (1 << 20) <= cached * size < (1 << 20) + size


def test_buffers_fail_when_told_to() -> None:
    buffers = memory.Buffers()
    buffers.fail_after(1)
    first = buffers.new(10)
    assert first is not None
    assert buffers.new(10) is None
    pending = memory.Pending(buffers)
    assert not pending.append(b"x")
    assert len(pending) == 0
    assert buffers.live == 1


def test_pending_holds_no_buffer_while_it_is_empty() -> None:
    buffers = memory.Buffers()
    pending = memory.Pending(buffers)
    assert pending.append(b"")
    assert buffers.live == 0
    assert pending.append(b"abc")
    assert buffers.live == 1
    pending.clear()
    pending.clear()
    assert (len(pending), buffers.live) == (0, 0)


def test_pending_has_a_bound() -> None:
    buffers = memory.Buffers()
    pending = memory.Pending(buffers)
    assert pending.append(bytes(BUF_MAX))
    assert not pending.append(b"x")
    assert len(pending) == BUF_MAX
    pending.take(1)
    assert pending.append(b"x")
    assert not pending.append(b"y")
    assert len(pending) == BUF_MAX


def test_what_was_reserved_can_be_appended_without_another_buffer() -> None:
    buffers = memory.Buffers()
    pending = memory.Pending(buffers)
    assert pending.reserve(5000)
    assert pending.room >= 5000
    buffers.fail_after(0)
    assert pending.append(bytes(5000))


def test_a_full_pool_leaves_what_is_held() -> None:
    buffers = memory.Buffers()
    pending = memory.Pending(buffers)
    assert pending.append(b"a" * 1000)
    buffers.fail_after(0)
    assert not pending.append(b"b" * 1000)
    assert pending.take(1000) == b"a" * 1000


@given(st.integers(0, 2**32))
def test_bytes_come_out_as_they_went_in(seed: int) -> None:
    chance = random.Random(seed)
    buffers = memory.Buffers()
    pending = memory.Pending(buffers)
    held = b""
    for _ in range(40):
        if chance.random() < 0.5:
            more = chance.randbytes(chance.choice([1, 10, 700, 3000, 20_000]))
            if pending.append(more):
                held += more
            else:
                assert len(held) + len(more) > BUF_MAX
        else:
            size = chance.randrange(len(held) + 1)
            assert pending.take(size) == held[:size]
            held = held[size:]
        assert len(pending) == len(held)
        assert buffers.live <= 1
    assert pending.take(len(held)) == held
