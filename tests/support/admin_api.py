"""An admin API over a control plane in memory, and a raw client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from fastmesh.admin.api import Api
from fastmesh.admin.control import (
    DrainBy,
    DrainOutcome,
    DrainRefused,
    DrainTarget,
    ProcessDrain,
    ReloadOutcome,
)
from fastmesh.admin.server import AdminServer
from fastmesh.admin.sockets import close_admin_sockets, open_admin_sockets
from fastmesh.discovery import LookupCounts, NameView
from fastmesh.health import ServiceHealth
from fastmesh.model import Address, Admin, Config, Endpoint, Listener, Route, Secrets, Service
from fastmesh.model.address import Bind
from fastmesh.model.config import Forward, Respond
from fastmesh.model.stats import Stats
from fastmesh.observability.metrics import ReloadCounts
from support.fake_data_plane import FakeDataPlane

AT = "2026-01-01T00:00:00.000Z"


def example_config() -> Config:
    routes = (
        Route(Respond(200, b"pong\n"), path="/ping"),
        Route(Forward((("user", 1),)), headers=(("x-key", "s3cret-value"),)),
    )
    return Config(
        listeners={"web": Listener("web", (Bind("inet", "127.0.0.1", 0),), routes=routes)},
        services={"user": Service("user", (Endpoint(Address("inet", "10.0.0.1", 80)),))},
        admin=Admin("127.0.0.1:9400", token=None),
        secrets=Secrets(("s3cret-value",)),
    )


class FakeControl:
    """`fastmesh.admin.control.ControlPlane` with settable answers."""

    def __init__(self, config: Config | None = None) -> None:
        self.data_plane = FakeDataPlane(workers=2, connection_limit=100)
        self.in_force = config or example_config()
        self.data_plane.config = self.in_force
        self.reasons: tuple[str, ...] = ()
        self.outcome = ReloadOutcome("applied", AT, 1)
        self.checks: dict[str, ServiceHealth] = {}
        self.reloads = 0
        self.asked_to_end = 0
        self.asked_to_quit = 0
        self.watched = 0
        self.progress = ProcessDrain("serving", "", None, 0, 0, 0, None, None, None)
        self.draining: dict[DrainTarget, DrainBy] = {}
        self.refuse_drain: DrainRefused | None = None

    def not_ready(self) -> tuple[str, ...]:
        return self.reasons

    def config(self) -> Config:
        return self.in_force

    def config_file(self) -> str:
        return "fastmesh.yaml"

    def resolved(self) -> Mapping[str, tuple[str, ...]]:
        return {"api:80": ("10.1.1.1:80",)}

    def names(self) -> tuple[NameView, ...]:
        return (NameView("api", "host", ("10.1.1.1",), 30.0, 1.0, None, ""),)

    def lookups(self) -> Mapping[str, LookupCounts]:
        return {"api": LookupCounts(3, 1)}

    def last_reload(self) -> ReloadOutcome:
        return self.outcome

    def reload_counts(self) -> ReloadCounts:
        return ReloadCounts(applied=self.reloads)

    def stats(self) -> Stats:
        return self.data_plane.stats()

    def health(self) -> Mapping[str, ServiceHealth]:
        return self.checks

    async def reload(self) -> ReloadOutcome:
        self.reloads += 1
        return self.outcome

    def process(self) -> dict[str, object]:
        return {"pid": 77, "takeover": None}

    def start_drain(self, *, watched: bool = False) -> None:
        self.asked_to_end += 1
        self.watched += watched

    def quit(self) -> None:
        self.asked_to_quit += 1

    async def watch_drain(self) -> None:
        self.watched += 1

    def process_drain(self) -> ProcessDrain:
        return self.progress

    def drains(self) -> Mapping[DrainTarget, DrainBy]:
        return self.draining

    async def set_drain(self, target: DrainTarget, on: bool) -> DrainOutcome:
        if self.refuse_drain is not None:
            raise self.refuse_drain
        changed = (target in self.draining) != on
        if on:
            self.draining[target] = "api"
        else:
            self.draining.pop(target, None)
        return DrainOutcome(changed, f"{target.text} {'drains' if on else 'drains no more'}")


class Client:
    """Bytes to the API and whole answers back."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> bool:
        part = await self.stream.receive_some()
        self._rest += part
        return bool(part)

    async def answer(self, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of the next answer."""
        while b"\r\n\r\n" not in self._rest:
            assert await self._more(), f"the connection ended with {self._rest!r}"
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = 0 if head_only else int(headers["content-length"])
        while len(self._rest) < length:
            assert await self._more()
        body, self._rest = self._rest[:length], self._rest[length:]
        return int(lines[0].split()[1]), headers, body

    async def ended(self) -> bool:
        """Whether the peer closes without saying anything more."""
        return not self._rest and not await self._more()

    async def ask(self, method: str, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
        lines = [f"{method} {path} HTTP/1.1", *headers]
        if not any(header.lower().startswith("host:") for header in headers):
            lines.append("host: localhost")
        await self.send("\r\n".join([*lines, "", ""]).encode())
        return await self.answer(head_only=method == "HEAD")


class RunningApi:
    def __init__(self, control: FakeControl, address: str, server: AdminServer) -> None:
        self.control = control
        self.address = address
        self.server = server

    async def connect(self) -> Client:
        if self.address.startswith("unix:"):
            return Client(await trio.open_unix_socket(self.address.removeprefix("unix:")))
        host, _, port = self.address.rpartition(":")
        return Client(await trio.open_tcp_stream(host, int(port)))

    async def ask(self, method: str, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
        client = await self.connect()
        async with client.stream:
            return await client.ask(method, path, *headers)


@asynccontextmanager
async def running_api(
    admin: Admin | None = None,
    *,
    bind: str = "127.0.0.1:0",
    connections: int = 64,
    control: FakeControl | None = None,
) -> AsyncIterator[RunningApi]:
    """Serves; ``admin`` is what the rules go by, ``bind`` where it really listens."""
    control = control or FakeControl()
    sockets = open_admin_sockets(bind)
    name = sockets[0].getsockname()
    address = bind if bind.startswith("unix:") else f"{name[0]}:{name[1]}"
    server = AdminServer(Api(control, admin or Admin(address)).respond, connections)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, sockets)
            with trio.fail_after(20):
                yield RunningApi(control, address, server)
            nursery.cancel_scope.cancel()
    finally:
        close_admin_sockets(sockets)
