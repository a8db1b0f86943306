"""The names of endpoints, each looked up again in its own time.

`Resolver.learn` looks up what is new before it is needed, `run` keeps all of it fresh, `resolved` says what
is known. dnspython is imported when the first name has to be looked up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

import trio

from fastmesh.discovery import light
from fastmesh.discovery.kept import Kept, KeptHosts
from fastmesh.discovery.views import KnownName, LookupCounts, NameView
from fastmesh.model import Address, Config, Place, Resolved

if TYPE_CHECKING:
    from fastmesh.discovery.answers import Record
    from fastmesh.discovery.lookup import Lookups

log = logging.getLogger("fastmesh.discovery")

LOOKUP_SECONDS: Final = 5.0
LEAST_TTL, MOST_TTL = 1.0, 30.0
LOOPBACK_SECONDS = 1.0  # between two lookups at a server of this machine
AGAIN_SECONDS = 5.0  # without a time to live: the hosts file, a name that does not exist, no answer
LEAST_SECONDS = 1.0  # between two lookups of a name, whatever fails
TICK_SECONDS = 0.05  # what is due within it is looked up together, and its changes are applied together
PARALLEL = 32  # lookups of one host name; each has up to a dozen sockets
PARALLEL_SILENT = 8  # of names that had no answer the last time: they must not be in the way of others
MOST_RECORDS = 256  # of one name
MOST_SERIES = 1000  # names with counters of their own
OTHER = "other"
MOST_WEIGHT = 65535
MOST_PRIORITY = 127
MOST_TOLD = 10_000  # addresses: all that is told has to fit into one message

Key = tuple[bool, str]  # whether SRV records are meant, host name


def names_of(config: Config) -> dict[Key, float | None]:
    """The names of the endpoints of ``config``, and how often each is to be looked up (None: by its
    answers)."""
    found: dict[Key, float | None] = {}
    for service in config.services.values():
        for endpoint in service.endpoints:
            if endpoint.address.is_name:
                key = _key(endpoint.address)
                wished = [one for one in (found.get(key), service.refresh) if one is not None]
                found[key] = min(wished, default=None)
    return found


def _key(address: Address) -> Key:
    return address.kind == "srv", address.host


class _Name:
    """One name: what is known of it, and when it is looked up. `hosts` are the addresses of a host name, by
    that name, or of the targets of SRV records."""

    def __init__(self, key: Key, series: str) -> None:
        self.srv, self.host = key
        self.series = series
        self.records: Kept[Record] = Kept()
        self.hosts: dict[str, KeptHosts] = {} if self.srv else {self.host: KeptHosts()}
        self.refresh: float | None = None
        self.followed = False
        self.running = False
        self.looked_up = False
        self.began = -float("inf")
        self.due = -float("inf")
        self.last: float | None = None  # seconds since 1970
        self.ttl: float | None = None
        self.error = ""

    def places(self, port: int) -> tuple[Place, ...]:
        """Where the name leads just now; ``port`` is that of a host name."""
        if not self.srv:
            return tuple(Place(_address(text, port)) for text in self.hosts[self.host].items)
        rank = {number: at for at, number in enumerate(sorted({one.priority for one in self.records.items}))}
        return tuple(
            Place(
                _address(text, record.port),
                max(record.weight, 1),  # 0 is a very small chance, and no chance for an endpoint
                min(rank[record.priority], MOST_PRIORITY),
            )
            for record in self.records.items
            if record.target in self.hosts
            for text in self.hosts[record.target].items
        )

    def known(self) -> bool:
        """Whether somebody who can know has said anything of it, and be it that there is none."""
        return (not self.srv or self.records.known) and all(one.known for one in self.hosts.values())

    def problem(self) -> str:
        if self.error or self.records.error or not self.srv:
            return self.error or self.records.error or self.hosts[self.host].error
        wrong = (f"{name.removesuffix('.')}: {one.error}" for name, one in self.hosts.items() if one.error)
        return "; ".join(sorted(wrong))

    def given_up_at(self) -> float:
        times = (self.records.given_up_at(), *(one.given_up_at() for one in self.hosts.values()))
        return min((at for at in times if at is not None), default=float("inf"))


def _address(text: str, port: int) -> Address:
    return Address("inet6" if ":" in text else "inet", text, port)


class Resolver:
    """All of it belongs to the thread of trio. ``lookups``: who asks, by default the servers of this
    machine."""

    def __init__(self, lookups: Lookups | None = None) -> None:
        self._lookups = lookups
        self._names: dict[Key, _Name] = {}
        self._counts: dict[str, LookupCounts] = {}
        self._room = trio.Semaphore(PARALLEL)
        self._room_for_silent = trio.Semaphore(PARALLEL_SILENT)
        self._woken = trio.Event()
        self._changed = trio.Event()

    # ------------------------------------------------------------ the configuration

    async def learn(self, config: Config, *, again: bool = False) -> None:
        """Looks up the names of ``config`` that never were, or with ``again`` all of them. Takes at most
        `LOOKUP_SECONDS`; a name without an answer by then has none yet."""
        new = []
        for key, refresh in names_of(config).items():
            name = self._names.get(key)
            if name is None:
                name = self._names[key] = _Name(key, self._series_of(key))
                name.refresh = refresh
            if (again or not name.looked_up) and not name.running:
                new.append(name)
        async with trio.open_nursery() as nursery:
            for name in new:
                nursery.start_soon(self._look_up, name)

    def awaited(self, config: Config) -> tuple[str, ...]:
        """The names of ``config`` of which nobody has said anything yet; that one does not exist is
        something."""
        keys = names_of(config)
        unknown = {key for key in keys if key not in self._names or not self._names[key].known()}
        return tuple(sorted({host for _, host in unknown}))

    def follow(self, config: Config) -> None:
        """``config`` is in force: its names are kept fresh, others forgotten."""
        wanted = names_of(config)
        self._names = {key: name for key, name in self._names.items() if key in wanted}
        for key, refresh in wanted.items():
            name = self._names.get(key)
            if name is None:  # `learn` was not asked
                name = self._names[key] = _Name(key, self._series_of(key))
            name.followed = True
            if name.refresh != refresh:
                name.refresh = refresh
                name.due = min(name.due, trio.current_time())
        if self._lookups is not None:
            hosts = [host for name in self._names.values() for host in name.hosts]
            self._lookups.system.keep_only(hosts)
        self._woken.set()

    def resolved(self, config: Config) -> Resolved:
        """What the names of ``config`` stand for just now, by their text."""
        addresses = {
            endpoint.address
            for service in config.services.values()
            for endpoint in service.endpoints
            if endpoint.address.is_name
        }
        found: dict[str, tuple[Place, ...]] = {}
        for address in addresses:
            name = self._names.get(_key(address))
            found[address.text] = tuple(sorted(name.places(address.port))) if name is not None else ()
        return found

    # ------------------------------------------------------------ looking up

    async def run(self) -> None:
        """Looks up each name when it is due, until cancelled."""
        for name in self._names.values():
            name.running = False
        async with trio.open_nursery() as nursery:
            while True:
                self._woken = trio.Event()
                now = trio.current_time()
                for name in self._names.values():
                    if name.followed and not name.running and name.due <= now:
                        name.running = True
                        nursery.start_soon(self._look_up, name)
                waiting = (one.due for one in self._names.values() if one.followed and not one.running)
                with trio.move_on_at(min(waiting, default=float("inf"))):
                    await self._woken.wait()
                await trio.sleep(TICK_SECONDS)

    async def news(self) -> None:
        """Returns when addresses have changed since it returned last."""
        await self._changed.wait()
        self._changed = trio.Event()

    def look_again(self, addresses: Collection[str]) -> None:
        """Connections to these, ``ip:port``, fail: names that lead there are looked up now, at most once a
        second each."""
        now = trio.current_time()
        for name in self._names.values():
            led = {text for kept in name.hosts.values() for text in kept.items}
            if any(_host_of(address) in led for address in addresses):
                name.due = min(name.due, max(now, name.began + LEAST_SECONDS))
        self._woken.set()

    async def _look_up(self, name: _Name) -> None:
        """Never fails, and takes at most `LOOKUP_SECONDS`."""
        before, problem = name.places(0), name.problem()
        room = self._room_for_silent if name.error else self._room
        name.running = True
        name.began = trio.current_time()
        try:
            with trio.move_on_after(LOOKUP_SECONDS) as patience:
                await (self._services(name, room) if name.srv else self._hosts(name, room))
        finally:
            name.running = False
        name.error = f"no answer within {LOOKUP_SECONDS:g} s" if patience.cancelled_caught else ""
        name.looked_up = True
        self._note(name, before, problem)

    async def _hosts(self, name: _Name, room: trio.Semaphore) -> None:
        async with room:
            looked = await self._asker().hosts(name.host)
        name.ttl = looked.ttl
        name.hosts[name.host].take(looked, trio.current_time())

    async def _services(self, name: _Name, room: trio.Semaphore) -> None:
        async with room:
            looked = await self._asker().services(name.host)
        now = trio.current_time()
        name.ttl = looked.ttl
        if looked.records:
            if len(looked.records) > MOST_RECORDS != len(name.records.items):
                log.warning(
                    "%s has %d SRV records: the first %d by priority are used",
                    name.host,
                    len(looked.records),
                    MOST_RECORDS,
                )
            name.records.found(looked.records[:MOST_RECORDS])
        elif looked.missing:
            name.records.missing(looked.missing, now)
        else:
            name.records.failed(looked.failed)
        targets = {one.target for one in name.records.items}
        name.hosts = {target: name.hosts.get(target) or KeptHosts() for target in sorted(targets)}

        async def target(host: str, kept: KeptHosts) -> None:
            async with room:
                found = await self._asker().hosts(host)
            kept.take(found, trio.current_time())
            if found.ttl is not None:
                name.ttl = min(found.ttl, found.ttl if name.ttl is None else name.ttl)

        async with trio.open_nursery() as nursery:
            for host, kept in name.hosts.items():
                if host in looked.addresses:
                    kept.found(looked.addresses[host])
                else:
                    nursery.start_soon(target, host, kept)

    def _asker(self) -> Lookups:
        if self._lookups is None:
            light.prepare()
            from fastmesh.discovery.lookup import Lookups

            self._lookups = Lookups()
        return self._lookups

    def _note(self, name: _Name, before: tuple[Place, ...], problem: str) -> None:
        now = trio.current_time()
        after = name.problem()
        name.last = time.time()
        count = self._counts[name.series]
        self._counts[name.series] = LookupCounts(count.lookups + 1, count.failures + bool(after))
        name.due = min(now + self._interval(name, after), max(now + LEAST_SECONDS, name.given_up_at()))
        places = name.places(0)
        if after and not problem:
            kept = "its last addresses stay in use" if places else "it has no address"
            log.warning("%s cannot be resolved (%s): %s", name.host, after, kept)
        elif problem and not after:
            log.info("%s can be resolved again", name.host)
        if places != before:
            self._changed.set()
        self._woken.set()

    def _interval(self, name: _Name, problem: str) -> float:
        if name.refresh is not None:
            return name.refresh
        if self._asker().system.settings().on_loopback:
            return LOOPBACK_SECONDS
        if not name.known():  # the time that passed in vain is not waited once more
            return max(LEAST_SECONDS, name.began + AGAIN_SECONDS - trio.current_time())
        if problem or name.ttl is None:
            return AGAIN_SECONDS
        return max(LEAST_TTL, min(name.ttl, MOST_TTL))

    # ------------------------------------------------------------ telling

    def _series_of(self, key: Key) -> str:
        shown = key[1] if key[1] in self._counts or len(self._counts) < MOST_SERIES else OTHER
        self._counts.setdefault(shown, LookupCounts())
        return shown

    def counts(self) -> dict[str, LookupCounts]:
        """By name; the names beyond `MOST_SERIES` together. Never goes down."""
        return dict(self._counts)

    def view(self) -> tuple[NameView, ...]:
        now, wall = trio.current_time(), time.time()
        return tuple(
            NameView(
                name=name.host,
                type="srv" if name.srv else "host",
                addresses=tuple(
                    place.address.text if name.srv else place.address.host for place in name.places(0)
                ),
                ttl=name.ttl,
                last_lookup=name.last,
                next_lookup=None if name.running else wall + max(0.0, name.due - now),
                last_error=name.problem(),
            )
            for name in self._names.values()
            if name.followed
        )

    def tell(self) -> tuple[KnownName, ...]:
        """What is known, for another process: some ten thousand addresses at most, the rest it looks up."""
        told: list[KnownName] = []
        count = 0
        for name in self._names.values():
            hosts = {host: kept.items for host, kept in name.hosts.items() if kept.items}
            count += 1 + sum(map(len, hosts.values()))
            if hosts and count <= MOST_TOLD:
                told.append(KnownName(name.host, name.records.items if name.srv else None, hosts))
        return tuple(told)

    def recall(self, told: Iterable[KnownName]) -> None:
        """What another process knew is used until there is an answer that says otherwise."""
        for one in told:
            key = (one.records is not None, one.name)
            self._names[key] = name = _Name(key, self._series_of(key))
            name.records = Kept(one.records or ())
            name.hosts = {host: KeptHosts(addresses) for host, addresses in one.hosts.items()}

    def resume(self, before: Resolver) -> None:
        """Goes on where a resolver that runs no more has stopped."""
        self._lookups, self._names, self._counts = before._lookups, before._names, before._counts
        for name in self._names.values():
            name.running = False


def _host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")
