"""What the process may use at most, as the machine and the control group allow."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class MemoryGroup(Struct, frozen=True):
    """A control group that limits memory: `limit` in bytes, the file that says what it `used`, and the one
    that says of what kinds that is (`kinds`)."""

    version: Literal["v1", "v2"]
    limit: int
    used: str
    kinds: str


class Ceilings(Struct, frozen=True):
    """`descriptors` of the data plane alone; `memory` in bytes, for a configuration that says none. 0: not
    known, and so no limit."""

    descriptors: int = 0
    memory: int = 0
    group: MemoryGroup | None = None
