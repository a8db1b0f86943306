"""Each name in its own time: how often, what is kept, what is told."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from fastmesh.discovery import KnownName, LookupCounts, NameView, Resolver, names_of
from fastmesh.discovery.answers import Hosts, Record, Services
from fastmesh.discovery.resolver import (
    LOOKUP_SECONDS,
    MOST_RECORDS,
    MOST_SERIES,
    OTHER,
    PARALLEL,
    TICK_SECONDS,
)
from fastmesh.discovery.system import Settings
from fastmesh.model import Address, Config, Endpoint, Place, Service
from support.names import FakeLookups

pytestmark = pytest.mark.trio

API = Address("name", "api", 80)
SRV = Address("srv", "_http._tcp.api")
LOOPBACK = Settings((("127.0.0.11", 53),))


def inet(host: str, port: int = 80) -> Address:
    return Address("inet6" if ":" in host else "inet", host, port)


def config(*addresses: Address, refresh: float | None = None) -> Config:
    return Config({}, {"s": Service("s", tuple(Endpoint(one) for one in addresses), refresh=refresh)})


def hosts_in(resolver: Resolver, of: Config, text: str = "api:80") -> list[str]:
    return [place.address.host for place in resolver.resolved(of)[text]]


@asynccontextmanager
async def running(resolver: Resolver, of: Config) -> AsyncIterator[None]:
    await resolver.learn(of)
    resolver.follow(of)
    with trio.move_on_after(0.01):
        await resolver.news()  # of the first lookup
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run)
        yield
        nursery.cancel_scope.cancel()


async def times_in(seconds: float, lookups: FakeLookups, of: Config) -> list[float]:
    """When the names were looked up in that time, from the first time on."""
    async with running(Resolver(lookups), of):
        await trio.sleep(seconds)
    return [round(at - lookups.times[0]) for at in lookups.times]


async def test_names_of_a_configuration() -> None:
    services = {
        "a": Service("a", (Endpoint(API), Endpoint(inet("10.0.0.1"))), refresh=5.0),
        "b": Service("b", (Endpoint(Address("name", "api", 81)), Endpoint(Address("name", "db", 1)))),
        "c": Service("c", (Endpoint(SRV), Endpoint(API)), refresh=2.0),
    }
    assert names_of(Config({}, services)) == {
        (False, "api"): 2.0,
        (False, "db"): None,
        (True, "_http._tcp.api"): 2.0,
    }


async def test_one_lookup_serves_every_port_and_service(autojump_clock: MockClock) -> None:
    lookups = FakeLookups({"api": Hosts(("10.0.0.1", "2001:db8::1"), 30.0)})
    of = config(API, Address("name", "api", 81), inet("10.0.0.7"))
    resolver = Resolver(lookups)
    assert resolver.awaited(of) == ("api",)
    await resolver.learn(of)
    assert resolver.awaited(of) == ()
    assert resolver.resolved(of) == {
        f"api:{port}": (Place(inet("10.0.0.1", port)), Place(inet("2001:db8::1", port))) for port in (80, 81)
    }
    await resolver.learn(of)
    assert lookups.asked == ["api"]
    await resolver.learn(of, again=True)
    assert lookups.asked == ["api"] * 2


@pytest.mark.parametrize(
    ("answer", "refresh", "settings", "every"),
    [
        (Hosts(("10.0.0.1",), 7.0), None, None, 7),
        (Hosts(("10.0.0.1",), 0.0), None, None, 1),
        (Hosts(("10.0.0.1",), 600.0), None, None, 30),
        (Hosts(("10.0.0.1",), 600.0), None, LOOPBACK, 1),
        (Hosts(("10.0.0.1",), 600.0), 3.0, None, 3),
        (Hosts(("10.0.0.1",), 600.0), 3.0, LOOPBACK, 3),
        (Hosts(("10.0.0.1",)), None, None, 5),  # the hosts file
        (Hosts(missing="none"), None, None, 5),
        (Hosts(missing="none"), None, LOOPBACK, 1),
        (Hosts(failed="SERVFAIL"), None, None, 5),
        (Hosts(failed="SERVFAIL"), None, LOOPBACK, 1),
    ],
)
async def test_how_often(
    answer: Hosts, refresh: float | None, settings: Settings | None, every: int, autojump_clock: MockClock
) -> None:
    lookups = FakeLookups({"api": answer}, *([settings] if settings else []))
    # With each lookup goes a tick.
    times = await times_in(4 * every + 0.5, lookups, config(API, refresh=refresh))
    assert times == [number * every for number in range(5)]


async def test_a_name_that_appears_is_used_and_one_that_goes_is_kept_for_a_while(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastmesh.discovery")
    lookups = FakeLookups({}, LOOPBACK)
    resolver, of = Resolver(lookups), config(API)
    async with running(resolver, of):
        assert hosts_in(resolver, of) == []
        lookups.table["api"] = Hosts(("10.0.0.1",), 600.0)
        with trio.fail_after(1 + 2 * TICK_SECONDS):
            await resolver.news()
        assert hosts_in(resolver, of) == ["10.0.0.1"]
        gone = trio.current_time()
        lookups.table["api"] = Hosts(missing="there is no such name")
        await trio.sleep(29)
        lookups.table["api"] = Hosts(failed="SERVFAIL")
        await trio.sleep(60)
        assert hosts_in(resolver, of) == ["10.0.0.1"]
        lookups.table["api"] = Hosts(missing="there is no such name")
        await resolver.news()
        assert hosts_in(resolver, of) == []
        assert trio.current_time() - gone < 29 + 60 + 2
    assert [record.message for record in caplog.records] == [
        "api cannot be resolved (there is no such name): it has no address",
        "api can be resolved again",
        "api cannot be resolved (there is no such name): its last addresses stay in use",
    ]


async def test_giving_up_is_not_late(autojump_clock: MockClock) -> None:
    lookups = FakeLookups({"api": Hosts(("10.0.0.1",), 3600.0)})
    resolver, of = Resolver(lookups), config(API, refresh=3600.0)
    async with running(resolver, of):
        lookups.table["api"] = Hosts(missing="there is no such name")
        await resolver.learn(of, again=True)
        began = trio.current_time()
        await resolver.news()
        assert 30 <= trio.current_time() - began < 31


async def test_what_does_not_answer_has_an_end_and_harms_no_other(autojump_clock: MockClock) -> None:
    lookups = FakeLookups({"api": Hosts(("10.0.0.1",), 30.0), "slow": trio.Event()})
    resolver, of = Resolver(lookups), config(API, Address("name", "slow", 80))
    began = trio.current_time()
    await resolver.learn(of)
    assert trio.current_time() - began == LOOKUP_SECONDS
    assert resolver.awaited(of) == ("slow",)
    assert hosts_in(resolver, of) == ["10.0.0.1"]
    assert hosts_in(resolver, of, "slow:80") == []
    resolver.follow(of)
    assert [view.last_error for view in resolver.view()] == ["", "no answer within 5 s"]


@pytest.mark.parametrize(
    ("table", "awaited"),
    [
        ({}, ()),  # there is no such name
        ({"api": Hosts(failed="SERVFAIL")}, ("api",)),
        ({"_http._tcp.api": Services(failed="SERVFAIL"), "api": Hosts(("10.0.0.1",))}, ("_http._tcp.api",)),
        (
            {"_http._tcp.api": Services((Record(0, 1, 80, "far."),)), "far.": trio.Event()},
            ("_http._tcp.api",),
        ),
    ],
)
async def test_what_counts_as_an_answer(
    autojump_clock: MockClock, table: dict[str, object], awaited: tuple[str, ...]
) -> None:
    resolver, of = Resolver(FakeLookups(table)), config(API, SRV)
    await resolver.learn(of)
    assert resolver.awaited(of) == awaited
    assert resolver.awaited(config(inet("10.0.0.7"))) == ()


async def test_who_waits_less_loses_no_answer(autojump_clock: MockClock) -> None:
    """What has answered is used, and what has not is looked up again at once."""
    silence = trio.Event()
    lookups = FakeLookups({"api": Hosts(("10.0.0.1",), 30.0), "slow": silence})
    resolver, of = Resolver(lookups), config(API, Address("name", "slow", 80))
    with trio.move_on_after(0.5):
        await resolver.learn(of)
    assert hosts_in(resolver, of) == ["10.0.0.1"]
    assert resolver.awaited(of) == ("slow",)
    resolver.follow(of)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run)
        await trio.sleep(7)
        assert lookups.asked.count("slow") == 3, "an end each 5 s, and another second"
        lookups.table["slow"] = Hosts(("10.0.0.2",), 30.0)
        silence.set()
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert resolver.awaited(of) == ()


async def test_many_names_that_do_not_answer_have_the_same_end(autojump_clock: MockClock) -> None:
    never = trio.Event()
    lookups = FakeLookups({f"n{number}": never for number in range(200)})
    began = trio.current_time()
    await Resolver(lookups).learn(config(*(Address("name", name, 80) for name in lookups.table)))
    assert trio.current_time() - began == LOOKUP_SECONDS
    assert len(lookups.asked) < 200


async def test_silent_names_are_not_in_the_way_of_others(autojump_clock: MockClock) -> None:
    never = trio.Event()
    silent = {f"silent{number}": never for number in range(2 * PARALLEL)}
    lookups = FakeLookups({**silent, "api": Hosts(("10.0.0.1",), 1.0)}, LOOPBACK)
    before = tuple(Address("name", name, 80) for name in silent)
    async with running(resolver := Resolver(lookups), config(*before)):
        of = config(*before, API)
        await trio.sleep(LOOKUP_SECONDS + 1.5)
        for _ in range(4):  # whichever of them comes first
            with trio.fail_after(LOOKUP_SECONDS - 1):
                await resolver.learn(of)
            assert hosts_in(resolver, of) == ["10.0.0.1"]
            await trio.sleep(0.7)
            resolver.follow(config(*before))


async def test_an_srv_name_with_many_targets_is_bounded(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    never = trio.Event()
    records = [Record(number, 1, 80, f"t{number}.") for number in range(4 * MOST_RECORDS)]
    lookups = FakeLookups({record.target: never for record in records})
    lookups.table[SRV.host] = Services(tuple(records), {}, 30.0)
    resolver = Resolver(lookups)
    for _ in range(2):
        asked = len(lookups.asked)
        await resolver.learn(config(SRV), again=True)
        assert len(lookups.asked) - asked <= 1 + PARALLEL
    for record in records:
        lookups.table[record.target] = Hosts(("10.0.0.1",), 30.0)
    await resolver.learn(config(SRV), again=True)
    assert len(resolver.resolved(config(SRV))[SRV.text]) == MOST_RECORDS
    many = [line for line in caplog.messages if "SRV records" in line]
    assert many == [
        f"_http._tcp.api has {len(records)} SRV records: the first {MOST_RECORDS} by priority are used"
    ]


async def test_shutting_down_is_no_failure(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    lookups = FakeLookups({"api": Hosts(("10.0.0.1",), 1.0)})
    async with running(Resolver(lookups), config(API)):
        lookups.table["api"] = trio.Event()
        await trio.sleep(2)
    assert len(lookups.asked) == 2
    assert caplog.text == ""


async def test_failing_connections_have_their_name_looked_up_at_once(autojump_clock: MockClock) -> None:
    lookups = FakeLookups({"api": Hosts(("10.0.0.1", "2001:db8::1"), 30.0), "db": Hosts(("10.0.0.9",), 30.0)})
    resolver = Resolver(lookups)
    async with running(resolver, config(API, Address("name", "db", 1))):
        await trio.sleep(10)
        assert sorted(lookups.asked) == ["api", "db"]
        resolver.look_again({"10.6.6.6:80"})
        await trio.sleep(0.5)
        assert len(lookups.asked) == 2
        for address in ("10.0.0.1:80", "[2001:db8::1]:80", "10.0.0.1:80"):
            resolver.look_again({address})
            await trio.sleep(0.1)
        assert lookups.asked[2:] == ["api"]
        await trio.sleep(1.1)
        assert lookups.asked[2:] == ["api"] * 2  # the later failures, a second after


async def test_srv_records_have_hosts_ports_priorities_and_weights(autojump_clock: MockClock) -> None:
    records = (
        Record(10, 5, 8080, "one."),
        Record(10, 0, 8081, "one."),
        Record(30, 7, 9090, "two."),
        Record(30, 7, 9091, "none."),
    )
    lookups = FakeLookups(
        {
            "_http._tcp.api": Services(records, {"one.": ("10.0.0.1", "2001:db8::1")}, 20.0),
            "two.": Hosts(("10.0.0.2",), 10.0),
        }
    )
    resolver, of = Resolver(lookups), config(SRV)
    async with running(resolver, of):
        assert resolver.resolved(of)[SRV.text] == (
            Place(inet("10.0.0.1", 8080), 5, 0),
            Place(inet("10.0.0.1", 8081), 1, 0),
            Place(inet("10.0.0.2", 9090), 7, 1),
            Place(inet("2001:db8::1", 8080), 5, 0),
            Place(inet("2001:db8::1", 8081), 1, 0),
        )
        (view,) = resolver.view()
        assert (view.type, view.ttl) == ("srv", 10.0)
        assert view.last_error == "none: there is no such name"
        lookups.table["_http._tcp.api"] = Services(records[2:3], {}, 20.0)
        lookups.table["two."] = Hosts(failed="SERVFAIL")
        await resolver.news()
        assert resolver.resolved(of)[SRV.text] == (Place(inet("10.0.0.2", 9090), 7, 0),)
        lookups.table["_http._tcp.api"] = Services(missing="it has no SRV record")
        began = trio.current_time()
        await resolver.news()
        assert resolver.resolved(of)[SRV.text] == ()
        assert trio.current_time() - began > 30


async def test_another_configuration(autojump_clock: MockClock) -> None:
    lookups = FakeLookups({"api": Hosts(("10.0.0.1",), 30.0), "db": Hosts(("10.0.0.2",), 30.0)})
    resolver, first = Resolver(lookups), config(API)
    async with running(resolver, first):
        second = config(Address("name", "db", 1))
        await resolver.learn(second)
        await trio.sleep(40)  # it was refused: nobody looks `db` up again
        assert lookups.asked == ["api", "db", "api"]
        resolver.follow(second)
        assert lookups.wanted == ["db"]
        await trio.sleep(40)
        assert "api" not in lookups.asked[3:]
        resolver.follow(config(Address("name", "db", 1), refresh=1.0))
        asked = len(lookups.asked)
        await trio.sleep(10.5)
        assert len(lookups.asked) - asked in (10, 11)


async def test_what_is_counted_and_shown(autojump_clock: MockClock) -> None:
    lookups = FakeLookups({"api": Hosts(("10.0.0.1",), 30.0)})
    resolver, of = Resolver(lookups), config(API, SRV)
    await resolver.learn(of)
    resolver.follow(of)
    assert resolver.counts() == {"api": LookupCounts(1, 0), "_http._tcp.api": LookupCounts(1, 1)}
    one, other = resolver.view()
    assert one.last_lookup is not None
    assert one.next_lookup == pytest.approx(one.last_lookup + 30, abs=1)
    expected = NameView("api", "host", ("10.0.0.1",), 30.0, one.last_lookup, one.next_lookup, "")
    assert one == expected
    assert other.last_error == "there is no such name"


async def test_counters_are_bounded_and_never_go_down(autojump_clock: MockClock) -> None:
    names = [Address("name", f"n{number}", 80) for number in range(MOST_SERIES + 20)]
    resolver = Resolver(FakeLookups({}))
    await resolver.learn(config(*names))
    counts = resolver.counts()
    assert len(counts) == MOST_SERIES + 1
    assert counts[OTHER] == LookupCounts(20, 20)
    resolver.follow(config(names[-1]))
    await resolver.learn(config(*names[-2:]), again=True)
    assert resolver.counts() == {**counts, OTHER: LookupCounts(22, 22)}


async def test_another_process_goes_on_with_what_is_known(autojump_clock: MockClock) -> None:
    table: dict[str, Any] = {
        "api": Hosts(("10.0.0.1",), 30.0),
        "_http._tcp.api": Services((Record(0, 3, 81, "one."),), {"one.": ("10.0.0.2",)}, 30.0),
    }
    of = config(API, SRV, Address("name", "none", 1))
    resolver = Resolver(FakeLookups(table))
    await resolver.learn(of)
    told = resolver.tell()
    assert told == (
        KnownName("api", None, {"api": ("10.0.0.1",)}),
        KnownName("_http._tcp.api", (Record(0, 3, 81, "one."),), {"one.": ("10.0.0.2",)}),
    )
    down = Hosts(failed="SERVFAIL")
    successor = Resolver(
        FakeLookups({"api": down, "_http._tcp.api": Services(failed="SERVFAIL"), "one.": down})
    )
    successor.recall(told)
    await successor.learn(of)
    assert successor.resolved(of) == resolver.resolved(of)
    assert hosts_in(successor, of) == ["10.0.0.1"]
    again = Resolver(FakeLookups({}))
    again.resume(successor)
    again.follow(of)
    assert again.resolved(of) == resolver.resolved(of)


async def test_no_more_is_told_than_fits(autojump_clock: MockClock) -> None:
    many = Hosts(tuple(f"10.0.{number >> 8}.{number & 255}" for number in range(4000)), 30.0)
    names = [Address("name", f"n{number}", 80) for number in range(5)]
    resolver = Resolver(FakeLookups({one.host: many for one in names}))
    await resolver.learn(config(*names))
    assert len(resolver.tell()) == 2
