"""What drains while the data plane serves: listeners, services, endpoints."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from fastmesh.errors import StartError
from fastmesh.model import Bind, Config, Endpoint, Listener, Service
from support.client import Client
from support.origin import Origin
from support.plane import ROUND_ROBIN, WEB, Plane, address_of, config, forward, service
from support.ports import free_port
from support.stage import get
from support.waiting import eventually

Run = Callable[..., Plane]


def origin_of(client: Client) -> str:
    name: str = client.request(get()).json()["origin"]
    return name


def web(bind: Bind, drain: bool = False) -> Listener:
    return Listener("web", (bind,), routes=forward("s"), drain=drain)


def test_a_listener_drains_and_listens_again(run: Run, origins: list[Origin]) -> None:
    bind = Bind("inet", "127.0.0.1", free_port())
    one = service("s", origins[0])
    plane = run(config(one, listeners=[web(bind)]), workers=2)
    address = plane.address()
    thinking, idle = plane.client(), plane.client()
    assert origin_of(thinking) == origin_of(idle) == "a"
    assert plane.apply(config(one, listeners=[web(bind, drain=True)])).changes == ("listener web drains",)
    with pytest.raises(ConnectionRefusedError):
        Client(address)
    (stats,) = plane.plane.stats().listeners
    assert (stats.draining, stats.binds, stats.connections_active) == (True, (), 2)
    assert thinking.request(get()).says_close
    assert thinking.how_it_ended() == "eof"

    def seen_off() -> bool:
        plane.plane.tend()
        return not idle.is_open()

    eventually(seen_off, "the idle client to be let go")
    assert idle.how_it_ended() == "eof"
    idle.close()
    thinking.close()
    eventually(lambda: plane.plane.connections() == 0, "nobody to be left")
    assert plane.apply(config(one, listeners=[web(bind)])).changes == ("listener web drains no more",)
    with plane.client() as client:
        assert not client.request(get()).says_close


def test_only_clients_of_closed_listeners_leave(run: Run, origins: list[Origin]) -> None:
    """Those of the others stay, however long they were idle."""
    binds = [Bind("inet", "127.0.0.1", free_port()) for _ in range(2)]
    one = service("s", origins[0])
    other = Listener("other", (binds[1],), routes=forward("s"))
    plane = run(config(one, listeners=[web(binds[0]), other]), workers=2)
    leaves, stays = plane.client("web"), plane.client("other")
    assert origin_of(leaves) == origin_of(stays) == "a"
    assert plane.plane.leaving() == 0
    plane.apply(config(one, listeners=[web(binds[0], drain=True), other]))
    eventually(lambda: plane.plane.leaving() == 1, "the one that is there")

    def left() -> bool:
        plane.plane.close_idle(0, leaving=True)
        return not leaves.is_open()

    eventually(left, "the client of the closed listener to be let go")
    leaves.close()

    def nobody() -> bool:
        plane.plane.close_idle(0, leaving=True)
        return plane.plane.leaving() == 0

    eventually(nobody, "nobody to leave any more")
    assert origin_of(stays) == "a"
    plane.plane.close_idle(0)
    eventually(lambda: not stays.is_open(), "everybody to be let go")
    stays.close()


def test_a_listener_that_cannot_listen_again_drains_on(run: Run, origins: list[Origin]) -> None:
    bind = Bind("inet", "127.0.0.1", free_port())
    one = service("s", origins[0])
    plane = run(config(one, listeners=[web(bind, drain=True)]))
    with socket.create_server(("127.0.0.1", bind.port)), pytest.raises(StartError, match="in use"):
        plane.apply(config(one, listeners=[web(bind)]))
    assert plane.plane.stats().listeners[0].draining
    plane.apply(config(one, listeners=[web(bind)]))
    with plane.client() as client:
        assert origin_of(client) == "a"


def test_an_endpoint_drains_and_comes_back(run: Run, origins: list[Origin]) -> None:
    def drained(*which: Origin, extra: tuple[Origin, ...] = ()) -> Config:
        endpoints = tuple(
            Endpoint(address_of(origin), drain=origin in which) for origin in (*origins[:2], *extra)
        )
        return config(Service("s", endpoints, ROUND_ROBIN), listeners=[web(WEB)])

    plane = run(drained())
    client = plane.client()
    assert {origin_of(client) for _ in range(4)} == {"a", "b"}
    requests = plane.endpoint(origins[0]).requests
    text = origins[0].text
    assert plane.apply(drained(origins[0])).changes == (f"endpoint {text} of service s drains",)
    eventually(lambda: origins[0].open_connections() == 0, "the idle connection to close")
    assert {origin_of(client) for _ in range(4)} == {"b"}
    assert (plane.endpoint(origins[0]).state, plane.endpoint(origins[0]).requests) == ("draining", requests)
    plane.apply(drained(*origins[:2]))
    answer = client.request(get())
    assert (answer.status, answer.error_code) == (503, "draining")
    plane.apply(drained(*origins[:2], origins[2], extra=(origins[2],)))
    assert client.request(get()).error_code == "draining", "one that comes draining gets nothing either"
    plane.apply(drained())
    assert plane.endpoint(origins[0]).state == "up"
    assert {origin_of(client) for _ in range(4)} == {"a", "b"}
    client.close()


def test_a_drained_endpoint_that_was_removed_begins_anew(run: Run, origins: list[Origin]) -> None:
    one, other = (Endpoint(address_of(origin)) for origin in origins[:2])
    draining = Endpoint(one.address, drain=True)
    plane = run(config(Service("s", (draining, other), ROUND_ROBIN), listeners=[web(WEB)]))
    plane.apply(config(Service("s", (other,), ROUND_ROBIN), listeners=[web(WEB)]))
    plane.apply(config(Service("s", (one, other), ROUND_ROBIN), listeners=[web(WEB)]))
    with plane.client() as client:
        assert {origin_of(client) for _ in range(4)} == {"a", "b"}


def test_of_a_split_the_other_service_gets_it_all(run: Run, origins: list[Origin]) -> None:
    def split(drain: bool) -> Config:
        blue = service("blue", origins[0], drain=drain)
        return config(blue, service("green", origins[1]))

    plane = run(split(False))
    client = plane.client()
    eventually(lambda: origin_of(client) == "a", "the first service's share")
    plane.apply(split(True))
    assert {origin_of(client) for _ in range(20)} == {"b"}
    assert [one.draining for one in plane.plane.stats().services] == [True, False]
    client.close()


def test_what_is_left_is_counted(run: Run, origins: list[Origin]) -> None:
    relay = Listener("relay", (Bind("inet", "127.0.0.2", 0),), "tcp", routes=forward("s"))
    plane = run(config(service("s", origins[0]), listeners=[web(WEB), relay]), workers=2)
    idle, relayed = plane.client(), plane.client("relay")
    assert origin_of(idle) == origin_of(relayed) == "a"
    assert (plane.plane.connections(), plane.plane.tunnels(), plane.plane.busy()) == (2, 1, 1)
    relayed.close()
    idle.close()
    eventually(lambda: plane.plane.connections() == plane.plane.tunnels() == 0, "all to end")
