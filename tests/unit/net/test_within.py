"""Listeners within another: they drain, go and come like any other, though they have no sockets."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

import pytest

from fastmesh.model import Address, Bind, Endpoint, Listener, Service
from support.interception import (
    ADDRESSES,
    OTHER_V4,
    V4,
    ask,
    at,
    config,
    drained,
    intercepting,
    is_refused,
    origin_at,
    totals,
    within,
)
from support.network import connect, own_network, redirect
from support.plane import Plane, forward, running_planes
from support.waiting import eventually

Run = Callable[..., Plane]


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with own_network(*ADDRESSES):
        yield


@pytest.fixture
def run() -> Iterator[Run]:
    with running_planes() as run:
        yield run


@pytest.mark.parametrize("how", ["listener and service go", "its endpoints go"])
def test_who_is_connected_reaches_where_it_was_going(run: Run, how: str) -> None:
    """As whoever comes after the change does. What leads there belongs to that client alone."""
    redirect(15001, "-d", "10.99.0.0/24")
    with origin_at(V4) as one, origin_at(OTHER_V4) as other:
        orders = Service(
            "orders", tuple(Endpoint(Address("inet", *origin.address)) for origin in (one, other))
        )
        parent, inner = intercepting(), within("orders", "orders")
        plane = run(config([orders], [parent, inner]))
        with connect(*one.address) as client, connect(*other.address) as second:
            for sock in (client, second):
                assert ask(sock).startswith(b"HTTP/1.1 200")
            gone = how == "listener and service go"
            plane.apply(config([], [parent]) if gone else config([Service("orders", ())], [parent, inner]))
            for origin, sock in ((one, client), (other, second)):
                before = len(origin.requests_for("/"))
                answer = ask(sock)
                assert answer.startswith(b"HTTP/1.1 200")
                assert (b"connection: close" in answer.lower()) is gone
                assert len(origin.requests_for("/")) == before + 1


def test_who_came_before_the_listener_intercepted_is_served(run: Run) -> None:
    """And who was intercepted before it no longer did: a sidecar changes its mode, both ways."""
    redirect(15006, "-d", V4)
    with origin_at("127.0.0.1") as app:
        port = app.address[1]
        services = [at("app", "127.0.0.1", port)]
        everywhere = (Bind("inet6", "", 15006),)
        explicit = config(services, [Listener("inbound", everywhere, routes=forward("app"))])
        parent = intercepting("inbound", host="", port=15006)
        transparent = config(services, [parent, within("app", "app", "inbound", ports=(port,))])
        plane = run(explicit)
        before, idle = (connect("127.0.0.1", 15006, mark=0) for _ in range(2))
        with before, idle:
            for client in (before, idle):
                assert ask(client).startswith(b"HTTP/1.1 200")
            plane.apply(transparent)
            with connect(V4, port) as between:
                assert ask(between).startswith(b"HTTP/1.1 200")
                answer = ask(before)
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"connection: close" in answer.lower()
                assert is_refused("127.0.0.1", 15006, mark=0)
                plane.apply(explicit)
                answer = ask(between)
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"connection: close" in answer.lower()
            eventually(
                lambda: (plane.plane.tend(), select.select([idle], [], [], 0)[0])[1], "the idle one to go"
            )
            assert idle.recv(1) == b""
        with connect("127.0.0.1", 15006, mark=0) as after:
            assert ask(after).startswith(b"HTTP/1.1 200")
            assert totals(plane) == {"inbound": 4}
        eventually(lambda: plane.plane.stats().listeners[0].connections_active == 0, "nothing to be active")


@pytest.mark.parametrize("how", ["within drains", "within goes", "parent drains", "parent goes"])
def test_clients_are_let_go(run: Run, how: str) -> None:
    redirect(15001, "-d", V4)
    with origin_at(V4) as origin:
        port = origin.address[1]
        services = [at("orders", V4, port)]
        parent, inner = intercepting(), within("orders", "orders")
        plane = run(config(services, [parent, inner]))
        after = {
            "within drains": [parent, drained(inner)],
            "within goes": [parent],
            "parent drains": [drained(parent), inner],
            "parent goes": [Listener("web", (Bind("inet", "127.0.0.1", 0),), routes=forward("orders"))],
        }[how]
        with connect(V4, port) as busy, connect(V4, port) as idle:
            assert ask(busy).startswith(b"HTTP/1.1 200")
            assert ask(idle).startswith(b"HTTP/1.1 200")
            plane.apply(config(services, after))
            answer = ask(busy)
            assert b"connection: close" in answer.lower()
            eventually(lambda: (plane.plane.tend(), idle_ended(idle))[1], "the idle client to be told")
        if how == "within drains":
            assert is_refused(V4, port)
            assert plane.plane.stats().errors["draining"] >= 1
        plane.apply(config(services, [parent, inner]))
        with connect(V4, port) as client:
            answer = ask(client)
            assert b"connection: close" not in answer.lower()
        eventually(lambda: plane.plane.connections() == 0, "all clients to be gone")


def idle_ended(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0]) and sock.recv(1) == b""


def test_listeners_within_come_and_go_without_a_trace(run: Run) -> None:
    redirect(15001, "-d", V4)
    with origin_at(V4) as origin:
        port = origin.address[1]
        services = [at("orders", V4, port)]
        plane = run(config(services, [intercepting()]), workers=2)
        for number in range(20):
            plane.apply(config(services, [intercepting(), within(f"n{number}", "orders")]))
            with connect(V4, port) as client:
                assert ask(client).startswith(b"HTTP/1.1 200")
            assert totals(plane)[f"outbound/n{number}"] == 1
        plane.apply(config(services, [intercepting()]))
        eventually(
            lambda: (plane.plane.tend(), plane.plane.ledger()["retired_blocks"] == 0)[1], "blocks to be freed"
        )
