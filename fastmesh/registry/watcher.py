"""Sees that the configuration changed, reads it in a thread, and hands over what it is now.

Events come from inotify on folders (never on files: an editor's rename would leave the watch on the old
file). They only say that it is worth a look: what counts is the content, compared by digest. A poll is the
safety net where the file system sends no events, and the only means where inotify is not to be had.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Literal

import trio
from msgspec import Struct

from fastmesh.config.loader import Loaded, load
from fastmesh.errors import ConfigError, FastmeshError, Problem
from fastmesh.registry import inotify, points
from fastmesh.registry.diff import same
from fastmesh.registry.inotify import Inotify

log = logging.getLogger("fastmesh.registry")

POLL_INTERVAL = 10.0  # seconds, beside events
POLL_INTERVAL_ALONE = 0.5  # seconds, where there are no events at all
QUIET = 0.05  # seconds without an event, or with the same content, before a change is read
MAX_UNQUIET = 0.4  # seconds that a stream of events may put that off
MISSING_GRACE = 0.5  # seconds that the file may be away before that is an error
READS_AT_MOST = 5  # of files that change while they are read

_MISSING = points.digest_of_missing()

Handler = Callable[[Loaded | ConfigError], Awaitable[None]]


class Reload(Struct, frozen=True):
    """What became of a look at the files.

    `applied`: the handler took a new configuration; `unchanged`: it is the one in force; `refused`: it is
    invalid (`problems`), or the handler could not apply it (`reason`), and the last good one stays in force.
    """

    result: Literal["applied", "unchanged", "refused"]
    problems: tuple[Problem, ...] = ()
    reason: str | None = None


class _Request:
    __slots__ = ("done", "outcome")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: Reload | None = None


class ConfigWatcher:
    """Watches the files of one configuration.

    `current` is the last good configuration, `last` the outcome of the last look that was not `unchanged`,
    and `watching` whether the kernel sends events (else it is polled more often).
    """

    def __init__(
        self,
        path: str | Path,
        initial: Loaded,
        *,
        env: Mapping[str, str] = os.environ,
        poll_interval: float = POLL_INTERVAL,
        events: bool = True,
    ) -> None:
        self.current = initial
        self.last = Reload("applied", initial.warnings)
        self.watching = False
        self._path = path
        self._main = Path(path)
        self._env = env
        self._poll_interval = poll_interval
        self._events = events
        self._inotify: Inotify | None = None
        self._files = initial.files
        self._points: points.Points = {}
        self._folders: dict[int, list[Path]] = {}  # by watch; bind mounts may share one
        self._look_again = False
        self._seen: points.Fingerprint | None = None
        self._requests: list[_Request] = []
        self._wake = trio.Event()
        self._running = False

    async def run(
        self, handle: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Watch until cancelled; `handle` gets each new configuration, and each ConfigError once.

        `handle` may raise FastmeshError when it cannot apply one; that counts as refused. It also gets a
        valid configuration that equals the one in force when the look before it was refused, so that it knows
        of the cure.
        """
        self._points, self._folders, self._seen = {}, {}, None  # of an earlier run that failed
        self._open()
        self._running = True
        try:
            self._arm()
            task_status.started()
            await self._look(handle, forced=False)  # what changed between the first load and the first watch
            while True:
                await self._wait()
                requests, self._requests = self._requests, []
                self._wake = trio.Event()
                try:
                    outcome = await self._look(handle, forced=bool(requests))
                    for request in requests:
                        request.outcome = outcome
                finally:
                    for request in requests:
                        request.done.set()
        finally:
            self._running = False
            for request in self._requests:
                request.done.set()
            if self._inotify is not None:
                self._inotify.close()
                self._inotify = None

    async def reload(self) -> Reload:
        """Look at the files now, and say what became of it. FastmeshError when `run` is not running."""
        if not self._running:
            raise FastmeshError("the configuration is not being watched")
        request = _Request()
        self._requests.append(request)
        self._wake.set()
        await request.done.wait()
        if request.outcome is None:
            raise FastmeshError("watching the configuration ended")
        return request.outcome

    # -- waiting

    def _open(self) -> None:
        if not self._events:
            return
        try:
            self._inotify = Inotify()
            self.watching = True
        except OSError as error:
            log.warning("no events for changed files (%s): polling every %s s", error, POLL_INTERVAL_ALONE)

    def _arm(self) -> None:
        """Watch the folders that matter for the files of now."""
        if self._inotify is None:
            return
        wanted = points.watch_points(self._files)
        folders: dict[int, list[Path]] = {}
        missing = False
        failed = None
        for folder in wanted:
            try:
                folders.setdefault(self._inotify.watch(folder), []).append(folder)
            except (FileNotFoundError, NotADirectoryError):
                missing = True  # the poll sees it appear
            except OSError as error:
                failed = error
        for number in self._folders.keys() - folders.keys():
            self._inotify.unwatch(number)
        if failed is not None and self.watching:
            log.warning("a folder cannot be watched (%s): polling every %s s", failed, POLL_INTERVAL_ALONE)
        self.watching = failed is None and not missing
        self._look_again = wanted != self._points
        self._points, self._folders = wanted, folders

    async def _wait(self) -> None:
        """Return when a look is due: events and then quiet, a request, or the poll interval."""
        if self._look_again:  # a folder may have changed between being read and being watched
            self._look_again = False
            return
        interval = self._poll_interval if self.watching else min(POLL_INTERVAL_ALONE, self._poll_interval)
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + interval

            async def requested() -> None:
                await self._wake.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(requested)
            if self._inotify is None:
                await trio.sleep_forever()
            else:
                await self._events_then_quiet(self._inotify)
                nursery.cancel_scope.cancel()

    async def _events_then_quiet(self, source: Inotify) -> None:
        while True:
            await trio.lowlevel.wait_readable(source.fd)
            if self._relevant(source.read()):
                break
        with trio.move_on_after(MAX_UNQUIET):
            while True:
                quiet = True
                with trio.move_on_after(QUIET):
                    await trio.lowlevel.wait_readable(source.fd)
                    quiet = not self._relevant(source.read())
                if quiet:
                    return

    def _relevant(self, events: list[inotify.Event]) -> bool:
        return any(self._is_relevant(event) for event in events)

    def _is_relevant(self, event: inotify.Event) -> bool:
        if event.mask & inotify.Q_OVERFLOW:
            return True
        folder = next(
            (
                candidate
                for candidate in self._folders.get(event.watch, ())
                if points.concerns(self._points, candidate, event.name)
            ),
            None,
        )
        if folder is None:
            return False
        if event.mask & inotify.CREATE:
            # A new file is looked at when its writer closes it; a symlink or a hard link is complete at once.
            created = folder / event.name
            try:
                return created.is_symlink() or created.is_dir() or created.stat().st_nlink > 1
            except OSError:
                return False
        return True

    # -- looking

    async def _look(self, handle: Handler, forced: bool) -> Reload:
        """Compare, read and hand over. A forced look tries again what was refused before."""
        seen = await self._settled()
        if seen == self._seen and not (forced and self.last.result == "refused"):
            self._arm()  # a folder may have been replaced by one that holds the same
            return self.last if self.last.result == "refused" else Reload("unchanged")
        outcome, self._seen = await trio.to_thread.run_sync(self._read, seen)
        self._files = outcome.files
        self._arm()
        if isinstance(outcome, ConfigError):
            self.last = Reload("refused", outcome.problems)
            await handle(outcome)
            return self.last
        if same(outcome.config, self.current.config) and self.last.result != "refused":
            self.current = outcome
            return Reload("unchanged", outcome.warnings)
        try:
            await handle(outcome)
        except FastmeshError as error:
            self.last = Reload("refused", outcome.warnings, str(error))
        else:
            self.current = outcome
            self.last = Reload("applied", outcome.warnings)
        return self.last

    async def _settled(self) -> points.Fingerprint:
        """The fingerprint; a new one once it is the same twice in a row.

        A file that is away gets a moment to return: some editors remove it before they write it anew.
        """
        seen = await trio.to_thread.run_sync(points.fingerprint, self._files)
        if seen == self._seen or self._seen is None:
            return seen
        deadline = trio.current_time() + MISSING_GRACE
        while True:
            await trio.sleep(QUIET)
            again = await trio.to_thread.run_sync(points.fingerprint, self._files)
            late = trio.current_time() >= deadline
            if (again == seen and (late or again.get(self._main) != _MISSING)) or late:
                return again
            seen = again

    def _read(self, seen: points.Fingerprint) -> tuple[Loaded | ConfigError, points.Fingerprint]:
        """Load, and say which content that was. Runs in a thread.

        What was loaded is known for sure only when the fingerprint is the same before and after: a file
        that changes meanwhile, and then changes back, would otherwise stay loaded under the fingerprint of
        the other content. So it is done again until both are equal; likewise where loading finds that other
        files belong to it.
        """
        files = tuple(seen)
        for _ in range(READS_AT_MOST):
            outcome: Loaded | ConfigError
            try:
                outcome = load(self._path, env=self._env)
            except ConfigError as error:
                outcome = error.with_traceback(None)
            files = outcome.files
            after = points.fingerprint(files)
            if after == seen:
                return outcome, seen
            seen = after
        return (
            outcome,
            {},
        )  # it never stood still: no fingerprint equals this one, so the next look reads again
