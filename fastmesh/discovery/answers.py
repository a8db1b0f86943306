"""What a lookup of a name can give."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Family = Literal["inet", "inet6"]


class Hosts(Struct, frozen=True):
    """What a lookup of a host name gave: its canonical addresses, sorted.

    ``ttl`` are seconds, None from the hosts file. ``missing``: there is no such name, or it has no address,
    and why. ``failed``: nobody knows, and why; ``refused``: that is what each server says. ``unknown``: so it
    is for this family alone.
    """

    addresses: tuple[str, ...] = ()
    ttl: float | None = None
    missing: str = ""
    failed: str = ""
    refused: bool = False
    unknown: Family | None = None


class Record(Struct, frozen=True, order=True):
    """One SRV record; ``target`` is absolute, in lower case, with its dot."""

    priority: int
    weight: int
    port: int
    target: str


class Services(Struct, frozen=True):
    """What a lookup of SRV records gave; the rest as in `Hosts`. ``addresses``: those of targets that came
    with the answer."""

    records: tuple[Record, ...] = ()
    addresses: dict[str, tuple[str, ...]] = {}
    ttl: float | None = None
    missing: str = ""
    failed: str = ""
