"""Progress with the time left, from each step's estimate."""

from __future__ import annotations

import sys
import time


class Progress:
    """Steps announce themselves; the time left is the sum of the estimates of what is still to come."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._begin = time.monotonic()
        self._all = 0.0
        self._quiet = quiet
        self.done = 0.0

    def expect(self, seconds: float) -> None:
        self._all += seconds

    def finish(self, seconds: float) -> None:
        """A part that was estimated so is over, or was left out."""
        self.done += seconds

    def finish_to(self, done: float) -> None:
        """What is done by now, whatever its parts told."""
        self.done = done

    def say(self, text: str) -> None:
        if self._quiet:
            return
        elapsed, left = time.monotonic() - self._begin, max(0.0, self._all - self.done)
        print(f"[{elapsed:5.0f} s, about {left:3.0f} s left] {text}", file=sys.stderr, flush=True)
