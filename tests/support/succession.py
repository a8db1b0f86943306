"""Both sides of a takeover in one process: what is handed over, and who may take it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from fastmesh.admin.control import DrainTarget
from fastmesh.admin.sockets import AdminListening
from fastmesh.discovery import KnownName
from fastmesh.model import Given
from fastmesh.model.told import Passive, Told
from fastmesh.supervisor import handover
from fastmesh.supervisor.drain import Shutdown
from fastmesh.supervisor.handover import Group, Hello, Offer, Serving, Wire
from fastmesh.supervisor.takeover import Succession
from support.fake_data_plane import FakeDataPlane

TOLD = (
    Told("s", "10.0.0.1:80", passive=Passive(bad_5xx=2)),
    Told("s", "10.0.0.2:80", passive=Passive(out=1)),
)
NAMES = (KnownName("api", None, {"api": ("10.0.0.1",)}),)
DRAINS = (DrainTarget("service", "s"), DrainTarget("endpoint", "s", "10.0.0.2:80"))


class House:
    """An estate: sockets by the text of a bind that stands for them, and an admin API.

    `left` is what its successor said when it let go of everything, `successor` that one's pid; with `fails`,
    letting go raises it."""

    def __init__(self, admin: AdminListening | None = None, **counts: int) -> None:
        self.listeners = {name: servers(count) for name, count in counts.items()}
        self.admin = admin
        self.more: list[tuple[Group, Sequence[socket.socket]]] = []
        self.draining = False
        self.left: Serving | None = None
        self.successor = 0
        self.fails: Exception | None = None
        self.shutdown = Shutdown()

    def leaving(self) -> bool:
        return self.draining or self.shutdown.requested.is_set()

    def hastening(self, scope: trio.CancelScope) -> AbstractContextManager[None]:
        return self.shutdown.hastening(scope)

    @asynccontextmanager
    async def unchanging(self) -> AsyncIterator[None]:
        yield

    def held(self) -> list[tuple[Group, Sequence[socket.socket]]]:
        held: list[tuple[Group, Sequence[socket.socket]]] = [
            (Group("listener", bind, len(sockets)), sockets) for bind, sockets in self.listeners.items()
        ]
        if self.admin is not None:
            held.append((Group("admin", self.admin.bind, 1, self.admin.ours), self.admin.sockets))
        return held + self.more

    def drains(self) -> tuple[DrainTarget, ...]:
        return DRAINS

    def names(self) -> tuple[KnownName, ...]:
        return NAMES

    async def tell(self) -> tuple[Told, ...]:
        return TOLD

    async def leave(self, serving: Serving) -> None:
        if self.fails is not None:
            raise self.fails
        self.left = serving

    def handed_over(self, pid: int, version: str) -> None:
        self.successor = pid
        if self.admin is not None:
            self.admin.leave()

    def close(self) -> None:
        for sockets in (*self.listeners.values(), *(sockets for _, sockets in self.more)):
            for sock in sockets:
                sock.close()
        if self.admin is not None:
            self.admin.close()


def servers(count: int) -> list[socket.socket]:
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


def play(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            await test()

    trio.run(main)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.001)


@asynccontextmanager
async def reigning(path: Path, house: House) -> AsyncIterator[Succession]:
    """A process that has begun and can be taken over from, until the end of the block."""
    first = Succession(str(path))
    try:
        inherited = await first.enter()
        assert not inherited.given
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.serve, house)
            yield first
            nursery.cancel_scope.cancel()
    finally:
        first.close()
        house.close()


@asynccontextmanager
async def following(path: Path) -> AsyncIterator[tuple[Succession, dict[str, Given], FakeDataPlane]]:
    """A process that takes over; it has everything, and serves nothing yet."""
    second = Succession(str(path))
    received: dict[str, Given] = {}
    try:
        inherited = await second.enter()
        received = inherited.given
        yield (
            second,
            received,
            FakeDataPlane(workers=1, connection_limit=1, given=received, told=inherited.told),
        )
    finally:
        second.close()
        for one in received.values():
            for sock in one.sockets:
                sock.close()


async def take_over(path: Path, house: House) -> None:
    """A whole takeover that goes well."""
    async with following(path) as (second, _, plane):
        await second.serving(plane, None)
        await until(lambda: house.successor)


@asynccontextmanager
async def talking(path: Path, hello: Hello | None = None) -> AsyncIterator[tuple[Wire, Any]]:
    """A successor that is played by the test, and what it is offered."""
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.connect(str(path))
    with Wire(sock) as wire:
        await wire.send(hello or Hello(handover.PROTOCOL, "9.9", 4242))
        offer = await wire.receive(Offer)
        if not offer.refused:
            for one in await wire.receive_sockets(sum(group.sockets for group in offer.groups)):
                one.close()
            await wire.receive_endpoints(offer.endpoints)
        yield wire, offer
