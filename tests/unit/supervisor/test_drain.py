"""The order of a drain, its delay and its deadline, on a clock that jumps; and how its end is told."""

import logging
import math

import pytest
import trio
import trio.testing

from fastmesh.model import Drain
from fastmesh.supervisor.drain import HASTE_SECONDS, Exit, Shutdown, drain
from support.fake_data_plane import FakeDataPlane


@pytest.fixture
def data_plane():
    return FakeDataPlane(workers=1, connection_limit=1)


def run_on_jumping_clock(main):
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_nobody_there_ends_at_once(data_plane):
    async def main():
        assert await drain(data_plane, Drain(0, 30), Shutdown()) is Exit.DONE
        assert trio.current_time() < 1

    run_on_jumping_clock(main)
    assert data_plane.calls == ["refuse_new", "close_listeners", "begin_drain"]


def test_the_delay_comes_before_anything_closes(data_plane):
    async def main():
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, data_plane, Drain(5, 30), Shutdown())
            await trio.sleep(4.9)
            assert data_plane.calls == []
            await trio.sleep(0.15)
            assert data_plane.calls == ["refuse_new"], "handshakes that have begun may end"
            await trio.sleep(0.1)
            assert data_plane.calls == ["refuse_new", "close_listeners", "begin_drain"]
        assert trio.current_time() - start < 6

    run_on_jumping_clock(main)


def test_after_handing_over_there_is_no_delay(data_plane):
    """What the successor did not take is closed as ever."""

    async def main():
        shutdown = Shutdown()
        shutdown.hand_over(77, "9.9")
        began = trio.current_time()
        assert await drain(data_plane, Drain(5, 30), shutdown) is Exit.DONE
        assert trio.current_time() - began < 1

    run_on_jumping_clock(main)
    assert data_plane.calls[:3] == ["refuse_new", "close_listeners", "begin_drain"]


@pytest.mark.parametrize("timeout", [30, math.inf])
def test_what_is_in_progress_may_finish(data_plane, timeout):
    data_plane.in_progress = 2

    async def finish():
        await trio.sleep(20)
        data_plane.in_progress = 0

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish)
            assert await drain(data_plane, Drain(0, timeout), Shutdown()) is Exit.DONE
        assert 20 <= trio.current_time() < 20.1

    run_on_jumping_clock(main)


def test_idle_clients_are_let_go_again_and_again_until_none_is_left(data_plane):
    """Each look closes those that were idle for a second by then."""
    data_plane.clients = 3
    looks = []

    def close_idle(least_idle, leaving=False):
        looks.append((trio.current_time(), least_idle))
        if len(looks) > 8:
            data_plane.clients = 0

    data_plane.close_idle = close_idle

    async def main():
        assert await drain(data_plane, Drain(0, 30), Shutdown()) is Exit.DONE
        assert trio.current_time() < 1.1

    run_on_jumping_clock(main)
    assert len(looks) == 9
    assert {least for _, least in looks} == {1.0}


def test_the_deadline_counts_from_the_closing_of_listeners(data_plane):
    data_plane.in_progress = 1

    async def main():
        start = trio.current_time()
        assert await drain(data_plane, Drain(5, 3), Shutdown()) is Exit.DRAIN_TIMEOUT
        assert trio.current_time() - start == pytest.approx(8.1, abs=0.1)

    run_on_jumping_clock(main)


def test_idle_clients_at_the_deadline_are_nothing_that_was_cut_off(data_plane):
    data_plane.clients = 5

    async def main():
        assert await drain(data_plane, Drain(0, 3), Shutdown()) is Exit.DONE
        assert trio.current_time() == pytest.approx(3.1, abs=0.1)

    run_on_jumping_clock(main)


