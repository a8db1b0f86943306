"""Connections towards endpoints: reused, bounded, given up when idle, and how connecting can fail."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support.client import Client
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.waiting import eventually
from support.wire import get, post

Start = Callable[..., Proxy]
Origins = Callable[..., Origin]
Address = tuple[str, int]


def serve(start: Start, endpoints: list[str], **service: Any) -> tuple[Proxy, Address]:
    port = free_port()
    proxy = start(
        {
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "s"}}},
            "services": {"s": {"endpoints": endpoints, **service}},
        }
    )
    return proxy, ("127.0.0.1", port)


def at_once(address: Address, origin: Origin, count: int) -> None:
    """So many requests in flight at the same time, then all answered."""
    release = threading.Event()

    def held(exchange: Exchange) -> None:
        assert release.wait(10)
        exchange.reply_echo()

    with origin.answering("/held", held):
        before = len(origin.requests_for("/held"))
        clients = [Client(address) for _ in range(count)]
        for client in clients:
            client.send(get("/held"))
        origin.wait_request("/held", count=before + count)
        release.set()
        for client in clients:
            assert client.read_response().status == 200
            client.close()


def test_one_connection_serves_many_requests_of_many_clients(start: Start, origins: Origins) -> None:
    origin = origins()
    proxy, address = serve(start, [origin.text])
    for _ in range(30):
        with Client(address) as client:
            assert client.request(get("/")).status == 200
    assert len(origin.connections) == 1
    assert proxy.metric("fastmesh_upstream_connections_active", service="s") <= 1


def test_keepalive_bounds_idle_connections(start: Start, origins: Origins) -> None:
    origin = origins()
    _, address = serve(start, [origin.text], upstream={"keepalive": 2})
    at_once(address, origin, 8)
    assert len(origin.connections) == 8
    eventually(lambda: origin.open_connections() == 2, "all idle connections but two to be closed")
    at_once(address, origin, 2)
    assert len(origin.connections) == 8


def test_idle_connections_are_given_up(start: Start, origins: Origins) -> None:
    origin = origins()
    _, address = serve(start, [origin.text], upstream={"idle": "300ms"})
    with Client(address) as client:
        assert client.request(get("/")).status == 200
        assert origin.open_connections() == 1
        eventually(lambda: origin.open_connections() == 0, "the idle connection to be closed", within=3)
        assert client.request(post("/", b"x")).status == 200
    assert len(origin.connections) == 2


@contextmanager
def deaf() -> Iterator[str]:
    """An address whose queue of connections is full: the kernel drops further SYNs."""
    with contextlib.ExitStack() as fillers, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(20):
            filler = fillers.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                break
        host, port = listener.getsockname()
        yield f"{host}:{port}"


def test_endpoint_that_does_not_accept(start: Start) -> None:
    with deaf() as endpoint:
        proxy, address = serve(start, [endpoint], timeouts={"connect": "300ms"})
        with Client(address) as client:
            started = time.monotonic()
            response = client.request(get("/"))
            assert (response.status, response.error_code) == (504, "connect_timeout")
            assert 0.25 < time.monotonic() - started < 3
        eventually(
            lambda: proxy.metric("fastmesh_errors_total", code="connect_timeout") >= 1,
            "the error to be counted",
        )


def test_endpoint_that_does_not_accept_beside_one_that_does(start: Start, origins: Origins) -> None:
    """Nothing was sent: even a POST goes to the other one, and later ones do not wait again at once."""
    origin = origins()
    with deaf() as endpoint:
        _, address = serve(
            start, [endpoint, origin.text], timeouts={"connect": "200ms"}, balance="round_robin"
        )
        started = time.monotonic()
        with Client(address) as client:
            for number in range(20):
                assert client.request(post(f"/{number}", b"x")).status == 200
        assert time.monotonic() - started < 2.5, "each second request waited for the time-out"
        assert len(origin.connections) == 1


def test_host_names_are_resolved(start: Start, origins: Origins) -> None:
    origin = origins()
    assert isinstance(origin.address[1], int)
    _, address = serve(start, [f"localhost:{origin.address[1]}"])
    with Client(address) as client:
        for _ in range(6):  # ::1 refuses, if it is one of the addresses: nothing fails
            assert client.request(get("/")).status == 200


def test_two_workers_share_the_port(start: Start, origins: Origins) -> None:
    origin = origins()
    port = free_port()
    proxy = start(
        {
            "workers": 2,
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "s"}}},
            "services": {"s": {"endpoints": [origin.text]}},
        }
    )
    clients = [Client(("127.0.0.1", port)) for _ in range(60)]
    for client in clients:
        assert client.request(get("/")).status == 200
    workers = proxy.api("workers")["workers"]
    assert len(workers) == 2
    assert all(worker["connections"] > 3 for worker in workers), workers
    for client in clients:
        client.close()
    eventually(
        lambda: all(worker["ledger"]["exchanges"] == 0 for worker in proxy.api("workers")["workers"]),
        "no exchange to be left",
    )
    assert proxy.metric("fastmesh_requests_total", listener="web") == 60
