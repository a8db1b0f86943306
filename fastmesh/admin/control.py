"""What the admin API needs of the rest: a Protocol that the supervisor implements, and the values that
pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct

from fastmesh.discovery import LookupCounts, NameView
from fastmesh.errors import FastmeshError, Problem
from fastmesh.health import ServiceHealth
from fastmesh.model import Config
from fastmesh.model.stats import Stats
from fastmesh.observability.metrics import ReloadCounts

ReloadResult = Literal["applied", "unchanged", "refused"]


class ReloadOutcome(Struct, frozen=True, omit_defaults=True):
    """What became of a configuration that was read: ``changes`` say what is different, ``problems`` why it
    was refused, ``error`` when the data plane could not take it (a port in use). ``at`` is RFC 3339."""

    result: ReloadResult
    at: str
    generation: int = 0
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    error: str | None = None


DrainKind = Literal["listener", "service", "endpoint"]
DrainBy = Literal["file", "api"]


class DrainTarget(Struct, frozen=True):
    """What can drain while the process serves. ``name`` is the listener's or the service's, ``address`` the
    canonical one of an endpoint of that service."""

    kind: DrainKind
    name: str
    address: str = ""

    @property
    def text(self) -> str:
        if self.kind == "endpoint":
            return f"endpoint {self.address} of service {self.name}"
        return f"{self.kind} {self.name}"


class DrainOutcome(Struct, frozen=True):
    """What became of a wish: whether anything changed, and a sentence about it."""

    changed: bool
    message: str


class DrainRefused(FastmeshError):
    """Why it cannot be; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class ProcessDrain(Struct, frozen=True):
    """How far the end of the process is. ``since`` is RFC 3339. ``seconds`` have passed since the listeners
    closed (None: they are open) of ``timeout`` (None: no limit, or not counting yet). ``in_progress`` are
    exchanges, tunnels and TCP relays; ``connections`` all of clients. ``waits_for``: clients have gone, and
    the application may still use the outbound listeners; what ends that, in words."""

    state: Literal["serving", "draining", "ended"]
    reason: str
    since: str | None
    in_progress: int
    connections: int
    tunnels: int
    seconds: float | None
    timeout: float | None
    exit_code: int | None
    waits_for: str | None = None


class ControlPlane(Protocol):
    """Everything that the admin API shows or does. Only `stats` and `health` may be called in a
    thread."""

    def not_ready(self) -> tuple[str, ...]:
        """Empty when traffic is welcome, else why not: `starting`, `draining`, or what is missing."""

    def config(self) -> Config: ...

    def config_file(self) -> str: ...

    def resolved(self) -> Mapping[str, tuple[str, ...]]:
        """The addresses in use of each endpoint that is a host name."""

    def names(self) -> tuple[NameView, ...]:
        """What is known of the names of endpoints."""

    def lookups(self) -> Mapping[str, LookupCounts]:
        """How often each name was looked up."""

    def last_reload(self) -> ReloadOutcome: ...

    def reload_counts(self) -> ReloadCounts: ...

    def stats(self) -> Stats: ...

    def health(self) -> Mapping[str, ServiceHealth]:
        """What active checks say, of each service that has them."""

    def process(self) -> Mapping[str, Any]:
        """This process: version, pid, since when, whether it drains, whom it took over from."""

    async def reload(self) -> ReloadOutcome: ...

    def start_drain(self, *, watched: bool = False) -> None:
        """Drains as SIGTERM does; returns at once. ``watched``: who asked comes for the end of it, by
        `watch_drain`."""

    def quit(self) -> None:
        """As `start_drain`, for the application that is done: nobody waits for it. Returns at once."""

    async def watch_drain(self) -> None:
        """Returns after a moment, or when the drain of the process has ended."""

    def process_drain(self) -> ProcessDrain: ...

    def drains(self) -> Mapping[DrainTarget, DrainBy]:
        """What drains while the process serves, and who said so."""

    async def set_drain(self, target: DrainTarget, on: bool) -> DrainOutcome:
        """Lets something of the configuration drain, or no more. Raises DrainRefused."""
