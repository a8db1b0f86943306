"""Folder events of the kernel (inotify(7)), by ctypes."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
Q_OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
ONLYDIR: Final = 0x01000000

# A write is seen when the file is closed; MODIFY is left out, so a file being written is not read half-way.
FOLDER_EVENTS: Final = (
    ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLYDIR
)

_HEADER = struct.Struct("iIII")


class Event(NamedTuple):
    """One event: its watch, the mask, and the name within the folder ("" for the folder itself)."""

    watch: int
    mask: int
    name: str


class Inotify:
    """One inotify descriptor. Raises OSError where the kernel has none to give."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._add = libc.inotify_add_watch
            self._remove = libc.inotify_rm_watch
            init = libc.inotify_init1
        except AttributeError:
            raise OSError("this system has no inotify") from None
        self._add.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
        self.fd: int = init(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _error()

    def watch(self, folder: Path) -> int:
        """Watch `folder`; watching it again gives the same number."""
        number: int = self._add(self.fd, os.fsencode(folder), FOLDER_EVENTS)
        if number < 0:
            raise _error()
        return number

    def unwatch(self, number: int) -> None:
        """Stop a watch; one that is gone already is no error."""
        self._remove(self.fd, number)

    def read(self) -> list[Event]:
        """The events that wait, possibly none."""
        events: list[Event] = []
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return events
            offset = 0
            while offset < len(data):
                watch, mask, _, length = _HEADER.unpack_from(data, offset)
                offset += _HEADER.size
                name = os.fsdecode(data[offset : offset + length].split(b"\0", 1)[0])
                offset += length
                events.append(Event(watch, mask, name))

    def close(self) -> None:
        """Give the descriptor back; further calls are no error."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
