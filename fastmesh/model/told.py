"""What a process tells the one that takes over from it about an endpoint.

Times are durations, counted back or ahead from the moment of telling: clocks are each process's own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

_MOST = 2**32 - 1
Count = Annotated[int, Meta(ge=0, le=_MOST)]


class Passive(Struct, frozen=True, omit_defaults=True):
    """What its requests said: the fields of ``told_t`` (``net/health.pxd``), times in milliseconds.

    `out` 1: it is left out, for `out_ms` from now; with 0 it waits for its probe. `ramp_ms` 0: no slow start.
    """

    out: Count = 0
    out_ms: Count = 0
    ejections: Count = 0
    ejected_ago_ms: Count = 0
    ejected_for_ms: Count = 0
    reason: Count = 0
    bad_5xx: Count = 0
    bad_gateway: Count = 0
    given_up: Count = 0
    ramp_ms: Count = 0
    ramp_ago_ms: Count = 0

    def later(self, ms: int) -> Passive:
        """The same, told ``ms`` later."""
        return replace(
            self,
            out_ms=max(0, self.out_ms - ms),
            ejected_ago_ms=min(_MOST, self.ejected_ago_ms + ms) if self.ejections else 0,
            ramp_ago_ms=min(_MOST, self.ramp_ago_ms + ms) if self.ramp_ms else 0,
        )


class Checked(Struct, frozen=True, omit_defaults=True):
    """What its active checks said: `ago` seconds since it came to this state, and the last results of one
    kind (`passing`) in a row."""

    state: Literal["healthy", "unhealthy"]
    ago: float
    in_a_row: Count = 0
    passing: bool = True
    error: str = ""


class Told(Struct, frozen=True, omit_defaults=True):
    """One endpoint of one service, by its canonical address."""

    service: str
    address: str
    passive: Passive | None = None
    checked: Checked | None = None