def test_the_progress_is_logged_every_few_seconds(data_plane, caplog):
    caplog.set_level(logging.INFO, logger="fastmesh")
    data_plane.in_progress, data_plane.relays, data_plane.clients = 7, 2, 40

    async def main():
        await drain(data_plane, Drain(0, 16), Shutdown())

    run_on_jumping_clock(main)
    lines = [record.getMessage() for record in caplog.records]
    left = "7 in progress (2 of them tunnels or TCP), 40 client connections"
    assert lines.count(f"draining: {left}") == 3
    assert lines[0] == f"draining: listeners are closed, {left}, for at most 16 s"
    assert lines[-1] == "drain.timeout of 16 s has passed: 7 in progress are cut off"


def test_progress(data_plane):
    data_plane.in_progress, data_plane.relays, data_plane.clients = 7, 2, 40

    async def main():
        shutdown = Shutdown()
        assert shutdown.progress(data_plane).state == "serving"
        assert shutdown.progress(data_plane).since is None
        shutdown.request("SIGTERM")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, data_plane, Drain(5, 30), shutdown)
            await trio.sleep(4)
            seen = shutdown.progress(data_plane)
            assert (seen.state, seen.reason, seen.seconds, seen.timeout) == (
                "draining",
                "SIGTERM",
                None,
                None,
            )
            await trio.sleep(4)
            seen = shutdown.progress(data_plane)
            assert (seen.seconds, seen.timeout) == (pytest.approx(2.9, abs=0.1), 30)
            assert (seen.in_progress, seen.tunnels, seen.connections) == (7, 2, 40)
            assert seen.exit_code is None
            nursery.cancel_scope.cancel()
        await shutdown.end(Exit.DRAIN_TIMEOUT)
        seen = shutdown.progress(data_plane)
        assert (seen.state, seen.exit_code) == ("ended", 4)

    run_on_jumping_clock(main)


class Remaining:
    """Outbound listeners; the application has gone when `gone` is set."""

    def __init__(self, data_plane):
        self.data_plane = data_plane
        self.gone = trio.Event()

    def waits_for(self):
        return "somebody has gone"

    async def end_inbound(self):
        self.data_plane.calls.append("end_inbound")

    async def application_gone(self):
        await self.gone.wait()

    async def end(self):
        self.data_plane.calls.append("end")


CLOSING = ["end", "refuse_new", "close_listeners", "begin_drain"]


def test_inbound_ends_then_the_application_then_outbound(data_plane, caplog):
    caplog.set_level(logging.INFO, logger="fastmesh")
    data_plane.inbound = data_plane.in_progress = 3

    async def main():
        shutdown, remaining = Shutdown(), Remaining(data_plane)
        shutdown.request("SIGTERM")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, data_plane, Drain(0, 30), shutdown, remaining)
            await trio.sleep(4)
            assert set(data_plane.calls) == {"end_inbound", "close_idle of closed sockets"}
            assert shutdown.progress(data_plane).waits_for is None
            data_plane.inbound = 0
            await trio.sleep(1)
            assert shutdown.progress(data_plane).waits_for == "somebody has gone"
            assert set(data_plane.calls) == {"end_inbound", "close_idle of closed sockets"}
            remaining.gone.set()
            await trio.sleep(1)
            assert [one for one in data_plane.calls if "idle" not in one] == ["end_inbound", *CLOSING]
            assert shutdown.progress(data_plane).waits_for is None
            data_plane.in_progress = 0
        assert trio.current_time() < 6.1

    run_on_jumping_clock(main)
    assert "draining: inbound listeners are closed" in caplog.text
    assert "draining: inbound has drained, outbound goes on until somebody has gone" in caplog.text


@pytest.mark.parametrize(("busy", "code"), [(0, Exit.DONE), (2, Exit.DRAIN_TIMEOUT)])
def test_an_application_that_does_not_go_meets_the_deadline(data_plane, busy, code):
    data_plane.in_progress = busy

    async def main():
        assert await drain(data_plane, Drain(0, 7), Shutdown(), Remaining(data_plane)) is code
        assert trio.current_time() == pytest.approx(7.0, abs=0.1)

    run_on_jumping_clock(main)
    assert data_plane.calls == ["end_inbound"]


