"""Active checks of a running fastmesh: who is given requests, and what operators are shown."""

from __future__ import annotations

import itertools
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from support.client import Client
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.real import Nginx
from support.tcp import TcpServer, echo, receive_exactly
from support.waiting import eventually
from support.wire import get

Start = Callable[..., Proxy]
Origins = Callable[..., Origin]

HEALTH = {"path": "/healthz", "interval": "100ms", "timeout": "500ms", "healthy": 2, "unhealthy": 2}


def fails(exchange: Exchange) -> None:
    exchange.reply(500)


def site(services: dict[str, Any], routes: dict[str, str] | None = None, port: int = 0) -> dict[str, Any]:
    listener = {"bind": f"127.0.0.1:{port or free_port()}", "routes": routes or {"/": "s"}}
    return {"workers": 1, "drain": {"timeout": "2s"}, "listeners": {"web": listener}, "services": services}


def address(config: dict[str, Any]) -> tuple[str, int]:
    return "127.0.0.1", int(config["listeners"]["web"]["bind"].rpartition(":")[2])


def picks(config: dict[str, Any], count: int = 10) -> Counter[str]:
    """How often each origin answers; the error code where none does."""
    found: Counter[str] = Counter()
    with Client(address(config)) as client:
        for _ in range(count):
            response = client.request(get("/"))
            found[response.json()["origin"] if response.status == 200 else str(response.error_code)] += 1
    return found


def endpoint(proxy: Proxy, origin: Origin, service: str = "s") -> Any:
    """What /api/v1/services shows of it."""
    return next(
        item
        for one in proxy.api("services")["services"]
        if one["service"] == service
        for item in one["endpoints"]
        if item["address"] == origin.text
    )


def test_an_endpoint_that_fails_its_checks_gets_no_request_and_comes_back(
    start: Start, origins: Origins
) -> None:
    a, b = origins("a"), origins("b")
    config = site({"s": {"endpoints": [a.text, b.text], "health": HEALTH, "balance": "round_robin"}})
    proxy = start(config)
    assert picks(config) == {"a": 5, "b": 5}
    with b.answering("/healthz", fails):
        eventually(lambda: endpoint(proxy, b)["health"]["state"] == "unhealthy", "the endpoint to be out")
        eventually(lambda: picks(config) == {"a": 10}, "all requests to go to the other one")
        shown = endpoint(proxy, b)
        assert shown["state"] == "unhealthy"
        assert shown["health"]["last_error"] == "answered 500, expected 200-399"
        assert shown["health"]["since"] <= shown["health"]["last_check"]
        last = shown["health"]["history"][-1]
        assert (last["passed"], last["result"]) == (False, "answered 500, expected 200-399")
        assert proxy.metric("fastmesh_endpoint_healthy", endpoint=b.text) == 0
        assert proxy.metric("fastmesh_endpoint_healthy", endpoint=a.text) == 1
        assert proxy.metric("fastmesh_health_checks_total", service="s", result="failed") >= 2
    eventually(lambda: picks(config) == {"a": 5, "b": 5}, "the endpoint to be back")
    assert endpoint(proxy, b)["health"]["state"] == "healthy"
    lines = [line.partition("fastmesh.health: ")[2] for line in proxy.stderr.splitlines()]
    assert [line for line in lines if line] == [
        f"service s: endpoint {b.text} is unhealthy: answered 500, expected 200-399 (2 checks in a row)",
        f"service s: endpoint {b.text} is healthy again",
    ]


def test_no_request_meets_an_endpoint_that_was_not_checked(start: Start, origins: Origins) -> None:
    """From the first request on, at the start and after a change that adds endpoints."""
    a, b, c = origins("a"), origins("b"), origins("c")
    slow = {**HEALTH, "interval": "1h"}
    config = site({"s": {"endpoints": [b.text, a.text], "health": slow, "balance": "round_robin"}})
    with b.answering("/healthz", fails), c.answering("/healthz", fails):
        proxy = start(config)
        assert picks(config) == {"a": 10}
        config["services"]["s"]["endpoints"].append(c.text)
        proxy.write(config)
        eventually(lambda: proxy.metric("fastmesh_config_reloads_total", result="applied") == 1, "the change")
        assert endpoint(proxy, c)["health"]["state"] == "unhealthy"
        assert picks(config) == {"a": 10}
    assert not b.requests_for("/")
    assert not c.requests_for("/")


