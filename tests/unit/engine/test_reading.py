"""From numbers back to names; a number that changed hands begins at 0 for its new name."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest

from fastmesh.engine.reading import Ejection, Reader, View, ejection_reason, endpoint_state
from fastmesh.model.histogram import HDR_COUNTS

NOW = 5_000_000_000  # ms, beyond 32 bits


def word(down_ms: int = 0, *, unhealthy: bool = False, draining: bool = False) -> int:
    until = (NOW + down_ms) & 0xFFFFFFFF if down_ms else 0
    return until | unhealthy << 32 | draining << 33


@pytest.mark.parametrize(
    ("health", "state"),
    [
        (0, "up"),
        (word(1), "down"),
        (word(30_000), "down"),
        (word(-1), "half_open"),
        (word(-5_000_000), "half_open"),
        (word(unhealthy=True), "unhealthy"),
        (word(100, unhealthy=True), "unhealthy"),
        (word(100, unhealthy=True, draining=True), "draining"),
        (word(-1, unhealthy=True), "unhealthy"),
        (77 << 40, "up"),
    ],
)
def test_state_of_an_endpoint(health: int, state: str) -> None:
    assert endpoint_state(health, NOW) == state


def test_exactly_now_the_time_is_over() -> None:
    assert endpoint_state(NOW & 0xFFFFFFFF, NOW) == "half_open"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (0, ""),
        (30, "it refused the connection"),
        (34, "it did not answer in time"),
        (1503, "it answered 503"),
        (2000, "its success rate was far below that of its peers"),
        (2001, "clients gave up waiting for its answers"),
    ],
)
def test_why_an_endpoint_was_left_out(number: int, reason: str) -> None:
    assert ejection_reason(number) == reason


def hdr(**counts: int) -> bytes:
    """``c5=2``: two in bucket 5."""
    values = [0] * HDR_COUNTS
    for name, count in counts.items():
        values[int(name[1:])] = count
    return struct.pack(f"<{len(values)}Q", *values)


class Counters:
    """What `Engine` answers, with counters that a test sets."""

    generation = 7

    def __init__(self) -> None:
        self.pairs: dict[int, tuple[dict[int, int], bytes]] = {}
        self.durations: dict[int, bytes] = {}
        self.uses: dict[int, tuple[int, int, int, int, int, int, int]] = {}
        self.endpoints: dict[int, tuple[Any, ...]] = {}
        self.ejections: dict[int, tuple[int, int, int, int]] = {}
        self.listeners: dict[int, tuple[int, int, int, int]] = {}

    def overload(self) -> tuple[Any, ...]:
        return (((1, 10), (2, 0), (3, 0), (0, 0)), ((0, 0), (0, 0), (0, 0)), (4, 5))

    def pair(self, number: int) -> tuple[dict[int, int], bytes] | None:
        return self.pairs.get(number)

    def service(self, number: int) -> bytes | None:
        return self.durations.get(number)

    def service_use(self, number: int) -> tuple[int, int, int, int, int, int, int]:
        return self.uses.get(number, (0, 0, 0, 0, 0, 0, 0))

    def endpoint(self, slot: int) -> tuple[Any, ...]:
        return self.endpoints[slot]

    def slot_health(self, slot: int) -> int:
        health: int = self.endpoints[slot][0]
        return health

    def ejection(self, slot: int) -> tuple[int, int, int, int]:
        return self.ejections.get(slot, (0, 0, 0, 0))

    def listener(self, number: int) -> tuple[int, int, int, int]:
        return self.listeners.get(number, (0, 0, 0, 0))

    def errors(self) -> dict[str, int]:
        return {"no_route": 3}

    def access_lines_dropped(self) -> int:
        return 2

    def worker(self, index: int) -> tuple[int, int, int, int, int, dict[str, int]]:
        return 1, 2, 3, 4, 5 + index, {"buffers": 0}

    def slow_turns(self, index: int) -> tuple[int, int]:
        return 8 + index, index

    def control_stalls(self) -> int:
        return 4


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def reader(counters: Counters) -> Reader:
    return Reader(counters)  # type: ignore[arg-type]


def test_pairs_that_had_no_request_are_left_out(reader: Reader, counters: Counters) -> None:
    counters.pairs[0] = ({200: 3}, hdr(c5=3))
    reader.view = View(pairs={("l", "s"): 0, ("l", ""): 1})
    (pair,) = reader.stats().pairs
    assert (pair.listener, pair.service, pair.codes) == ("l", "s", {200: 3})
    assert pair.duration.counts == hdr(c5=3)


def test_a_pair_that_inherits_a_number_begins_at_zero(reader: Reader, counters: Counters) -> None:
    counters.pairs[0] = ({200: 3, 404: 1}, hdr(c5=4))
    reader.rebase_pair(("l", "new"), 0)
    reader.view = View(pairs={("l", "new"): 0})
    (pair,) = reader.stats().pairs
    assert (pair.codes, pair.duration.counts) == ({}, hdr())
    counters.pairs[0] = ({200: 5, 404: 1, 500: 2}, hdr(c5=4, c9=4))
    (pair,) = reader.stats().pairs
    assert (pair.codes, pair.duration.counts) == ({200: 2, 500: 2}, hdr(c9=4))


def test_a_pair_that_comes_back_to_a_fresh_number_forgets_the_old_base(
    reader: Reader, counters: Counters
) -> None:
    counters.pairs[0] = ({200: 3}, hdr(c5=3))
    reader.rebase_pair(("l", "s"), 0)
    reader.rebase_pair(("l", "s"), 1)
    counters.pairs[1] = ({200: 1}, hdr(c1=1))
    reader.view = View(pairs={("l", "s"): 1})
    assert reader.stats().pairs[0].codes == {200: 1}


def test_services(reader: Reader, counters: Counters) -> None:
    counters.durations[0] = hdr(c3=4)
    reader.rebase_service("b", 0)
    counters.durations[0] = hdr(c3=4, c4=1)
    reader.view = View(services={"a": 1, "b": 0})
    shown = {service.service: service.upstream_duration.counts for service in reader.stats().services}
    assert shown == {"a": hdr(), "b": hdr(c4=1)}


def test_what_a_service_is_used_for(reader: Reader, counters: Counters) -> None:
    """A service that inherits a number begins at 0; what is of this moment has no base."""
    counters.durations[0] = hdr()
    counters.uses[0] = (10, 20, 30, 4, 5, 6, 7)
    reader.rebase_service("b", 0)
    counters.uses[0] = (11, 22, 33, 8, 1, 9, 10)
    reader.view = View(services={"b": 0})
    (service,) = reader.stats().services
    assert (service.retries, service.retries_refused, service.limited) == (1, 2, 3)
    assert (service.in_flight, service.queued, service.connections) == (8, 9, 10)


def test_listeners(reader: Reader, counters: Counters) -> None:
    counters.listeners[0] = (2, 10, 1000, 2000)
    reader.rebase_listener("l", 0)
    counters.listeners[0] = (3, 14, 1500, 2700)
    reader.view = View(listeners={"l": 0}, binds={"l": ("127.0.0.1:80",)}, protocols={"l": "tcp"})
    (listener,) = reader.stats().listeners
    assert (listener.listener, listener.binds, listener.protocol) == ("l", ("127.0.0.1:80",), "tcp")
    assert listener.connections_active == 3, "a gauge has no base"
    assert (listener.connections_total, listener.bytes_received, listener.bytes_sent) == (4, 500, 700)


def test_endpoints(reader: Reader, counters: Counters) -> None:
    down = (time.monotonic_ns() // 1_000_000 + 60_000) & 0xFFFFFFFF
    counters.endpoints[5] = (down, 2, 7, 4, 100, 3, 6, b"\0" * 8)
    counters.ejections[5] = (3, 0, 4000, 1502)
    reader.view = View(endpoints=(("s", "10.0.0.1:80", 5, 9),))
    (endpoint,) = reader.stats().endpoints
    assert (endpoint.service, endpoint.address, endpoint.weight) == ("s", "10.0.0.1:80", 9)
    assert (endpoint.in_flight, endpoint.connections_active, endpoint.connections_idle) == (2, 3, 4)
    assert (endpoint.requests, endpoint.failures, endpoint.state) == (100, 3, "down")
    assert (endpoint.answers_5xx, endpoint.ejections, endpoint.reason) == (6, 3, "it answered 502")


def test_who_is_left_out(reader: Reader, counters: Counters) -> None:
    """Also whose time is over, until a request has found out that it is back."""
    now_ms = time.monotonic_ns() // 1_000_000
    words = [0, (now_ms + 60_000) & 0xFFFFFFFF, (now_ms - 60_000) & 0xFFFFFFFF, 1 << 32, 26 << 40]
    counters.endpoints = {slot: (word, 0, 0, 0, 0, 0, 0, b"") for slot, word in enumerate(words)}
    counters.ejections = {1: (2, 0, 2000, 30), 2: (1, 0, 1000, 1500)}
    reader.view = View(endpoints=tuple(("s", f"e{slot}", slot, 1) for slot in range(len(words))))
    assert reader.left_out() == {
        ("s", "e1"): Ejection(2, 2.0, "it refused the connection"),
        ("s", "e2"): Ejection(1, 1.0, "it answered 500"),
    }
    assert reader.ramps() == [4]


def test_connections_are_never_less_than_none(reader: Reader, counters: Counters) -> None:
    """The counters are read one after the other while they change."""
    counters.endpoints[0] = (0, 0, 3, 4, 0, 0, 0, b"")
    reader.view = View(endpoints=(("s", "a", 0, 1),))
    assert reader.stats().endpoints[0].connections_active == 0


def test_the_rest(reader: Reader) -> None:
    reader.view = View(workers=2)
    stats = reader.stats()
    assert [worker.index for worker in stats.workers] == [0, 1]
    assert [worker.generation for worker in stats.workers] == [5, 6]
    assert [(worker.slow_turns, worker.stalls) for worker in stats.workers] == [(8, 0), (9, 1)]
    assert stats.control_stalls == 4
    assert (stats.errors, stats.access_lines_dropped, stats.generation) == ({"no_route": 3}, 2, 7)