@pytest.mark.parametrize("at", [0, 3, 8])
def test_who_lets_go_is_not_waited_for_and_has_no_delay(data_plane, at):
    """Whether it says so first, in the delay, or when outbound alone goes on."""

    async def main():
        shutdown = Shutdown()
        if at:
            shutdown.request("SIGTERM")

        async def let_go():
            await trio.sleep(at)
            shutdown.let_go("quit asked for")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_go)
            await shutdown.requested.wait()
            code = await drain(data_plane, Drain(5, 30), shutdown, Remaining(data_plane))
            assert code is Exit.DONE
        assert trio.current_time() == pytest.approx(at + 0.1, abs=0.1)
        assert shutdown.reason == ("SIGTERM" if at else "quit asked for")

    run_on_jumping_clock(main)
    assert data_plane.calls == ["end_inbound", *CLOSING]


def test_a_signal_after_who_lets_go_is_the_first_one():
    async def main():
        shutdown = Shutdown()
        shutdown.let_go("quit asked for")
        assert shutdown.requested.is_set()
        assert not shutdown.asked

    trio.run(main)


@pytest.mark.parametrize(("asked", "seconds"), [(True, HASTE_SECONDS), (False, 0)])
def test_how_long_a_successor_is_waited_for(asked, seconds):
    """Who comes after the application has gone would not know that it has."""

    async def main():
        shutdown = Shutdown()
        with trio.move_on_after(60) as scope, shutdown.hastening(scope):
            shutdown.request("SIGTERM") if asked else shutdown.let_go("exit_with")
            await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(seconds, abs=0.01)

    run_on_jumping_clock(main)


def test_without_a_watcher_the_end_does_not_wait():
    async def main():
        shutdown = Shutdown()
        await shutdown.watch()
        await trio.sleep(5)
        began = trio.current_time()
        await shutdown.end(Exit.DONE)
        assert trio.current_time() == began

    run_on_jumping_clock(main)


@pytest.mark.parametrize("pause", [0.0, 0.4])
def test_who_watches_is_told_the_end(data_plane, pause):
    """However the end falls: during a look, or between two."""

    async def watcher(shutdown):
        while True:
            await shutdown.watch()
            seen.append(shutdown.progress(data_plane).state)
            if seen[-1] == "ended":
                return
            await trio.sleep(pause)

    async def main():
        shutdown = Shutdown()
        shutdown.request("test")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher, shutdown)
            await trio.sleep(2.75)
            began = trio.current_time()
            await shutdown.end(Exit.DONE)
            assert trio.current_time() - began < 0.5
            nursery.cancel_scope.cancel()

    seen = []
    run_on_jumping_clock(main)
    assert seen[-1] == "ended"


def test_a_watcher_that_does_not_come_back_holds_nothing_up_for_long():
    async def main():
        shutdown = Shutdown()
        shutdown.expect_watcher()
        began = trio.current_time()
        await shutdown.end(Exit.DONE)
        assert trio.current_time() - began == pytest.approx(1.0)

    run_on_jumping_clock(main)


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


def test_handing_over_is_not_asked_for_by_anybody():
    """So that a signal that comes afterwards is the first one, which does not force."""
    shutdown = Shutdown()
    shutdown.hand_over(77, "9.9")
    assert shutdown.requested.is_set()
    assert (shutdown.asked, shutdown.successor) == (False, 77)
    assert shutdown.reason == "handed over to pid 77 (fastmesh 9.9)"
    shutdown.request("SIGTERM")
    assert shutdown.asked
    assert shutdown.reason == "handed over to pid 77 (fastmesh 9.9)"


def test_a_request_is_asked_for():
    shutdown = Shutdown()
    shutdown.request("SIGTERM")
    shutdown.request("SIGINT")
    assert (shutdown.asked, shutdown.successor, shutdown.reason) == (True, 0, "SIGTERM")
