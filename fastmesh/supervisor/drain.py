"""The end of the process: when it is asked for, and how what is in progress finishes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from math import inf
from typing import Protocol

import trio

from fastmesh.admin.control import ProcessDrain
from fastmesh.model import Drain
from fastmesh.observability.logs import timestamp
from fastmesh.supervisor.dataplane import DataPlane

log = logging.getLogger("fastmesh.drain")

# How long handshakes that have begun may take to end before the listeners close.
HANDSHAKE_SECONDS = 0.1
POLL_SECONDS = 0.02
# A client that thinks for less than this between two requests is told with its next answer that it ends.
IDLE_SECONDS = 1.0
CLOSE_IDLE_EVERY = 0.1
TELL_EVERY = 5.0
# How long one look of somebody who watches may last, and how long the end waits for such a look.
WATCH_SECONDS = 0.5
WATCHER_GONE_SECONDS = 1.0
# What is left, once the end was asked for, of waiting for a successor that has not begun to serve.
HASTE_SECONDS = 2.0


class Exit(IntEnum):
    """Exit codes of ``fastmesh run``."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    FORCED = 3
    DRAIN_TIMEOUT = 4


class Shutdown:
    """Whether the end was asked for (``asked``), or comes since another process serves now (``successor``,
    its pid), or since nobody needs this one any more, and how far it is. The first request drains; a second
    one, by signal, forces. ``application_gone``: the application is not waited for."""

    def __init__(self) -> None:
        self.requested = trio.Event()
        self.reason = ""
        self.asked = False
        self.successor = 0
        self.application_gone = trio.Event()
        self.waits_for: str | None = None
        self._since = 0.0  # by the clock on the wall
        self._closed_at: float | None = None  # when the listeners were closed, by trio's clock
        self._timeout = inf
        self._code: Exit | None = None
        self._ended = trio.Event()
        self._told = trio.Event()
        self._watched_until = -inf
        self._hastened: set[trio.CancelScope] = set()

    def request(self, reason: str) -> None:
        self.asked = True
        self._hasten(HASTE_SECONDS)
        self._begin(reason)

    def let_go(self, reason: str) -> None:
        """The application has gone, or says that it needs this process no more: it drains without delay and
        waits only for clients. Whoever stops both has asked for nothing yet: a first signal then is no second
        one. A successor would have nobody to serve, and would not know it."""
        self.application_gone.set()
        self._hasten(0.0)
        self._begin(reason)

    def _hasten(self, seconds: float) -> None:
        for scope in self._hastened:
            scope.deadline = min(scope.deadline, trio.current_time() + seconds)

    @contextmanager
    def hastening(self, scope: trio.CancelScope) -> Iterator[None]:
        """In it, a request to end leaves ``scope`` only `HASTE_SECONDS`, and the end of the application
        no time."""
        self._hastened.add(scope)
        try:
            yield
        finally:
            self._hastened.discard(scope)

    def hand_over(self, pid: int, version: str) -> None:
        self.successor = pid
        self._begin(f"handed over to pid {pid} (fastmesh {version})")

    def _begin(self, reason: str) -> None:
        if not self.requested.is_set():
            self.reason = reason
            self._since = time.time()
            self.requested.set()

    def closed(self, timeout: float) -> None:
        """The listeners are closed: ``timeout`` seconds are left."""
        self._closed_at = trio.current_time()
        self._timeout = timeout

    async def end(self, code: Exit) -> None:
        """The drain is over. Waits a moment for those who watch it to have come for that."""
        self._code = code
        self._ended.set()
        with trio.move_on_at(min(self._watched_until, trio.current_time() + WATCHER_GONE_SECONDS)):
            await self._told.wait()

    # Looking

    def expect_watcher(self) -> None:
        """Somebody will `watch` from now on, and wants to know how it ends."""
        self._watched_until = trio.current_time() + WATCHER_GONE_SECONDS

    async def watch(self) -> None:
        """Returns after a moment, or at the end of the drain."""
        self._watched_until = inf
        try:
            with trio.move_on_after(WATCH_SECONDS):
                await self._ended.wait()
        finally:
            self.expect_watcher()
        if self._ended.is_set():
            self._told.set()

    def progress(self, data_plane: DataPlane) -> ProcessDrain:
        asked = self.requested.is_set()
        closed_at = self._closed_at
        return ProcessDrain(
            state="ended" if self._code is not None else "draining" if asked else "serving",
            reason=self.reason,
            since=timestamp(self._since) if asked else None,
            in_progress=data_plane.busy(),
            connections=data_plane.connections(),
            tunnels=data_plane.tunnels(),
            seconds=None if closed_at is None else round(trio.current_time() - closed_at, 3),
            timeout=None if closed_at is None or self._timeout == inf else self._timeout,
            exit_code=self._code,
            waits_for=self.waits_for,
        )


