"""What is shown of names, counted, and told to another process."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from fastmesh.discovery.answers import Record


class LookupCounts(Struct, frozen=True):
    """A failure is a lookup without addresses: no such name, no answer, a server that refuses."""

    lookups: int = 0
    failures: int = 0


class NameView(Struct, frozen=True):
    """One name. ``addresses`` are in use, with ports where SRV records say them. Times are seconds since
    1970; ``next_lookup`` None: it is being looked up. ``last_error`` is empty when the last lookup was
    good."""

    name: str
    type: Literal["host", "srv"]
    addresses: tuple[str, ...]
    ttl: float | None
    last_lookup: float | None
    next_lookup: float | None
    last_error: str


class KnownName(Struct, frozen=True, omit_defaults=True):
    """What a process knows of a name when another takes over: its SRV records (None: it is a host name), and
    the addresses of each host name that it leads to."""

    name: str
    records: tuple[Record, ...] | None = None
    hosts: dict[str, tuple[str, ...]] = {}
