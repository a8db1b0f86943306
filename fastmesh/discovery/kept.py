"""What is known of one name: its last good answer, and since when it has had none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from fastmesh.discovery.answers import Hosts

# How long a name must not exist before its last addresses are given up: a container that restarts has no name
# meanwhile.
HOLD_SECONDS = 30.0

Item = TypeVar("Item")


class Kept(Generic[Item]):
    """``items`` are in use; ``error`` says what is wrong with the last answer (empty: nothing). ``known``:
    there was an answer, if only that there is none."""

    __slots__ = ("error", "items", "known", "missing_since")

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self.items = tuple(items)
        self.known = bool(self.items)
        self.error = ""
        self.missing_since: float | None = None

    def found(self, items: Iterable[Item]) -> None:
        self.items = tuple(items)
        self.known = True
        self.error = ""
        self.missing_since = None

    def missing(self, why: str, now: float) -> None:
        """There is none, says who knows. That counts when it has said so for a while."""
        self.error = why
        self.known = True
        if self.missing_since is None:
            self.missing_since = now
        if now >= self.missing_since + HOLD_SECONDS:
            self.items = ()

    def failed(self, why: str) -> None:
        """Nobody knows: all stays as it is."""
        self.error = why

    def given_up_at(self) -> float | None:
        """When one more answer that there is none would count."""
        return self.missing_since + HOLD_SECONDS if self.items and self.missing_since is not None else None


class KeptHosts(Kept[str]):
    """The addresses of a host name."""

    __slots__ = ()

    def take(self, looked: Hosts, now: float) -> None:
        if looked.addresses:
            family = looked.unknown
            stay = [one for one in self.items if family == ("inet6" if ":" in one else "inet")]
            self.found(sorted({*looked.addresses, *stay}))
        elif looked.missing:
            self.missing(looked.missing, now)
        else:
            self.failed(looked.failed)