def test_all_unhealthy_answers_no_endpoint(start: Start, origins: Origins) -> None:
    a = origins("a")
    config = site({"s": {"endpoints": [a.text], "health": HEALTH}})
    with a.answering("/healthz", fails):
        start(config)
        assert picks(config, 3) == {"no_endpoint": 3}
    eventually(lambda: picks(config, 3) == {"a": 3}, "the endpoint to be back")


def test_what_hangs_or_refuses_at_the_start(start: Start, origins: Origins) -> None:
    a = origins("a")

    def silent(sock: Any) -> None:
        while sock.recv(4096):
            pass

    with TcpServer(silent) as hanging:
        nobody = f"127.0.0.1:{free_port()}"
        endpoints = [hanging.text, nobody, a.text]
        config = site({"s": {"endpoints": endpoints, "health": HEALTH, "balance": "round_robin"}})
        proxy = start(config)
        assert picks(config) == {"a": 10}
        errors = [item["health"]["last_error"] for item in proxy.api("services")["services"][0]["endpoints"]]
        assert errors == ["no answer within 500 ms", "connection refused", None]
        proxy.stop()


def test_a_service_with_checks_is_added_by_a_change_under_load(start: Start, origins: Origins) -> None:
    """Requests never pause: first to a service without checks, then to one with checks and a bad endpoint."""
    a, b, bad = origins("a"), origins("b"), origins("bad")
    config = site({"s": {"endpoints": [a.text]}})
    stop = threading.Event()
    problems: list[str] = []
    done = [0]

    def load() -> None:
        with Client(address(config)) as client:
            while not stop.is_set():
                response = client.request(get("/"))
                if response.status != 200 or response.json()["origin"] == "bad":
                    problems.append(f"{response.status} {response.error_code} {response.body[:80]!r}")
                done[0] += 1

    with bad.answering("/healthz", fails):
        proxy = start(config)
        thread = threading.Thread(target=load, daemon=True)
        thread.start()
        changes: list[dict[str, Any]] = [
            {"s": {"endpoints": [a.text]}, "t": {"endpoints": [b.text, bad.text], "health": HEALTH}},
            {"t": {"endpoints": [bad.text, b.text, a.text], "health": HEALTH}},
            {"t": {"endpoints": [a.text, bad.text], "health": {**HEALTH, "interval": "1s"}}},
        ]
        for number, services in enumerate(changes, start=1):
            config["services"] = services
            config["listeners"]["web"]["routes"] = {"/": "t"}
            proxy.replace(config)
            eventually(
                lambda number=number: (
                    proxy.metric("fastmesh_config_reloads_total", result="applied") == number
                ),
                f"change {number}",
            )
            before = done[0]
            eventually(lambda before=before: done[0] > before + 30 or problems, "requests to go on")
        stop.set()
        thread.join(10)
    assert not problems, problems[:5]


def test_checks_that_are_added_to_a_service_in_use(start: Start, origins: Origins) -> None:
    """Its endpoints go on being used, but for the one that fails."""
    a, b = origins("a"), origins("b")
    service: dict[str, Any] = {"endpoints": [a.text, b.text], "balance": "round_robin"}
    config = site({"s": service})
    with b.answering("/healthz", fails):
        proxy = start(config)
        assert picks(config) == {"a": 5, "b": 5}
        service["health"] = HEALTH
        proxy.write(config)
        eventually(lambda: picks(config) == {"a": 10}, "the endpoint that fails to be out")
        del service["health"]
        proxy.write(config)
        eventually(lambda: picks(config) == {"a": 5, "b": 5}, "both to be used without checks")
        assert endpoint(proxy, b)["health"] is None
        assert "fastmesh_endpoint_healthy{" not in proxy.metrics()


def test_names_that_resolve_to_other_addresses_are_checked_too(start: Start, origins: Origins) -> None:
    a = origins("a")
    port = a.text.rpartition(":")[2]
    config = site({"s": {"endpoints": [f"localhost:{port}"], "health": HEALTH}})
    proxy = start(config)
    assert picks(config, 3) == {"a": 3}
    assert endpoint(proxy, a)["health"]["state"] == "healthy"


