"""The end of the process: when it is asked for, and how what is in progress finishes."""

from __future__ import annotations

import logging
from enum import IntEnum
from math import inf

import trio

from fastmesh.model import Drain
from fastmesh.supervisor.dataplane import DataPlane

log = logging.getLogger("fastmesh.drain")

POLL_SECONDS = 0.02
# Nothing in progress must be seen this often in a row: a request may just be between the kernel and a worker.
QUIET_POLLS = 3


class Exit(IntEnum):
    """Exit codes of ``fastmesh run``."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    FORCED = 3
    DRAIN_TIMEOUT = 4


class Shutdown:
    """Whether the end was asked for. The first request drains; a second one, by signal, forces."""

    def __init__(self) -> None:
        self.requested = trio.Event()
        self.reason = ""

    def request(self, reason: str) -> None:
        if not self.requested.is_set():
            self.reason = reason
            self.requested.set()


async def drain(data_plane: DataPlane, settings: Drain) -> Exit:
    """Waits ``delay`` (readiness already fails, so that balancers in front look elsewhere), closes the
    listeners, lets what is in progress finish for at most ``timeout``, then closes the idle client
    connections."""
    if settings.delay > 0:
        log.info("draining: still accepting for %g s", settings.delay)
        await trio.sleep(settings.delay)
    data_plane.begin_drain()
    data_plane.close_listeners()
    limit = "without a limit" if settings.timeout == inf else f"for at most {settings.timeout:g} s"
    log.info("draining: listeners are closed, %d in progress, %s", data_plane.busy(), limit)
    with trio.move_on_after(settings.timeout):
        await _until_quiet(data_plane)
        data_plane.close_idle()
        log.info("drained: nothing is in progress any more")
        return Exit.DONE
    left = data_plane.busy()
    if left == 0:
        return Exit.DONE
    log.error("drain.timeout of %g s has passed: %d in progress are cut off", settings.timeout, left)
    return Exit.DRAIN_TIMEOUT


async def _until_quiet(data_plane: DataPlane) -> None:
    quiet = 0
    while quiet < QUIET_POLLS:
        quiet = quiet + 1 if data_plane.busy() == 0 else 0
        await trio.sleep(POLL_SECONDS)
