"""Whether traffic is welcome, and why not: small reasons, each from the part that knows it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import trio

log = logging.getLogger("fastmesh")

LOOK_SECONDS = 0.02
SAY_SECONDS = 0.1

Reasons = Callable[[], Iterable[str]]


class Readiness:
    """An *objection* holds for as long as its source has a reason. First results are *awaited*: once all are
    there, or the time for them is over, nobody asks for them again.

    A source gives sentences that begin with a small letter and name what they are about.
    """

    def __init__(self, *awaited: Reasons, settled: bool = False) -> None:
        """``settled``: there is nothing to wait for."""
        self.settled = settled
        self._awaited = awaited
        self._objections: list[Reasons] = []

    def object(self, reasons: Reasons) -> None:
        self._objections.append(reasons)

    def reasons(self) -> tuple[str, ...]:
        """Why traffic is not welcome; empty when it is."""
        return (*_all(self._objections), *self.missing())

    def missing(self) -> tuple[str, ...]:
        return () if self.settled else _all(self._awaited)

    async def settle(self, patience: Callable[[], float]) -> None:
        """Returns when there is nothing to wait for any more, or ``patience`` seconds from now, with a
        warning about what is missing."""
        since = trio.current_time()
        missing = first = self.missing()
        while missing and trio.current_time() < since + patience():
            await trio.sleep(LOOK_SECONDS)
            missing = self.missing()
        self.settled = True
        if missing:
            log.warning(
                "ready after %g s (ready_timeout) without first results:\n%s", patience(), "\n".join(missing)
            )
        elif first and trio.current_time() > since + SAY_SECONDS:
            log.info("ready: what was missing came within %.1f s", trio.current_time() - since)


def _all(sources: Iterable[Reasons]) -> tuple[str, ...]:
    return tuple(reason for source in sources for reason in source())
