"""The data plane as the supervisor drives it: real workers, real sockets, changes while it runs."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from fastmesh.engine import DataPlane
from fastmesh.errors import StartError
from fastmesh.model import (
    Address,
    Bind,
    Config,
    Endpoint,
    Limits,
    Listener,
    Place,
    Respond,
    Route,
    Service,
    ServiceLimits,
    Timeouts,
)
from support.client import Client
from support.origin import Exchange, Origin
from support.plane import ROUND_ROBIN, WEB, Plane, address_of, config, forward, service
from support.stage import get
from support.waiting import eventually

Run = Callable[..., Plane]


def origin_of(client: Client) -> str:
    name: str = client.request(get()).json()["origin"]
    return name


# ---------------------------------------------------------------- applying


def test_the_same_again_is_no_change(run: Run, origins: list[Origin]) -> None:
    plane = run(config(service("s", origins[0])))
    before = plane.plane.stats().generation
    result = plane.apply(config(service("s", origins[0])))
    assert (result.changed, result.changes, result.generation) == (False, (), before)
    assert plane.plane.stats().generation == before


def test_a_change_is_in_force_when_apply_returns(run: Run, origins: list[Origin]) -> None:
    plane = run(config(service("s", origins[0])), workers=2)
    with plane.client() as client:
        assert origin_of(client) == "a"
        result = plane.apply(config(service("s", origins[1])))
        assert result.changed
        assert result.changes
        assert origin_of(client) == "b"
    assert {worker.generation for worker in plane.plane.stats().workers} == {result.generation}


def test_names_that_resolve_anew_are_a_change(run: Run, origins: list[Origin]) -> None:
    named = config(Service("s", (Endpoint(Address("name", "api", 80)),), ROUND_ROBIN))
    plane = run(config(service("s", origins[0])))
    assert plane.apply(named, {"api:80": (Place(address_of(origins[0])),)}).changed
    assert not plane.apply(named, {"api:80": (Place(address_of(origins[0])),)}).changed
    result = plane.apply(named, {"api:80": (Place(address_of(origins[1])),)})
    assert result.changes == ("service s: its endpoints resolve to other addresses",)
    with plane.client() as client:
        assert origin_of(client) == "b"


def test_the_next_priority_serves_while_the_first_is_away(run: Run, origins: list[Origin]) -> None:
    endpoints = tuple(
        Endpoint(address_of(origin), priority=priority)
        for origin, priority in zip(origins, (0, 9, 3), strict=True)
    )
    plane = run(config(Service("s", endpoints, ROUND_ROBIN)))
    with plane.client() as client:
        for away, expected in [("", "a"), ("a", "c"), ("ac", "b"), ("c", "a")]:
            plane.plane.set_health({("s", origin.text): origin.name not in away for origin in origins})
            eventually(lambda name=expected: origin_of(client) == name, f"requests go to {expected}")
            assert {origin_of(client) for _ in range(10)} == {expected}


def test_only_what_changed_is_built_anew(run: Run, origins: list[Origin]) -> None:
    """The state of picking goes on for a service that did not change; here: whose turn it is."""
    steady, other = service("s", *origins), service("t", origins[0])
    web = Listener("web", (WEB,), routes=forward("s"))
    plane = run(config(steady, other, listeners=[web]))
    with plane.client() as client:
        seen = []
        for number in range(6):
            seen.append(origin_of(client))
            other = service("t", origins[0], timeouts=Timeouts(connect=1.0 + number))
            plane.apply(config(steady, other, listeners=[web]))
    assert seen == ["a", "b", "c", "a", "b", "c"]


def test_a_port_in_use_changes_nothing(run: Run, origins: list[Origin]) -> None:
    plane = run(config(service("s", origins[0])))
    before = plane.plane.stats().generation
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bad = Bind("inet", "127.0.0.1", taken.getsockname()[1])
        good = Bind("inet", "127.0.0.2", 0)
        listeners = [
            Listener("web", (WEB, bad, good), routes=forward("s")),
            Listener("more", (Bind("unix", path="/nonexistent/socket"),), routes=forward("s")),
        ]
        with pytest.raises(StartError) as refused:
            plane.apply(config(service("s", origins[1]), listeners=listeners))
    first, second = str(refused.value).splitlines()
    assert "listener web" in first
    assert "in use" in first
    assert "listener more" in second
    assert "does not exist" in second
    assert plane.plane.stats().generation == before
    with plane.client() as client:
        assert origin_of(client) == "a"


def test_a_listener_comes_and_goes(run: Run, origins: list[Origin]) -> None:
    one = service("s", origins[0])
    web = Listener("web", (WEB,), routes=forward("s"))
    more = Listener("more", (Bind("inet", "127.0.0.2", 0),), routes=(Route(Respond(200, b"more")),))
    plane = run(config(one, listeners=[web]))
    plane.apply(config(one, listeners=[web, more]))
    address = plane.address("more")
    client = plane.client("more")
    assert client.request(get()).body == b"more"
    plane.apply(config(one, listeners=[web]))
    with pytest.raises(ConnectionRefusedError):
        Client(address)
    last = client.request(get())
    assert last.body == b"more"
    assert last.says_close
    client.close()
    with plane.client() as client:
        assert origin_of(client) == "a"


def test_a_socket_that_changes_its_listener_is_not_closed(run: Run, origins: list[Origin]) -> None:
    one = service("s", origins[0])
    plane = run(config(one))
    address = plane.address()
    client = plane.client()
    assert origin_of(client) == "a"
    renamed = Listener("renamed", (WEB,), routes=(Route(Respond(200, b"renamed")),))
    plane.apply(config(one, listeners=[renamed]))
    assert plane.address("renamed") == address
    # The letter to the worker may still be on its way
    eventually(lambda: client.request(get()).body == b"renamed", "the new listener's routes")
    client.close()


# ---------------------------------------------------------------- what goes on through a change


def test_a_request_keeps_its_endpoint(run: Run, origins: list[Origin]) -> None:
    release = threading.Event()

    def held(exchange: Exchange) -> None:
        assert release.wait(10)
        exchange.reply_echo()

    plane = run(config(service("s", origins[0])))
    with origins[0].answering("/held", held), plane.client() as client:
        client.send(get("/held"))
        origins[0].wait_request("/held")
        plane.apply(config(service("s", origins[1])))
        assert plane.plane._engine.reap() > 0, "the exchange may still be retried within its old block"
        release.set()
        assert client.read_response().json()["origin"] == "a"
        eventually(lambda: origins[0].open_connections() == 0, "its connection to be closed")
        eventually(lambda: plane.plane._engine.reap() == 0, "the old block to be let go")
        assert origin_of(client) == "b"


def test_idle_connections_of_a_removed_endpoint_close_at_once(run: Run, origins: list[Origin]) -> None:
    plane = run(config(service("s", *origins[:2])))
    with plane.client() as client:
        assert [origin_of(client), origin_of(client)] == ["a", "b"]
        plane.apply(config(service("s", origins[1])))
        eventually(lambda: origins[0].open_connections() == 0, "the idle connection to be closed")
        assert origins[1].open_connections() == 1
        assert origin_of(client) == "b"
    assert origins[1].mark().sizes.keys() == {0}, "the connection of the endpoint that stays was used on"


def test_a_tunnel_keeps_no_configuration_alive(run: Run, origins: list[Origin]) -> None:
    """A hundred changes beside an open tunnel: every block is freed, and only its slot waits."""
    done = threading.Event()

    def switch(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        while data := exchange.receive():
            exchange.send(data)
        done.set()

    plane = run(config(service("s", origins[0])))
    with origins[0].answering("/ws", switch), plane.client() as client:
        client.send(get("/ws", b"Upgrade: websocket", b"Connection: Upgrade"))
        assert client.read_response().status == 101
        for number in range(100):
            changed = service("s", origins[1 + number % 2], timeouts=Timeouts(connect=1.0 + number))
            plane.apply(config(changed))
        assert plane.plane._engine.reap() == 0
        client.send(b"ping")
        assert client.read_exactly(4) == b"ping"
        numbers = numbers_given(plane)
        assert numbers == (1, 2)
        client.shutdown_write()
        assert client.how_it_ended() == "eof"
    assert done.wait(5)


def numbers_given(plane: Plane) -> tuple[int, int]:
    """Of services, and of pairs of a listener and a service: how many, those that are free again too."""
    internals = plane.plane
    return len(internals._service_numbers.in_order({})), len(internals._pair_numbers.in_order({}))


def test_numbers_and_slots_are_used_again(run: Run, origins: list[Origin]) -> None:
    plane = run(config(service("s0", origins[0])))
    for number in range(1, 30):
        plane.apply(config(service(f"s{number}", origins[number % 3])))
        with plane.client() as client:
            assert origin_of(client) == "abc"[number % 3]
        eventually(lambda: plane.plane.stats().listeners[0].connections_active == 0, "the client to go")
    internals = plane.plane
    services, pairs = numbers_given(plane)
    assert services <= 3
    assert pairs <= 6
    assert internals._slots._next <= 3
    assert len({slot.index for slot in internals._slots.of.values()}) == 1


def test_a_slot_is_not_given_away_while_a_retry_may_pick_it(run: Run, origins: list[Origin]) -> None:
    """A request that is held at `a` may be retried at `b`, which has left the configuration meanwhile. What
    got b's place then must not be given a request of another service."""
    release = threading.Event()

    def cut(exchange: Exchange) -> None:
        assert release.wait(10)
        exchange.close()

    a, b, c = origins
    plane = run(config(service("s", a, b)))
    with a.answering("/held", cut), plane.client() as client:
        client.send(get("/held"))
        a.wait_request("/held")
        plane.apply(config(service("s", a)))
        plane.apply(config(service("s", a), service("t", c)))
        plane.apply(config(service("s", a), service("t", c, b)))
        release.set()
        client.read_response()
    assert c.requests_for("/held") == []


