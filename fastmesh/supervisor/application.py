"""Whether the application behind a transparent sidecar runs as another user than the sidecar itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import trio

from fastmesh.model import Sidecar
from fastmesh.sidecar import own_user_complaint

log = logging.getLogger("fastmesh.sidecar")

LOOK_SECONDS = 1.0


class ApplicationUser:
    """Looks who listens on the application's port. Rules of interception exempt the proxy's user, so an
    application that is the same user would go past the proxy without a word."""

    def __init__(self, sidecar: Callable[[], Sidecar | None], uid: int | None = None) -> None:
        """``sidecar`` is what is in force of the configuration; ``uid`` None: this process's."""
        self._sidecar = sidecar
        self._uid = os.geteuid() if uid is None else uid
        self._complaint: str | None = None

    def not_ready(self) -> str | None:
        """Why traffic is not welcome, as of the last look."""
        return self._complaint

    async def watch(self) -> None:
        while True:
            self.look()
            await trio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Logs a complaint once, and when it is mended."""
        sidecar = self._sidecar()
        ports = [one.port for one in sidecar.app if one.port] if sidecar and sidecar.transparent else []
        complaint = own_user_complaint(self._uid, ports) if ports else None
        if complaint is not None and self._complaint is None:
            log.error("%s", complaint)
        elif complaint is None and self._complaint is not None:
            log.info("the application does not run as the proxy's own user any more")
        self._complaint = complaint
