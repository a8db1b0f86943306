"""What the admin API needs of the rest: a Protocol that the supervisor implements, and the values that
pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from msgspec import Struct

from fastmesh.errors import Problem
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


class ControlPlane(Protocol):
    """Everything that the admin API shows or does. Only `stats` and `health` may be called in a
    thread."""

    def not_ready(self) -> str | None:
        """None when traffic is welcome, else why not, in a word or two."""

    def config(self) -> Config: ...

    def config_file(self) -> str: ...

    def resolved(self) -> Mapping[str, tuple[str, ...]]:
        """The addresses in use of each endpoint that is a host name."""

    def last_reload(self) -> ReloadOutcome: ...

    def reload_counts(self) -> ReloadCounts: ...

    def stats(self) -> Stats: ...

    def health(self) -> Mapping[str, ServiceHealth]:
        """What active checks say, of each service that has them."""

    async def reload(self) -> ReloadOutcome: ...

    def start_drain(self) -> None:
        """Drains as SIGTERM does; returns at once."""
