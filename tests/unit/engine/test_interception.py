"""Intercepted connections, through the kernel: REDIRECT in a network namespace, and each connection goes
where its original destination says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from fastmesh.engine.interception import closed_within, refused_news
from fastmesh.model import Address, Balance, Bind, Config, Endpoint, Health, Listener, Place, Service
from support.interception import (
    ADDRESSES,
    OTHER_V4,
    PASSTHROUGH,
    V4,
    V6,
    ask,
    at,
    config,
    drained,
    intercepting,
    is_refused,
    listener,
    origin_at,
    pair,
    totals,
    within,
)
from support.network import connect, own_network, redirect
from support.plane import Plane, forward
from support.tcp import TcpServer, echo
from support.waiting import eventually

Run = Callable[..., Plane]


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with own_network(*ADDRESSES):
        yield


# ---------------------------------------------------------------- where connections go


@pytest.mark.parametrize("host", [V4, V6])
def test_a_named_address_goes_to_its_listener_and_all_else_passes_through(run: Run, host: str) -> None:
    plane = run(config([], []))
    family = 6 if ":" in host else 4
    loopback = "::1" if family == 6 else "127.0.0.1"
    redirect(15001, "-d", host, family=family)
    with origin_at(host) as origin, TcpServer(echo, host=host) as other:
        port = origin.address[1]
        plane.apply(
            config([at("orders", host, port)], [intercepting(host=loopback), within("orders", "orders")])
        )
        with connect(host, port) as client:
            answer = ask(client)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"x-request-id" in answer.lower()  # the proxy's HTTP, which the origin's echo shows
        with connect(host, other.port) as client:
            client.sendall(b"not for HTTP")
            assert client.recv(100) == b"not for HTTP"
        assert totals(plane) == {"outbound": 1, "outbound/orders": 1}
        eventually(lambda: pair(plane, "outbound", "passthrough") == {200: 1}, "the relay's end")
        assert pair(plane, "outbound/orders", "orders") == {200: 1}
        eventually(lambda: listener(plane, "outbound").connections_active == 0, "nothing to be active")
        assert listener(plane, "outbound/orders").bytes_sent > 0
        (view,) = [one for one in plane.plane.stats().listeners if one.within]
        assert (view.within, view.binds, view.intercept) == ("outbound", (), False)
        assert listener(plane, "outbound").intercept


def test_a_socket_of_both_families_knows_ipv4_destinations(run: Run) -> None:
    redirect(15001, "-d", V4)
    redirect(15001, "-d", V6, family=6)
    run(config([], [intercepting(host="")]))
    for host in (V4, V6):
        with TcpServer(echo, host=host) as server, connect(host, server.port) as client:
            client.sendall(b"x")
            assert client.recv(10) == b"x"


def test_who_calls_the_proxy_itself_is_refused(run: Run) -> None:
    """Without a redirection, and with one whose destination is the proxy: passed on, it would never end."""
    plane = run(config([], [intercepting(host="")]))
    for _ in range(2):
        assert all(is_refused(host, 15001, mark=0) for host in ("127.0.0.1", V4, "::1"))
        redirect(15001, "-d", V4)  # from here on connections are tracked
    assert plane.plane.stats().errors["not_redirected"] == 6
    assert totals(plane) == {"outbound": 6}
    assert listener(plane, "outbound").connections_active == 0
    (line,) = plane.plane.tend()
    assert line.startswith("6 connections refused")
    assert plane.plane.tend() == ()


def test_inbound_by_port_whatever_the_address(run: Run) -> None:
    redirect(15006, "-d", "10.99.0.0/24")
    with origin_at("127.0.0.1") as app, TcpServer(echo, host=OTHER_V4) as other:
        app_port = app.address[1]
        plane = run(
            config(
                [at("app", "127.0.0.1", app_port)],
                [
                    intercepting("inbound", host="", port=15006),
                    within("app", "app", "inbound", ports=(app_port, 9)),
                ],
            )
        )
        for host, port in [(V4, app_port), (OTHER_V4, app_port), (V4, 9)]:
            with connect(host, port) as client:
                assert ask(client).startswith(b"HTTP/1.1 200")
        with connect(OTHER_V4, other.port) as client:
            client.sendall(b"x")
            assert client.recv(10) == b"x"
        assert totals(plane) == {"inbound": 1, "inbound/app": 3}


def test_of_two_listeners_for_one_place_the_first_counts(run: Run) -> None:
    redirect(15001, "-d", V4)
    with origin_at(V4) as origin:
        port = origin.address[1]
        services = [at("a", V4, port), at("b", V4, port)]
        by_address, by_port = within("a", "a"), within("b", "b", ports=(port,))
        plane = run(config(services, [intercepting(), by_address, by_port]))
        for order, expected in [((by_address, by_port), "a"), ((by_port, by_address), "b")]:
            plane.apply(config(services, [intercepting(), *order]))
            before = totals(plane)[f"outbound/{expected}"]
            with connect(V4, port) as client:
                assert ask(client).startswith(b"HTTP/1.1 200")
            assert totals(plane)[f"outbound/{expected}"] == before + 1


def test_the_table_follows_names_and_touches_nothing_else(run: Run) -> None:
    redirect(15001, "-d", "10.99.0.0/24")
    with origin_at(V4) as origin:
        port = origin.address[1]
        named = Service("orders", (Endpoint(Address("name", "orders", port)),))
        whole = config([named], [intercepting(), within("orders", "orders")])
        plane = run(whole)
        with connect(V4, port) as through:
            assert ask(through).startswith(b"HTTP/1.1 200")
            plane.apply(whole, {f"orders:{port}": (Place(Address("inet", V4, port)),)})
            with connect(V4, port) as client:
                assert ask(client).startswith(b"HTTP/1.1 200")
                both = tuple(Place(Address("inet", host, port)) for host in (V4, OTHER_V4))
                plane.apply(whole, {f"orders:{port}": both})
                answer = ask(client)  # by the same connection
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"connection: close" not in answer.lower()
            assert ask(through).startswith(b"HTTP/1.1 200")
        assert totals(plane) == {"outbound": 1, "outbound/orders": 1}


def test_ten_thousand_addresses(run: Run) -> None:
    redirect(15001, "-d", V4)
    with origin_at(V4) as origin:
        port = origin.address[1]
        many = [Endpoint(Address("inet", f"10.98.{n >> 8}.{n & 255}", 80), weight=0) for n in range(10_000)]
        services = [
            Service("many", (*many, Endpoint(Address("inet", V4, port))), Balance("random")),
        ]
        plane = run(config(services, [intercepting(), within("many", "many")]))
        with connect(V4, port) as client:
            assert ask(client).startswith(b"HTTP/1.1 200")
        with TcpServer(echo, host=V4) as other, connect(V4, other.port) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert totals(plane) == {"outbound": 1, "outbound/many": 1}


@pytest.mark.parametrize("host", ["::", "0.0.0.0"])
def test_an_endpoint_without_an_address_is_not_for_all_of_them(run: Run, host: str) -> None:
    redirect(15001, "-d", V4)
    with TcpServer(echo, host=V4) as other:
        run(config([at("odd", host, other.port)], [intercepting(), within("odd", "odd")]))
        with connect(V4, other.port) as client:
            client.sendall(b"not for HTTP")
            assert client.recv(100) == b"not for HTTP"


# ---------------------------------------------------------------- passing through


def test_requests_that_pass_through_share_no_connection(run: Run) -> None:
    """An idle one leads to where another client was going."""
    redirect(15006, "-d", "10.99.0.0/24")
    with origin_at(V4) as one, origin_at(V4) as other:
        ports = (one.address[1], other.address[1])
        inner = within("through", "passthrough", "inbound", ports=ports)
        run(config([], [intercepting("inbound", host="", port=15006), inner]))
        for _ in range(2):
            for origin, port in zip((one, other), ports, strict=True):
                before = len(origin.requests_for("/"))
                with connect(V4, port) as client:
                    assert ask(client).startswith(b"HTTP/1.1 200")
                    assert ask(client).startswith(b"HTTP/1.1 200")
                assert len(origin.requests_for("/")) == before + 2


def test_no_place_speaks_against_another(run: Run) -> None:
    """Nobody listens at the one; the other is served, and the endpoint is up."""
    redirect(15001, "-d", V4)
    odd = Service("passthrough", PASSTHROUGH.endpoints, health=Health(), slow_start=100.0)
    plane = run(Config({"outbound": intercepting()}, {"passthrough": odd}))
    assert all(is_refused(V4, 1) for _ in range(5))
    with TcpServer(echo, host=V4) as server, connect(V4, server.port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    (endpoint,) = plane.plane.stats().endpoints
    assert (endpoint.address, endpoint.state, endpoint.ejections) == ("original", "up", 0)
    assert (endpoint.requests, endpoint.failures) == (6, 5)
    assert not plane.plane.eject("passthrough", "original")


def test_a_client_that_was_not_intercepted_has_no_destination(run: Run) -> None:
    listeners = [Listener("web", (Bind("inet", "127.0.0.1", 0),), "tcp", routes=forward("passthrough"))]
    plane = run(config([], listeners))
    assert is_refused(*plane.address(), mark=0)
    assert plane.plane.stats().errors["no_endpoint"] == 1


def test_the_access_log_tells_where_it_went(run: Run, tmp_path: Path) -> None:
    redirect(15001, "-d", V6, family=6)
    plane = run(config([], [intercepting(host="::1")]))
    log = tmp_path / "access.log"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    plane.plane.set_access_log(fd, "json")
    with TcpServer(echo, host=V6) as server, origin_at(V6) as origin:
        with connect(V6, server.port) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        eventually(lambda: log.read_text(), "the line of the relay")
        assert is_refused(V6, 1)
        eventually(lambda: log.read_text().count("\n") == 2, "the line of the failed connect")
        through = within("through", "passthrough", ports=(origin.address[1],))
        plane.apply(config([], [intercepting(host="::1"), through]))
        with connect(*origin.address) as client:
            assert ask(client).startswith(b"HTTP/1.1 200")
        eventually(lambda: log.read_text().count("\n") == 3, "the line of the request")
    os.close(fd)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["listener"], line["service"], line["endpoint"], line["status"]) for line in lines] == [
        ("outbound", "passthrough", f"[{V6}]:{server.port}", 200),
        ("outbound", "passthrough", f"[{V6}]:1", 502),
        ("outbound/through", "passthrough", f"[{V6}]:{origin.address[1]}", 200),
    ]


# ---------------------------------------------------------------- without a kernel


def test_news_say_how_many() -> None:
    assert refused_news(3, 3) == ()
    (line,) = refused_news(3, 4)
    assert line.startswith("1 connection refused")


def test_what_has_closed() -> None:
    parent, inner = intercepting(), within("orders", "orders")
    before = config([], [parent, inner])
    assert not closed_within(None, before)
    assert not closed_within(before, before)
    assert closed_within(before, config([], [parent]))
    assert closed_within(before, config([], [parent, drained(inner)]))
    assert not closed_within(config([], [parent, drained(inner)]), config([], [parent]))
    plain = config([], [replace(parent, intercept=False)])
    assert closed_within(plain, config([], [parent]))
    assert closed_within(config([], [parent]), plain)
