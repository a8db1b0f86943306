"""Reading the native counters: from numbers back to names. Never stops a worker.

A number that is given to another name keeps its native counters, which only grow; what they showed at that
moment is subtracted from then on.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Container, Mapping
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from fastmesh._native.core.engine import Engine, error_text
from fastmesh.engine import overload
from fastmesh.engine.numbering import SlotKey
from fastmesh.model import Config
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
_SHARE_SHIFT = 40
_REASON_STATUS = 1000
_REASON_SUCCESS_RATE = 2000
_REASON_SLOW = 2001


class Ejection(NamedTuple):
    """How often an endpoint was left out, for how many seconds the last time, and why."""

    times: int
    seconds: float
    reason: str


def left_out_news(
    before: Mapping[SlotKey, Ejection], now: Mapping[SlotKey, Ejection], known: Container[SlotKey]
) -> tuple[str, ...]:
    """What is worth a log line; that an endpoint is back only as long as it is ``known``."""
    out = [
        f"service {name}: endpoint {text} is left out for {ejection.seconds:g} s: {ejection.reason}"
        for (name, text), ejection in sorted(now.items())
        if (name, text) not in before or before[name, text].times != ejection.times
    ]
    back = [
        f"service {name}: endpoint {text} is back"
        for name, text in sorted(before.keys() - now.keys())
        if (name, text) in known
    ]
    return (*out, *back)


class View(Struct, frozen=True):
    """Which names the numbers stand for, since the last change."""

    services: dict[str, int] = {}
    listeners: dict[str, int] = {}
    pairs: dict[tuple[str, str], int] = {}
    endpoints: tuple[tuple[str, str, int, int], ...] = ()  # service, address, slot, weight
    binds: dict[str, tuple[str, ...]] = {}
    protocols: dict[str, Literal["http", "tcp", "auto"]] = {}
    intercepting: frozenset[str] = frozenset()
    within: dict[str, str] = {}
    draining_services: frozenset[str] = frozenset()
    draining_listeners: frozenset[str] = frozenset()
    workers: int = 0

    @classmethod
    def of(cls, config: Config, *, binds: Mapping[str, str], **numbers: Any) -> View:
        """``binds``: as really bound, by the text of the bind; ``numbers`` are fields of the view."""
        listeners = config.listeners.values()
        return cls(
            binds={
                one.name: tuple(binds[bind.text] for bind in one.binds if not one.drain) for one in listeners
            },
            protocols={one.name: one.protocol for one in listeners},
            intercepting=frozenset(one.name for one in listeners if one.intercept),
            within={one.name: one.within for one in listeners if one.within is not None},
            draining_services=frozenset(one.name for one in config.services.values() if one.drain),
            draining_listeners=frozenset(one.name for one in listeners if one.drain),
            **numbers,
        )


def _subtract(counts: bytes, base: bytes) -> bytes:
    return array("Q", [a - b for a, b in zip(array("Q", counts), array("Q", base), strict=True)]).tobytes()


def endpoint_state(health: int, now_ms: int) -> EndpointState:
    """What a health word says (see ``base/slot_t.pxd``)."""
    if health & _DRAINING:
        return "draining"
    if health & _UNHEALTHY:
        return "unhealthy"
    down_until = health & _DOWN_UNTIL
    if not down_until:
        return "up"
    return "down" if 0 < (down_until - now_ms) & _DOWN_UNTIL < 1 << 31 else "half_open"


def ejection_reason(number: int) -> str:
    """Why an endpoint was left out, from the number in its slot (see ``net/health.pxd``)."""
    if number == 0:
        return ""
    if number == _REASON_SUCCESS_RATE:
        return "its success rate was far below that of its peers"
    if number == _REASON_SLOW:
        return "clients gave up waiting for its answers"
    if number >= _REASON_STATUS:
        return f"it answered {number - _REASON_STATUS}"
    return error_text(number).rstrip(".").replace("The endpoint", "it", 1)


class Reader:
    """Makes `Stats`. `view` is replaced whole by whoever changes the configuration."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.view = View()
        self._pair_base: dict[tuple[str, str], tuple[dict[int, int], bytes]] = {}
        self._service_base: dict[str, tuple[bytes, tuple[int, ...]]] = {}
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
            self._service_base[name] = found, self._engine.service_use(number)

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
            control_stalls=self._engine.control_stalls(),
            overload=overload.read(self._engine),
        )

    def ejection(self, slot: int) -> Ejection:
        count, _, for_ms, reason = self._engine.ejection(slot)
        return Ejection(count, for_ms / 1000, ejection_reason(reason))

    def left_out(self) -> dict[tuple[str, str], Ejection]:
        """The endpoints that are left out just now, or wait for the request that finds out whether they are
        back, by (service, address)."""
        return {
            (service, address): self.ejection(slot)
            for service, address, slot, _ in self.view.endpoints
            if self._engine.slot_health(slot) & _DOWN_UNTIL
        }

    def ramps(self) -> list[int]:
        """Slots with a slow start in progress."""
        return [
            slot
            for _, _, slot, _ in self.view.endpoints
            if (self._engine.slot_health(slot) >> _SHARE_SHIFT) & 0xFF
        ]

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
            retries, refused, limited, in_flight, _, queued, connections = self._engine.service_use(number)
            base = self._service_base.get(name)
            if base is not None:
                counts = _subtract(counts, base[0])
                retries, refused, limited = retries - base[1][0], refused - base[1][1], limited - base[1][2]
            services.append(
                ServiceStats(
                    name,
                    Histogram("hdr", counts),
                    retries=retries,
                    retries_refused=refused,
                    limited=limited,
                    in_flight=in_flight,
                    queued=queued,
                    connections=connections,
                    draining=name in view.draining_services,
                )
            )
        return tuple(services)

    def _endpoints(self, view: View) -> tuple[EndpointStats, ...]:
        now_ms = time.monotonic_ns() // 1_000_000
        endpoints = []
        for service, address, slot, weight in view.endpoints:
            found = self._engine.endpoint(slot)
            health, in_flight, connections, idle, requests, failures, answers_5xx, counts = found
            ejection = self.ejection(slot)
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
                    answers_5xx=answers_5xx,
                    ejections=ejection.times,
                    reason=ejection.reason,
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
                    draining=name in view.draining_listeners,
                    intercept=name in view.intercepting,
                    within=view.within.get(name),
                )
            )
        return tuple(listeners)

    def _worker(self, index: int) -> WorkerStats:
        connections, exchanges, turns, longest, generation, ledger = self._engine.worker(index)
        slow, stalls = self._engine.slow_turns(index)
        return WorkerStats(
            index, connections, exchanges, turns, longest, generation, ledger, slow_turns=slow, stalls=stalls
        )
