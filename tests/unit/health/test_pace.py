"""Work is held back when its thread has no time left."""

import pytest
import trio
import trio.testing

from fastmesh.health.pace import SHARE, WINDOW_SECONDS, Pace


def took(cost, count, pause=0.0):
    """Seconds for so many pieces of work, each of which takes ``cost`` of CPU and is followed by a pause."""
    used = [0.0]

    async def main():
        pace = Pace(lambda: used[0])
        start = trio.current_time()
        for _ in range(count):
            await pace.breathe()
            used[0] += cost
            await trio.sleep(pause)
        return trio.current_time() - start

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_no_more_than_its_share():
    assert took(0.001, 1000) == pytest.approx(1.0 / SHARE, abs=2 * WINDOW_SECONDS)
    assert took(0.2, 10) == pytest.approx(9 * 0.2 / SHARE)  # nothing follows the last one


def test_work_that_leaves_time_is_not_held_back():
    assert took(0.001, 1000, pause=0.01) == pytest.approx(10.0)
    assert took(0.0, 1000) == 0


def test_a_quiet_time_is_no_credit_for_a_burst():
    used = [0.0]

    async def main():
        pace = Pace(lambda: used[0])
        await pace.breathe()
        await trio.sleep(100)
        start = trio.current_time()
        for _ in range(1000):
            await pace.breathe()
            used[0] += 0.001
        assert trio.current_time() - start > 0.9 / SHARE

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
