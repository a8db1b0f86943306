"""The whole stack of ``fastmesh run``, visible in one function: `serve`."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import trio
from msgspec.structs import replace

from fastmesh import __version__
from fastmesh.admin.api import Api
from fastmesh.admin.control import DrainBy, DrainOutcome, DrainTarget, ProcessDrain, ReloadOutcome
from fastmesh.admin.server import AdminServer
from fastmesh.admin.sockets import AdminListening, admin_url, open_admin
from fastmesh.discovery import LookupCounts, NameView
from fastmesh.errors import StartError
from fastmesh.health import ServiceHealth
from fastmesh.model import Config, Given
from fastmesh.model.ceilings import Ceilings
from fastmesh.model.stats import ListenerStats, Stats
from fastmesh.model.told import Told
from fastmesh.observability.logs import timestamp
from fastmesh.observability.metrics import ReloadCounts
from fastmesh.supervisor import activation, memory, notify, resources
from fastmesh.supervisor.application import ApplicationUser
from fastmesh.supervisor.beside import end_with_application, outbound_of
from fastmesh.supervisor.dataplane import DataPlane, DataPlaneFactory
from fastmesh.supervisor.drain import Exit, Shutdown, drain
from fastmesh.supervisor.estate import Estate
from fastmesh.supervisor.keeper import FIRST_SECONDS, PATIENT_SECONDS, ConfigKeeper
from fastmesh.supervisor.lasting import Lasting
from fastmesh.supervisor.outliers import eject_outliers
from fastmesh.supervisor.readiness import Readiness
from fastmesh.supervisor.takeover import Succession

log = logging.getLogger("fastmesh")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
RESTART_SECONDS = 5.0
TEND_SECONDS = 1.0


async def serve(file: str, build_data_plane: DataPlaneFactory, lasting: Lasting) -> Exit:
    """Runs fastmesh with the configuration ``file`` until it is told to stop, or another process serves. When
    this fails while the data plane serves, it may be run again with the same ``lasting``, whose owner stops
    what is in it.

    Raises ConfigError for an invalid file and StartError when something cannot start, in an ExceptionGroup.
    """
    shutdown = Shutdown()
    keeper = ConfigKeeper(file)
    outcome = Exit.FORCED  # what holds when everything is cancelled by a second signal
    readiness = Readiness(keeper.awaited, settled=lasting.serving)
    succession = lasting.succession
    with trio.open_signal_receiver(*SIGNALS) as signals:
        lasting.raise_missed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, signals, keeper, shutdown, succession, nursery.cancel_scope)

            # Start, in order. Nothing is served before everything is known to be able to start.
            if lasting.data_plane is None:
                config = await keeper.load()
                inherited = await succession.enter()
                for_admin = share_out(lasting.given, inherited.given, config)
                lasting.data_plane = make_data_plane(build_data_plane, config, lasting.given, inherited.told)
                keeper.inherit(inherited.told, inherited.drains, inherited.names)
                lasting.admin = await bind_everything(keeper, lasting.data_plane, for_admin, lasting.given)
                await succession.still_wanted()
                lasting.data_plane.start()
                await succession.serving(lasting.data_plane, lasting.admin)
                lasting.serving = True
            data_plane, admin = lasting.data_plane, lasting.admin
            nursery.start_soon(go_on, "tending the data plane", tend, data_plane)
            nursery.start_soon(notify.feed_watchdog)
            if lasting.keeper is not None:
                await start_again(keeper, lasting.keeper, shutdown)
            lasting.keeper = keeper
            control = Control(keeper, data_plane, shutdown, succession, readiness, failures=lasting.failures)
            server = AdminServer(Api(control, keeper.started_with.admin).respond)
            nursery.start_soon(server.serve, admin.sockets if admin is not None else [])
            estate = Estate(keeper, data_plane, shutdown, admin, server)
            nursery.start_soon(go_on, "waiting for a successor", succession.serve, estate)
            start_parts(nursery, keeper, data_plane, shutdown, control.application)
            control.started = True
            memory.give_back()
            serving = describe_start(data_plane.stats(), admin)
            log.info("%s", serving)
            nursery.start_soon(tell_ready, readiness, keeper, shutdown, serving)

            # Serve, then finish. What then still runs is stopped in reverse order, by `Lasting.stop`.
            await shutdown.requested.wait()
            lasting.ending = True
            log.info("%s: draining", shutdown.reason)
            remaining = outbound_of(keeper, shutdown)
            await keeper.close("fastmesh is draining", names=remaining is not None)
            nursery.start_soon(notify.tell_drain, shutdown.reason, data_plane.busy)
            outcome = await drain(data_plane, keeper.config.drain, shutdown, remaining)
            await shutdown.end(outcome)
            await server.finish()
            nursery.cancel_scope.cancel()
    return outcome


def start_parts(
    nursery: trio.Nursery,
    keeper: ConfigKeeper,
    data_plane: DataPlane,
    shutdown: Shutdown,
    application: ApplicationUser,
) -> None:
    """What goes on while requests are served, and may fail without them."""

    def start(what: str, run: Callable[..., Awaitable[None]], *arguments: object) -> None:
        nursery.start_soon(go_on, what, run, *arguments)

    start("watching the configuration", keeper.watch)
    start("resolving host names", keeper.follow_names)
    start("checking endpoints", keeper.checker.run, data_plane.set_health)
    start("comparing endpoints", eject_outliers, data_plane, lambda: keeper.config)
    start("looking whose the application is", application.watch)
    start("watching the application", end_with_application, keeper, shutdown)


async def tell_ready(readiness: Readiness, keeper: ConfigKeeper, shutdown: Shutdown, serving: str) -> None:
    """A service manager waits for the same as whoever asks /readyz."""
    await readiness.settle(lambda: keeper.config.ready_timeout)
    if not shutdown.requested.is_set():
        keeper.announced = True
        notify.ready(serving)


async def start_again(keeper: ConfigKeeper, before: ConfigKeeper, shutdown: Shutdown) -> None:
    """After a failure: a pause, for what fails at once must not fill the log, then what ``before`` had in
    force. A request to stop ends the pause."""
    with trio.move_on_after(RESTART_SECONDS):
        await shutdown.requested.wait()
    await keeper.take_over(before)
    log.warning("the control plane starts again")


class Control:
    """What the admin API sees and may do (`fastmesh.admin.control.ControlPlane`)."""

    def __init__(
        self,
        keeper: ConfigKeeper,
        data_plane: DataPlane,
        shutdown: Shutdown,
        succession: Succession,
        readiness: Readiness,
        failures: int = 0,
    ) -> None:
        """``failures``: how many control planes failed before this one."""
        self.started = False
        self.application = ApplicationUser(lambda: keeper.config.sidecar)
        readiness.object(lambda: filter(None, [self.application.not_ready()]))
        self._readiness = readiness
        self._failures = failures
        self._succession = succession
        self._since = time.time()
        self._keeper = keeper
        self._data_plane = data_plane
        self._shutdown = shutdown

    def not_ready(self) -> tuple[str, ...]:
        if self._shutdown.requested.is_set():
            return ("draining",)
        return self._readiness.reasons() if self.started else ("starting",)

    def config(self) -> Config:
        return self._keeper.config

    def config_file(self) -> str:
        return self._keeper.file

    def resolved(self) -> Mapping[str, tuple[str, ...]]:
        return {
            name: tuple(place.address.text for place in places)
            for name, places in self._keeper.resolved.items()
        }

    def names(self) -> tuple[NameView, ...]:
        return self._keeper.resolver.view()

    def lookups(self) -> Mapping[str, LookupCounts]:
        return self._keeper.resolver.counts()

    def last_reload(self) -> ReloadOutcome:
        return self._keeper.last

    def reload_counts(self) -> ReloadCounts:
        return self._keeper.counts

    def stats(self) -> Stats:
        return replace(self._data_plane.stats(), control_failures=self._failures)

    def health(self) -> Mapping[str, ServiceHealth]:
        return self._keeper.checker.view()

    def process(self) -> Mapping[str, Any]:
        sidecar = self._keeper.config.sidecar
        return {
            "version": __version__,
            "pid": os.getpid(),
            "since": timestamp(self._since),
            "state": self._state(),
            "uid": os.geteuid(),
            "transparent": sidecar is not None and sidecar.transparent,
            "takeover": self._succession.view(),
        }

    def _state(self) -> str:
        if self._shutdown.requested.is_set():
            return "draining"
        if not self.started:
            return "starting"
        return "waiting" if self._readiness.reasons() else "serving"

    async def reload(self) -> ReloadOutcome:
        return await self._keeper.reload("reload asked for")

    def start_drain(self, *, watched: bool = False) -> None:
        if watched:
            self._shutdown.expect_watcher()
        self._shutdown.request("drain asked for")

    def quit(self) -> None:
        self._shutdown.let_go("quit asked for")

    async def watch_drain(self) -> None:
        await self._shutdown.watch()

    def process_drain(self) -> ProcessDrain:
        return self._shutdown.progress(self._data_plane)

    def drains(self) -> Mapping[DrainTarget, DrainBy]:
        return self._keeper.drains.listed(self._keeper.config)

    async def set_drain(self, target: DrainTarget, on: bool) -> DrainOutcome:
        return await self._keeper.set_drain(target, on)


async def obey(
    signals: AsyncIterator[int],
    keeper: ConfigKeeper,
    shutdown: Shutdown,
    succession: Succession,
    everything: trio.CancelScope,
) -> None:
    """TERM and INT drain, a second one forces; HUP reloads; USR1 reopens the logs; USR2 starts a
    successor."""
    async with trio.open_nursery() as nursery:
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                nursery.start_soon(keeper.reload, name)
            elif number == signal.SIGUSR1:
                keeper.reopen_logs()
            elif number == signal.SIGUSR2:
                nursery.start_soon(succession.start_successor)
            elif shutdown.asked:
                log.error("%s: a second request to stop: what is in progress is cut off", name)
                everything.cancel()
            else:
                shutdown.request(name)


async def tend(data_plane: DataPlane) -> None:
    """What the workers noticed is told in the log; what nobody uses any more is freed."""
    while True:
        for news in data_plane.tend():
            log.warning("%s", news)
        await trio.sleep(TEND_SECONDS)


async def go_on(what: str, run: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Runs a part that the rest can do without: when it fails, says so and starts it again."""
    while True:
        try:
            await run(*arguments)
            return
        except Exception:
            log.exception("%s failed; it starts again in %g s", what, RESTART_SECONDS)
        await trio.sleep(RESTART_SECONDS)


