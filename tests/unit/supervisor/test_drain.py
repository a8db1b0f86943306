"""The order of a drain, its delay and its deadline, on a clock that jumps."""

import math

import pytest
import trio
import trio.testing

from fastmesh.model import Drain
from fastmesh.supervisor.drain import Exit, Shutdown, drain
from support.fake_data_plane import FakeDataPlane


@pytest.fixture
def data_plane():
    return FakeDataPlane(workers=1, connection_limit=1)


def run_on_jumping_clock(main):
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_nothing_in_progress_ends_at_once(data_plane):
    async def main():
        assert await drain(data_plane, Drain(0, 30)) is Exit.DONE
        assert trio.current_time() < 1

    run_on_jumping_clock(main)
    assert data_plane.calls == ["begin_drain", "close_listeners", "close_idle"]


def test_the_delay_comes_before_anything_closes(data_plane):
    async def main():
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, data_plane, Drain(5, 30))
            await trio.sleep(4.9)
            assert data_plane.calls == []
            await trio.sleep(0.2)
            assert data_plane.calls[:2] == ["begin_drain", "close_listeners"]
        assert trio.current_time() - start < 6

    run_on_jumping_clock(main)


@pytest.mark.parametrize("timeout", [30, math.inf])
def test_what_is_in_progress_may_finish(data_plane, timeout):
    data_plane.in_progress = 2

    async def finish():
        await trio.sleep(20)
        assert "close_idle" not in data_plane.calls
        data_plane.in_progress = 0

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish)
            assert await drain(data_plane, Drain(0, timeout)) is Exit.DONE
        assert data_plane.calls[-1] == "close_idle"

    run_on_jumping_clock(main)


def test_the_deadline_counts_from_the_closing_of_listeners(data_plane):
    data_plane.in_progress = 1

    async def main():
        start = trio.current_time()
        assert await drain(data_plane, Drain(5, 3)) is Exit.DRAIN_TIMEOUT
        assert trio.current_time() - start == pytest.approx(8, abs=0.1)

    run_on_jumping_clock(main)
    assert "close_idle" not in data_plane.calls


def test_a_request_that_is_just_arriving_is_waited_for(data_plane):
    seen = iter([0, 0, 1, 1, 0, 0, 0])
    last = []

    def busy():
        last.append(next(seen, 0))
        return last[-1]

    data_plane.busy = busy

    async def main():
        assert await drain(data_plane, Drain(0, 30)) is Exit.DONE

    run_on_jumping_clock(main)
    assert last[-3:] == [0, 0, 0]
    assert 1 in last


def test_the_first_reason_stays():
    async def main():
        shutdown = Shutdown()
        shutdown.request("SIGTERM")
        shutdown.request("drain asked for")
        assert shutdown.requested.is_set()
        assert shutdown.reason == "SIGTERM"

    trio.run(main)


def test_exit_codes_of_the_contract():
    assert [int(code) for code in (Exit.DONE, Exit.FAILED, Exit.USAGE, Exit.FORCED, Exit.DRAIN_TIMEOUT)] == [
        0,
        1,
        2,
        3,
        4,
    ]
