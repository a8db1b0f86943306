"""The atomic accesses do what their names say, with several threads at once too."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastmesh._native.sys import _t_atomics as atomics

THREADS = 4
TIMES = 20_000


def together(*calls: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(call) for call in calls]]


def test_one_thread() -> None:
    assert atomics.exchange(5, 2**64 - 1) == (5, 2**64 - 1)
    assert atomics.compare_and_swap(5, 5, 9) == (True, 9)
    assert atomics.compare_and_swap(5, 4, 9) == (False, 5)
    assert atomics.store_and_load(2**32 - 1) == (2**32 - 1, 2**32 - 1)


@pytest.mark.tsan
def test_no_addition_is_lost() -> None:
    shared = atomics.Shared()
    together(*[lambda: shared.add(TIMES)] * THREADS)
    small, large, _, _ = shared.values()
    assert (small, large) == (THREADS * TIMES, 3 * THREADS * TIMES)


@pytest.mark.tsan
def test_a_counter_of_one_writer_never_goes_down() -> None:
    shared = atomics.Shared()
    _, first, second = together(
        lambda: shared.bump(TIMES), lambda: shared.watch(TIMES), lambda: shared.watch(TIMES)
    )
    assert (first, second) == (0, 0)
    assert shared.values()[2] == TIMES


@pytest.mark.tsan
def test_acquire_and_release_order_plain_accesses() -> None:
    shared = atomics.Shared()
    together(*[lambda: shared.add_under_lock(TIMES)] * 2)
    assert shared.values()[3] == 2 * TIMES


@pytest.mark.tsan
def test_a_published_block_is_seen_whole() -> None:
    shared = atomics.Shared()
    _, wrong = together(lambda: shared.publish(TIMES), lambda: shared.receive(TIMES))
    assert wrong == 0
