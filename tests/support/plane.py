"""A data plane with running workers, and short ways to write configurations for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastmesh.engine import DataPlane
from fastmesh.model import (
    Address,
    Balance,
    Bind,
    Config,
    Endpoint,
    Forward,
    Listener,
    Resolved,
    Route,
    Service,
)
from support.client import Client
from support.origin import Origin

WEB = Bind("inet", "127.0.0.1", 0)
ROUND_ROBIN = Balance("round_robin")


def forward(*targets: str) -> tuple[Route, ...]:
    return (Route(Forward(tuple((name, 1) for name in targets))),)


def address_of(origin: Origin) -> Address:
    host, port = origin.address
    assert isinstance(port, int)
    return Address("inet", host, port)


def service(name: str, *origins: Origin, **settings: Any) -> Service:
    endpoints = tuple(Endpoint(address_of(origin)) for origin in origins)
    return Service(name, endpoints, **{"balance": ROUND_ROBIN, **settings})


def config(*services: Service, **changes: Any) -> Config:
    listeners = changes.pop("listeners", None) or [
        Listener("web", (WEB,), routes=forward(*(one.name for one in services)))
    ]
    return Config({one.name: one for one in listeners}, {one.name: one for one in services}, **changes)


class Plane:
    """A running data plane of ``workers``."""

    def __init__(self, first: Config, workers: int = 1, connection_limit: int = 1000) -> None:
        self.plane = DataPlane(workers=workers, connection_limit=connection_limit)
        self.apply(first)
        self.plane.start()
        self.stopped = False

    def apply(self, new: Config, resolved: Resolved | None = None) -> Any:
        return self.plane.apply(new, resolved or {})

    def address(self, listener: str = "web") -> tuple[str, int]:
        (bind,) = next(one.binds for one in self.plane.stats().listeners if one.listener == listener)
        host, _, port = bind.rpartition(":")
        return host, int(port)

    def client(self, listener: str = "web") -> Client:
        return Client(self.address(listener))

    def endpoint(self, origin: Origin) -> Any:
        return next(one for one in self.plane.stats().endpoints if one.address == origin.text)

    def stop(self) -> None:
        """What is left must be nothing."""
        if not self.stopped:
            self.stopped = True
            self.plane.stop()
            ledger = dict(self.plane.ledger())
            assert set(ledger.values()) == {0}, ledger


@contextmanager
def running_planes() -> Iterator[Callable[..., Plane]]:
    """Starts data planes; each must have an empty ledger at the end of the block."""
    planes: list[Plane] = []

    def run(*args: Any, **settings: Any) -> Plane:
        planes.append(Plane(*args, **settings))
        return planes[-1]

    yield run
    for plane in planes:
        plane.stop()