# ---------------------------------------------------------------- once a second


def test_news_of_endpoints(run: Run, origins: list[Origin]) -> None:
    a, b, _ = origins
    port = address_of(b).port
    b.close()
    plane = run(config(service("s", a, b)))
    assert plane.plane.tend() == ()
    with plane.client() as client:
        assert {origin_of(client), origin_of(client)} == {"a"}
    left_out = f"service s: endpoint {b.text} is left out for 1 s: it refused the connection"
    assert plane.plane.tend() == (left_out,)
    assert plane.plane.tend() == (), "told once"
    again = Origin(name="b", port=port)
    try:
        eventually(lambda: plane.endpoint(b).state == "half_open", "its second to be over", within=5.0)
        assert plane.plane.tend() == (), "nobody knows yet"
        with plane.client() as client:
            assert "b" in {origin_of(client), origin_of(client)}
        assert plane.endpoint(b).state == "up"
        assert plane.plane.tend() == (f"service s: endpoint {b.text} is back",)
        assert plane.plane.tend() == ()
    finally:
        again.close()


def test_what_nobody_uses_any_more_is_freed_without_another_change(run: Run, origins: list[Origin]) -> None:
    plane = run(config(service("s", origins[0])))
    with plane.client() as client:
        assert origin_of(client) == "a"
        plane.apply(config(service("s", origins[1])))
        eventually(lambda: origins[0].open_connections() == 0, "the idle connection to be closed")
        eventually(lambda: (plane.plane.tend(), plane.plane._slots._free)[1] == [0], "the slot to be free")
        assert plane.plane._engine.reap() == 0


