"""Reading the native counters: from numbers back to names. Never stops a worker.

A number that is given to another name keeps its native counters, which only grow; what they showed at that
moment is subtracted from then on.
"""

from __future__ import annotations

import time
from array import array
from typing import Literal

from msgspec import Struct

from fastmesh._native.core.engine import Engine
from fastmesh.model.histogram import HDR_COUNTS
from fastmesh.model.stats import (
    EndpointState,
    EndpointStats,
    Histogram,
    ListenerStats,
    PairStats,
    ServiceStats,
    Stats,
    WorkerStats,
)

_EMPTY_HDR = bytes(8 * HDR_COUNTS)
_DOWN_UNTIL = 0xFFFFFFFF
_UNHEALTHY = 1 << 32
_DRAINING = 1 << 33


class View(Struct, frozen=True):
    """Which names the numbers stand for, since the last change."""

    services: dict[str, int] = {}
    listeners: dict[str, int] = {}
    pairs: dict[tuple[str, str], int] = {}
    endpoints: tuple[tuple[str, str, int, int], ...] = ()  # service, address, slot, weight
    binds: dict[str, tuple[str, ...]] = {}
    protocols: dict[str, Literal["http", "tcp"]] = {}
    workers: int = 0


def _subtract(counts: bytes, base: bytes) -> bytes:
    return array("Q", [a - b for a, b in zip(array("Q", counts), array("Q", base), strict=True)]).tobytes()


def endpoint_state(health: int, now_ms: int) -> EndpointState:
    """What a health word says (see ``base/slot_t.pxd``)."""
    if health & _DRAINING:
        return "draining"
    if health & _UNHEALTHY:
        return "unhealthy"
    down_until = health & _DOWN_UNTIL
    if down_until and 0 < (down_until - now_ms) & _DOWN_UNTIL < 1 << 31:
        return "down"
    return "up"


class Reader:
    """Makes `Stats`. `view` is replaced whole by whoever changes the configuration."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.view = View()
        self._pair_base: dict[tuple[str, str], tuple[dict[int, int], bytes]] = {}
        self._service_base: dict[str, bytes] = {}
        self._listener_base: dict[str, tuple[int, int, int]] = {}

    # ------------------------------------------------------------ numbers that change hands

    def rebase_pair(self, key: tuple[str, str], number: int) -> None:
        self._pair_base.pop(key, None)
        found = self._engine.pair(number)
        if found is not None:
            self._pair_base[key] = found

    def rebase_service(self, name: str, number: int) -> None:
        self._service_base.pop(name, None)
        found = self._engine.service(number)
        if found is not None:
            self._service_base[name] = found

    def rebase_listener(self, name: str, number: int) -> None:
        _, total, received, sent = self._engine.listener(number)
        self._listener_base[name] = (total, received, sent)

    # ------------------------------------------------------------ reading

    def stats(self) -> Stats:
        view = self.view
        return Stats(
            pairs=self._pairs(view),
            services=self._services(view),
            endpoints=self._endpoints(view),
            listeners=self._listeners(view),
            workers=tuple(self._worker(index) for index in range(view.workers)),
            errors=self._engine.errors(),
            access_lines_dropped=self._engine.access_lines_dropped(),
            generation=self._engine.generation,
        )

    def down_endpoints(self) -> set[tuple[str, str]]:
        """(service, address) of the endpoints that are marked down just now."""
        now_ms = time.monotonic_ns() // 1_000_000
        return {
            (service, address)
            for service, address, slot, _ in self.view.endpoints
            if endpoint_state(self._engine.slot_health(slot), now_ms) == "down"
        }

    def _pairs(self, view: View) -> tuple[PairStats, ...]:
        pairs = []
        for (listener, service), number in view.pairs.items():
            found = self._engine.pair(number)
            if found is None:
                continue
            codes, counts = found
            base = self._pair_base.get((listener, service))
            if base is not None:
                codes = {
                    code: n - base[0].get(code, 0) for code, n in codes.items() if n > base[0].get(code, 0)
                }
                counts = _subtract(counts, base[1])
            pairs.append(PairStats(listener, service, codes, Histogram("hdr", counts)))
        return tuple(pairs)

    def _services(self, view: View) -> tuple[ServiceStats, ...]:
        services = []
        for name, number in view.services.items():
            counts = self._engine.service(number) or _EMPTY_HDR
            base = self._service_base.get(name)
            if base is not None:
                counts = _subtract(counts, base)
            services.append(ServiceStats(name, Histogram("hdr", counts)))
        return tuple(services)

    def _endpoints(self, view: View) -> tuple[EndpointStats, ...]:
        now_ms = time.monotonic_ns() // 1_000_000
        endpoints = []
        for service, address, slot, weight in view.endpoints:
            health, in_flight, connections, idle, requests, failures, counts = self._engine.endpoint(slot)
            endpoints.append(
                EndpointStats(
                    service=service,
                    address=address,
                    state=endpoint_state(health, now_ms),
                    weight=weight,
                    in_flight=in_flight,
                    connections_active=max(0, connections - idle),
                    connections_idle=idle,
                    requests=requests,
                    failures=failures,
                    latency=Histogram("small", counts),
                )
            )
        return tuple(endpoints)

    def _listeners(self, view: View) -> tuple[ListenerStats, ...]:
        listeners = []
        for name, number in view.listeners.items():
            active, total, received, sent = self._engine.listener(number)
            base = self._listener_base.get(name, (0, 0, 0))
            listeners.append(
                ListenerStats(
                    listener=name,
                    binds=view.binds[name],
                    protocol=view.protocols[name],
                    connections_active=active,
                    connections_total=total - base[0],
                    bytes_received=received - base[1],
                    bytes_sent=sent - base[2],
                )
            )
        return tuple(listeners)

    def _worker(self, index: int) -> WorkerStats:
        connections, exchanges, turns, longest, generation, ledger = self._engine.worker(index)
        return WorkerStats(index, connections, exchanges, turns, longest, generation, ledger)
