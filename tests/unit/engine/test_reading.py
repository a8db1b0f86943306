"""From numbers back to names; a number that changed hands begins at 0 for its new name."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest

from fastmesh.engine.reading import Reader, View, endpoint_state
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
        (word(-1), "up"),
        (word(-5_000_000), "up"),
        (word(unhealthy=True), "unhealthy"),
        (word(100, unhealthy=True), "unhealthy"),
        (word(100, unhealthy=True, draining=True), "draining"),
        (77 << 40, "up"),
    ],
)
def test_state_of_an_endpoint(health: int, state: str) -> None:
    assert endpoint_state(health, NOW) == state


def test_exactly_now_is_up_again() -> None:
    assert endpoint_state(NOW & 0xFFFFFFFF, NOW) == "up"


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
        self.endpoints: dict[int, tuple[Any, ...]] = {}
        self.listeners: dict[int, tuple[int, int, int, int]] = {}

    def pair(self, number: int) -> tuple[dict[int, int], bytes] | None:
        return self.pairs.get(number)

    def service(self, number: int) -> bytes | None:
        return self.durations.get(number)

    def endpoint(self, slot: int) -> tuple[Any, ...]:
        return self.endpoints[slot]

    def listener(self, number: int) -> tuple[int, int, int, int]:
        return self.listeners.get(number, (0, 0, 0, 0))

    def errors(self) -> dict[str, int]:
        return {"no_route": 3}

    def access_lines_dropped(self) -> int:
        return 2

    def worker(self, index: int) -> tuple[int, int, int, int, int, dict[str, int]]:
        return 1, 2, 3, 4, 5 + index, {"buffers": 0}


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
    counters.endpoints[5] = (down, 2, 7, 4, 100, 3, b"\0" * 8)
    reader.view = View(endpoints=(("s", "10.0.0.1:80", 5, 9),))
    (endpoint,) = reader.stats().endpoints
    assert (endpoint.service, endpoint.address, endpoint.weight) == ("s", "10.0.0.1:80", 9)
    assert (endpoint.in_flight, endpoint.connections_active, endpoint.connections_idle) == (2, 3, 4)
    assert (endpoint.requests, endpoint.failures, endpoint.state) == (100, 3, "down")


def test_connections_are_never_less_than_none(reader: Reader, counters: Counters) -> None:
    """The counters are read one after the other while they change."""
    counters.endpoints[0] = (0, 0, 3, 4, 0, 0, b"")
    reader.view = View(endpoints=(("s", "a", 0, 1),))
    assert reader.stats().endpoints[0].connections_active == 0


def test_the_rest(reader: Reader) -> None:
    reader.view = View(workers=2)
    stats = reader.stats()
    assert [worker.index for worker in stats.workers] == [0, 1]
    assert [worker.generation for worker in stats.workers] == [5, 6]
    assert (stats.errors, stats.access_lines_dropped, stats.generation) == ({"no_route": 3}, 2, 7)
