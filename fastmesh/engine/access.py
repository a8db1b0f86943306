"""The thread that writes access lines, and the file that it writes to."""

from __future__ import annotations

import os
import threading

from fastmesh._native.core.engine import Engine


class AccessWriter:
    """Begins with the first file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread: threading.Thread | None = None
        self._fd = -1

    def write_to(self, fd: int | None, format: str) -> None:
        """Lines go to a duplicate of ``fd`` from now on (None: nowhere)."""
        if fd is None:
            self._engine.enable_access_log(False)
            return
        if self._thread is None:
            self._fd = os.dup(fd)
            self._engine.set_access_log(self._fd, format)
            self._thread = threading.Thread(target=self._engine.run_access_writer, name="access-log")
            self._thread.start()
        else:
            os.dup2(fd, self._fd, inheritable=False)
            self._engine.set_access_format(format)
        self._engine.enable_access_log(True)

    def stop(self) -> None:
        """Writes what is left. The workers have ended."""
        if self._thread is not None:
            self._engine.stop_access_writer()
            self._thread.join()
            self._thread = None
            os.close(self._fd)
