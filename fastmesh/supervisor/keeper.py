"""The configuration in force, and the only way to change it: `ConfigKeeper.reload`."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import trio

from fastmesh.admin.control import ReloadOutcome, ReloadResult
from fastmesh.errors import ConfigError, Problem, StartError
from fastmesh.model import Config
from fastmesh.observability import logs
from fastmesh.observability.metrics import ReloadCounts
from fastmesh.supervisor import memory
from fastmesh.supervisor.accesslog import AccessLogFile
from fastmesh.supervisor.dataplane import ApplyResult, DataPlane
from fastmesh.supervisor.parts import Loaded, Parts, Resolved

log = logging.getLogger("fastmesh.config")


class ConfigKeeper:
    """Reads, checks, resolves and applies; one change at a time. An invalid change is refused whole."""

    def __init__(self, file: str, parts: Parts) -> None:
        self.file = file
        self.config: Config
        self.resolved: Resolved = {}
        self.counts = ReloadCounts()
        self.last = ReloadOutcome("applied", logs.timestamp(time.time()))
        self.access_log = AccessLogFile()
        self._parts = parts
        self._data_plane: DataPlane
        self._started_with: Config
        self._warned: set[str] = set()
        self._closed: str | None = None
        self._changing = trio.Lock()
        self._in_force = trio.Event()

    async def load(self) -> Config:
        """Reads the file for the first time. Raises ConfigError."""
        loaded = await self._read()
        self.config = self._started_with = loaded.config
        logs.set_up(loaded.config.log.level, loaded.config.log.format)
        self._warn(loaded.warnings)
        return loaded.config

    async def apply_first(self, data_plane: DataPlane) -> None:
        """Hands what `load` read to the data plane, which binds its listeners. Raises StartError."""
        self._data_plane = data_plane
        opened = self.access_log.open_for(self.config.access_log)
        self.resolved = await self._parts.resolve(self.config)
        result = await self._apply(self.config, self.resolved)
        self.access_log.use(self.config.access_log, opened, data_plane)
        self.last = self._outcome("applied", generation=result.generation)
        self._warn_once(result.warnings)
        self._in_force.set()

    async def reload(self, why: str) -> ReloadOutcome:
        """Reads the file again and puts it in force if it is valid and different."""
        await self._in_force.wait()
        async with self._changing:
            if self._closed is not None:
                return self._outcome("refused", error=self._closed)
            try:
                outcome = await self._change(await self._read())
            except ConfigError as error:
                outcome = self._outcome("refused", problems=error.problems)
            except StartError as error:
                outcome = self._outcome("refused", error=str(error))
            except Exception as error:
                log.exception("%s: reading the configuration failed in an unexpected way", why)
                outcome = self._outcome("refused", error=f"{type(error).__name__}: {error}")
            self._record(outcome, why)
            memory.give_back()
            return outcome

    async def refresh_names(self) -> None:
        """Resolves host names again and applies what changed."""
        async with self._changing:
            if self._closed is not None:
                return
            resolved = await self._parts.resolve(self.config)
            if resolved == self.resolved:
                return
            try:
                result = await self._apply(self.config, resolved)
            except StartError as error:
                log.error("new addresses of host names could not be put in force: %s", error)
                return
            self.resolved = resolved
            for change in result.changes:
                log.info("host names resolved anew: %s", change)

    async def close(self, why: str) -> None:
        """Lets a change in progress finish and refuses all further ones."""
        async with self._changing:
            self._closed = why

    def reopen_logs(self) -> None:
        try:
            path = self.access_log.reopen()
        except StartError as error:
            log.error("reopening failed, the old file stays in use: %s", error)
            return
        log.info("reopened %s", path) if path else log.info("there is no log file to reopen")

    async def _read(self) -> Loaded:
        # In a thread, so that the admin API answers meanwhile.
        return await trio.to_thread.run_sync(self._parts.load, self.file, abandon_on_cancel=True)

    async def _apply(self, config: Config, resolved: Resolved) -> ApplyResult:
        return await trio.to_thread.run_sync(self._data_plane.apply, config, resolved)

    async def _change(self, loaded: Loaded) -> ReloadOutcome:
        config = loaded.config
        resolved = await self._parts.resolve(config)
        self._warn(loaded.warnings)
        if config == self.config and resolved == self.resolved:
            return self._outcome("unchanged", generation=self.last.generation)
        opened = self.access_log.open_for(config.access_log)
        try:
            result = await self._apply(config, resolved)
        except BaseException:
            if opened is not None:
                os.close(opened)
            raise
        self.access_log.use(config.access_log, opened, self._data_plane)
        own = self._own_changes(config)
        self.config, self.resolved = config, resolved
        logs.set_up(config.log.level, config.log.format)
        warnings = (*result.warnings, *self._needs_restart(config))
        self._warn_once(warnings)
        return self._outcome(
            "applied", generation=result.generation, changes=(*result.changes, *own), warnings=warnings
        )

    def _own_changes(self, config: Config) -> tuple[str, ...]:
        """Changes that are not the data plane's to report."""
        names = ("access_log", "log", "drain")
        return tuple(
            f"{name} changed" for name in names if getattr(config, name) != getattr(self.config, name)
        )

    def _needs_restart(self, config: Config) -> tuple[str, ...]:
        changed = {
            "workers": config.workers != self._started_with.workers,
            "admin": config.admin != self._started_with.admin,
            "limits.connections": config.limits.connections != self._started_with.limits.connections,
        }
        return tuple(
            f"`{key}` changed: it takes effect at the next restart, until then the old value holds"
            for key, differs in changed.items()
            if differs
        )

    def _outcome(self, result: ReloadResult, **more: Any) -> ReloadOutcome:
        return ReloadOutcome(result, logs.timestamp(time.time()), **more)

    def _record(self, outcome: ReloadOutcome, why: str) -> None:
        self.last = outcome
        count = {outcome.result: getattr(self.counts, outcome.result) + 1}
        counts = {name: getattr(self.counts, name) for name in ("applied", "unchanged", "refused")} | count
        self.counts = ReloadCounts(**counts, last_successful=outcome.result != "refused")
        if outcome.result == "unchanged":
            log.info("%s: the configuration is unchanged", why)
        elif outcome.result == "applied":
            what = "; ".join(outcome.changes) or "nothing that the data plane uses"
            log.info("%s: configuration applied, generation %d: %s", why, outcome.generation, what)
        else:
            reasons = [str(problem) for problem in outcome.problems] or [outcome.error or "unknown"]
            log.error(
                "%s: the new configuration is refused, the last good one stays in force:\n%s",
                why,
                "\n".join(reasons),
            )

    def _warn(self, problems: tuple[Problem, ...]) -> None:
        """Logs each finding once, even when edits move it to another line."""
        for problem in problems:
            self._warn_once((str(problem),), key=f"{problem.file}: {problem.message}")

    def _warn_once(self, warnings: tuple[str, ...], key: str | None = None) -> None:
        for warning in warnings:
            if (key or warning) not in self._warned:
                self._warned.add(key or warning)
                log.warning("%s", warning)
