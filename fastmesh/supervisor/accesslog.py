"""Opening and rotating the access log. The data plane's writer thread writes; it only ever sees one
descriptor.

That descriptor keeps its number for the life of the process: what it points to is exchanged by ``dup2``,
which is atomic, so the writer can never write into a file that took over a closed number.
"""

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
        self._descriptor = -1  # handed to the data plane
        self._current: AccessLog | None = None

    def open_for(self, wanted: AccessLog | None) -> int | None:
        """Opens what ``wanted`` names, without using it yet; None when nothing has to be opened."""
        if wanted is None or (self._current is not None and wanted.to == self._current.to):
            return None
        return open_log(wanted.to)

    def use(self, wanted: AccessLog | None, opened: int | None, data_plane: DataPlane) -> None:
        """Puts ``wanted`` in force with what `open_for` gave."""
        if opened is not None:
            self._point_at(opened)
        if wanted != self._current:
            if wanted is None:
                data_plane.set_access_log(None, "")
            else:
                data_plane.set_access_log(self._descriptor, wanted.format)
        self._current = wanted

    def reopen(self) -> str | None:
        """Opens the same path again, after a rotation; gives the path, or None when there is nothing to open.
        Raises StartError; then the old file stays in use."""
        if self._current is None or self._current.to == "stdout":
            return None
        self._point_at(open_log(self._current.to))
        return self._current.to

    def _point_at(self, opened: int) -> None:
        if self._descriptor == -1:
            self._descriptor = opened
            return
        os.dup2(opened, self._descriptor, inheritable=False)
        os.close(opened)

    def close(self) -> None:
        """After the data plane has stopped."""
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1