def limits(config: Config, workers: int) -> tuple[int, Ceilings]:
    """The limit of client connections and what else may be used, after the limit of descriptors was raised as
    far as it may be."""
    descriptors = resources.raise_descriptor_limit()
    ceilings = resources.ceilings(descriptors=descriptors, workers=workers)
    memory = min(config.limits.memory or ceilings.memory, ceilings.memory)
    limit = resources.connection_limit(
        config.limits.connections, descriptors=descriptors, memory=memory, workers=workers
    )
    for warning in (limit.warning, resources.memory_warning(config.limits.memory)):
        if warning:
            log.warning("%s", warning)
    return limit.connections, ceilings


def share_out(given: dict[str, Given], inherited: dict[str, Given], config: Config) -> dict[str, Given]:
    """Adds what another process handed in to what systemd did, and takes the admin API's part out."""
    for_admin = activation.share_out(given, config)
    for_admin.update(activation.share_out(inherited, config, warn=False))
    given.update(inherited)
    return for_admin


def make_data_plane(
    build: DataPlaneFactory, config: Config, given: Mapping[str, Given], told: tuple[Told, ...]
) -> DataPlane:
    workers = config.workers or resources.available_cpus()
    limit, ceilings = limits(config, workers)
    return build(workers=workers, connection_limit=limit, ceilings=ceilings, given=given, told=told)


