"""The data plane as the supervisor sees it: apply a configuration, start, look, drain, stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from msgspec import Struct

from fastmesh._native.core.engine import Block, Engine
from fastmesh.engine import interception, overload
from fastmesh.engine.access import AccessWriter
from fastmesh.engine.compile import (
    WITHIN_NONE,
    Endpoints,
    Spec,
    listener_spec,
    milliseconds,
    resolve_endpoints,
    resolved_differently,
    service_spec,
    services_of,
    weights,
)
from fastmesh.engine.numbering import Numbers, SlotKey, Slots, pack_address
from fastmesh.engine.past import Past, tell
from fastmesh.engine.reading import Ejection, Reader, View, left_out_news
from fastmesh.engine.sockets import HANDSHAKE_SECONDS, Listening, open_listening
from fastmesh.engine.watchdog import Watchdog
from fastmesh.errors import StartError
from fastmesh.model import Address, Config, Given, Listener, Resolved, Service
from fastmesh.model.ceilings import Ceilings
from fastmesh.model.stats import Stats
from fastmesh.model.told import Told
from fastmesh.registry.diff import changes as changes_between
from fastmesh.registry.diff import same

ADOPTION_PATIENCE = 5.0  # seconds; a worker's turn takes milliseconds
LEAVING_IDLE_MS = 1000  # how long a client of a closed socket may think before its next request
THREAD_STACK_BYTES = 256 * 1024
NO_CEILINGS = Ceilings()


class ApplyResult(Struct, frozen=True):
    """What `DataPlane.apply` did; ``changes`` and ``warnings`` are sentences for people."""

    changed: bool
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    generation: int


class _Built(Struct, frozen=True):
    """A block and what it was built from: the same input keeps the same block."""

    block: Block
    source: object


class DataPlane:
    """Workers and their configuration.

    `apply` may be called from any one thread at a time; `stats` and `busy` from any.
    """

    def __init__(
        self,
        *,
        workers: int,
        connection_limit: int,
        ceilings: Ceilings = NO_CEILINGS,
        given: Mapping[str, Given] | None = None,
        told: Iterable[Told] = (),
    ) -> None:
        """``given``: listening sockets that were handed in, by the text of their bind. Those that no
        configuration has a use for are closed with the data plane, or by `release_given`. ``told``: what
        another process knew of endpoints; those of the first configuration begin with it."""
        self._given = dict(given or {})
        self._past = Past(told)
        self._engine = Engine(workers, connection_limit)
        self._engine.limit_descriptors(ceilings.descriptors)
        self._ceilings = ceilings
        self._memory_files = overload.MemoryFiles(self._engine, ceilings)
        self._overload_news = overload.News()
        self._workers = workers
        self._threads: list[threading.Thread] = []
        self._access = AccessWriter(self._engine)
        self._config: Config | None = None
        self._endpoints: dict[str, Endpoints] = {}
        self._service_numbers: Numbers[str] = Numbers()
        self._listener_numbers: Numbers[str] = Numbers()
        self._pair_numbers: Numbers[tuple[str, str]] = Numbers()
        self._slots = Slots()
        self._services: dict[str, _Built] = {}
        self._listeners: dict[str, _Built] = {}
        self._listening: dict[str, Listening] = {}  # by the text of the bind
        self._left: list[Listening] = []  # to another process, and not let go of by a worker yet
        self._reader = Reader(self._engine)
        self._running = False
        self._changing = threading.Lock()
        self._verdicts: Mapping[SlotKey, bool] = {}
        self._draining: frozenset[SlotKey] = frozenset()
        self._leaving = False  # clients of closed sockets may be open yet
        self._left_out: dict[SlotKey, Ejection] = {}
        self._health_changes = 0
        self._watchdog = Watchdog(self._engine)
        self._ledger: dict[str, int] = {}
        self._not_redirected = 0

    # ------------------------------------------------------------ configuration

    def apply(
        self,
        config: Config,
        resolved: Resolved,
        verdicts: Mapping[SlotKey, bool] | None = None,
    ) -> ApplyResult:
        """Puts a configuration in force. The first call binds the listeners.

        ``verdicts`` says of new endpoints, of services with active checks, whether they may be used; one
        without a verdict waits for `set_health`. Raises StartError, a line for each address that cannot be
        bound; what was in force stays so."""
        with self._changing:
            self._verdicts = verdicts or {}
            return self._apply(config, resolved)

    def set_health(self, verdicts: Mapping[SlotKey, bool]) -> None:
        """What active checks found: an endpoint that is not healthy is given no requests.

        Endpoints that are not in force are ignored. Waits for a change in progress."""
        with self._changing:
            for key, healthy in verdicts.items():
                slot = self._slots.of.get(key)
                if slot is None:
                    continue
                was_out = self._engine.slot_health(slot.index) >> 32 & 1
                self._engine.slot_mark(slot.index, unhealthy=not healthy)
                if healthy and was_out:
                    self._engine.slot_restore(slot.index)
                    self._ramp(key)

    def eject(self, service: str, address: str) -> bool:
        """Leaves an endpoint out for its success rate, as long as `outlier_detection` says.

        False: it is left out already, or no more may be."""
        with self._changing:
            slot = self._slots.of.get((service, address))
            if slot is None or self._config is None:
                return False
            if self._config.services[service].outlier_detection is None:
                return False
            self._health_changes = -1  # the next look tells it
            return self._engine.slot_eject(self._services[service].block, slot.index)

    def _ramp(self, key: SlotKey) -> None:
        """The slow start of an endpoint that is new or back, if its service has one."""
        service = self._config.services.get(key[0]) if self._config is not None else None
        if service is not None and service.slow_start is not None:
            self._engine.slot_ramp(self._slots.of[key].index, milliseconds(service.slow_start))

    def _apply(self, config: Config, resolved: Resolved) -> ApplyResult:
        self._recycle()
        config = interception.unjudged(config)
        endpoints = {name: resolve_endpoints(service, resolved) for name, service in config.services.items()}
        if self._config is not None and same(self._config, config) and endpoints == self._endpoints:
            return ApplyResult(False, (), (), self._engine.generation)
        opened = self._open_missing(config)
        changes = changes_between(self._config, config) if self._config is not None else ()
        if not changes and self._config is not None:
            changes = resolved_differently(self._endpoints, endpoints)
        self._forget_checks(config)
        draining = frozenset(
            (name, text) for name, found in endpoints.items() for _, text, _, _, drain in found if drain
        )
        self._end_drains(endpoints, self._draining - draining)
        self._engine.set_log_format(config.log.format)
        overload.limit_memory(self._engine, self._ceilings, config.limits)
        generation = self._publish(config, endpoints)
        self._wait(lambda: self._engine.adopted() >= generation)
        self._retire_slots(endpoints, generation, draining - self._draining)
        self._draining = draining
        self._listening.update(opened)
        self._settle_sockets(config, opened)
        if interception.closed_within(self._config, config):
            self._begin_leaving()
        self._config = config
        self._endpoints = endpoints
        self._reader.view = self._make_view(config, endpoints)
        if self._past.forget():
            self._left_out = self._reader.left_out()  # which is no news
        return ApplyResult(True, tuple(changes), (), generation)

    def _forget_checks(self, config: Config) -> None:
        """A service that is not checked any more has no unhealthy endpoints."""
        before = self._config.services if self._config is not None else {}
        for name, service in config.services.items():
            if service.health is None and name in before and before[name].health is not None:
                for _, text, *_ in self._endpoints[name]:
                    self._engine.slot_mark(self._slots.of[name, text].index, unhealthy=False)

    def _end_drains(self, endpoints: dict[str, Endpoints], ended: frozenset[SlotKey]) -> None:
        """Before publication, so that of two endpoints that take turns one is always there."""
        for key in ended:
            if any(text == key[1] for _, text, *_ in endpoints.get(key[0], ())):
                self._engine.slot_mark(self._slots.of[key].index, draining=False)
                self._ramp(key)

    def _recycle(self) -> None:
        """What nobody uses any more is freed, and its numbers can be given again."""
        if self._engine.reap() == 0:
            free = self._engine.number_is_free
            self._service_numbers.recycle(partial(free, "service"))
            self._listener_numbers.recycle(partial(free, "listener"))
            self._pair_numbers.recycle(partial(free, "pair"))
        self._slots.recycle(self._engine.slot_is_free)

    def _open_missing(self, config: Config) -> dict[str, Listening]:
        """Binds every address that is new, or none: a StartError tells all that are in the way. A listener
        that drains has none."""
        opened: dict[str, Listening] = {}
        wrong: list[StartError] = []
        for listener in config.listeners.values():
            for bind in () if listener.drain else listener.binds:
                if bind.text in self._listening:
                    continue
                try:
                    opened[bind.text] = open_listening(
                        listener.name, bind, self._workers, self._given.pop(bind.text, None)
                    )
                    if self._running:
                        opened[bind.text].begin()
                except StartError as error:
                    wrong.append(error)
        if wrong:
            for text, listening in opened.items():
                self._close(text, listening)
            raise StartError("\n".join(map(str, wrong))) from wrong[0]
        return opened

    def _publish(self, config: Config, endpoints: dict[str, Endpoints]) -> int:
        self._service_numbers.keep_only(config.services)
        self._listener_numbers.keep_only(config.listeners)
        self._pair_numbers.keep_only(
            {
                (listener.name, name)
                for listener in config.listeners.values()
                for name in services_of(listener)
            }
        )
        self._services = {
            name: self._service_block(service, endpoints[name]) for name, service in config.services.items()
        }
        for name in config.listeners:
            self._number(self._listener_numbers, name, self._reader.rebase_listener)
        self._listeners = {
            name: self._listener_block(listener, config, endpoints)
            for name, listener in config.listeners.items()
        }
        services = self._service_numbers.in_order({key: one.block for key, one in self._services.items()})
        listeners = self._listener_numbers.in_order(
            {name: one.block for name, one in self._listeners.items()}
        )
        return self._engine.publish(listeners, services)

    def _number(self, numbers: Numbers[str], name: str, rebase: Callable[[str, int], None]) -> int:
        number, fresh = numbers.give(name)
        if fresh:
            rebase(name, number)
        return number

    def _service_block(self, service: Service, endpoints: Endpoints) -> _Built:
        index = self._number(self._service_numbers, service.name, self._reader.rebase_service)
        source = (index, service, endpoints)
        built = self._services.get(service.name)
        if built is not None and built.source == source:
            return built
        slots = [
            (self._slot(service, index, address, text, drain), weight, priority)
            for address, text, weight, priority, drain in endpoints
        ]
        return _Built(self._engine.build_service(service_spec(service, index, slots)), source)

    def _slot(self, service: Service, service_index: int, address: Address, text: str, drain: bool) -> int:
        slot, fresh = self._slots.give((service.name, text))
        if fresh:
            self._engine.slot_define(
                slot.index, slot.generation, service_index, pack_address(address), text.encode()
            )
            if self._past.resume(self._engine, (service.name, text), slot.index):
                pass  # and with it any slow start
            elif service.slow_start is not None and self._endpoints.get(service.name):
                self._engine.slot_ramp(slot.index, milliseconds(service.slow_start))
            if service.health is not None and not self._verdicts.get((service.name, text), False):
                self._engine.slot_mark(slot.index, unhealthy=True)
            if drain:
                self._engine.slot_mark(slot.index, draining=True)
        return slot.index

    def _listener_block(
        self, listener: Listener, config: Config, endpoints: Mapping[str, Endpoints]
    ) -> _Built:
        numbers = self._listener_numbers.of

        def pair_index(service: str) -> int:
            number, fresh = self._pair_numbers.give((listener.name, service))
            if fresh:
                self._reader.rebase_pair((listener.name, service), number)
            return number

        spec: Spec = listener_spec(
            listener,
            config,
            numbers[listener.name],
            self._service_numbers.of.__getitem__,
            pair_index,
            WITHIN_NONE if listener.within is None else numbers[listener.within],
            interception.destinations(listener, config, endpoints, numbers) if listener.intercept else (),
        )
        built = self._listeners.get(listener.name)
        if built is not None and built.source == spec:
            return built
        return _Built(self._engine.build_listener(spec), spec)

    def _retire_slots(
        self, endpoints: dict[str, Endpoints], generation: int, draining: frozenset[SlotKey]
    ) -> None:
        """After adoption: no new request can be sent to those that have gone, or begin to drain, and their
        idle connections close."""
        keys: set[SlotKey] = {(name, text) for name, found in endpoints.items() for _, text, *_ in found}
        gone = self._slots.absent(keys)
        for key in gone:
            self._engine.slot_mark(self._slots.retire(key, generation), draining=True)
        for key in draining:
            self._engine.slot_mark(self._slots.of[key].index, draining=True)
        if gone or draining:
            self._engine.close_gone()

    def _settle_sockets(self, config: Config, opened: dict[str, Listening]) -> None:
        """Workers watch the new sockets, know whose each one is, and let go of those that no listener has."""
        wanted: set[str] = set()
        posted = self._engine.commands_posted
        for listener in config.listeners.values():
            index = self._listener_numbers.of[listener.name]
            for bind in () if listener.drain else listener.binds:
                wanted.add(bind.text)
                listening = self._listening[bind.text]
                if listening.listener_index == index:
                    continue
                listening.listener_index = index
                for worker in range(self._workers):
                    for identity, fd in listening.watched_by(worker, self._workers):
                        if bind.text in opened:
                            self._engine.open_socket(worker, fd, index, identity, listening.shared)
                        else:
                            self._engine.move_socket(worker, index, identity)
        if self._engine.commands_posted != posted:
            self._wait_for_letters()
        gone = [text for text in self._listening if text not in wanted]
        for text in gone:
            self._listening[text].refuse_new()
        if gone and self._running:
            time.sleep(HANDSHAKE_SECONDS)
        self._close_sockets(gone)

    def _close_sockets(self, texts: list[str]) -> None:
        self._let_go(texts, leave=False)
        if texts:
            self._begin_leaving()
        for text in texts:
            self._close(text, self._listening.pop(text))

    def _begin_leaving(self) -> None:
        self._leaving = True
        self._engine.close_idle(LEAVING_IDLE_MS, leaving=True)

    def _close(self, text: str, listening: Listening) -> None:
        kept = listening.release()
        if kept is not None:
            self._given[text] = kept

    def _let_go(self, texts: Collection[str], *, leave: bool) -> bool:
        """The workers stop watching these sockets. False: one of them has not done so yet."""
        for text in texts:
            for worker in range(self._workers):
                for identity, _ in self._listening[text].watched_by(worker, self._workers):
                    self._engine.close_socket(worker, identity, leave)
        return not texts or self._wait_for_letters()

    def _letters_are_read(self) -> bool:
        return bool(self._engine.commands_done() >= self._engine.commands_posted)

    def _wait_for_letters(self) -> bool:
        return self._wait(self._letters_are_read)

    def _wait(self, reached: Callable[[], bool]) -> bool:
        """Until the workers have done something that takes them a turn; at once when they do not run."""
        deadline = time.monotonic() + ADOPTION_PATIENCE
        while self._running and not reached() and time.monotonic() < deadline:
            time.sleep(0.0005)
        return not self._running or reached()

    def tend(self) -> tuple[str, ...]:
        """Called every second or so: frees what nobody uses any more, closes idle clients of closed sockets,
        and tells what is worth a log line.

        Does little while a configuration is being applied. When it was not called for some seconds, the
        watchdog says that the control plane stands still.
        """
        self._watchdog.beat()
        if not self._changing.acquire(blocking=False):
            return ()
        try:
            self._recycle()
            self._see_off()
            shortages = self._overload_news.tell(overload.read(self._engine))
            return (*self._endpoint_news(), *self._refusals(), *self._watchdog.news(), *shortages)
        finally:
            self._changing.release()

    def left_out(self) -> Mapping[SlotKey, int]:
        """How often each endpoint was left out that `tend` found so last."""
        return {key: ejection.times for key, ejection in self._left_out.items()}

    def _see_off(self) -> None:
        if self._leaving and self._letters_are_read():
            self._leaving = self._engine.clients_left() > 0
            if self._leaving:
                self._engine.close_idle(LEAVING_IDLE_MS, leaving=True)

    def _endpoint_news(self) -> tuple[str, ...]:
        for slot in self._reader.ramps():
            self._engine.slot_ramp(slot, 0)
        changes = self._engine.health_changes()
        if changes == self._health_changes and not self._left_out:
            return ()
        self._health_changes = changes
        before, self._left_out = self._left_out, self._reader.left_out()
        return left_out_news(before, self._left_out, self._slots.of)

    def _refusals(self) -> tuple[str, ...]:
        before, self._not_redirected = self._not_redirected, self._engine.error("not_redirected")
        return interception.refused_news(before, self._not_redirected)

    # ------------------------------------------------------------ threads

    def start(self) -> None:
        """Starts the workers. They are joined by `stop`. Raises StartError."""
        for listening in self._listening.values():
            listening.begin()
        self._running = True
        before = threading.stack_size(THREAD_STACK_BYTES)
        try:
            for index in range(self._workers):
                thread = threading.Thread(
                    target=self._engine.run_worker, args=(index,), name=f"worker-{index}"
                )
                thread.start()
                self._threads.append(thread)
            self._watchdog.start()
        finally:
            threading.stack_size(before)
        generation = self._engine.generation
        self._wait(lambda: self._engine.adopted() >= generation)

    def set_access_log(self, fd: int | None, format: str) -> None:
        """Access lines go to a duplicate of ``fd`` from now on (None: nowhere).

        Called again with a reopened file, or another format.
        """
        self._access.write_to(fd, format)

    def stop(self) -> None:
        """Closes everything, joins the threads and frees the memory. `ledger` can still be read."""
        self._watchdog.stop()
        self._engine.stop()
        for thread in self._threads:
            thread.join()
        self._access.stop()
        self._running = False
        for listening in (*self._listening.values(), *self._left):
            listening.close()
        self._listening.clear()
        self._left.clear()
        self.release_given(list(self._given))
        if self._threads:
            self._ledger = self._engine.ledger()
        self._threads.clear()
        self._engine.close()
        self._memory_files.close()

    def ledger(self) -> Mapping[str, int]:
        """Living native objects by kind; after `stop` each is 0, or something leaked."""
        return self._engine.ledger() if self._running else dict(self._ledger)

    # ------------------------------------------------------------ taking over

    def held_sockets(self) -> dict[str, Given]:
        """All listening sockets, those that no listener has now among them, by the text of their bind: to be
        handed to another process, which may serve them at the same time."""
        held = {text: Given(tuple(one.sockets), one.ours) for text, one in self._listening.items()}
        return {**self._given, **held}

    def tell(self) -> tuple[Told, ...]:
        """What requests said of the endpoints, for another process; one without a past is not mentioned."""
        with self._changing:
            return tell(self._engine, self._slots)

    def release_given(self, binds: Iterable[str]) -> tuple[str, ...]:
        """Closes those of these sockets that were handed in and that no listener has; returns their binds."""
        unused = tuple(text for text in binds if text in self._given)
        for text in unused:
            for sock in self._given.pop(text).sockets:
                sock.close()
        return unused

    def own_listeners(self, binds: Iterable[str]) -> None:
        """No other process cares for these any more: the file of a Unix socket is removed with it."""
        for text in binds:
            if text in self._listening:
                self._listening[text].ours = True

    def leave_listeners(self, binds: Collection[str]) -> None:
        """Another process serves these now: workers let go of them, and nothing of what waits is lost."""
        with self._changing:
            leaving = [text for text in self._listening if text in binds]
            everyone = self._let_go(leaving, leave=True)
            for text in leaving:
                listening = self._listening.pop(text)
                if everyone:
                    listening.leave()
                else:  # its number must not become another descriptor's while a worker watches it
                    listening.ours = False
                    self._left.append(listening)
            self.release_given([text for text in self._given if text in binds])

    # ------------------------------------------------------------ drain

    def begin_drain(self) -> None:
        """From now on each answer carries ``Connection: close``."""
        self._engine.begin_drain()

    def refuse_new(self) -> None:
        """Nobody new joins the queues of the listeners. To be followed, when handshakes that have begun have
        ended, by `close_listeners`."""
        for listening in self._listening.values():
            listening.refuse_new()

    def close_listeners(self) -> None:
        """Takes the clients that wait in the queues, then stops listening."""
        self._close_sockets(list(self._listening))

    def busy(self) -> int:
        """Exchanges, tunnels and TCP relays in progress."""
        return self._engine.busy()

    def connections(self) -> int:
        """Clients' connections, idle ones, tunnels and relays among them."""
        return self._engine.connections()

    def tunnels(self) -> int:
        """Tunnels and TCP relays; they are also in `busy`."""
        return self._engine.tunnels()

    def close_idle(self, least_idle: float, leaving: bool = False) -> None:
        """Lets go of clients that have waited between two requests for so many seconds, with ``leaving`` only
        of those of closed sockets: what they have sent by then is served, then they get FIN. Returns at once;
        does nothing while a configuration is being applied, or workers have not done yet what they were told
        before."""
        if not self._changing.acquire(blocking=False):
            return
        try:
            if self._letters_are_read():
                self._engine.close_idle(round(least_idle * 1000), leaving=leaving)
        finally:
            self._changing.release()

    def leaving(self) -> int:
        """Clients of closed sockets, as workers saw it at the last `close_idle`; 1 at least until they have
        looked."""
        return max(self._engine.clients_left(), 0 if self._letters_are_read() else 1)

    # ------------------------------------------------------------ looking

    def stats(self) -> Stats:
        """Everything that is counted, now; never stops a worker."""
        return self._reader.stats()

    def _make_view(self, config: Config, endpoints: dict[str, Endpoints]) -> View:
        return View.of(
            config,
            services=dict(self._service_numbers.of),
            listeners=dict(self._listener_numbers.of),
            pairs=dict(self._pair_numbers.of),
            endpoints=weights(endpoints, self._slots),
            binds={text: one.bound_text() for text, one in self._listening.items()},
            workers=self._workers,
        )
