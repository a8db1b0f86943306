"""When endpoints are checked, how many at once, and what becomes of the results: on a clock that jumps."""

import logging
from itertools import pairwise
from math import inf

import pytest
import trio
import trio.testing

from fastmesh.health.checker import GRACE_SECONDS, JITTER, MOST_SECONDS
from fastmesh.model import Address, Endpoint, Health, Place, Service
from fastmesh.model.told import Checked
from support.checking import BAD, CHECKED, GOOD, UNKNOWN, Rig, address, config, scenario, service, text


@pytest.fixture(autouse=True)
def said(caplog):
    caplog.set_level(logging.INFO, logger="fastmesh.health")
    return caplog


# ---------------------------------------------------------------- before a change


def test_the_first_verdicts_come_before_the_change():
    async def test(rig):
        rig.answers[text(2)] = BAD
        verdicts = await rig.change(service("s", [1, 2]), service("unchecked", [3], health=None))
        assert verdicts == {("s", text(1)): True, ("s", text(2)): False}
        assert {where for _, where in rig.log} == {text(1), text(2)}
        await rig.passed(0)
        assert rig.told == verdicts, "an endpoint that is in force already must hear it too"

    scenario(test)


def test_what_is_known_is_not_checked_again():
    async def test(rig):
        await rig.change(service("s", [1, 2]))
        before = len(rig.log)
        assert await rig.change(service("s", [2, 3])) == {("s", text(3)): True}
        assert [where for _, where in rig.log[before:]] == [text(3)]

    scenario(test)


def test_a_name_is_all_that_it_resolves_to():
    async def test(rig):
        named = Service("s", (Endpoint(Address("name", "api", 80)), Endpoint(address(1))), health=CHECKED)
        resolved = {"api:80": (Place(address(1)), Place(address(7)))}
        assert set(await rig.change(named, resolved=resolved)) == {("s", text(1)), ("s", text(7))}
        assert set(await rig.change(named, resolved={"api:80": (Place(address(8)),)})) == {("s", text(8))}
        assert set(rig.checker.view()["s"].endpoints) == {text(1), text(8)}

    scenario(test)


def test_what_has_no_result_yet_is_awaited():
    """Until it is passed on; what could not be checked has one too, and another process's verdict is one."""

    async def test(rig):
        rig.hangs = {text(1), text(2)}
        rig.answers[text(3)] = UNKNOWN
        rig.checker.recall({("t", text(5)): Checked("healthy", 1.0, 2, True, "")})
        slow = Health(timeout=60.0, interval=60.0)
        await rig.change(service("s", [1, 2, 3, 4], slow), service("t", [5]), service("u", [6]))
        await rig.passed(0.1)
        assert rig.checker.awaited() == {"s": 2}
        rig.hangs = {text(2)}
        await rig.change(service("s", [2, 4], slow))
        assert rig.checker.awaited() == {"s": 1}
        rig.hangs = set()
        await rig.change(service("s", [4], slow))
        await rig.passed(0.1)
        assert rig.checker.awaited() == {}

    scenario(test)


def test_a_verdict_is_awaited_until_it_is_passed_on(monkeypatch):
    seen = []
    tell = Rig.tell

    def look(rig, verdicts):
        seen.append(rig.checker.awaited())
        tell(rig, verdicts)

    monkeypatch.setattr(Rig, "tell", look)

    async def test(rig):
        await rig.change(service("s", [1]))
        assert rig.checker.awaited() == {"s": 1}
        await rig.passed(0.1)
        assert seen == [{"s": 1}]
        assert rig.checker.awaited() == {}

    scenario(test)


def test_a_start_may_wait_for_less():
    async def test(rig):
        rig.hangs = {text(1)}
        start = trio.current_time()
        wanted = config(service("s", [1, 2]))
        assert await rig.checker.prepare(wanted, {}, 0.5) == {("s", text(2)): True}
        assert trio.current_time() - start == pytest.approx(0.5)

    scenario(test)


@pytest.mark.parametrize(("timeout", "waits"), [(0.5, 1.0 + GRACE_SECONDS), (3.0, MOST_SECONDS)])
def test_nobody_waits_longer_than_the_longest_time_out_and_a_moment(timeout, waits):
    async def test(rig):
        rig.hangs = {text(1)}
        start = trio.current_time()
        slow = Health(timeout=timeout)
        assert await rig.change(service("s", [1, 2]), service("t", [3], slow)) == {
            ("s", text(2)): True,
            ("t", text(3)): True,
        }
        assert trio.current_time() - start == pytest.approx(waits)

    scenario(test)


