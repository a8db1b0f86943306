"""What the checks of one endpoint add up to: verdicts after so many in a row, and the last results."""

from __future__ import annotations

import time
from typing import Literal

from msgspec import Struct

from fastmesh.health.checks import Result
from fastmesh.model import Health
from fastmesh.model.told import Checked

State = Literal["pending", "healthy", "unhealthy"]
HISTORY = 10


class Past(Struct, frozen=True, gc=False):
    """One check that was made: ``at`` seconds since 1970, and how many ``seconds`` it took."""

    at: float
    seconds: float
    result: Result


class Standing:
    """One endpoint's state. ``in_a_row`` are the last results of one kind; ``history`` is replaced as a
    whole, so that another thread may read it."""

    __slots__ = ("_passing", "history", "in_a_row", "last_error", "since", "state")

    def __init__(self, at: float) -> None:
        self.state: State = "pending"
        self.since = at
        self.in_a_row = 0
        self.last_error = ""
        self.history: tuple[Past, ...] = ()
        self._passing = False

    def tell(self) -> Checked | None:
        """For another process; None before the first verdict."""
        if self.state == "pending":
            return None
        ago = max(0.0, time.time() - self.since)
        return Checked(self.state, ago, self.in_a_row, self._passing, self.last_error)

    def resume(self, told: Checked) -> None:
        """Begins where another process was."""
        self.state = told.state
        self.since = time.time() - told.ago
        self.in_a_row = told.in_a_row
        self._passing = told.passing
        self.last_error = told.error

    def take(self, result: Result, health: Health, *, at: float, seconds: float) -> bool:
        """Whether ``result`` changes the state. The first one decides at once, later ones when there are as
        many in a row as ``health`` says; a check that could not be made counts for nothing."""
        self.history = (*self.history[1 - HISTORY :], Past(at, seconds, result))
        if not result.passed:
            self.last_error = result.text
        if result.passed is None:
            return False
        self.in_a_row = self.in_a_row + 1 if result.passed is self._passing else 1
        self._passing = result.passed
        wanted: State = "healthy" if result.passed else "unhealthy"
        needed = health.healthy if result.passed else health.unhealthy
        if self.state == wanted or (self.state != "pending" and self.in_a_row < needed):
            return False
        self.state = wanted
        self.since = at
        return True
