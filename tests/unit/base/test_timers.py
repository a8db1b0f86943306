"""A timer fires at its time or up to one tick after, never before; the poller never sleeps past one."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh._native.base import _t_timers as timers

TICK = 4
START = 1_000_003
# Beside each level's border, and across several levels.
SPANS = [0, 1, 3, 4, 5, 1019, 1020, 1024, 1028, 65_000, 65_536, 70_000, 4_200_000, 4_294_967]


def fire(wheel: timers.Wheel, now: int) -> list[int]:
    wheel.advance(now)
    return list(iter(wheel.pop, None))


@pytest.mark.parametrize("after", SPANS)
@pytest.mark.parametrize("start", [0, START, 2**40 + 1023])
def test_fires_at_its_time_and_not_before(start: int, after: int) -> None:
    wheel = timers.Wheel(1, start)
    wheel.set(0, start, after)
    assert fire(wheel, start + after - 1 if after else start) == []
    assert wheel.is_armed(0)
    assert fire(wheel, start + after + TICK) == [0]
    assert not wheel.is_armed(0)
    assert wheel.armed == 0


def test_the_longest_time_that_can_be_asked_for() -> None:
    wheel = timers.Wheel(1, START)
    wheel.set(0, START, 2**32 - 1)
    now = START
    while now < START + 2**32 - 1 - 3_600_000:
        now += 3_600_000
        assert fire(wheel, now) == []
    assert fire(wheel, START + 2**32 - 1 + TICK) == [0]


def test_cancelled_does_not_fire() -> None:
    wheel = timers.Wheel(2, START)
    wheel.set(0, START, 10)
    wheel.set(1, START, 10)
    wheel.cancel(0)
    wheel.cancel(0)
    assert fire(wheel, START + 20) == [1]
    assert fire(wheel, START + 100_000) == []


def test_pushed_back_fires_once_at_the_later_time() -> None:
    wheel = timers.Wheel(1, START)
    wheel.set(0, START, 10)
    wheel.set(0, START + 5, 5000)
    assert fire(wheel, START + 5004) == []
    assert fire(wheel, START + 5009) == [0]
    assert fire(wheel, START + 50_000) == []


def test_brought_forward_fires_once_at_the_earlier_time() -> None:
    wheel = timers.Wheel(1, START)
    wheel.set(0, START, 5000)
    wheel.set(0, START + 5, 10)
    assert fire(wheel, START + 20) == [0]
    assert fire(wheel, START + 50_000) == []


def test_cancelled_while_it_waits_to_be_handed_out() -> None:
    wheel = timers.Wheel(2, START)
    wheel.set(0, START, 10)
    wheel.set(1, START, 10)
    wheel.advance(START + 20)
    assert wheel.pop() == 0
    wheel.cancel(1)
    assert wheel.pop() is None
    assert wheel.armed == 0


def test_pushed_back_while_it_waits_to_be_handed_out() -> None:
    """What handles one timer may push back another that is due in the same turn."""
    wheel = timers.Wheel(2, START)
    wheel.set(0, START, 10)
    wheel.set(1, START, 10)
    wheel.advance(START + 20)
    assert wheel.pop() == 0
    wheel.set(1, START + 20, 1000)
    assert wheel.pop() is None
    assert wheel.armed == 1
    assert fire(wheel, START + 1019) == []
    assert fire(wheel, START + 1024) == [1]


def test_sleeps_for_ever_only_without_timers() -> None:
    wheel = timers.Wheel(1, START)
    assert wheel.wait_ms(START) == -1
    wheel.set(0, START, 100)
    assert 0 < wheel.wait_ms(START) <= 104
    wheel.advance(START + 200)
    assert wheel.wait_ms(START + 200) == 0
    wheel.pop()
    assert wheel.wait_ms(START + 200) == -1


@pytest.mark.parametrize("after", SPANS[1:])
def test_waking_when_told_fires_in_time(after: int) -> None:
    """As the worker does: sleep as long as allowed, look, sleep again."""
    wheel = timers.Wheel(1, START)
    wheel.set(0, START, after)
    now, naps = START, 0
    while not (fired := fire(wheel, now)):
        wait = wheel.wait_ms(now)
        assert wait > 0, "would spin"
        now += wait
        naps += 1
    assert fired == [0]
    assert START + after <= now <= START + after + TICK
    # At most one look a turn of the lowest level.
    assert naps <= after // 1024 + 3


@given(st.integers(0, 2**40), st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.integers(1, 1000))
def test_a_cancelled_timer_wakes_nobody(start: int, cancelled: list[int], left: int) -> None:
    wheel, alone = timers.Wheel(31, start), timers.Wheel(1, start)
    for i, after in enumerate(cancelled):
        wheel.set(i + 1, start, after)
    wheel.set(0, start, left)
    alone.set(0, start, left)
    for i in range(len(cancelled)):
        wheel.cancel(i + 1)
    assert wheel.wait_ms(start) == alone.wait_ms(start)


@given(st.integers(0, 2**32), st.integers(0, 2**40))
def test_agrees_with_a_list_of_times(seed: int, start: int) -> None:
    chance = random.Random(seed)
    count = 20
    wheel = timers.Wheel(count, start)
    due: dict[int, int] = {}
    now = start
    for _ in range(60):
        for _ in range(chance.randrange(4)):
            i = chance.randrange(count)
            if chance.random() < 0.2:
                wheel.cancel(i)
                due.pop(i, None)
            else:
                after = chance.choice(
                    [chance.randrange(40), chance.randrange(5000), chance.randrange(200_000)]
                )
                wheel.set(i, now, after)
                due[i] = now + after
        now += chance.choice([0, 1, 5, 300, 1500, 70_000])
        for i in fire(wheel, now):
            assert due.pop(i) <= now
        assert all(time + TICK > now for time in due.values())
        assert wheel.armed == len(due)
        wait = wheel.wait_ms(now)
        assert (wait == -1) == (not due)
        assert not due or 0 < wait <= min(due.values()) + TICK - now
        assert [i for i in range(count) if wheel.is_armed(i)] == sorted(due)
