"""What operators set for failing endpoints, from outside: priorities, slow start, limits, what is told."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support.client import Client
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.waiting import eventually
from support.wire import get

Start = Callable[..., Proxy]
Origins = Callable[..., Origin]
Address = tuple[str, int]


def config(port: int, endpoints: list[Any], **service: Any) -> dict[str, Any]:
    return {
        "workers": 1,
        "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "s"}}},
        "services": {"s": {"endpoints": endpoints, **service}},
    }


def serve(start: Start, endpoints: list[Any], **service: Any) -> tuple[Proxy, Address]:
    port = free_port()
    return start(config(port, endpoints, **service)), ("127.0.0.1", port)


def picks(client: Client, count: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(count):
        response = client.request(get("/"))
        assert response.status == 200, response
        found[response.json()["origin"]] += 1
    return found


def states(proxy: Proxy) -> dict[str, Any]:
    return {item["address"]: item for item in proxy.api("services")["services"][0]["endpoints"]}


def wait_queued(proxy: Proxy, count: int) -> None:
    eventually(lambda: proxy.metric("fastmesh_queued_requests", service="s") == count, f"{count} queued")


@contextmanager
def held(origin: Origin, address: Address, count: int) -> Iterator[list[Client]]:
    """So many requests are with the origin, until the end of the block; then each is answered."""
    release = threading.Event()

    def hold(exchange: Exchange) -> None:
        assert release.wait(10)
        exchange.reply_echo()

    with origin.answering("/held", hold):
        clients = [Client(address) for _ in range(count)]
        for client in clients:
            client.send(get("/held"))
        origin.wait_request("/held", count=count)
        try:
            yield clients
        finally:
            release.set()
            for client in clients:
                assert client.read_response().status == 200
                client.close()


def test_the_next_priority_takes_over_when_the_first_is_gone(start: Start, origins: Origins) -> None:
    first, second, spare = origins("a"), origins("b"), origins("spare")
    endpoints = [first.text, second.text, {"address": spare.text, "priority": 1}]
    proxy, address = serve(start, endpoints)
    with Client(address) as client:
        assert picks(client, 100)["spare"] == 0
        second.close()
        # Half of the first group carries 1.4 times a half of the load
        eventually(lambda: picks(client, 20) and states(proxy)[second.text]["state"] == "down", "down")
        assert 10 < picks(client, 200)["spare"] < 110
        first.close()
        assert set(picks(client, 50)) == {"spare"}
    assert states(proxy)[second.text]["reason"] == "it refused the connection"
    proxy.wait_log(f"endpoint {second.text} is left out for 1 s: it refused the connection")


def test_a_new_endpoint_starts_slowly(start: Start, origins: Origins) -> None:
    old, new = origins("old"), origins("new")
    port = free_port()
    proxy = start(config(port, [old.text], balance="round_robin", slow_start="1h"))
    with Client(("127.0.0.1", port)) as client:
        assert picks(client, 50) == {"old": 50}, "what is there at the start is not new"
        proxy.write(config(port, [old.text, new.text], balance="round_robin", slow_start="1h"))
        eventually(lambda: new.text in states(proxy), "the new endpoint")
        assert 5 < picks(client, 500)["new"] < 120  # a tenth of a half is 24


def test_what_is_over_a_limit_is_refused_at_once(start: Start, origins: Origins) -> None:
    origin = origins()
    proxy, address = serve(start, [origin.text], limits={"requests": 2})
    with held(origin, address, 2), Client(address) as client:
        response = client.request(get("/"))
        assert (response.status, response.error_code) == (503, "too_many_requests")
        assert response.get("retry-after") == b"1"
        assert proxy.metric("fastmesh_limited_total", service="s") == 1
    with Client(address) as client:
        assert picks(client, 1).total() == 1


def test_a_queue_is_served_in_order_and_has_an_end(start: Start, origins: Origins) -> None:
    origin = origins()
    limits = {"requests": 1, "queue": 2, "queue_timeout": "10s"}
    proxy, address = serve(start, [origin.text], limits=limits)
    waiting = [Client(address) for _ in range(2)]
    with held(origin, address, 1):
        for number, client in enumerate(waiting):
            client.send(get(f"/{number}"))
            wait_queued(proxy, number + 1)
        with Client(address) as client:
            response = client.request(get("/"))
            assert (response.status, response.error_code) == (503, "too_many_requests")
    for client in waiting:
        assert client.read_response().status == 200
        client.close()
    order = [request.target for one in origin.connections for request in one.requests]
    assert [target for target in order if target in ("/0", "/1")] == ["/0", "/1"]


def test_who_waits_too_long_in_the_queue_is_told(start: Start, origins: Origins) -> None:
    origin = origins()
    limits = {"requests": 1, "queue": 5, "queue_timeout": "50ms"}
    _, address = serve(start, [origin.text], limits=limits)
    with held(origin, address, 1), Client(address) as client:
        response = client.request(get("/"))
        assert (response.status, response.error_code) == (503, "queue_timeout")
        assert response.get("retry-after") == b"1"


def test_an_endpoint_that_is_full_is_passed_over(start: Start, origins: Origins) -> None:
    full, free = origins("full"), origins("free")
    _, address = serve(
        start, [full.text, free.text], balance="round_robin", limits={"endpoint": {"requests": 1}}
    )
    release = threading.Event()

    def hold(exchange: Exchange) -> None:
        assert release.wait(10)
        exchange.reply_echo()

    with full.answering("/held", hold), free.answering("/held", hold), Client(address) as first:
        first.send(get("/held"))
        eventually(lambda: full.requests_for("/held") or free.requests_for("/held"), "held")
        taken = "full" if full.requests_for("/held") else "free"
        with Client(address) as client:
            assert taken not in picks(client, 20)
        release.set()
        assert first.read_response().status == 200


def test_retries_and_answers_are_counted(start: Start, origins: Origins) -> None:
    bad, good = origins("bad"), origins("good")

    def unavailable(exchange: Exchange) -> None:
        exchange.reply(503, b"busy")

    proxy, address = serve(start, [bad.text, good.text], balance="round_robin")
    with bad.answering("/", unavailable), Client(address) as client:
        assert picks(client, 20) == {"good": 20}
    assert proxy.metric("fastmesh_retries_total", service="s") == 3, "then it is left out"
    endpoint = states(proxy)[bad.text]
    assert (endpoint["ejections"], endpoint["reason"]) == (1, "it answered 503")
    proxy.wait_log(f"endpoint {bad.text} is left out for 1 s: it answered 503")