# ---------------------------------------------------------------- over all workers


def test_limits_and_queue_are_of_all_workers(run: Run, origins: list[Origin]) -> None:
    """One request at a time, wherever it came in; what waits at one worker goes on when another's ends."""
    release = threading.Event()
    running: list[int] = []
    most: list[int] = []

    def hold(exchange: Exchange) -> None:
        running.append(1)
        most.append(len(running))
        assert release.wait(10)
        running.pop()
        exchange.reply(200, b"held")

    limits = ServiceLimits(requests=1, queue=20, queue_timeout=10.0)
    plane = run(config(service("s", origins[0], limits=limits)), workers=2)
    with origins[0].answering("/held", hold), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(plane.client()) for _ in range(12)]
        clients[0].send(get("/held"))
        origins[0].wait_request("/held")
        for client in clients[1:]:
            client.send(get("/held"))
        eventually(lambda: plane.plane.stats().services[0].queued == 11, "the others to wait")
        release.set()
        assert {client.read_response().status for client in clients} == {200}
    eventually(lambda: plane.plane.stats().services[0].in_flight == 0, "the last to be counted off")
    use = plane.plane.stats().services[0]
    assert (use.queued, use.limited) == (0, 0)
    assert max(most) <= 2, "two workers may begin one at the same moment"


