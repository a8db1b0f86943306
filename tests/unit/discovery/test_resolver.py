"""Names to addresses: all of them, in order, with the last good answer kept."""

import logging
import socket
import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from fastmesh.discovery import Resolver, names_of
from fastmesh.model import Address, Config, Endpoint, Service

pytestmark = pytest.mark.trio


class Dns:
    """A getaddrinfo that answers from a table; None stands for a failure."""

    def __init__(self, **table: list[str] | None) -> None:
        self.table = table
        self.asked: list[str] = []
        self.flags: list[int] = []

    def __call__(self, host: str, port: object, type: int = 0, flags: int = 0) -> list[Any]:
        self.asked.append(host)
        self.flags.append(flags)
        answer = self.table.get(host)
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in text else socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 0, 0, 0))
            for text in answer
        ]


def inet(host: str, port: int) -> Address:
    return Address("inet6" if ":" in host else "inet", host, port)


async def test_all_addresses_sorted_and_once() -> None:
    resolver = Resolver(
        getaddrinfo=Dns(api=["10.0.0.2", "2001:db8::1", "10.0.0.1", "10.0.0.2", "fe80::1%eth0"])
    )
    assert await resolver.resolve([("api", 80), ("api", 81)]) == {
        ("api", port): (inet("10.0.0.1", port), inet("10.0.0.2", port), inet("2001:db8::1", port))
        for port in (80, 81)
    }
    assert resolver.failures == {}


async def test_one_lookup_for_each_host() -> None:
    dns = Dns(api=["10.0.0.1"], db=["10.0.0.2"])
    await Resolver(getaddrinfo=dns).resolve([("api", 80), ("api", 81), ("db", 1)])
    assert sorted(dns.asked) == ["api", "db"]


async def test_a_failure_keeps_the_last_good_answer_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "fastmesh.discovery")
    dns = Dns(api=["10.0.0.1"])
    resolver = Resolver(getaddrinfo=dns)
    names = [("api", 80), ("gone", 80)]
    first = await resolver.resolve(names)
    assert first == {("api", 80): (inet("10.0.0.1", 80),), ("gone", 80): ()}
    assert resolver.failures == {("gone", 80): "Name or service not known"}
    dns.table["api"] = None
    assert await resolver.resolve(names) == first
    assert await resolver.resolve(names) == first
    assert [record.message for record in caplog.records] == [
        "gone cannot be resolved (Name or service not known): it has no address",
        "api cannot be resolved (Name or service not known): its last addresses stay in use",
    ]
    dns.table["api"] = ["10.0.0.9"]
    assert (await resolver.resolve(names))["api", 80] == (inet("10.0.0.9", 80),)
    assert resolver.failures.keys() == {("gone", 80)}


async def test_names_not_asked_for_are_forgotten() -> None:
    resolver = Resolver(getaddrinfo=Dns(api=["10.0.0.1"]))
    await resolver.resolve([("api", 80)])
    assert await resolver.resolve([]) == {}
    assert resolver.resolved == {}


async def test_a_lookup_that_hangs_ends_in_time_and_harms_no_other() -> None:
    release = threading.Event()
    dns = Dns(api=["10.0.0.1"])

    def stuck(host: str, *arguments: Any, **options: Any) -> list[Any]:
        if host == "slow":
            release.wait(10)
        return dns(host, *arguments, **options)

    resolver = Resolver(getaddrinfo=stuck, timeout=0.2)
    try:
        with trio.fail_after(5):
            resolved = await resolver.resolve([("slow", 1), ("api", 1)])
    finally:
        release.set()
    assert resolved == {("api", 1): (inet("10.0.0.1", 1),), ("slow", 1): ()}
    assert resolver.failures == {("slow", 1): "no answer within 0.2 s"}


async def test_lookups_run_side_by_side_up_to_a_limit() -> None:
    running = most = 0
    lock = threading.Lock()
    both = threading.Barrier(2)

    def counted(host: str, *_: Any, **__: Any) -> list[Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(5)
        with lock:
            running -= 1
        return []

    resolver = Resolver(getaddrinfo=counted, parallel=2)
    await resolver.resolve([(f"h{number}", 1) for number in range(6)])
    assert most == 2
    assert set(resolver.failures.values()) == {"no address"}


async def test_a_machine_with_a_loopback_only_still_resolves() -> None:
    dns = Dns(localhost=["127.0.0.1"])

    def strict(host: str, port: object, type: int = 0, flags: int = 0) -> list[Any]:
        if flags & socket.AI_ADDRCONFIG:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return dns(host, port, type, flags)

    resolved = await Resolver(getaddrinfo=strict).resolve([("localhost", 1)])
    assert resolved == {("localhost", 1): (inet("127.0.0.1", 1),)}


async def test_the_system_resolves_localhost() -> None:
    resolved = await Resolver().resolve([("localhost", 8080)])
    assert inet("127.0.0.1", 8080) in resolved["localhost", 8080]


async def test_refreshing_tells_of_changes_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(function: Any, *arguments: Any, **_: Any) -> Any:
        return function(*arguments)

    # The clock would jump on while a thread looks up.
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    dns = Dns(api=["10.0.0.1"])
    resolver = Resolver(getaddrinfo=dns, timeout=float("inf"))
    names = [("api", 80)]
    # Looking up happens in threads, which the clock does not see: it must not jump while one is at work
    autojump_clock.autojump_threshold = 0.1
    await resolver.resolve(names)
    told: list[tuple[float, Any]] = []
    started = trio.current_time()

    async def on_change(resolved: Any) -> None:
        told.append((round(trio.current_time() - started), resolved))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.refresh_loop, lambda: names, on_change)
        await trio.sleep(65)
        assert told == []
        dns.table["api"] = ["10.0.0.2"]
        await trio.sleep(30)
        assert told == [(90, {("api", 80): (inet("10.0.0.2", 80),)})]
        names.append(("new", 80))
        dns.table["api"] = None
        await trio.sleep(300)
        assert len(told) == 1  # a failure changes nothing, and a name without an address has none before
        nursery.cancel_scope.cancel()


async def test_names_of_a_configuration() -> None:
    def service(name: str, *addresses: Address) -> Service:
        return Service(name, tuple(Endpoint(address) for address in addresses))

    api = Address("name", "api", 80)
    config = Config(
        {}, {"a": service("a", api, inet("10.0.0.1", 80)), "b": service("b", api, Address("name", "db", 1))}
    )
    assert names_of(config) == {("api", 80), ("db", 1)}
