"""Opening and rotating the access log. The data plane's writer thread writes, to a duplicate of what it is
given."""

from __future__ import annotations

import os
from pathlib import Path

from fastmesh.errors import StartError
from fastmesh.model import AccessLog
from fastmesh.supervisor.dataplane import DataPlane

FILE_MODE = 0o640


def open_log(to: str) -> int:
    """A descriptor that appends to ``to`` (``stdout`` or a path). Raises StartError."""
    if to == "stdout":
        try:
            return os.dup(1)
        except OSError as error:
            raise StartError("access_log: stdout is closed; set `to` to a path") from error
    try:
        # Not blocking while it opens: a pipe that nobody reads is an error, not a halt.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(to, flags, FILE_MODE)
    except OSError as error:
        folder = Path(to).parent
        advice = (
            f"create {folder}" if not folder.is_dir() else "check the permissions of the file and its folder"
        )
        raise StartError(f"access_log: cannot write {to}: {error.strerror}; {advice}") from error
    os.set_blocking(descriptor, True)
    return descriptor


class AccessLogFile:
    """The access log in force, and the way to change it."""

    def __init__(self) -> None:
        self._current: AccessLog | None = None

    def open_for(self, wanted: AccessLog | None) -> int | None:
        """Opens what ``wanted`` names, without using it yet; None when there is nothing to change."""
        return None if wanted is None or wanted == self._current else open_log(wanted.to)

    def use(self, wanted: AccessLog | None, opened: int | None, data_plane: DataPlane) -> None:
        """Puts ``wanted`` in force with what `open_for` gave, and closes that."""
        if wanted is not None and opened is not None:
            try:
                data_plane.set_access_log(opened, wanted.format)
            finally:
                os.close(opened)
        elif wanted is None and self._current is not None:
            data_plane.set_access_log(None, "")
        self._current = wanted

    def reopen(self, data_plane: DataPlane) -> str | None:
        """Opens the same path again, after a rotation; gives the path, or None when there is nothing to open.
        Raises StartError; then the old file stays in use."""
        if self._current is None or self._current.to == "stdout":
            return None
        self.use(self._current, open_log(self._current.to), data_plane)
        return self._current.to
