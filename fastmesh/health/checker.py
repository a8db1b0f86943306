"""Active checks of all endpoints of all services: when, how many at once, and what follows from them.

Due times are in one heap; a task lives only while its check does. `prepare` and `follow` keep step with the
configuration, `run` checks. All but `view` belongs to the thread of trio.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import zip_longest

import trio
from msgspec import Struct

from fastmesh.health.checks import Result, run_check
from fastmesh.health.pace import Pace
from fastmesh.health.standing import Past, Standing, State
from fastmesh.model import Address, Config, Health, Resolved
from fastmesh.model.told import Checked

log = logging.getLogger("fastmesh.health")

PARALLEL = 256
JITTER = 0.1
GRACE_SECONDS = 0.25
MOST_SECONDS = 1.5
LATE_SECONDS = 1.0  # later than this, and than an interval, is worth a warning
# Multiples of it, without their whole parts, are evenly spread however many there are.
GOLDEN = 0.618033988749895

Key = tuple[str, str]  # service, canonical address
RunCheck = Callable[[Address, Health], Awaitable[Result]]
Tell = Callable[[Mapping[Key, bool]], None]


class EndpointHealth(Struct, frozen=True):
    """What checks say of one endpoint; times are seconds since 1970."""

    state: State
    since: float
    last_error: str
    history: tuple[Past, ...]


class ServiceHealth(Struct, frozen=True):
    """``panic``: too few are healthy, so all are used. ``results`` counts checks by `passed`, `failed` and
    `error` (could not be made), since the process began."""

    panic: bool
    healthy: int
    results: dict[str, int]
    endpoints: dict[str, EndpointHealth]


class _Watched(Standing):
    """An endpoint that is checked. Its entry in the heap holds for as long as their tickets agree."""

    __slots__ = ("address", "due", "gone", "key", "running", "service", "ticket", "told")

    def __init__(self, service: _Service, key: Key, address: Address) -> None:
        super().__init__(time.time())
        self.service = service
        self.key = key
        self.address = address
        self.due = 0.0
        self.ticket = 0
        self.running = False
        self.gone = False
        self.told: bool | None = None


class _Service:
    def __init__(self, name: str, health: Health, results: dict[str, int]) -> None:
        self.name = name
        self.health = health
        self.results = results
        self.endpoints: dict[str, _Watched] = {}
        self.healthy = 0  # endpoints in that state
        self.checked = 0  # endpoints that are not pending
        self.panic = False


class _First(Struct, frozen=True):
    """The first check of an endpoint that is not in force yet."""

    result: Result
    at: float
    seconds: float


def targets(config: Config, resolved: Resolved) -> dict[str, dict[str, Address]]:
    """The addresses to check of each service with checks, by their text; a name is what it resolves to."""
    found: dict[str, dict[str, Address]] = {}
    for service in config.services.values():
        if service.health is None:
            continue
        addresses = found[service.name] = {}
        for endpoint in service.endpoints:
            if endpoint.address.is_name:
                for place in resolved.get(endpoint.address.text, ()):
                    addresses[place.address.text] = place.address
            elif endpoint.address.kind != "original":  # that is many places
                addresses[endpoint.address.text] = endpoint.address
    return found


def in_panic(health: Health, healthy: int, checked: int) -> bool:
    """Whether so few of those that were checked are healthy that all are to be used."""
    return health.panic is not None and healthy < health.panic * checked


class Checker:
    """``check`` makes one check; ``parallel`` of them run at once at most."""

    def __init__(
        self,
        *,
        check: RunCheck = run_check,
        parallel: int = PARALLEL,
        cpu_time: Callable[[], float] = time.thread_time,
        chance: random.Random | None = None,
    ) -> None:
        self._run_check = check
        self._parallel = parallel
        self._room = trio.Semaphore(parallel)
        self._pace = Pace(cpu_time)
        self._chance = chance or random.Random()
        self._services: dict[str, _Service] = {}
        self._results: dict[
            str, dict[str, int]
        ] = {}  # of services that are gone too: a counter never restarts
        self._prepared: dict[Key, _First] = {}
        self._told: dict[Key, Checked] = {}
        self._heap: list[tuple[float, int, _Watched]] = []
        self._ticket = 0
        self._place = self._chance.random()
        self._woken = trio.Event()
        self._untold: dict[Key, bool] = {}
        self._telling: dict[Key, bool] = {}
        self._news = trio.Event()
        self._late_told = False

    # ------------------------------------------------------------ another process's verdicts

    def tell(self) -> dict[Key, Checked]:
        """The verdict on each endpoint that has one."""
        told = {
            one.key: one.tell() for service in self._services.values() for one in service.endpoints.values()
        }
        return {key: checked for key, checked in told.items() if checked is not None}

    def recall(self, told: Mapping[Key, Checked]) -> None:
        """The first configuration begins with these: what was unhealthy is so until a check says otherwise,
        and what was healthy is not waited for."""
        self._told = dict(told)

    # ------------------------------------------------------------ the configuration

    async def prepare(
        self, config: Config, resolved: Resolved, most: float = MOST_SECONDS
    ) -> dict[Key, bool]:
        """Checks each endpoint that is not known yet once, before ``config`` is put in force; says of each
        whether it may be used. Waits for the longest time-out, and ``most`` seconds at most: what is not
        known by then has no verdict, and is not used before it has one."""
        self._prepared = {}
        plan = targets(config, resolved)
        healths = {name: _health_of(config, name) for name in plan}
        unknown = self._unknown(plan)
        if unknown:
            patience = max(healths[name].timeout for (name, _), _ in unknown) + GRACE_SECONDS
            with trio.move_on_after(min(patience, most)):
                async with trio.open_nursery() as nursery:
                    for key, address in unknown:
                        await self._take_room()
                        nursery.start_soon(self._first_check, key, address, healths[key[0]])
        return self._first_verdicts(plan, healths)

    def follow(self, config: Config, resolved: Resolved) -> None:
        """``config``, which `prepare` was asked about, is in force now."""
        plan = targets(config, resolved)
        for name in [name for name in self._services if name not in plan]:
            for watched in self._services.pop(name).endpoints.values():
                self._forget(watched)
        for name, addresses in plan.items():
            self._follow_service(name, _health_of(config, name), addresses)
        self._prepared = {}
        self._told = {}
        if len(self._heap) > 64 + 2 * sum(len(service.endpoints) for service in self._services.values()):
            self._heap = [entry for entry in self._heap if _holds(entry)]
            heapify(self._heap)

    def _unknown(self, plan: Mapping[str, Mapping[str, Address]]) -> list[tuple[Key, Address]]:
        """The endpoints that are not checked yet: the first of each service, then the second of each …, so
        that every service has one when there is no time for all."""
        rows = []
        for name, addresses in plan.items():
            service = self._services.get(name)
            known = service.endpoints if service is not None else {}
            rows.append(
                [
                    ((name, text), address)
                    for text, address in addresses.items()
                    if text not in known and (name, text) not in self._told
                ]
            )
        return [item for turn in zip_longest(*rows) for item in turn if item is not None]

    async def _first_check(self, key: Key, address: Address, health: Health) -> None:
        began = trio.current_time()
        try:
            result = await self._run_check(address, health)
        finally:
            self._room.release()
        self._prepared[key] = _First(result, time.time(), trio.current_time() - began)

    def _first_verdicts(
        self, plan: Mapping[str, Mapping[str, Address]], healths: Mapping[str, Health]
    ) -> dict[Key, bool]:
        verdicts: dict[Key, bool] = {}
        for name, addresses in plan.items():
            service = self._services.get(name)
            known = service.endpoints if service is not None else {}
            fresh: dict[Key, bool] = {}
            healthy = checked = 0
            for text in addresses:
                if text in known:
                    passed = {"healthy": True, "unhealthy": False, "pending": None}[known[text].state]
                else:
                    passed = self._first_verdict((name, text))
                    if passed is not None:
                        fresh[name, text] = passed
                healthy += passed is True
                checked += passed is not None
            if in_panic(healths[name], healthy, checked):
                fresh = {(name, text): True for text in addresses if text not in known}
            verdicts.update(fresh)
        return verdicts

    def _first_verdict(self, key: Key) -> bool | None:
        told = self._told.get(key)
        if told is not None:
            return told.state == "healthy"
        first = self._prepared.get(key)
        return first.result.passed if first is not None else None

    def _follow_service(self, name: str, health: Health, addresses: Mapping[str, Address]) -> None:
        service = self._services.get(name)
        if service is None:
            results = self._results.setdefault(name, {"passed": 0, "failed": 0, "error": 0})
            service = self._services[name] = _Service(name, health, results)
        now = trio.current_time()
        changed = service.health != health
        service.health = health
        for text in [text for text in service.endpoints if text not in addresses]:
            self._forget(service.endpoints.pop(text))
        fresh: list[_Watched] = []
        for text, address in addresses.items():
            known = service.endpoints.get(text)
            if known is None:
                watched = service.endpoints[text] = _Watched(service, (name, text), address)
                fresh.append(watched)
                self._begin(watched, now)
            elif changed and not known.running:
                self._schedule(known, now)
        if fresh or changed:
            self._late_told = False
        self._settle(service, fresh)

    def _begin(self, watched: _Watched, now: float) -> None:
        first = self._prepared.get(watched.key)
        told = self._told.get(watched.key)
        if told is not None:
            watched.resume(told)
            watched.service.checked += 1
            watched.service.healthy += watched.state == "healthy"
        elif first is not None:
            self._note(watched, first.result, at=first.at, seconds=first.seconds)
        if watched.state == "pending":
            self._schedule(watched, now)
            return
        self._place = (self._place + GOLDEN) % 1.0
        self._schedule(watched, now + watched.service.health.interval * self._place)

    def _forget(self, watched: _Watched) -> None:
        watched.gone = True
        watched.service.healthy -= watched.state == "healthy"
        watched.service.checked -= watched.state != "pending"
        self._untold.pop(watched.key, None)

    # ------------------------------------------------------------ checking

    async def run(self, tell: Tell) -> None:
        """Checks until cancelled. ``tell`` gets the verdicts that changed, many at once; it is called in a
        thread and may block."""
        self._resume()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, tell)
            while True:
                await self._until_due()
                await self._take_room()
                # The configuration may have changed meanwhile.
                watched = self._pop_due()
                if watched is None:
                    self._room.release()
                    continue
                self._look_at_lateness(watched)
                watched.running = True
                nursery.start_soon(self._check, watched)

    def _resume(self) -> None:
        """After a failure of `run` nothing is lost: what was being checked is still due."""
        self._heap = []
        for service in self._services.values():
            for watched in service.endpoints.values():
                watched.running = False
                self._heap.append((watched.due, watched.ticket, watched))
        heapify(self._heap)

    async def _take_room(self) -> None:
        """Waits for a place among those that run at once."""
        await self._pace.breathe()
        await self._room.acquire()

    async def _until_due(self) -> None:
        while True:
            self._woken = trio.Event()
            due = self._first_due()
            if due is None:
                await self._woken.wait()
            elif due <= trio.current_time():
                return
            else:
                with trio.move_on_at(due):
                    await self._woken.wait()

    def _first_due(self) -> float | None:
        while self._heap and not _holds(self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _pop_due(self) -> _Watched | None:
        due = self._first_due()
        return None if due is None or due > trio.current_time() else heappop(self._heap)[2]

    async def _check(self, watched: _Watched) -> None:
        health = watched.service.health
        began = trio.current_time()
        try:
            result = await self._run_check(watched.address, health)
        finally:
            self._room.release()
        watched.running = False
        if watched.gone:
            return
        now = trio.current_time()
        if watched.service.health != health:
            self._schedule(watched, now)  # what it found is the answer to another question
            return
        changed = self._note(watched, result, at=time.time(), seconds=now - began)
        self._settle(watched.service, (watched,) if changed else ())
        wait = health.interval * self._chance.uniform(1 - JITTER, 1 + JITTER)
        self._schedule(watched, max(began + wait, now))

    def _schedule(self, watched: _Watched, due: float) -> None:
        self._ticket += 1
        watched.due, watched.ticket = due, self._ticket
        if not self._heap or due < self._heap[0][0]:
            self._woken.set()
        heappush(self._heap, (due, self._ticket, watched))

    def _look_at_lateness(self, watched: _Watched) -> None:
        late = trio.current_time() - watched.due
        if late > max(watched.service.health.interval, LATE_SECONDS) and not self._late_told:
            self._late_told = True
            log.warning(
                "there are more checks than can be made in time: service %s is checked %.1f s late; "
                "set longer intervals",
                watched.service.name,
                late,
            )

    # ------------------------------------------------------------ verdicts

    def _note(self, watched: _Watched, result: Result, *, at: float, seconds: float) -> bool:
        """Counts a result and logs what it changes; returns whether it changes the state."""
        service = watched.service
        service.results["error" if result.passed is None else "passed" if result.passed else "failed"] += 1
        first = watched.state == "pending"
        if not watched.take(result, service.health, at=at, seconds=seconds):
            return False
        service.checked += first
        if watched.state == "healthy":
            service.healthy += 1
        elif not first:
            service.healthy -= 1
        if watched.state == "unhealthy":
            count = watched.in_a_row
            row = "its first check" if first else f"{count} checks in a row" if count > 1 else "1 check"
            log.warning(
                "service %s: endpoint %s is unhealthy: %s (%s)", *watched.key, watched.last_error, row
            )
        elif not first:
            log.info("service %s: endpoint %s is healthy again", *watched.key)
        return True

    def _settle(self, service: _Service, changed: Iterable[_Watched]) -> None:
        """Passes on what follows from changed states: with panic, that all are usable."""
        panic = in_panic(service.health, service.healthy, service.checked)
        if panic != service.panic:
            service.panic = panic
            changed = service.endpoints.values()
            _log_panic(service)
        for watched in changed:
            if watched.state == "pending" and not panic and watched.told is None:
                continue
            usable = panic or watched.state == "healthy"
            if usable is not watched.told:
                watched.told = usable
                self._untold[watched.key] = usable
        if self._untold:
            self._news.set()

    async def _tell(self, tell: Tell) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            batch, self._untold = self._untold, {}
            self._telling = batch
            try:
                await trio.to_thread.run_sync(tell, batch)
            except Exception:
                self._untold = {**batch, **self._untold}
                raise
            finally:
                self._telling = {}

    # ------------------------------------------------------------ looking

    def awaited(self) -> dict[str, int]:
        """Of which services how many endpoints have no result yet, or one that is not passed on yet."""
        counts = {
            name: sum(
                (one.state == "pending" and not one.history)
                or one.key in self._untold
                or one.key in self._telling
                for one in service.endpoints.values()
            )
            for name, service in self._services.items()
        }
        return {name: count for name, count in counts.items() if count}

    def view(self) -> dict[str, ServiceHealth]:
        """Every service that has checks. May be called in any thread."""
        return {
            name: ServiceHealth(
                panic=service.panic,
                healthy=service.healthy,
                results=dict(service.results),
                endpoints={
                    text: EndpointHealth(one.state, one.since, one.last_error, one.history)
                    for text, one in list(service.endpoints.items())
                },
            )
            for name, service in list(self._services.items())
        }


def _health_of(config: Config, name: str) -> Health:
    health = config.services[name].health
    assert health is not None
    return health


def _holds(entry: tuple[float, int, _Watched]) -> bool:
    return entry[2].ticket == entry[1] and not entry[2].gone


def _log_panic(service: _Service) -> None:
    if service.panic:
        log.warning(
            "service %s: only %d of %d endpoints are healthy, fewer than its panic threshold: all are used",
            service.name,
            service.healthy,
            len(service.endpoints),
        )
    else:
        log.info("service %s: unhealthy endpoints are left out again", service.name)
