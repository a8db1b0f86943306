"""What readiness waits for, for how long, and what nobody can wait for."""

import logging

import pytest
import trio
import trio.testing

from fastmesh.supervisor.readiness import Readiness


def run_on_jumping_clock(main):
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="fastmesh")
    return caplog


def test_nothing_to_wait_for_is_no_news(log):
    async def main():
        readiness = Readiness(lambda: ())
        assert readiness.reasons() == ()
        await readiness.settle(lambda: 10.0)
        assert trio.current_time() == 0

    run_on_jumping_clock(main)
    assert log.text == ""


def test_it_is_ready_as_soon_as_nothing_is_missing(log):
    missing = ["the name a", "the name b"]

    async def main():
        readiness = Readiness(lambda: (), lambda: missing)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.settle, lambda: 10.0)
            await trio.sleep(3)
            assert readiness.reasons() == ("the name a", "the name b")
            missing.clear()
            assert readiness.reasons() == ()
        assert 3 <= trio.current_time() < 3.1
        missing.append("a name of a change")
        assert readiness.reasons() == (), "first results are what counts"

    run_on_jumping_clock(main)
    assert "what was missing came within 3.0 s" in log.text


def test_what_is_missing_is_named_when_the_time_is_over(log):
    async def main():
        readiness = Readiness(lambda: ["no answer yet for the name a"])
        await readiness.settle(lambda: 10.0)
        assert 10 <= trio.current_time() < 10.1
        assert readiness.reasons() == ()

    run_on_jumping_clock(main)
    (record,) = log.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "ready after 10 s (ready_timeout) without first results:\nno answer yet for the name a"
    )


def test_the_time_may_change_meanwhile():
    patience = [60.0]

    async def main():
        readiness = Readiness(lambda: ["a name"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.settle, lambda: patience[0])
            await trio.sleep(5)
            patience[0] = 1.0
        assert trio.current_time() < 5.1

    run_on_jumping_clock(main)


def test_an_objection_holds_for_as_long_as_it_is_made(log):
    objections = ["the application runs as our own user"]

    async def main():
        readiness = Readiness(lambda: (), settled=True)
        readiness.object(lambda: objections)
        await readiness.settle(lambda: 10.0)
        assert readiness.reasons() == ("the application runs as our own user",)
        objections.clear()
        assert readiness.reasons() == ()

    run_on_jumping_clock(main)
    assert log.text == ""


def test_one_that_served_before_waits_for_nothing():
    assert Readiness(lambda: ["a name"], settled=True).reasons() == ()
