"""Intercepting data planes in a network of the test's own, and the application's side of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from fastmesh.model import Address, Bind, Config, Endpoint, Listener, Service
from support.network import connect
from support.origin import Origin
from support.plane import Plane, forward
from support.stage import get

V4, OTHER_V4, V6 = "10.99.0.1", "10.99.0.2", "fd99::1"
ADDRESSES = (f"{V4}/24", f"{OTHER_V4}/24", f"{V6}/64")
PASSTHROUGH = Service("passthrough", (Endpoint(Address("original")),))


def intercepting(
    name: str = "outbound", *, host: str = "127.0.0.1", port: int = 15001, **changes: Any
) -> Listener:
    family = "inet6" if ":" in host or not host else "inet"
    return Listener(
        name, (Bind(family, host, port),), "tcp", routes=forward("passthrough"), intercept=True, **changes
    )


def within(name: str, service: str, parent: str = "outbound", **changes: Any) -> Listener:
    return Listener(f"{parent}/{name}", (), routes=forward(service), within=parent, **changes)


def config(services: list[Service], listeners: list[Listener], **changes: Any) -> Config:
    return Config(
        {one.name: one for one in listeners}, {one.name: one for one in [PASSTHROUGH, *services]}, **changes
    )


def at(name: str, host: str, port: int, **settings: Any) -> Service:
    kind = "inet6" if ":" in host else "inet"
    return Service(name, (Endpoint(Address(kind, host, port)),), **settings)


def ask(sock: socket.socket) -> bytes:
    sock.sendall(get("/"))
    return sock.recv(1 << 16)


def is_refused(host: str, port: int, **settings: int) -> bool:
    """Reset, at once or when the first byte was waited for."""
    try:
        with connect(host, port, **settings) as client:
            client.recv(1)
    except ConnectionResetError:
        return True
    return False


def listener(plane: Plane, name: str) -> Any:
    return next(one for one in plane.plane.stats().listeners if one.listener == name)


def totals(plane: Plane) -> dict[str, int]:
    return {one.listener: one.connections_total for one in plane.plane.stats().listeners}


def pair(plane: Plane, name: str, service: str) -> dict[int, int]:
    stats = plane.plane.stats()
    return next((one.codes for one in stats.pairs if (one.listener, one.service) == (name, service)), {})


@contextlib.contextmanager
def origin_at(host: str) -> Iterator[Origin]:
    origin = Origin(name="there", host=host)
    try:
        yield origin
    finally:
        origin.close()


def drained(one: Listener) -> Listener:
    return replace(one, drain=True)
