"""Numbers for names and endpoints.

Workers keep what must outlive a change (pools, counts, statistics) by number. A number is given for as long
as its key is in the configuration, and used again for another key only after every worker has let go of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from socket import AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, inet_pton
from typing import Generic, TypeVar

from fastmesh.model import Address

Key = TypeVar("Key")
Thing = TypeVar("Thing")


class Numbers(Generic[Key]):
    """Small numbers for keys, dense from 0."""

    def __init__(self) -> None:
        self.of: dict[Key, int] = {}
        self._released: list[int] = []
        self._free: list[int] = []
        self._next = 0

    def give(self, key: Key) -> tuple[int, bool]:
        """The number of ``key``, and whether it was given just now."""
        number = self.of.get(key)
        if number is not None:
            return number, False
        if self._free:
            number = self._free.pop()
        else:
            number = self._next
            self._next += 1
        self.of[key] = number
        return number, True

    def keep_only(self, keys: Iterable[Key]) -> None:
        """Releases the numbers of all other keys; they can be used again after `recycle`."""
        wanted = set(keys)
        for key in [key for key in self.of if key not in wanted]:
            self._released.append(self.of.pop(key))

    def recycle(self, is_free: Callable[[int], bool]) -> None:
        """A released number that `is_free` calls so is used by nobody any more."""
        free = {number for number in self._released if is_free(number)}
        self._free.extend(free)
        self._released = [number for number in self._released if number not in free]

    def in_order(self, things: Mapping[Key, Thing]) -> list[Thing | None]:
        """By number; None where a number is not in use."""
        placed: list[Thing | None] = [None] * self._next
        for key, thing in things.items():
            placed[self.of[key]] = thing
        return placed


class Slot:
    """One endpoint's slot: its number, and the generation that tells its holders apart."""

    __slots__ = ("generation", "index")

    def __init__(self, index: int, generation: int) -> None:
        self.index = index
        self.generation = generation


SlotKey = tuple[str, str]  # service, canonical address


class Slots:
    """Slot numbers of endpoints; a retired one comes back when `is_free` says so."""

    def __init__(self) -> None:
        self.of: dict[SlotKey, Slot] = {}
        self._retired: dict[int, int] = {}  # index -> the snapshot's generation that no longer has it
        self._free: list[int] = []
        self._next = 0
        self._generation = 0

    def give(self, key: SlotKey) -> tuple[Slot, bool]:
        """The slot of ``key``, and whether it was given just now (and has to be defined)."""
        slot = self.of.get(key)
        if slot is not None:
            return slot, False
        if self._free:
            index = self._free.pop()
        else:
            index = self._next
            self._next += 1
        self._generation += 1
        slot = self.of[key] = Slot(index, self._generation)
        return slot, True

    def absent(self, keys: set[SlotKey]) -> list[SlotKey]:
        """The keys that have a slot and are not among ``keys``."""
        return [key for key in self.of if key not in keys]

    def retire(self, key: SlotKey, generation: int) -> int:
        """Takes the slot away from ``key``; returns its number."""
        index = self.of.pop(key).index
        self._retired[index] = generation
        return index

    def recycle(self, is_free: Callable[[int, int], bool]) -> None:
        for index, generation in list(self._retired.items()):
            if is_free(index, generation):
                del self._retired[index]
                self._free.append(index)


def pack_address(address: Address) -> bytes:
    """A `sockaddr` as connect(2) takes it; one without an address for `original`."""
    if address.kind == "original":
        return struct.pack("=H", AF_UNSPEC)
    if address.kind == "unix":
        return struct.pack("=H", AF_UNIX) + address.path.encode() + b"\0"
    port = struct.pack("!H", address.port)
    if address.kind == "inet6":
        host, _, scope = address.host.partition("%")
        packed = inet_pton(AF_INET6, host)
        return struct.pack("=H", AF_INET6) + port + bytes(4) + packed + struct.pack("=I", _scope_id(scope))
    return struct.pack("=H", AF_INET) + port + inet_pton(AF_INET, address.host) + bytes(8)


def _scope_id(scope: str) -> int:
    if not scope:
        return 0
    if scope.isdigit():
        return int(scope)
    from socket import if_nametoindex

    return if_nametoindex(scope)