# ---------------------------------------------------------------- statistics


def total(counts: bytes) -> int:
    return sum(struct.unpack(f"<{len(counts) // 8}Q", counts))


@pytest.mark.parametrize("workers", [1, 2])
def test_statistics_add_up(run: Run, origins: list[Origin], workers: int) -> None:
    routes = (
        Route(Respond(200, b"fixed"), path="/fixed"),
        *(Route(route.action, path="/api") for route in forward("s")),
    )
    web = Listener("web", (WEB,), routes=routes)
    plane = run(config(service("s", *origins), listeners=[web]), workers=workers)
    sent = received = 0
    for _ in range(6):
        with plane.client() as client:
            for target in ("/api/1", "/api/2", "/fixed", "/nowhere"):
                response = client.request(get(target))
                sent += len(get(target))
                received += len(response.raw_head) + len(response.body)
    eventually(lambda: plane.plane.stats().listeners[0].connections_active == 0, "the clients to be gone")
    stats = plane.plane.stats()
    pairs = {(pair.listener, pair.service): pair for pair in stats.pairs}
    assert pairs["web", "s"].codes == {200: 12}
    assert pairs["web", ""].codes == {200: 6, 404: 6}
    assert {key: total(pair.duration.counts) for key, pair in pairs.items()} == {
        ("web", "s"): 12,
        ("web", ""): 12,
    }
    assert [total(one.upstream_duration.counts) for one in stats.services] == [12]
    assert sum(one.requests for one in stats.endpoints) == 12
    assert sum(total(one.latency.counts) for one in stats.endpoints) == 12
    assert {(one.in_flight, one.failures, one.connections_active) for one in stats.endpoints} == {(0, 0, 0)}
    assert stats.errors["no_route"] == 6
    assert sum(stats.errors.values()) == 6
    (listener,) = stats.listeners
    assert (listener.connections_total, listener.bytes_received, listener.bytes_sent) == (
        24 // 4,
        sent,
        received,
    )
    assert sum(worker.exchanges for worker in stats.workers) == 0
    assert plane.plane.busy() == 0


def test_failures_are_counted_where_they_happened(run: Run, origins: list[Origin]) -> None:
    a, b, _ = origins
    b.close()
    plane = run(config(service("s", a, b)))
    with plane.client() as client:
        for _ in range(4):
            assert origin_of(client) == "a"
    assert (plane.endpoint(b).failures, plane.endpoint(b).state) == (1, "down")
    assert (plane.endpoint(a).failures, plane.endpoint(a).state) == (0, "up")
    assert sum(plane.plane.stats().errors.values()) == 0, "what a retry mended is no error to a client"


def test_a_service_that_inherits_numbers_begins_at_zero(run: Run, origins: list[Origin]) -> None:
    plane = run(config(service("s0", origins[0])))
    for number in range(1, 5):
        with plane.client() as client:
            assert origin_of(client) == "a"
        eventually(lambda: plane.plane.stats().listeners[0].connections_active == 0, "the client to go")
        stats = plane.plane.stats()
        assert [(pair.service, pair.codes) for pair in stats.pairs] == [(f"s{number - 1}", {200: 1})]
        assert [total(one.upstream_duration.counts) for one in stats.services] == [1]
        assert [(one.requests, total(one.latency.counts)) for one in stats.endpoints] == [(1, 1)]
        plane.apply(config(service(f"s{number}", origins[0])))
        fresh = plane.plane.stats()
        assert [pair.codes for pair in fresh.pairs if pair.codes] == []
        assert [one.requests for one in fresh.endpoints] == [0]