def test_what_a_check_asks_for_and_expects(start: Start, origins: Origins) -> None:
    a, b = origins("a"), origins("b")
    seen: list[tuple[str, str | None, str | None, str]] = []

    def ready(exchange: Exchange) -> None:
        request = exchange.request
        seen.append((request.method, request.get("host"), request.get("x-probe"), request.target))
        exchange.reply(204 if exchange.origin is a else 200, b"" if exchange.origin is a else b"not yet")

    health = {
        **HEALTH,
        "path": "/ready?full=1",
        "method": "POST",
        "host": "shop.example",
        "headers": {"x-probe": "fm"},
        "expect": [204, "200-201"],
        "body": {"regex": "^(yes)?$"},
    }
    config = site({"s": {"endpoints": [a.text, b.text], "health": health}})
    with a.answering("/ready", ready), b.answering("/ready", ready):
        proxy = start(config)
        assert picks(config) == {"a": 10}
        assert endpoint(proxy, b)["health"]["last_error"] == "the body does not match '^(yes)?$'"
    assert set(seen) == {("POST", "shop.example", "fm", "/ready?full=1")}


def test_a_tcp_service_with_tcp_checks(start: Start) -> None:
    with TcpServer(echo) as server:
        nobody = f"127.0.0.1:{free_port()}"
        port = free_port()
        config = {
            "listeners": {"db": {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "service": "db"}},
            "services": {"db": {"endpoints": [nobody, server.text], "health": "tcp"}},
        }
        proxy = start(config)
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", port), 10) as sock:
                sock.sendall(b"hello")
                assert receive_exactly(sock, 5) == b"hello"
        states = [item["health"]["state"] for item in proxy.api("services")["services"][0]["endpoints"]]
        assert states == ["unhealthy", "healthy"]
        proxy.stop()


def test_with_too_few_healthy_all_are_used(start: Start, origins: Origins) -> None:
    a, b, c = origins("a"), origins("b"), origins("c")
    health = {**HEALTH, "panic_threshold": "50%"}
    service = {"endpoints": [a.text, b.text, c.text], "health": health, "balance": "round_robin"}
    config = site({"s": service})
    with b.answering("/healthz", fails), c.answering("/healthz", fails):
        proxy = start(config)
        assert picks(config, 12) == {"a": 4, "b": 4, "c": 4}
        assert proxy.api("services")["services"][0]["health"] == {"healthy": 1, "checked": 3, "panic": True}
        assert proxy.stderr.count("fewer than its panic threshold: all are used") == 1
        with a.answering("/healthz", fails):
            eventually(lambda: proxy.metric("fastmesh_endpoint_healthy", service="s") == 0, "all to fail")
            assert picks(config, 12) == {"a": 4, "b": 4, "c": 4}
    eventually(lambda: proxy.metric("fastmesh_endpoint_healthy", service="s") == 3, "all to be back")
    assert picks(config, 12) == {"a": 4, "b": 4, "c": 4}


@pytest.mark.slow
def test_an_endpoint_that_answers_worse_than_its_peer_is_left_out(start: Start, origins: Origins) -> None:
    """Too seldom in a row for the workers to act on it; an interval of the default is five seconds."""
    a, b = origins("a"), origins("b")
    answered = itertools.count()

    def mostly_fails(exchange: Exchange) -> None:
        exchange.reply_echo() if next(answered) % 3 == 0 else exchange.reply(500)

    config = site({"s": {"endpoints": [a.text, b.text], "balance": "round_robin"}})
    with b.answering("/", mostly_fails):
        proxy = start(config)

        def ejected() -> bool:
            with Client(address(config)) as client:
                for _ in range(50):
                    client.request(get("/"))
            return f"endpoint {b.text} is worse than its peers: 33 % of" in proxy.stderr

        eventually(ejected, "the comparison to find it", within=30)
        shown = endpoint(proxy, b)
        assert shown["ejections"] == 1
        assert shown["state"] in ("down", "half_open")
        assert "success rate" in shown["reason"]
        assert proxy.metric("fastmesh_endpoint_ejections_total", endpoint=b.text) == 1
        assert proxy.metric("fastmesh_endpoint_ejections_total", endpoint=a.text) == 0


@pytest.mark.parametrize("path", ["/small.txt", "/redirect", "/gone"])
def test_nginx_as_the_origin(start: Start, nginx: Nginx, path: str) -> None:
    config = site({"s": {"endpoints": [nginx.text], "health": {**HEALTH, "path": path}}})
    proxy = start(config)
    shown = proxy.api("services")["services"][0]
    health = shown["endpoints"][0]["health"]
    if path == "/gone":
        assert (health["state"], health["last_error"]) == ("unhealthy", "answered 404, expected 200-399")
    else:
        assert (health["state"], health["last_error"]) == ("healthy", None)
    assert shown["health"] == {"healthy": int(path != "/gone"), "checked": 1, "panic": False}
    with Client(address(config)) as client:
        assert client.request(get("/small.txt")).status == (503 if path == "/gone" else 200)
