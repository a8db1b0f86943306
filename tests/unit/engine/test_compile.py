"""The model becomes plain values: whole milliseconds, numbers, bytes, endpoints without names."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from fastmesh.engine.compile import (
    UNSET_MS,
    WITHIN_NONE,
    listener_spec,
    milliseconds,
    resolve_endpoints,
    service_spec,
    split,
)
from fastmesh.model import (
    Address,
    Balance,
    Config,
    Endpoint,
    Forward,
    Forwarded,
    HashKey,
    Limits,
    Listener,
    OutlierDetection,
    Place,
    Redirect,
    Respond,
    Retries,
    Route,
    Service,
    ServiceLimits,
    Timeouts,
    Upstream,
)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, 0), (0.0001, 1), (0.001, 1), (0.0016, 2), (1.5, 1500), (3600, 3_600_000), (1e12, 0x7FFFFFFF)],
)
def test_milliseconds(seconds: float | None, expected: int) -> None:
    assert milliseconds(seconds) == expected


@given(st.floats(min_value=1e-9, max_value=1e15))
def test_a_limit_never_becomes_no_limit(seconds: float) -> None:
    assert 1 <= milliseconds(seconds) < UNSET_MS


def inet(host: str, port: int = 80) -> Address:
    return Address("inet", host, port)


def test_names_are_replaced_by_their_addresses() -> None:
    name = Address("name", "api", 80)
    service = Service("s", (Endpoint(name, 2), Endpoint(inet("10.0.0.9"), 5, priority=3)))
    resolved = {"api:80": (Place(inet("10.0.0.1")), Place(inet("10.0.0.2")))}
    assert resolve_endpoints(service, resolved) == (
        (inet("10.0.0.1"), "10.0.0.1:80", 2, 0, False),
        (inet("10.0.0.2"), "10.0.0.2:80", 2, 0, False),
        (inet("10.0.0.9"), "10.0.0.9:80", 5, 3, False),
    )


def test_srv_records_say_shares_and_priorities() -> None:
    name = Address("srv", "_http._tcp.api")
    service = Service("s", (Endpoint(name, 2, priority=100), Endpoint(inet("10.0.0.9"))))
    places = (
        Place(inet("10.0.0.1"), 7),
        Place(inet("10.0.0.2", 81), 60_000, 1),
        Place(inet("10.0.0.3"), 1, 90),
    )
    assert resolve_endpoints(service, {"_http._tcp.api": places}) == (
        (inet("10.0.0.1"), "10.0.0.1:80", 14, 100, False),
        (inet("10.0.0.2", 81), "10.0.0.2:81", 65_535, 101, False),
        (inet("10.0.0.3"), "10.0.0.3:80", 2, 127, False),
        (inet("10.0.0.9"), "10.0.0.9:80", 1, 0, False),
    )


def test_a_name_without_an_address_is_no_endpoint() -> None:
    assert resolve_endpoints(Service("s", (Endpoint(Address("name", "api", 80)),)), {}) == ()


def test_an_address_that_is_reached_twice_has_the_sum_of_the_weights() -> None:
    service = Service("s", (Endpoint(Address("name", "api", 80), 2), Endpoint(inet("10.0.0.1"), 5)))
    assert resolve_endpoints(service, {"api:80": (Place(inet("10.0.0.1")),)}) == (
        (inet("10.0.0.1"), "10.0.0.1:80", 7, 0, False),
    )


@pytest.mark.parametrize("priorities", [(2, 0, 1), (0, 2, 1), (1, 2, 0)])
def test_an_address_that_is_reached_twice_has_its_lowest_priority_number(
    priorities: tuple[int, int, int],
) -> None:
    endpoints = tuple(Endpoint(inet("10.0.0.1"), priority=priority) for priority in priorities)
    assert resolve_endpoints(Service("s", endpoints), {}) == ((inet("10.0.0.1"), "10.0.0.1:80", 3, 0, False),)


@pytest.mark.parametrize("drains", [(True, True), (True, False), (False, True)])
def test_an_address_that_is_reached_twice_drains_when_it_does_each_time(drains: tuple[bool, bool]) -> None:
    endpoints = tuple(Endpoint(inet("10.0.0.1"), drain=drain) for drain in drains)
    ((*_, found),) = resolve_endpoints(Service("s", endpoints), {})
    assert found == all(drains)


HERE, GONE = Endpoint(inet("10.0.0.1")), Endpoint(inet("10.0.0.2"), drain=True)
UNPICKED = Endpoint(inet("10.0.0.3"), weight=0)


@pytest.mark.parametrize(
    ("blue", "green", "shares"),
    [
        (Service("blue", (HERE,)), Service("green", (HERE,)), (90, 10)),
        (Service("blue", (HERE,), drain=True), Service("green", (HERE,)), (0, 10)),
        (Service("blue", (GONE,)), Service("green", (HERE, GONE)), (0, 10)),
        (Service("blue", (GONE, UNPICKED)), Service("green", (HERE,)), (0, 10)),
        (Service("blue", (UNPICKED,)), Service("green", (HERE,)), (90, 10)),
        (Service("blue"), Service("green", (HERE,)), (90, 10)),
        (Service("blue", drain=True), Service("green", drain=True), (90, 10)),
    ],
    ids=["none", "one", "all-endpoints", "all-that-are-picked", "none-is-picked", "no-endpoints", "both"],
)
def test_of_a_split_the_others_get_what_drains(
    blue: Service, green: Service, shares: tuple[int, int]
) -> None:
    services = {"blue": blue, "green": green}
    assert split((("blue", 90), ("green", 10)), services) == (("blue", shares[0]), ("green", shares[1]))


def test_a_service_of_weight_0_does_not_take_over() -> None:
    services = {"blue": Service("blue", drain=True), "green": Service("green")}
    assert split((("blue", 1), ("green", 0)), services) == (("blue", 1), ("green", 0))


def test_a_service() -> None:
    spec = service_spec(
        Service(
            "s",
            balance=Balance(
                "maglev", (HashKey("header", "x-user"), HashKey("cookie", "id")), 1.25, 2048, 251
            ),
            timeouts=Timeouts(connect=0.5, response=2, idle=3, idle_tcp=None, header=9, total=4),
            upstream=Upstream(keepalive=7, idle=8, max_age=600),
            send_proxy="v2",
            retries=Retries(3, 0.5, ("reset", "timeout"), (429, 503), 1.5, True),
            outlier_detection=OutlierDetection(7, 4, 0.2, 9, 2, 60, 0.3),
            limits=ServiceLimits(10, 20, 30, 0.7, 4, 5),
            slow_start=12,
            drain=True,
        ),
        3,
        [(5, 1, 0), (6, 2, 3)],
    )
    assert spec == {
        "index": 3,
        "name": b"s",
        "policy": 4,
        "ring_size": 2048,
        "table_size": 251,
        "bounded_load": 1250,
        "keys": [(2, b"x-user"), (3, b"id")],
        "endpoints": [(5, 1, 0), (6, 2, 3)],
        "connect_ms": 500,
        "response_ms": 2000,
        "idle_ms": 3000,
        "tunnel_idle_ms": 0,
        "total_ms": 4000,
        "pool_idle_ms": 8000,
        "keepalive": 7,
        "max_age_ms": 600_000,
        "send_proxy": 2,
        "draining": True,
        "retry_attempts": 3,
        "retry_budget": 500,
        "retry_on": 2 + 4,
        "retry_codes": [429, 503],
        "retry_unsafe": True,
        "per_try_ms": 1500,
        "eject_5xx": 7,
        "eject_gateway": 4,
        "eject_base_ms": 2000,
        "eject_max_ms": 60_000,
        "eject_most": 300,
        "slow_start_ms": 12_000,
        "limit_connections": 10,
        "limit_requests": 20,
        "limit_queue": 30,
        "queue_ms": 700,
        "limit_endpoint_connections": 4,
        "limit_endpoint_requests": 5,
    }


def test_what_a_service_does_not_say_is_without_a_limit() -> None:
    spec = service_spec(Service("s", retries=Retries(budget=None), outlier_detection=None), 0, [])
    limits = ("connections", "requests", "endpoint_connections", "endpoint_requests")
    assert {spec[f"limit_{name}"] for name in limits} == {spec["retry_budget"]} == {0xFFFFFFFF}
    assert (spec["eject_5xx"], spec["eject_gateway"]) == (0, 0)
    assert spec["eject_base_ms"] > 0, "one that takes no connections is left out all the same"
    assert (spec["slow_start_ms"], spec["max_age_ms"], spec["per_try_ms"]) == (0, 0, 0)


@pytest.mark.parametrize("on", [(), ("connect-failure",), ("timeout", "connect-failure", "timeout")])
def test_after_what_is_retried(on: tuple[Any, ...]) -> None:
    bits = {"connect-failure": 1, "reset": 2, "timeout": 4}
    assert service_spec(Service("s", retries=Retries(on=on)), 0, [])["retry_on"] == sum(
        bits[name] for name in set(on)
    )


def test_without_keys_the_source_address_is_the_key() -> None:
    spec = service_spec(Service("s", balance=Balance("ring_hash")), 0, [])
    assert (spec["keys"], spec["bounded_load"], spec["send_proxy"]) == ([(0, b"")], 0, 0)


def compiled(listener: Listener, **config: Any) -> dict[str, Any]:
    services = ["a", "b"]
    pairs = ["", "a", "b"]
    return listener_spec(
        listener,
        Config({}, {name: Service(name) for name in services}, **config),
        4,
        services.index,
        lambda name: 10 + pairs.index(name),
    )


def test_a_listener() -> None:
    spec = compiled(
        Listener("l", (), "tcp", True, Forwarded(host=False), ("h2c",)),
        limits=Limits(1000, 20, 300, 9, 5000, min_rate=70),
        timeouts=Timeouts(header=2, idle=None),
    )
    assert spec == {
        "index": 4,
        "name": b"l",
        "protocol": 1,
        "accept_proxy": True,
        "forwarded": 1 + 2 + 8,
        "upgrade_websocket": False,
        "own_pair_index": 10,
        "header_ms": 2000,
        "client_idle_ms": 0,
        "body_limit": 5000,
        "min_rate": 70,
        "header_bytes": 1000,
        "header_count": 20,
        "target_bytes": 300,
        "method_bytes": 9,
        "trusted": [],
        "intercepts": False,
        "draining": False,
        "within": WITHIN_NONE,
        "destinations": [],
        "routes": [],
        "actions": [],
    }


def test_actions_and_conditions() -> None:
    routes = (
        Route(
            Forward((("b", 9), ("a", 1)), "/new", 2.0),
            path="/api",
            methods=("GET", "PUT"),
            hosts=("*.example.com",),
            headers=(("x-a", "b"),),
        ),
        Route(Forward((("a", 1),), None, None)),
        Route(Forward((("a", 1),), None, UNSET)),
        Route(Redirect("/elsewhere", 301), "exact", "/old"),
        Route(Respond(204, b"no"), "exact", "/"),
    )
    spec = compiled(Listener("l", (), routes=routes))
    assert spec["routes"] == [
        (0, b"/api", (b"GET", b"PUT"), (b"*.example.com",), ((b"x-a", b"b"),), 0),
        (0, b"/", (), (), (), 1),
        (0, b"/", (), (), (), 2),
        (1, b"/old", (), (), (), 3),
        (1, b"/", (), (), (), 4),
    ]
    forward, unlimited, inherited, redirect, respond = spec["actions"]
    assert forward["targets"] == [(1, 12, 9), (0, 11, 1)]
    assert (forward["rewrite"], forward["prefix_len"], forward["response_ms"]) == (b"/new", 4, 2000)
    assert (unlimited["response_ms"], unlimited["prefix_len"], unlimited["rewrite"]) == (0, 0, None)
    assert inherited["response_ms"] == UNSET_MS
    assert (redirect["kind"], redirect["status"], redirect["location"]) == (1, 301, b"/elsewhere")
    assert (respond["kind"], respond["status"], respond["body"]) == (2, 204, b"no")


@given(st.ip_addresses(), st.integers(0, 128))
def test_trusted_ranges_are_of_128_bits(address: ipaddress.IPv4Address, bits: int) -> None:
    bits = min(bits, address.max_prefixlen)
    network = ipaddress.ip_network((address, bits), strict=False)
    ((packed, length),) = compiled(Listener("l", ()), trusted_proxies=(str(network),))["trusted"]
    assert len(packed) == 16
    as_v6 = ipaddress.IPv6Address(packed)
    if address.version == 4:
        assert (as_v6.ipv4_mapped, length) == (network.network_address, bits + 96)
    else:
        assert (as_v6, length) == (network.network_address, bits)
