"""The loops that are counted. As a program, run under callgrind: runs the named cases and tells their
operations.

`python -m bench.instructions.cases FILE` reads a JSON list of names from the file and replaces it by how
many operations each case made, in the order in which the counts were dumped. Each case marks one loop.
fastmesh is imported within the cases, so that their names can be read without it.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

REQUEST_SMALL = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"  # as wrk sends it
REQUEST_BROWSER = b"\r\n".join(
    [
        b"GET /catalogue/items/8271?page=3&sort=price HTTP/1.1",
        b"Host: shop.example.com",
        b"Connection: keep-alive",
        b"Cache-Control: max-age=0",
        b'sec-ch-ua: "Chromium";v="126", "Not A Brand";v="24"',
        b"sec-ch-ua-mobile: ?0",
        b'sec-ch-ua-platform: "Linux"',
        b"DNT: 1",
        b"Upgrade-Insecure-Requests: 1",
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        b"Chrome/126.0.0.0 Safari/537.36",
        b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        b"Sec-Fetch-Site: same-origin",
        b"Sec-Fetch-Mode: navigate",
        b"Sec-Fetch-User: ?1",
        b"Sec-Fetch-Dest: document",
        b"Referer: https://shop.example.com/catalogue/items?page=3&sort=price",
        b"Accept-Encoding: gzip, deflate, br, zstd",
        b"Accept-Language: en-GB,en;q=0.9,de;q=0.8",
        b"Cookie: session=4f2d8a0c9b7e4f2d8a0c9b7e; theme=dark; consent=1; ab=variant-b; "
        b"_ga=GA1.2.1234567890.1718000000",
        b'If-None-Match: "5f3c-18a0b2c4d"',
        b"Priority: u=0, i",
        b"\r\n",
    ]
)
RESPONSE = b"\r\n".join(
    [
        b"HTTP/1.1 200 OK",
        b"Server: origin/1.0",
        b"Date: Mon, 01 Jan 2024 00:00:00 GMT",
        b"Content-Type: text/plain",
        b"Content-Length: 128",
        b"Connection: keep-alive",
        b"\r\n",
    ]
)
CHUNK = b"400\r\n" + bytes(1024) + b"\r\n"
CHUNKS_A_READ = 16
FIELDS = [
    (b"User-Agent", b"curl/8.5.0"),
    (b"Accept", b"*/*"),
    (b"X-Tenant", b"t9"),
    (b"Accept-Encoding", b"gzip"),
    (b"X-Request-Id", b"0123456789abcdef0123456789abcdef"),
]
POLICIES = {"round_robin": 0, "random": 1, "least_request": 2, "ring_hash": 3, "maglev": 4}
_KEYED = ("ring_hash", "maglev")
PREFIX, EXACT = 0, 1


@dataclass(frozen=True)
class Case:
    """`run` counts one loop, between the marks, and returns how many operations it made."""

    name: str
    note: str
    run: Callable[[], int]
    native: bool = True  # makes no use of Python between the marks
    seconds: float = 0.1  # under valgrind, roughly


# ---------------------------------------------------------------- bytes


def parse_request(head: bytes, emit: bool = False) -> int:
    from fastmesh._native.proto import _t_proto

    _t_proto.time_request(head, 10_000, emit)
    return 10_000


def parse_response(emit: bool = False) -> int:
    from fastmesh._native.proto import _t_proto

    _t_proto.time_response(RESPONSE, 10_000, emit)
    return 10_000


def decode_chunks() -> int:
    from fastmesh._native.proto import _t_proto

    assert _t_proto.Chunks().feed_often(CHUNK * CHUNKS_A_READ, 500) == 500 * CHUNKS_A_READ * 1024
    return 500 * CHUNKS_A_READ


# ---------------------------------------------------------------- routes


def match_route(path_kind: int, count: int) -> int:
    """Each route has a host and a path; the request fits the last of them."""
    from fastmesh._native.route import _t_route

    last = count - 1
    routes = [
        (path_kind, b"/api/v1/svc%d" % i, (), (b"h%d.example.com" % (i % 10),), (), i) for i in range(count)
    ]
    path = b"/api/v1/svc%d" % last + (b"/users/42" if path_kind == PREFIX else b"")
    host = b"h%d.example.com" % (last % 10)
    assert _t_route.Table(routes).match_often(b"GET", host, path, FIELDS, 10_000) == last
    return 10_000


def match_headers(count: int) -> int:
    """Ten routes have the same path and differ in a header's value; the request fits the last of them."""
    from fastmesh._native.route import _t_route

    last = count - 1
    routes = [
        (PREFIX, b"/api/v1/svc%d" % (i // 10), (), (), ((b"x-tenant", b"t%d" % (i % 10)),), i)
        for i in range(count)
    ]
    path = b"/api/v1/svc%d/users/42" % (last // 10)
    assert _t_route.Table(routes).match_often(b"GET", b"example.com", path, FIELDS, 10_000) == last
    return 10_000


# ---------------------------------------------------------------- balancing


def pick(policy: str, endpoints: int) -> int:
    """Weights are 1 to 10, and one to three requests are in flight at each endpoint."""
    from fastmesh._native.lb import _t_lb

    slots = _t_lb.Slots([f"10.{k >> 16}.{k >> 8 & 255}.{k & 255}:8080" for k in range(endpoints)])
    members = list(range(endpoints))
    block = _t_lb.Block(POLICIES[policy], slots, members, [1 + k % 10 for k in members])
    state = _t_lb.State(1)
    state.adopt(block)
    for slot in members:
        slots.set_in_flight(slot, 1 + slot % 3)
    state.pick_often(block, 20_000, policy in _KEYED)
    return 20_000


# ---------------------------------------------------------------- base


def record(small: bool) -> int:
    from fastmesh._native.base import _t_hist

    assert _t_hist.record_often(small, 20_000) > 50
    return 20_000


def _armed_wheel(after_ms: int) -> Any:
    """A wheel with 1,000 timers, armed over a second."""
    from fastmesh._native.base import _t_timers

    wheel = _t_timers.Wheel(1000, 0)
    for i in range(1000):
        wheel.set(i, i, after_ms)
    return wheel


def arm_and_cancel() -> int:
    from fastmesh._native.base import _t_timers

    _t_timers.Wheel(1000, 0).arm_often(0, 30_000, 20_000)
    return 20_000


def push_back() -> int:
    _armed_wheel(30_000).push_back_often(1000, 30_000, 20_000)
    return 20_000


def advance() -> int:
    """Ticks of 4 ms; each of the 1,000 timers is due once every two seconds, about two a tick."""
    assert _armed_wheel(2000).advance_often(0, 4, 2000, 5000) > 8000
    return 5000


def wait() -> int:
    """From each tick of an empty level 0, ten times over: its end is 128 ticks away on average."""
    from fastmesh._native.base import _t_timers

    wheel = _t_timers.Wheel(1, 0)
    wheel.set(0, 0, 60_000)
    assert wheel.wait_often(2560) == 10 * sum(range(4, 1028, 4))
    return 2560


# ---------------------------------------------------------------- whole


def exchange() -> int:
    from bench.instructions.exchange import exchanges

    return exchanges(2000)


def _configs(routes: int, endpoints: int) -> Iterator[Any]:
    """Endless: each differs from the one before in every route's path and in a tenth of the endpoints."""
    from fastmesh.model import Address, Balance, Config, Endpoint, Forward, Listener, Route, Service

    turn = 0
    while True:
        services = {}
        for s in range(10):
            addresses = [
                Address("inet", f"10.{turn if i % 10 == 0 else 100}.{i // 250}.{i % 250 + 1}", 80 + s)
                for i in range(endpoints // 10)
            ]
            services[f"s{s}"] = Service(
                f"s{s}", tuple(Endpoint(address) for address in addresses), Balance("round_robin")
            )
        listed = tuple(
            Route(Forward(((f"s{i % 10}", 1),)), path=f"/r{turn}/{i}" if i else "/") for i in range(routes)
        )
        yield Config({"web": Listener("web", (), routes=listed)}, services)
        turn += 1


def apply(routes: int, endpoints: int) -> int:
    """The second change counts: by the first, the interpreter has adapted to the code. No worker runs."""
    from fastmesh._native.sys import _t_count
    from fastmesh.engine import DataPlane

    configs = _configs(routes, endpoints)
    data_plane = DataPlane(workers=2, connection_limit=1000)
    data_plane.apply(next(configs), {})
    data_plane.apply(next(configs), {})
    last = next(configs)
    _t_count.begin()
    applied = data_plane.apply(last, {})
    _t_count.end()
    data_plane.stop()
    assert applied.changed
    assert applied.generation == 3
    return 1


# ---------------------------------------------------------------- all of them


def _all_cases() -> Iterator[Case]:
    small, browser = partial(parse_request, REQUEST_SMALL), partial(parse_request, REQUEST_BROWSER)
    yield Case("parse-request-small", f"a head of {len(REQUEST_SMALL)} bytes, as wrk's", small)
    yield Case(
        "parse-request-browser", f"a head of {len(REQUEST_BROWSER)} bytes, 20 fields, cookies", browser
    )
    yield Case("parse-response", f"a head of {len(RESPONSE)} bytes", parse_response)
    emit = "the same, and the head for the other side"
    yield Case("forward-request-small", emit, partial(parse_request, REQUEST_SMALL, True))
    yield Case("forward-request-browser", emit, partial(parse_request, REQUEST_BROWSER, True))
    yield Case("forward-response", emit, partial(parse_response, True))
    yield Case("chunk-1k", "1 KiB of data and its framing", decode_chunks)
    for kind, path_kind in (("prefix", PREFIX), ("exact", EXACT)):
        for count in (1, 100, 1000):
            note = f"host and {kind} path, the last of {count:,}"
            yield Case(f"route-{kind}-{count}", note, partial(match_route, path_kind, count))
    for count in (100, 1000):
        note = f"path and the tenth value of a header, the last of {count:,}"
        yield Case(f"route-header-{count}", note, partial(match_headers, count))
    for endpoints in (100, 10_000):
        for policy in POLICIES:
            note = f"weights of 1 to 10, {endpoints:,} endpoints"
            yield Case(f"pick-{policy}-{endpoints}", note, partial(pick, policy, endpoints))
    yield Case("histogram-record", "a request's duration", partial(record, False))
    yield Case("histogram-record-small", "an endpoint's latency", partial(record, True))
    yield Case("timer-arm-cancel", "30 s", arm_and_cancel)
    yield Case("timer-push-back", "an armed one to a later time", push_back)
    yield Case("timer-advance", "a tick of 4 ms with two timers that are armed again", advance)
    yield Case("timer-wait", "how long a worker with nothing to do may sleep", wait)
    whole = "a whole keep-alive request through a worker, without the kernel"
    yield Case("exchange-small", whole, exchange, seconds=5)
    changed = "from a model to its snapshot, all routes changed"
    yield Case("apply-routes-1000", changed, partial(apply, 1000, 10), native=False, seconds=5)
    changed = "the same, a tenth of the endpoints changed"
    yield Case("apply-endpoints-10000", changed, partial(apply, 1, 10_000), native=False, seconds=6)


CASES = tuple(_all_cases())


def main(file: Path) -> None:
    gc.disable()  # a collection may fall into the counted part or not
    cases = {case.name: case for case in CASES}
    operations = []
    for name in json.loads(file.read_text()):
        print(name, file=sys.stderr, flush=True)
        operations.append(cases[name].run())
    file.write_text(json.dumps(operations))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