def test_thousands_wait_for_a_moment_only_and_each_service_has_its_first_verdicts():
    many, few = range(3000), range(3000, 3040)

    async def test(rig):
        rig.takes = 0.5
        start = trio.current_time()
        slow = Health(timeout=20.0)
        services = [service("large", many, slow), *(service(f"s{n}", [n], slow) for n in few)]
        verdicts = await rig.change(*services)
        assert trio.current_time() - start <= MOST_SECONDS + 0.01
        assert rig.most <= 100
        assert 100 <= len(verdicts) <= 300
        assert {(f"s{n}", text(n)) for n in few} <= verdicts.keys()
        assert rig.checker.view()["large"].endpoints[text(2999)].state == "pending"
        # The rest follows at once, a hundred at a time, and nobody is used before.
        before = len(rig.log)
        await rig.passed(1.5)
        assert 200 <= len(rig.log) - before <= 400
        await rig.passed(20.0)
        assert rig.told == {(s.name, e.address.text): True for s in services for e in s.endpoints}

    scenario(test, parallel=100)


def test_a_change_that_was_refused_leaves_nothing():
    async def test(rig):
        await rig.change(service("s", [1]))
        await rig.checker.prepare(config(service("s", [1, 2])), {})
        assert set(rig.checker.view()["s"].endpoints) == {text(1)}
        before = len(rig.log)
        rig.answers[text(2)] = BAD
        assert await rig.change(service("s", [1, 2])) == {("s", text(2)): False}
        assert len(rig.log) == before + 1

    scenario(test)


# ---------------------------------------------------------------- when


def test_the_interval_is_kept_with_jitter():
    async def test(rig):
        await rig.change(service("s", range(20)))
        await rig.passed(100)
        gaps = []
        for number in range(20):
            times = rig.times(number)[1:]  # the first one was before the start
            assert times[0] <= 2.0 + rig.takes
            gaps += [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps) >= 2.0 * (1 - JITTER) - 1e-9
        assert max(gaps) <= 2.0 * (1 + JITTER) + 1e-9
        assert max(gaps) - min(gaps) > 2.0 * JITTER, "no jitter"
        assert sum(gaps) / len(gaps) == pytest.approx(2.0, rel=0.02)

    scenario(test)


@pytest.mark.parametrize("sizes", [[1000], [1] * 1000, [300, 1, 699]])
def test_checks_are_spread_over_the_interval(sizes):
    async def test(rig):
        numbers = iter(range(1000))
        services = [service(f"s{i}", [next(numbers) for _ in range(size)]) for i, size in enumerate(sizes)]
        await rig.change(*services)
        start, before = trio.current_time(), len(rig.log)
        await rig.passed(2.0 * (1 - JITTER))
        slots = [0] * 18
        for at, _ in rig.log[before:]:
            slots[min(17, int((at - start) * 10))] += 1
        assert min(slots) >= 48
        assert max(slots) <= 52

    scenario(test)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_endpoints(count):
    """Evenly, few at once, each at its interval."""

    async def test(rig):
        rig.takes = 0.02
        await rig.change(service("s", range(count)))
        await rig.passed(2.0)
        start, before = trio.current_time(), len(rig.log)
        await rig.passed(2.0)
        window = rig.log[before:]
        slots = [0] * 20
        for at, _ in window:
            slots[min(19, int((at - start) * 10))] += 1
        assert max(slots) < 1.5 * count / 20, slots
        assert min(slots) > 0.5 * count / 20, slots
        assert rig.most <= 256
        assert len({where for _, where in window}) > 0.8 * count
        assert len(rig.checker._heap) <= count

    scenario(test)


def test_no_more_at_once_than_allowed():
    async def test(rig):
        rig.takes = 1.0
        await rig.change(service("s", range(40)))
        await rig.passed(20)
        assert rig.most == 8

    scenario(test, parallel=8)


def test_checks_leave_the_thread_time_for_others(said):
    """Each costs a millisecond of CPU: five times as many as there is time for."""
    rig_of = []

    async def test(rig):
        rig_of.append(rig)
        await rig.change(service("s", range(5000)))
        start, before = trio.current_time(), len(rig.log)
        await rig.passed(10)
        made = len(rig.log) - before
        assert made * 0.001 < 0.55 * (trio.current_time() - start)
        assert made > 4000

    scenario(test, cpu_time=lambda: len(rig_of[0].log) * 0.001 if rig_of else 0.0)
    assert said.text.count("there are more checks than can be made in time") == 1


def test_a_check_that_takes_longer_than_the_interval_is_neither_doubled_nor_late(said):
    async def test(rig):
        rig.takes = 5.0
        await rig.change(service("s", [1], Health(interval=1.0, timeout=10.0)))
        await rig.passed(30)
        times = rig.times(1)[1:]
        assert all(later - earlier >= 5.0 for earlier, later in pairwise(times))
        assert rig.most == 1

    scenario(test)
    assert not said.records


# ---------------------------------------------------------------- what follows


