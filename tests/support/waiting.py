"""Waiting for a condition with a deadline, for what cannot signal an event."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str, *, within: float = 5.0, every: float = 0.01) -> T:
    """The first true value of `condition`; AssertionError naming `what` once `within` seconds have passed."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what} (last value: {value!r})")
        time.sleep(every)
