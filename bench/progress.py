"""A progress bar with the time left, from each step's estimate."""

from __future__ import annotations

import sys
import time

_BAR_CELLS = 24


class Progress:
    """Steps announce themselves; the time left is the sum of the estimates of what is still to come.

    The estimates are corrected by how long the parts so far took. On a terminal the bar stays at the bottom.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._begin = time.monotonic()
        self._all = 0.0
        self._quiet = quiet
        self._on_terminal = sys.stderr.isatty()
        self.done = 0.0

    def expect(self, seconds: float) -> None:
        self._all += seconds

    def finish(self, seconds: float) -> None:
        """A part that was estimated so is over, or was left out."""
        self.done += seconds

    def finish_to(self, done: float) -> None:
        """What is done by now, whatever its parts told."""
        self.done = done

    def bar(self) -> str:
        """Such as `[######------] 50 %, 12:30 left`."""
        share = min(1.0, self.done / self._all) if self._all else 0.0
        elapsed = time.monotonic() - self._begin
        # The estimate at first, then what the pace so far says.
        planned = self._all - self.done
        left = max(0.0, planned * (1 - share) + share * (elapsed / share - elapsed)) if share else planned
        full = round(share * _BAR_CELLS)
        cells = "#" * full + "-" * (_BAR_CELLS - full)
        return f"[{cells}] {share:4.0%}, {int(left) // 60:2d}:{int(left) % 60:02d} left"

    def say(self, text: str) -> None:
        if self._quiet:
            return
        if self._on_terminal:
            print(f"\r\033[K{text}\n{self.bar()}", end="", file=sys.stderr, flush=True)
        else:
            print(f"{self.bar()} {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves the bar's line."""
        if self._on_terminal and not self._quiet:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