async def bind_everything(
    keeper: ConfigKeeper,
    data_plane: DataPlane,
    given_to_admin: Mapping[str, Given],
    given: Mapping[str, Given] | None = None,
) -> AdminListening | None:
    """Binds the admin API and the listeners, but for what was handed in; says everything that is in the way
    at once. Who waits in sockets that were handed in waits for names too, rather than to be turned away."""
    wrong: list[StartError] = []
    admin: AdminListening | None = None
    try:
        if keeper.config.admin.bind is not None:
            admin = open_admin(keeper.config.admin.bind, given_to_admin)
    except StartError as error:
        wrong.append(error)
    try:
        await keeper.apply_first(data_plane, PATIENT_SECONDS if given else FIRST_SECONDS)
    except StartError as error:
        wrong.append(error)
    if wrong:
        if admin is not None:
            admin.close()
        raise StartError("\n".join(map(str, wrong))) from wrong[0]
    return admin


def describe_start(stats: Stats, admin: AdminListening | None) -> str:
    """One line: version, what listens where, the admin API's address, workers, pid."""
    parts = [f"{item.listener} ({item.protocol}) {_where(item)}" for item in stats.listeners]
    where = "; ".join(parts) or "no listener"
    api = ", ".join(map(admin_url, admin.sockets)) if admin is not None else "off"
    workers = len(stats.workers)
    return f"fastmesh {__version__} serves {where}; admin {api}; workers: {workers}; pid {os.getpid()}"


def _where(listener: ListenerStats) -> str:
    if listener.draining:
        return "drains"
    return f"within {listener.within}" if listener.within else f"on {', '.join(listener.binds)}"
