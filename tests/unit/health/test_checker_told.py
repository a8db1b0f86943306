"""A checker that begins with the verdicts of another process."""

import time

import pytest

from fastmesh.health.checker import JITTER
from fastmesh.model import Health
from fastmesh.model.told import Checked
from support.checking import BAD, scenario, service, text


def test_what_another_process_found_needs_no_check():
    async def test(rig):
        rig.checker.recall(
            {
                ("s", text(1)): Checked("healthy", 100.0, 5, True),
                ("s", text(2)): Checked("unhealthy", 30.0, 4, False, "answered 500"),
            }
        )
        began = time.time()
        assert await rig.change(service("s", [1, 2])) == {("s", text(1)): True, ("s", text(2)): False}
        assert not rig.log, "nobody was waited for"
        view = rig.checker.view()["s"]
        assert (view.healthy, view.endpoints[text(1)].state, view.endpoints[text(2)].state) == (
            1,
            "healthy",
            "unhealthy",
        )
        assert view.endpoints[text(2)].last_error == "answered 500"
        assert view.endpoints[text(2)].since == pytest.approx(began - 30, abs=1)
        assert rig.checker.tell()["s", text(2)].in_a_row == 4
        await rig.passed(2 * (1 + JITTER) + 0.1)
        assert {where for _, where in rig.log} == {text(1), text(2)}, "they are checked as all are"

    scenario(test)


def test_it_goes_on_where_the_other_process_was():
    """One good check more, and it is back; nothing else is told meanwhile."""

    async def test(rig):
        health = Health(interval=2.0, timeout=1.0, healthy=3)
        rig.checker.recall({("s", text(1)): Checked("unhealthy", 9.0, 2, True)})
        await rig.change(service("s", [1], health))
        await rig.passed(2 * (1 + JITTER))
        assert len(rig.log) >= 1
        assert rig.state(1) == "healthy"
        assert rig.told[("s", text(1))] is True

    scenario(test)


def test_others_are_checked_first_as_ever():
    async def test(rig):
        rig.answers[text(2)] = BAD
        rig.checker.recall(
            {("s", text(1)): Checked("healthy", 1.0), ("gone", text(9)): Checked("healthy", 1.0)}
        )
        assert await rig.change(service("s", [1, 2])) == {("s", text(1)): True, ("s", text(2)): False}
        assert [where for _, where in rig.log] == [text(2)]
        assert await rig.change(service("s", [1, 2]), service("gone", [9])) == {("gone", text(9)): True}
        assert rig.log[-1][1] == text(9), "what was told is for the first configuration"

    scenario(test)


def test_panic_counts_them():
    async def test(rig):
        health = Health(interval=2.0, timeout=1.0, panic=0.5)
        rig.checker.recall({("s", text(number)): Checked("unhealthy", 1.0) for number in (1, 2)})
        assert await rig.change(service("s", [1, 2], health)) == {
            ("s", text(number)): True for number in (1, 2)
        }
        assert rig.checker.view()["s"].panic

    scenario(test)


def test_only_verdicts_are_told():
    async def test(rig):
        rig.hangs.add(text(2))
        rig.answers[text(3)] = BAD
        await rig.change(service("s", [1, 2, 3]))
        told = rig.checker.tell()
        assert told.keys() == {("s", text(1)), ("s", text(3))}
        assert told["s", text(3)].state == "unhealthy"
        assert told["s", text(3)].error == "answered 500"
        assert not told["s", text(3)].passing
        assert 0 <= told["s", text(1)].ago < 60

    scenario(test)
