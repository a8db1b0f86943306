"""The configuration in force, and the only way to change it.

The watcher of `fastmesh.registry` sees and reads what changed and hands it to `ConfigKeeper.take`, one at a
time; a reload that somebody asks for is only a look that the watcher takes at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from fastmesh import config as configuration
from fastmesh.admin.control import DrainOutcome, DrainRefused, DrainTarget, ReloadOutcome, ReloadResult
from fastmesh.config import Loaded
from fastmesh.discovery import KnownName, Resolver
from fastmesh.errors import ConfigError, FastmeshError, Problem, StartError
from fastmesh.health import Checker
from fastmesh.health.checker import MOST_SECONDS
from fastmesh.model import Config, Resolved, Service
from fastmesh.model.told import Told
from fastmesh.observability import logs
from fastmesh.observability.metrics import ReloadCounts
from fastmesh.registry import ConfigWatcher
from fastmesh.supervisor import memory, notify
from fastmesh.supervisor.accesslog import AccessLogFile
from fastmesh.supervisor.dataplane import ApplyResult, DataPlane
from fastmesh.supervisor.drains import Drains, file_says, without_inbound

log = logging.getLogger("fastmesh.config")

LOOK_SECONDS = 1.0  # at endpoints that take no connections
RETRY_SECONDS = 5.0
MOST_SHOWN = 20  # addresses in a line of the log

# How long a start waits for names, and then for first checks, before it serves with what it has: what answers
# at all does so in that time. When clients wait meanwhile, in sockets that were handed in, it has more.
FIRST_SECONDS = 0.5
PATIENT_SECONDS = 5.0


class ConfigKeeper:
    """Checks, resolves and applies. An invalid change is refused whole, and the last good one stays in force.

    ``config`` and ``resolved`` (the addresses of each endpoint that is a host name, by its text) are what the
    data plane serves by, but for ``drains``, which the API asked for on top of it; ``last`` is what became of
    the last reading; ``checker`` checks endpoints. ``announced``: the service manager was told that all is
    served, and is told of reloads from then on.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.config: Config
        self.resolved: Resolved = {}
        self.counts = ReloadCounts()
        self.last = ReloadOutcome("applied", logs.timestamp(time.time()))
        self.access_log = AccessLogFile()
        self.checker = Checker()
        self.drains = Drains()
        self._data_plane: DataPlane
        self._watcher: ConfigWatcher
        self.started_with: Config  # what needs a restart holds from here
        self.resolver = Resolver()
        self.announced = False
        self._warned: set[str] = set()
        self._closed: str | None = None
        self._names_go_on = False
        self._inbound_ended = False
        self._changing = trio.Lock()
        self._watching = trio.Event()

    # Starting

    async def load(self) -> Config:
        """Reads the file for the first time. Raises ConfigError."""
        loaded = await trio.to_thread.run_sync(configuration.load, self.file, abandon_on_cancel=True)
        self.config = self.started_with = loaded.config
        self._watcher = ConfigWatcher(self.file, loaded)
        logs.set_up(loaded.config.log.level, loaded.config.log.format)
        self._warn_of(loaded.warnings)
        return loaded.config

    async def apply_first(self, data_plane: DataPlane, seconds: float = FIRST_SECONDS) -> None:
        """Hands what `load` read to the data plane, which binds its listeners. Waits for ``seconds`` at most
        for names, and for checks: what they say later is put in force then. Raises StartError."""
        self._data_plane = data_plane
        opened = self.access_log.open_for(self.config.access_log)
        with trio.move_on_after(seconds):
            await self.resolver.learn(self.config)
        self.resolved = self.resolver.resolved(self.config)
        result = await self._apply(self.config, self.resolved, seconds)
        self.resolver.follow(self.config)
        self.access_log.use(self.config.access_log, opened, data_plane)
        self.last = _outcome("applied", generation=result.generation)
        self._warn_once(result.warnings)

    def inherit(
        self, told: Iterable[Told], drains: Iterable[DrainTarget], names: Iterable[KnownName] = ()
    ) -> None:
        """Between `load` and `apply_first`: what another process knew of endpoints and of names, and was
        asked to drain."""
        self.resolver.recall(names)
        self.checker.recall({(one.service, one.address): one.checked for one in told if one.checked})
        for target in drains:
            self.drains.put(target, True)

    async def take_over(self, before: ConfigKeeper) -> None:
        """In place of `load` and `apply_first`: goes on where the keeper of a control plane that failed has
        stopped. What that had in force stays so; `watch` then reads what the files have become."""
        self.config, self.resolved, self.started_with = before.config, before.resolved, before.started_with
        self.counts, self.last, self._warned = before.counts, before.last, before._warned
        self.access_log, self._data_plane, self.drains = before.access_log, before._data_plane, before.drains
        self._watcher = ConfigWatcher(self.file, before._watcher.current)
        self.resolver.resume(before.resolver)
        self.resolver.follow(self.config)
        verdicts = await self.checker.prepare(self.config, self.resolved)
        try:
            # Nothing changes, unless it was a change that failed half-way.
            effective = self.drains.effective(self.config)
            await trio.to_thread.run_sync(self._data_plane.apply, effective, self.resolved, verdicts)
        except StartError as error:
            log.error("the last good configuration could not be put in force again: %s", error)
        await trio.to_thread.run_sync(self._data_plane.set_health, verdicts)
        self.checker.follow(self.config, self.resolved)

    def awaited(self) -> Iterator[str]:
        """The first results that are not in force yet, a sentence each; that a name does not exist is one."""
        names = self.resolver.awaited(self.config)
        for host in names:
            yield f"no answer yet for the name {host}"
        if not names and self.resolver.resolved(self.config) != self.resolved:
            yield "the addresses of names are not in force yet"
        for service, count in self.checker.awaited().items():
            yield f"no check of {count} endpoint{'s' if count > 1 else ''} of service {service} has ended yet"

    # Changing

    async def watch(self) -> None:
        """Takes each change of the files, until cancelled."""

        async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            await self._watcher.run(self.take, task_status=task_status)

        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            self._watching.set()

    async def reload(self, why: str) -> ReloadOutcome:
        """Reads the files now, puts them in force if they are valid and differ, resolves host names again."""
        await self._watching.wait()
        if self._closed is not None:
            return _outcome("refused", error=self._closed)
        log.info("%s: reading the configuration", why)
        if self.announced:
            notify.reloading()
        try:
            return await self._look()
        finally:
            if self.announced and self._closed is None:
                notify.ready(_in_words(self.last))

    async def _look(self) -> ReloadOutcome:
        try:
            looked = await self._watcher.reload()
        except FastmeshError as error:
            return _outcome("refused", error=str(error))
        if looked.result == "unchanged":
            self._record(_outcome("unchanged", generation=self.last.generation))
            await self.resolver.learn(self.config, again=True)
            await self.apply_names()
        return self.last

    async def take(self, read: Loaded | ConfigError) -> None:
        """Puts what the watcher read in force. Raises StartError when the data plane can not."""
        if isinstance(read, Loaded) and self._closed is None:
            await self._learn(read.config)  # which may take seconds, so before anybody waits for it
        async with self._changing:
            if isinstance(read, ConfigError):
                if self._closed is None:  # else it is the business of the one that comes after
                    self._record(_outcome("refused", problems=read.problems))
                return
            if self._closed is not None:
                raise StartError(self._closed)
            try:
                outcome = await self._change(read)
            except StartError as error:
                self._record(_outcome("refused", error=str(error)))
                raise
            except Exception as error:
                log.exception("a valid configuration could not be applied")
                self._record(_outcome("refused", error=f"{type(error).__name__}: {error}"))
                raise StartError(str(error)) from error
            self._record(outcome)
            memory.give_back()

    async def follow_names(self) -> None:
        """Looks host names up again in their time and applies what changed, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.resolver.run)
            nursery.start_soon(self._look_for_failures)
            while True:
                if await self.apply_names():
                    await self.resolver.news()
                else:
                    await trio.sleep(RETRY_SECONDS)

    async def apply_names(self) -> bool:
        """Puts in force what names stand for by now. False: that could not be done."""
        async with self._changing:
            resolved = self.resolver.resolved(self.config)
            if (self._closed is not None and not self._names_go_on) or resolved == self.resolved:
                return True
            try:
                await self._apply(self.config, resolved)
            except StartError as error:
                log.error("new addresses of host names could not be put in force: %s", error)
                return False
            for name in sorted(resolved.keys() | self.resolved.keys()):
                addresses = [place.address.text for place in resolved.get(name, ())]
                if resolved.get(name) != self.resolved.get(name):
                    more = len(addresses) - MOST_SHOWN
                    shown = ", ".join(addresses[:MOST_SHOWN]) or "nothing"
                    log.info("%s now resolves to %s", name, f"{shown} and {more} more" if more > 0 else shown)
            self.resolved = resolved
            return True

    async def _look_for_failures(self) -> None:
        """An endpoint that takes no connections may have got another address."""
        before: Mapping[tuple[str, str], int] = {}
        while True:
            await trio.sleep(LOOK_SECONDS)
            now = self._data_plane.left_out() if self.resolved else {}
            failing = {
                address
                for (service, address), times in now.items()
                if before.get((service, address)) != times
            }
            if failing:
                self.resolver.look_again(failing)
            before = now

    async def set_drain(self, target: DrainTarget, on: bool) -> DrainOutcome:
        """Lets a listener, a service or an endpoint drain, or no more. Raises DrainRefused."""
        async with self._changing:
            if self._closed is not None:
                raise DrainRefused(self._closed, "nothing can be changed any more")
            in_file = file_says(self.config, target)
            if in_file and not on:
                raise DrainRefused(
                    f"{target.text} drains because the file says `drain: true`",
                    "remove that from the file: it is in effect within a second",
                )
            if in_file or self.drains.asked(target) == on:
                return DrainOutcome(False, f"{target.text} {'drains already' if on else 'does not drain'}")
            self.drains.put(target, on)
            try:
                await self._apply(self.config, self.resolved)
            except BaseException as error:
                self.drains.put(target, not on)
                if isinstance(error, StartError):
                    raise DrainRefused(str(error), f"{target.text} drains on") from error
                raise
            log.info("asked for by the admin API: %s %s", target.text, "drains" if on else "drains no more")
            return DrainOutcome(True, f"{target.text} {'drains' if on else 'drains no more'}")

    async def close(self, why: str, *, names: bool = False) -> None:
        """Lets a change in progress finish and refuses all further ones; with ``names`` host names are still
        followed."""
        async with self._changing:
            self._closed = why
            self._names_go_on = names

    async def end_inbound(self) -> None:
        """All listeners but the outbound ones drain from now on, whatever the configuration says."""
        async with self._changing:
            self._inbound_ended = True
            await self._apply(self.config, self.resolved)

    @asynccontextmanager
    async def unchanging(self) -> AsyncIterator[None]:
        """Waits for a change in progress; others wait for the end of the block."""
        async with self._changing:
            yield

    def refuse_changes(self, why: str) -> None:
        """As `close`, within `unchanging`."""
        self._closed = why

    def reopen_logs(self) -> None:
        """Opens the access log's path again, after a rotation."""
        try:
            path = self.access_log.reopen(self._data_plane)
        except StartError as error:
            log.error("reopening failed, the old file stays in use: %s", error)
            return
        log.info("reopened %s", path) if path else log.info("there is no log file to reopen")

    # Inside

    async def _apply(self, config: Config, resolved: Resolved, seconds: float = MOST_SECONDS) -> ApplyResult:
        # No request meets an endpoint that was not checked, so that comes first.
        verdicts = await self.checker.prepare(config, resolved, min(seconds, MOST_SECONDS))
        # In a thread, so that the admin API answers meanwhile.
        effective = self.drains.effective(config)
        if self._inbound_ended:
            effective = without_inbound(effective)
        result = await trio.to_thread.run_sync(self._data_plane.apply, effective, resolved, verdicts)
        self.checker.follow(config, resolved)
        return result

    async def _learn(self, config: Config) -> None:
        """The names that are new in ``config``. A change is in effect within a second, so it waits no longer
        than a start for what does not answer, unless a service that has addresses would have none."""
        with trio.move_on_after(FIRST_SECONDS):
            await self.resolver.learn(config)
            return
        if self._leaves_empty(config):
            await self.resolver.learn(config)

    def _leaves_empty(self, config: Config) -> bool:
        """Whether a service has addresses now, and in ``config`` only names without any."""
        resolved = self.resolver.resolved(config)

        def has_any(service: Service, of: Resolved) -> bool:
            return any(of.get(one.address.text) if one.address.is_name else True for one in service.endpoints)

        return any(
            service.endpoints
            and not has_any(service, resolved)
            and (before := self.config.services.get(name)) is not None
            and has_any(before, self.resolved)
            for name, service in config.services.items()
        )

    async def _change(self, loaded: Loaded) -> ReloadOutcome:
        config = loaded.config
        resolved = self.resolver.resolved(config)
        self._warn_of(loaded.warnings)
        opened = self.access_log.open_for(config.access_log)
        try:
            result = await self._apply(config, resolved)
        except BaseException:
            if opened is not None:
                os.close(opened)
            raise
        self.access_log.use(config.access_log, opened, self._data_plane)
        self.config, self.resolved = config, resolved
        self.resolver.follow(config)
        for target in self.drains.forget_gone(config):
            log.info("%s is gone, and with it the drain that the admin API asked for", target.text)
        logs.set_up(config.log.level, config.log.format)
        warnings = (*result.warnings, *self._needs_restart(config))
        self._warn_once(warnings)
        return _outcome("applied", generation=result.generation, changes=result.changes, warnings=warnings)

    def _needs_restart(self, config: Config) -> tuple[str, ...]:
        started = self.started_with
        changed = {
            "workers": config.workers != started.workers,
            "admin": config.admin != started.admin,
            "limits.connections": config.limits.connections != started.limits.connections,
        }
        return tuple(
            f"`{key}` changed: it takes effect at the next restart, until then the old value holds"
            for key, differs in changed.items()
            if differs
        )

    def _record(self, outcome: ReloadOutcome) -> None:
        self.last = outcome
        counts = {name: getattr(self.counts, name) for name in ("applied", "unchanged", "refused")}
        counts[outcome.result] += 1
        good = self.counts.last_successful if outcome.result == "unchanged" else outcome.result == "applied"
        self.counts = ReloadCounts(**counts, last_successful=good)
        if outcome.result == "unchanged":
            log.info("the configuration is unchanged")
        elif outcome.result == "applied":
            log.info(
                "configuration applied (generation %d):\n%s", outcome.generation, "\n".join(outcome.changes)
            )
        else:
            why = configuration.render_text(outcome.problems) or outcome.error or "unknown"
            log.error("the new configuration is refused, the last good one stays in force:\n%s", why)

    def _warn_of(self, problems: tuple[Problem, ...]) -> None:
        """Logs each finding once, even when edits move it to another line."""
        for problem in problems:
            self._warn_once((str(problem),), key=f"{problem.file}: {problem.message}")

    def _warn_once(self, warnings: tuple[str, ...], key: str | None = None) -> None:
        for warning in warnings:
            if (key or warning) not in self._warned:
                self._warned.add(key or warning)
                log.warning("%s", warning)


def _in_words(outcome: ReloadOutcome) -> str:
    if outcome.result == "refused":
        return "serves; the new configuration was refused (see the log), the last good one stays in force"
    return f"serves; configuration {outcome.result} (generation {outcome.generation})"


def _outcome(result: ReloadResult, **more: Any) -> ReloadOutcome:
    return ReloadOutcome(result, logs.timestamp(time.time()), **more)
