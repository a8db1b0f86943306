from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastmesh._native.net import _t_net as net


class Link:
    """A connection on the worker (`name`, `fd`) and the socket at its other end."""

    def __init__(self, it: net.Net, ours: socket.socket, peer: socket.socket) -> None:
        self.peer = peer
        self.peer.settimeout(5)
        ours.setblocking(False)
        self.fd = ours.detach()
        self.name: int = it.new(self.fd)


class Bench:
    """A worker of connections; what a test leaves open is closed at its end, and nothing may be left then."""

    def __init__(self, workers: int) -> None:
        self.net = net.Net(workers)
        self.links: list[Link] = []
        self.names: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)

    def unix(self) -> Link:
        ours, peer = socket.socketpair()
        return self._keep(ours, peer)

    def tcp(self) -> Link:
        with socket.create_server(("127.0.0.1", 0)) as server:
            peer = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
        return self._keep(ours, peer)

    def _keep(self, ours: socket.socket, peer: socket.socket) -> Link:
        link = Link(self.net, ours, peer)
        self.links.append(link)
        self.names.append(link.name)
        return link

    def null(self) -> int:
        """A connection that is none."""
        name: int = self.net.new(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), False)
        self.names.append(name)
        return name

    def finish(self) -> None:
        self.net.run_ready()
        for name in self.names:
            with contextlib.suppress(LookupError):
                self.net.close_upstream(name)
        self.net.end_turn()
        for link in self.links:
            link.peer.close()
        live = self.net.live
        assert (live["connections"], live["buffers"]) == (0, 0), live
        assert live["descriptors"] == 2 * live["pipes"], live
        assert self.net.free_pipes == 64


@pytest.fixture
def make_bench() -> Iterator[Callable[[int], Bench]]:
    made: list[Bench] = []

    def make(workers: int = 1) -> Bench:
        made.append(Bench(workers))
        return made[-1]

    yield make
    for bench in made:
        bench.finish()


@pytest.fixture
def it(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
