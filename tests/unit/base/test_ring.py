"""The byte ring step by step, and between two threads."""

import os
import threading
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh._native.base import _t_ring
from fastmesh._native.base._t_ring import ASLEEP, AWAKE, NAPPING, Ring


def test_records_come_out_in_order_and_whole():
    ring = Ring(256)
    records = [b"", b"a", b"1234567", b"12345678", b"123456789"]
    assert all(ring.put(record) for record in records)
    assert [ring.get() for _ in records] == records
    assert ring.get() is None


@pytest.mark.parametrize("capacity", [0, 32, 63, 65, 96, 1000])
def test_capacity_must_be_a_power_of_two(capacity):
    with pytest.raises(ValueError, match="capacity"):
        Ring(capacity)


def test_a_full_ring_drops_and_counts():
    ring = Ring(64)
    assert ring.put(b"x" * 24)
    assert ring.put(b"y" * 24)
    assert not ring.put(b"")
    assert not ring.put(b"z" * 8)
    assert ring.dropped == 2
    assert ring.get() == b"x" * 24
    assert ring.put(b"")
    assert [ring.get(), ring.get(), ring.get()] == [b"y" * 24, b"", None]


def test_a_record_above_half_of_the_capacity_never_fits():
    ring = Ring(128)
    assert not ring.put(b"x" * 57)
    assert ring.dropped == 1
    assert ring.put(b"x" * 56)


def test_a_record_is_never_cut_at_the_end_of_the_memory():
    ring = Ring(64)
    assert ring.put(b"a" * 16)
    assert ring.put(b"b" * 8)
    assert (ring.get(), ring.get()) == (b"a" * 16, b"b" * 8)
    # 24 bytes are left before the end: this one starts again in front.
    assert ring.put(b"c" * 24)
    assert ring.peek() == b"c" * 24
    assert ring.get() == b"c" * 24
    assert ring.get() is None


def test_peek_leaves_the_record():
    ring = Ring(64)
    ring.put(b"one")
    assert ring.peek() == ring.peek() == ring.get() == b"one"


def test_commit_may_use_less_than_was_reserved_and_a_reservation_may_be_forgotten():
    ring = Ring(64)
    assert ring.reserve(24)
    assert ring.peek() is None
    assert ring.put(b"ab", reserve=24)
    assert ring.put(b"c" * 24)
    assert (ring.get(), ring.get(), ring.get()) == (b"ab", b"c" * 24, None)


def test_groups_are_on_different_cache_lines():
    *offsets, size = Ring(64).layout
    assert offsets == [0, 64, 128, 192]
    assert size == 256


def test_a_sleeping_consumer_is_woken_once():
    ring = Ring(64)
    ring.put(b"x")
    assert not ring.should_wake()
    ring.announce(ASLEEP)
    ring.put(b"y")
    assert ring.should_wake()
    ring.put(b"z")
    assert not ring.should_wake()
    ring.announce(ASLEEP)
    ring.announce(AWAKE)
    assert not ring.should_wake()


def test_a_napping_consumer_is_woken_by_a_half_full_ring_only():
    ring = Ring(128)
    ring.announce(NAPPING)
    ring.put(b"x" * 24)
    assert not ring.should_wake()
    ring.put(b"x" * 24)
    assert ring.should_wake()
    assert not ring.should_wake()


steps = st.lists(
    st.one_of(st.binary(max_size=80).map(lambda record: ("put", record)), st.just(("get", b""))), max_size=200
)


class SlowRing:
    """The same by the book: a record has its place, and what is skipped before the end goes with it."""

    def __init__(self, capacity):
        self.capacity, self.tail, self.head, self.records = capacity, 0, 0, deque()

    def put(self, record):
        need = (len(record) + 8 + 7) // 8 * 8
        to_end = self.capacity - self.tail % self.capacity
        start = self.tail if need <= to_end else self.tail + to_end
        if len(record) > self.capacity // 2 - 8 or start + need - self.head > self.capacity:
            return False
        self.tail = start + need
        self.records.append((record, self.tail))
        return True

    def get(self):
        if not self.records:
            return None
        record, self.head = self.records.popleft()
        return record


@given(st.sampled_from([64, 128, 256]), steps)
def test_any_order_of_steps_behaves_as_the_slow_one(capacity, steps):
    ring, slow, dropped = Ring(capacity), SlowRing(capacity), 0
    for step, record in steps:
        if step == "get":
            assert ring.get() == slow.get()
        else:
            taken = ring.put(record)
            assert taken == slow.put(record)
            dropped += not taken
    assert ring.dropped == dropped


def in_two_threads(consume, produce):
    """Runs both, and returns what they return."""
    results = {}
    threads = [
        threading.Thread(target=lambda: results.update(consumer=consume())),
        threading.Thread(target=lambda: results.update(producer=produce())),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results["consumer"], results["producer"]


@pytest.fixture
def wake():
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield descriptor
    os.close(descriptor)


# Only ends a test that failed: a record that is there must wake the sleeper at once.
GIVE_UP_MS = 5_000


@pytest.mark.tsan
@pytest.mark.parametrize("capacity", [256, 4096])
@pytest.mark.parametrize("turn", [1, 7])
@pytest.mark.parametrize("nap", [False, True])
def test_two_threads_lose_nothing(wake, capacity, turn, nap):
    count, ring = 50_000, Ring(capacity)
    (taken, wrong, announced, timed_out), (wakes, full) = in_two_threads(
        lambda: ring.consume(count, wake, nap, GIVE_UP_MS), lambda: ring.produce(count, wake, turn)
    )
    assert (taken, wrong, timed_out) == (count, 0, False)
    assert wakes <= announced
    assert ring.dropped == full


@pytest.mark.tsan
def test_no_wake_up_is_lost(wake):
    count, ring = 50_000, Ring(256)
    (taken, wrong, _, timed_out), sent = in_two_threads(
        lambda: ring.consume(count, wake, False, GIVE_UP_MS), lambda: ring.produce_in_step(count, wake)
    )
    assert (taken, wrong, timed_out, sent) == (count, 0, False, count)


def test_header_is_what_the_budget_of_a_record_counts():
    assert _t_ring.HEADER_BYTES == 8
