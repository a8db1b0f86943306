"""What a process hands over to the one that takes over from it, and what it does when that one serves."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager

import trio

from fastmesh.admin.control import DrainTarget
from fastmesh.admin.server import AdminServer
from fastmesh.admin.sockets import AdminListening
from fastmesh.discovery import KnownName
from fastmesh.model.told import Told
from fastmesh.supervisor import notify
from fastmesh.supervisor.dataplane import DataPlane
from fastmesh.supervisor.drain import Shutdown
from fastmesh.supervisor.handover import ADMIN, LISTENER, Group, Serving
from fastmesh.supervisor.keeper import ConfigKeeper


class Estate:
    """The sockets of the listeners and of the admin API, and what is known of endpoints."""

    def __init__(
        self,
        keeper: ConfigKeeper,
        data_plane: DataPlane,
        shutdown: Shutdown,
        admin: AdminListening | None = None,
        server: AdminServer | None = None,
    ) -> None:
        self._keeper = keeper
        self._data_plane = data_plane
        self._shutdown = shutdown
        self._admin = admin
        self._server = server

    def leaving(self) -> bool:
        """Whether this process drains: there is nothing to hand over any more."""
        return self._shutdown.requested.is_set()

    def hastening(self, scope: trio.CancelScope) -> AbstractContextManager[None]:
        """In the block, a request to end this process leaves ``scope`` only a moment."""
        return self._shutdown.hastening(scope)

    def unchanging(self) -> AbstractAsyncContextManager[None]:
        """Meanwhile no change of the configuration opens or closes a socket."""
        return self._keeper.unchanging()

    def held(self) -> list[tuple[Group, Sequence[socket.socket]]]:
        held: list[tuple[Group, Sequence[socket.socket]]] = [
            (Group(LISTENER, bind, len(given.sockets), given.ours), given.sockets)
            for bind, given in self._data_plane.held_sockets().items()
        ]
        if self._admin is not None:
            group = Group(ADMIN, self._admin.bind, len(self._admin.sockets), self._admin.ours)
            held.append((group, self._admin.sockets))
        return held

    def drains(self) -> tuple[DrainTarget, ...]:
        return self._keeper.drains.all()

    def names(self) -> tuple[KnownName, ...]:
        return self._keeper.resolver.tell()

    async def tell(self) -> tuple[Told, ...]:
        """What requests and checks said of each endpoint that has a past."""
        checked = self._keeper.checker.tell()
        told = {
            (item.service, item.address): item
            for item in await trio.to_thread.run_sync(self._data_plane.tell)
        }
        for key, verdict in checked.items():
            passive = told[key].passive if key in told else None
            told[key] = Told(*key, passive=passive, checked=verdict)
        return tuple(told.values())

    async def leave(self, serving: Serving) -> None:
        """Lets go of what the successor serves. From here on there is no way back."""
        self._keeper.refuse_changes("fastmesh has handed over to another process")
        if self._server is not None:
            self._server.leave()
        if self._admin is not None and self._admin.bind in serving.admin:
            self._admin.leave()
        await trio.to_thread.run_sync(self._data_plane.leave_listeners, serving.listeners)

    def handed_over(self, pid: int, version: str) -> None:
        """This process drains, and a service manager watches the other one from now on."""
        notify.hand_over(pid)
        self._shutdown.hand_over(pid, version)
