"""What another process told of endpoints, and what this one tells."""

from __future__ import annotations

import time
from collections.abc import Iterable

from msgspec.structs import asdict

from fastmesh._native.core.engine import Engine
from fastmesh.engine.compile import milliseconds
from fastmesh.engine.numbering import SlotKey, Slots
from fastmesh.model.told import Passive, Told


class Past:
    """For the endpoints of the first configuration: one that comes later is a new one."""

    def __init__(self, told: Iterable[Told]) -> None:
        self._of = {(item.service, item.address): item.passive for item in told if item.passive}
        self._told_at = time.monotonic()

    def resume(self, engine: Engine, key: SlotKey, slot: int) -> bool:
        """The endpoint begins where it was. False: it has no past."""
        told = self._of.get(key)
        if told is None:
            return False
        engine.slot_resume(slot, asdict(told.later(milliseconds(time.monotonic() - self._told_at))))
        return True

    def forget(self) -> bool:
        """Whether there was anything."""
        known, self._of = self._of, {}
        return bool(known)


def tell(engine: Engine, slots: Slots) -> tuple[Told, ...]:
    """What requests said of each endpoint that has a past."""
    found = ((key, engine.slot_tell(slot.index)) for key, slot in slots.of.items())
    return tuple(Told(*key, passive=Passive(**told)) for key, told in found if told is not None)