def test_a_tunnel_that_outlives_its_service_is_counted_for_no_other(run: Run, origins: list[Origin]) -> None:
    a, b, _ = origins

    def switch(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        while data := exchange.receive():
            exchange.send(data)

    plane = run(config(service("s0", a)))
    with a.answering("/ws", switch), plane.client() as client:
        client.send(get("/ws", b"Upgrade: websocket", b"Connection: Upgrade"))
        assert client.read_response().status == 101
        for number in range(1, 4):
            plane.apply(config(service(f"s{number}", b)))
        client.shutdown_write()
        assert client.how_it_ended() == "eof"
    eventually(lambda: plane.plane.busy() == 0, "the tunnel to end")
    seen = {plane.plane.stats().pairs}
    plane.apply(config(service("s4", b)))
    seen.add(plane.plane.stats().pairs)
    assert [pair.service for pairs in seen for pair in pairs if 101 in pair.codes] == []


# ---------------------------------------------------------------- drain and stop


def test_draining(run: Run, origins: list[Origin]) -> None:
    release = threading.Event()

    def held(exchange: Exchange) -> None:
        assert release.wait(10)
        exchange.reply_echo()

    plane = run(config(service("s", origins[0])))
    address = plane.address()
    idle, busy = plane.client(), plane.client()
    assert origin_of(idle) == "a"
    with origins[0].answering("/held", held):
        busy.send(get("/held"))
        origins[0].wait_request("/held")
        plane.plane.begin_drain()
        late = plane.client()
        assert late.request(get()).says_close, "who comes before the listeners close is served"
        plane.plane.close_listeners()
        with pytest.raises(ConnectionRefusedError):
            Client(address)
        plane.plane.close_idle(10.0)
        assert idle.is_open()

        def let_go() -> bool:
            plane.plane.close_idle(0.0)
            return not idle.is_open()

        eventually(let_go, "the idle client to be let go")
        assert idle.how_it_ended() == "eof"
        assert plane.plane.busy() == 1
        release.set()
        response = busy.read_response()
    assert response.says_close
    assert response.json()["origin"] == "a"
    eventually(lambda: plane.plane.busy() == 0, "the last exchange to end")
    for client in (idle, busy, late):
        client.close()


def test_stop_in_the_middle_of_everything(run: Run, origins: list[Origin]) -> None:
    """Requests in all states, a relay, idle connections: nothing is left."""
    go = threading.Event()

    def held(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 300_000)
        go.set()
        exchange.wait_peer_end()

    one = service("s", origins[0])
    relay = Listener("relay", (Bind("inet", "127.0.0.2", 0),), "tcp", routes=forward("s"))
    web = Listener("web", (WEB,), routes=forward("s"))
    plane = run(config(one, listeners=[web, relay]), workers=2)
    with origins[0].answering("/held", held):
        clients = [plane.client() for _ in range(6)] + [plane.client("relay")]
        clients[0].send(get("/held"))
        clients[1].send(b"GET / HT")
        clients[2].send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        assert origin_of(clients[3]) == "a"
        assert origin_of(clients[6]) == "a"
        assert go.wait(5)
        plane.stop()
        for client in clients:
            client.read_to_end()
            client.close()


def test_stop_without_start() -> None:
    plane = DataPlane(workers=2, connection_limit=10)
    plane.apply(Config({"web": Listener("web", (WEB,))}, {}), {})
    plane.stop()
    assert dict(plane.ledger()) == {}


def test_the_limit_of_connections_is_that_of_all_workers(run: Run, origins: list[Origin]) -> None:
    plane = run(config(service("s", origins[0]), limits=Limits()), workers=2, connection_limit=3)
    held = []
    for _ in range(3):
        held.append(plane.client())
        assert origin_of(held[-1]) == "a"
    with plane.client() as fourth:
        assert fourth.read_response().status == 503
    for client in held:
        client.close()
