"""What the data plane reports about itself: plain, frozen numbers, read at one moment.

Counters only grow while the process lives, except where a field is called active, idle or in flight.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

HistogramLayout = Literal["hdr", "small"]
Resource = Literal["connections", "descriptors", "memory"]
# half_open: it was left out, and one request may find out whether it is back
EndpointState = Literal["up", "down", "half_open", "unhealthy", "draining"]


class Histogram(Struct, frozen=True):
    """Bucket counts of durations in microseconds, as the native reader hands them out.

    `counts` is an array of little-endian unsigned 64-bit counts; which bucket stands for which duration is
    said by `layout` (`hdr`: HdrHistogram with 2 significant digits; `small`: about 1 KiB, log-linear).
    """

    layout: HistogramLayout
    counts: bytes


class PairStats(Struct, frozen=True):
    """Requests that came in by `listener` and belonged to `service` ("": answered without one)."""

    listener: str
    service: str
    codes: dict[int, int]
    duration: Histogram


class ServiceStats(Struct, frozen=True):
    """How long the endpoints of one service took, from the request sent to the response's end, and what
    became of requests that needed more than one.

    `retries_refused` were not made because the budget was spent; `limited` requests were refused because a
    limit of the service was reached. `in_flight`, `queued` and `connections` are of this moment.
    """

    service: str
    upstream_duration: Histogram
    retries: int = 0
    retries_refused: int = 0
    limited: int = 0
    in_flight: int = 0
    queued: int = 0
    connections: int = 0
    draining: bool = False


class EndpointStats(Struct, frozen=True):
    """One endpoint of one service, summed over the workers.

    `answers_5xx` are its answers of 500 and above, `failures` attempts without an answer, `ejections` how
    often it was left out; `reason` says why the last time (empty: never).
    """

    service: str
    address: str
    state: EndpointState
    weight: int
    in_flight: int
    connections_active: int
    connections_idle: int
    requests: int
    failures: int
    latency: Histogram
    answers_5xx: int = 0
    ejections: int = 0
    reason: str = ""


class ListenerStats(Struct, frozen=True):
    """Client connections and bytes of one listener; `binds` are the addresses as really bound: none while it
    drains. `intercept` and `within` are as in its configuration: a connection counts where it is served."""

    listener: str
    binds: tuple[str, ...]
    protocol: Literal["http", "tcp", "auto"]
    connections_active: int
    connections_total: int
    bytes_received: int
    bytes_sent: int
    draining: bool = False
    intercept: bool = False
    within: str | None = None


class WorkerStats(Struct, frozen=True):
    """One worker thread; `ledger` counts the living objects of each kind, `slow_turns` the turns that took
    over 100 ms, `stalls` those of them that were seen to take over 1 s."""

    index: int
    connections: int
    exchanges: int
    turns: int
    longest_turn_us: int
    generation: int
    ledger: dict[str, int]
    slow_turns: int = 0
    stalls: int = 0


class ResourceStats(Struct, frozen=True):
    """How much is `used` of what may be (`limit`; 0: no limit): connections of clients, descriptors of the
    data plane, bytes of memory. `level` is 0, 1 (short) or 2 (used up), `times` how often it left 0, of each
    worker."""

    resource: Resource
    used: int
    limit: int
    level: int = 0
    times: int = 0

    @property
    def share(self) -> float:
        return self.used / self.limit if self.limit else 0.0


class OverloadStats(Struct, frozen=True):
    """`closed_clients` and `closed_endpoints` count connections that did nothing and were closed to make
    room."""

    resources: tuple[ResourceStats, ...] = ()
    closed_clients: int = 0
    closed_endpoints: int = 0

    @property
    def level(self) -> int:
        return max((item.level for item in self.resources), default=0)


class Stats(Struct, frozen=True):
    """Everything at one moment; `errors` counts by public error code, `generation` names the snapshot.

    `control_stalls` says how often the control plane did not run for seconds, `control_failures` how often it
    failed and was started again."""

    pairs: tuple[PairStats, ...]
    services: tuple[ServiceStats, ...]
    endpoints: tuple[EndpointStats, ...]
    listeners: tuple[ListenerStats, ...]
    workers: tuple[WorkerStats, ...]
    errors: dict[str, int]
    access_lines_dropped: int
    generation: int
    control_stalls: int = 0
    control_failures: int = 0
    overload: OverloadStats = OverloadStats()