def test_a_state_changes_after_so_many_in_a_row_and_is_told_and_logged_once(said):
    async def test(rig):
        await rig.change(service("s", [1, 2], Health(healthy=2, unhealthy=3)))
        rig.answers[text(1)] = BAD
        while len(rig.times(1)) < 3:  # noqa: ASYNC110
            await trio.sleep(0.1)
        await rig.passed(0.1)
        assert rig.state(1) == "healthy"
        await rig.passed(20)
        assert rig.told == {("s", text(1)): False, ("s", text(2)): True}
        assert sum(("s", text(1)) in batch for batch in rig.batches) == 2  # the first verdict and this
        rig.answers[text(1)] = GOOD
        await rig.passed(20)
        assert rig.told[("s", text(1))] is True
        assert rig.state(1) == "healthy"

    scenario(test)
    lines = [record.getMessage() for record in said.records]
    assert lines == [
        f"service s: endpoint {text(1)} is unhealthy: answered 500 (3 checks in a row)",
        f"service s: endpoint {text(1)} is healthy again",
    ]


def test_one_that_is_unhealthy_from_the_start_is_logged_when_it_is_in_force(said):
    async def test(rig):
        rig.answers[text(1)] = BAD
        wanted = config(service("s", [1]))
        await rig.checker.prepare(wanted, {})
        assert not said.records
        rig.checker.follow(wanted, {})

    scenario(test)
    assert [record.getMessage() for record in said.records] == [
        f"service s: endpoint {text(1)} is unhealthy: answered 500 (its first check)"
    ]


def test_other_settings_keep_the_state_and_check_at_once():
    async def test(rig):
        slow = Health(interval=100.0, timeout=1.0)
        await rig.change(service("s", [1, 2], slow))
        await rig.passed(1)
        before, start = len(rig.log), trio.current_time()
        assert await rig.change(service("s", [1, 2], Health(interval=50.0, path="/other"))) == {}
        assert rig.state(1) == "healthy"
        await rig.passed(1)
        assert sorted(where for _, where in rig.log[before:]) == [text(1), text(2)]
        assert all(at == start for at, _ in rig.log[before:])
        before = len(rig.log)
        await rig.change(service("s", [1, 2], Health(interval=50.0, path="/other")))
        await rig.passed(1)
        assert len(rig.log) == before, "nothing had changed"

    scenario(test)


def test_the_result_of_a_check_with_settings_of_before_counts_for_nothing():
    async def test(rig):
        await rig.change(service("s", [1], Health(interval=1.0, timeout=9.0, unhealthy=1)))
        rig.takes, rig.answers[text(1)] = 5.0, BAD
        await rig.passed(3)
        assert rig.running == 1
        rig.takes = 0.01
        await rig.change(service("s", [1], Health(interval=1.0, path="/other", unhealthy=2)))
        began = trio.current_time()
        while rig.running:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert rig.state(1) == "healthy"
        await rig.passed(0.1)
        assert rig.times(1)[-1] - began < 5.1
        assert rig.state(1) == "healthy", "one failed check with the new settings is not two"

    scenario(test)


def test_what_is_removed_is_not_checked_any_more_and_says_nothing(said):
    async def test(rig):
        hasty = Health(timeout=60.0, unhealthy=1)
        await rig.change(service("s", [1, 2], hasty), service("t", [3]))
        await rig.passed(3)
        rig.takes, rig.answers[text(1)] = 30.0, BAD
        await rig.passed(3)
        assert rig.running == 3
        await rig.change(service("s", [2], hasty))
        assert set(rig.checker.view()) == {"s"}
        assert set(rig.checker.view()["s"].endpoints) == {text(2)}
        before = len(rig.log)
        await rig.passed(100)
        assert {where for _, where in rig.log[before:]} == {text(2)}
        assert rig.told[("s", text(1))] is True, "what was found of it afterwards was told"
        assert rig.checker.view()["s"].healthy == 1
        assert not said.records
        # Back again, it is new.
        rig.takes = 0.01
        assert await rig.change(service("s", [1, 2], hasty)) == {("s", text(1)): False}

    scenario(test)


def test_a_thousand_changes_leave_no_more_entries_than_endpoints():
    async def test(rig):
        for turn in range(1000):
            await rig.change(service("s", [turn % 7, 100 + turn], Health(interval=3600.0)))
        assert len(rig.checker._heap) < 80

    scenario(test)


def test_trouble_of_our_own_changes_no_state():
    async def test(rig):
        rig.answers[text(2)] = UNKNOWN
        assert await rig.change(service("s", [1, 2])) == {("s", text(1)): True}
        rig.answers[text(1)] = UNKNOWN
        await rig.passed(30)
        assert (rig.state(1), rig.state(2)) == ("healthy", "pending")
        assert rig.told == {("s", text(1)): True}
        view = rig.checker.view()["s"]
        assert view.results["failed"] == 0
        assert view.results["error"] > 20
        assert view.endpoints[text(1)].last_error == "no descriptors"
        rig.answers.clear()
        await rig.passed(3)
        assert rig.state(2) == "healthy"

    scenario(test)