class Remaining(Protocol):
    """The listeners that go on while the others drain, since the application uses them
    (`fastmesh.supervisor.application.Outbound`)."""

    def waits_for(self) -> str:
        """What ends them, in words."""

    async def end_inbound(self) -> None:
        """Closes all other listeners; their answers say so from then on."""

    async def application_gone(self) -> None: ...

    async def end(self) -> None:
        """Nothing is changed any more: what goes on now closes."""


async def drain(
    data_plane: DataPlane, settings: Drain, shutdown: Shutdown, remaining: Remaining | None = None
) -> Exit:
    """Waits ``delay`` (readiness already fails, so that balancers in front look elsewhere), closes the
    listeners, lets what is in progress finish and idle clients go, for at most ``timeout``. What is
    ``remaining`` closes when the clients of the others and the application have gone.

    When another process has taken over, or the application has gone, there is no delay: nobody has to look
    elsewhere, or nothing is to be had here."""
    if settings.delay > 0 and not shutdown.successor and not shutdown.application_gone.is_set():
        log.info("draining: still accepting for %g s", settings.delay)
        with trio.move_on_after(settings.delay):
            await shutdown.application_gone.wait()
    if remaining is None:
        await _close_listeners(data_plane)
    else:
        await remaining.end_inbound()
    shutdown.closed(settings.timeout)
    limit = "without a limit" if settings.timeout == inf else f"for at most {settings.timeout:g} s"
    what = "listeners" if remaining is None else "inbound listeners"
    log.info("draining: %s are closed, %s, %s", what, _what_is_left(data_plane), limit)
    with trio.move_on_after(settings.timeout):
        if remaining is not None:
            await _let_the_application_end(data_plane, shutdown, remaining)
            await _close_listeners(data_plane)
        await _until(data_plane, lambda: not (data_plane.connections() or data_plane.busy()))
        log.info("drained: nothing is in progress any more")
        return Exit.DONE
    left = data_plane.busy()
    if left == 0:
        log.info(
            "drained: nothing is in progress any more, %d idle connections end", data_plane.connections()
        )
        return Exit.DONE
    log.error("drain.timeout of %g s has passed: %d in progress are cut off", settings.timeout, left)
    return Exit.DRAIN_TIMEOUT


def _what_is_left(data_plane: DataPlane) -> str:
    busy, tunnels = data_plane.busy(), data_plane.tunnels()
    of_them = f" ({tunnels} of them tunnels or TCP)" if tunnels else ""
    return f"{busy} in progress{of_them}, {data_plane.connections()} client connections"


async def _close_listeners(data_plane: DataPlane) -> None:
    data_plane.refuse_new()
    await trio.sleep(HANDSHAKE_SECONDS)
    data_plane.close_listeners()
    data_plane.begin_drain()  # who is told to go should meet a closed port, not one that closes just now


async def _let_the_application_end(data_plane: DataPlane, shutdown: Shutdown, remaining: Remaining) -> None:
    """What clients have asked for is finished with all that the application has need of for it, and then the
    application itself."""
    await _until(data_plane, lambda: not data_plane.leaving(), leaving=True)
    if not shutdown.application_gone.is_set():
        shutdown.waits_for = remaining.waits_for()
        log.info("draining: inbound has drained, outbound goes on until %s", shutdown.waits_for)
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                await remaining.application_gone()
                nursery.cancel_scope.cancel()

            nursery.start_soon(look)
            await shutdown.application_gone.wait()
            nursery.cancel_scope.cancel()
        shutdown.waits_for = None
    await remaining.end()


async def _until(data_plane: DataPlane, reached: Callable[[], bool], *, leaving: bool = False) -> None:
    """A client whose connection is open may always have sent one more request just now: so the end is when
    there is none, not when nothing is in progress. ``leaving``: only clients of closed listeners are let
    go."""
    now = trio.current_time()
    next_close, next_word = now, now + TELL_EVERY
    while not reached():
        now = trio.current_time()
        if now >= next_close:
            data_plane.close_idle(IDLE_SECONDS, leaving=leaving)
            next_close = now + CLOSE_IDLE_EVERY
        if now >= next_word:
            log.info("draining: %s", _what_is_left(data_plane))
            next_word += TELL_EVERY
        await trio.sleep(POLL_SECONDS)
