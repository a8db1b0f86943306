"""Keeping the thread that checks from doing nothing else."""

from __future__ import annotations

from collections.abc import Callable

import trio

WINDOW_SECONDS = 0.05
SHARE = 0.5


class Pace:
    """Holds work back while this thread used more than `SHARE` of the time.

    ``cpu_time`` gives the seconds of CPU that the thread has used."""

    def __init__(self, cpu_time: Callable[[], float]) -> None:
        self._cpu_time = cpu_time
        self._since = -WINDOW_SECONDS
        self._used = 0.0

    async def breathe(self) -> None:
        """To be awaited before each piece of work. Returns at once as long as there is time to spare."""
        now = trio.current_time()
        used = self._cpu_time() - self._used
        if now - self._since >= WINDOW_SECONDS and used < SHARE * (now - self._since):
            self._begin(now)
        elif used >= SHARE * WINDOW_SECONDS:
            await trio.sleep_until(self._since + used / SHARE)
            self._begin(trio.current_time())

    def _begin(self, now: float) -> None:
        self._since = now
        self._used = self._cpu_time()