# ---------------------------------------------------------------- panic


def test_with_too_few_healthy_all_are_used(said):
    careful = Health(unhealthy=1, healthy=1, panic=0.5)

    async def test(rig):
        await rig.change(service("s", range(4), careful))
        rig.answers = {text(0): BAD, text(1): BAD}
        await rig.passed(5)
        assert rig.told == {("s", text(n)): n > 1 for n in range(4)}, "half of them is enough"
        rig.answers[text(2)] = BAD
        await rig.passed(5)
        assert set(rig.told.values()) == {True}
        view = rig.checker.view()["s"]
        assert (view.panic, view.healthy) == (True, 1)
        assert view.endpoints[text(0)].state == "unhealthy"
        rig.answers.clear()
        rig.answers[text(0)] = BAD
        await rig.passed(5)
        assert rig.told == {("s", text(n)): n > 0 for n in range(4)}
        assert not rig.checker.view()["s"].panic
        assert sum(("s", text(3)) in batch for batch in rig.batches) == 1, "told what had not changed"

    scenario(test)
    lines = [record.getMessage() for record in said.records]
    assert lines.count("service s: unhealthy endpoints are left out again") == 1
    assert (
        sum("only 1 of 4 endpoints are healthy, fewer than its panic threshold" in line for line in lines)
        == 1
    )


def test_panic_holds_for_first_verdicts_too():
    async def test(rig):
        rig.answers = {text(n): BAD for n in range(3)}
        careful = Health(panic=0.5)
        assert set((await rig.change(service("s", range(4), careful))).values()) == {True}
        assert rig.checker.view()["s"].panic
        # Without the threshold they are left out.
        await rig.change(service("s", range(4), Health(panic=None)))
        await rig.passed(0.1)
        assert rig.told == {("s", text(n)): n == 3 for n in range(4)}

    scenario(test)


def test_what_was_not_checked_yet_is_no_reason_to_panic():
    async def test(rig):
        rig.hangs = {text(n) for n in range(1, 10)}
        assert await rig.change(service("s", range(10), Health(panic=0.5))) == {("s", text(0)): True}
        assert not rig.checker.view()["s"].panic

    scenario(test)


# ---------------------------------------------------------------- failures


def test_a_verdict_that_could_not_be_told_is_told_later():
    rig = Rig()
    calls = []

    def tell(verdicts):
        calls.append(dict(verdicts))
        if len(calls) == 1:
            raise OSError("no")

    async def main():
        await rig.change(service("s", [1]))
        with trio.move_on_after(5):
            try:
                await rig.checker.run(tell)
            except* OSError:
                pass
        with trio.move_on_after(5):
            await rig.checker.run(tell)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert calls == [{("s", text(1)): True}] * 2


def test_after_a_failure_of_its_own_everything_is_still_checked():
    rig = Rig(parallel=4)

    async def main():
        await rig.change(service("s", range(20)))
        rig.answers[text(7)] = ZeroDivisionError()
        for _ in range(6):
            with trio.move_on_after(10):
                try:
                    await rig.checker.run(rig.tell)
                except* ZeroDivisionError:
                    pass
        rig.answers.clear()
        before = len(rig.log)
        with trio.move_on_after(10):
            await rig.checker.run(rig.tell)
        assert {where for _, where in rig.log[before:]} == {text(number) for number in range(20)}

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# ---------------------------------------------------------------- looking


def test_the_view_says_when_and_why():
    async def test(rig):
        rig.answers[text(2)] = BAD
        await rig.change(service("s", [1, 2]), service("t", [3]))
        await rig.passed(60)
        rig.clock.autojump_threshold = inf  # else the clock goes on while the thread looks
        view = await trio.to_thread.run_sync(rig.checker.view)
        bad = view["s"].endpoints[text(2)]
        assert (bad.state, bad.last_error, len(bad.history)) == ("unhealthy", "answered 500", 10)
        assert bad.since <= bad.history[0].at <= bad.history[-1].at
        assert bad.history[-1].seconds == pytest.approx(rig.takes)
        assert bad.history[-1].result == BAD
        assert view["s"].endpoints[text(1)].last_error == ""
        results = view["s"].results
        assert results["passed"] == rig.answered[text(1)] > 20
        assert results["failed"] == rig.answered[text(2)] > 20
        assert results["error"] == 0
        rig.clock.autojump_threshold = 0
        # A service that was away goes on counting.
        await rig.change(service("t", [3]))
        await rig.change(service("s", [1]), service("t", [3]))
        assert rig.checker.view()["s"].results["failed"] == results["failed"]

    scenario(test)
