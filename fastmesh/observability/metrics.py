"""`/metrics`: the data plane's `Stats` as Prometheus text.

Histogram buckets are sums of HdrHistogram counts. A count belongs to the first bucket whose bound is not
below the lowest value of the count, so a bound is exact to HdrHistogram's resolution (under 1 %). The sum
adds up the middle of each count, so a mean is as exact.

At most `ENDPOINT_SERIES` endpoints have series of their own, those that came first. The rest of a service is
summed as ``endpoint="other"``; an endpoint never moves between the two, and what a vanished one had counted
stays in the sum, so ``other`` never goes down.
"""

from __future__ import annotations

import platform
import threading
from bisect import bisect_right
from collections.abc import Container, Iterable, Mapping
from functools import cache
from itertools import accumulate, pairwise
from operator import mul

from msgspec import Struct

from fastmesh import __version__
from fastmesh.discovery import LookupCounts
from fastmesh.health import ServiceHealth
from fastmesh.model.stats import EndpointStats, Histogram, HistogramLayout, Resource, Stats
from fastmesh.observability import buckets, process
from fastmesh.observability.exposition import Exposition

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ENDPOINT_SERIES = 1000
OTHER = "other"
_LIMITS: Mapping[Resource, tuple[str, str]] = {
    "connections": ("fastmesh_connections_limit", "Client connections that may be open."),
    "descriptors": ("fastmesh_descriptors_limit", "Descriptors that the data plane may have."),
    "memory": ("fastmesh_memory_limit_bytes", "Memory that may be used."),
}
NOTE = f'beyond {ENDPOINT_SERIES} endpoints the rest is summed as endpoint="{OTHER}".'


class ReloadCounts(Struct, frozen=True):
    """How often a configuration was read while running, by result, and whether the last one was good."""

    applied: int = 0
    unchanged: int = 0
    refused: int = 0
    last_successful: bool = True


@cache
def _edges(name: HistogramLayout) -> tuple[int, ...]:
    """Where to cut the counts so that each part is one bucket; the last part is +Inf's."""
    lowest = buckets.scale(name).lowest
    cuts = (bisect_right(lowest, round(bound * 1_000_000)) for bound in BOUNDS)
    return (0, *cuts, len(lowest))


def bucket_counts(histogram: Histogram) -> tuple[list[int], float]:
    """(cumulative counts, one for each of `BOUNDS` and one for +Inf; sum in seconds)."""
    counts = buckets.counts_of(histogram)
    edges = _edges(histogram.layout)
    parts = (sum(counts[low:high]) for low, high in pairwise(edges))
    total = sum(map(mul, counts, buckets.scale(histogram.layout).middle))
    return list(accumulate(parts)), total / 1_000_000


class RestStats(Struct, frozen=True):
    """Sums over the endpoints of one service that have no series of their own."""

    requests: int
    ejections: int
    up: int
    healthy: int


class _Rest:
    """The endpoints of one service that have no series of their own, by address: (requests, ejections)."""

    def __init__(self) -> None:
        self.gone = (0, 0)  # what endpoints had that no longer exist, or whose counters began anew
        self.last: dict[str, tuple[int, int]] = {}

    def update(self, counts: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        requests, ejections = self.gone
        for address, before in self.last.items():
            now = counts.get(address, (0, 0))
            requests += before[0] if now[0] < before[0] else 0
            ejections += before[1] if now[1] < before[1] else 0
        self.gone = requests, ejections
        self.last = dict(counts)
        return requests + sum(one for one, _ in counts.values()), ejections + sum(
            one for _, one in counts.values()
        )


class EndpointSeries:
    """Decides which endpoints have series of their own, and keeps the sums of the rest monotone."""

    def __init__(self, limit: int = ENDPOINT_SERIES) -> None:
        self._limit = limit
        self._shown: set[tuple[str, str]] = set()
        self._rest: dict[str, _Rest] = {}

    def split(
        self, endpoints: Iterable[EndpointStats], healthy: Container[tuple[str, str]] = ()
    ) -> tuple[list[EndpointStats], dict[str, RestStats]]:
        """(endpoints with own series, the rest of each service); ``healthy`` are (service, address) of those
        that active checks found so."""
        endpoints = list(endpoints)
        self._shown &= {(e.service, e.address) for e in endpoints}
        shown: list[EndpointStats] = []
        rest: dict[str, list[EndpointStats]] = {service: [] for service in self._rest}
        for endpoint in endpoints:
            key = (endpoint.service, endpoint.address)
            if key not in self._shown:
                known = self._rest.get(endpoint.service)
                if len(self._shown) >= self._limit or (known and endpoint.address in known.last):
                    rest.setdefault(endpoint.service, []).append(endpoint)
                    continue
                self._shown.add(key)
            shown.append(endpoint)
        sums = {}
        for service, others in rest.items():
            counts = {e.address: (e.requests, e.ejections) for e in others}
            requests, ejections = self._rest.setdefault(service, _Rest()).update(counts)
            sums[service] = RestStats(
                requests,
                ejections,
                up=sum(e.state == "up" for e in others),
                healthy=sum((service, e.address) in healthy for e in others),
            )
        return shown, sums


class MetricsRenderer:
    """Renders one scrape after another; safe to call from several threads."""

    def __init__(self, series_limit: int = ENDPOINT_SERIES) -> None:
        self._series = EndpointSeries(series_limit)
        self._lock = threading.Lock()

    def render(
        self,
        stats: Stats,
        reloads: ReloadCounts,
        health: Mapping[str, ServiceHealth] | None = None,
        lookups: Mapping[str, LookupCounts] | None = None,
    ) -> str:
        """``health`` is what active checks found, of each service that has them; ``lookups`` are those of
        names."""
        health = health or {}
        healthy = {
            (service, address)
            for service, found in health.items()
            for address, endpoint in found.endpoints.items()
            if endpoint.state == "healthy"
        }
        out = Exposition()
        _requests(out, stats)
        _services(out, stats)
        _connections(out, stats)
        with self._lock:
            shown, rest = self._series.split(stats.endpoints, healthy)
        _endpoints(out, shown, rest)
        _checks(out, health, [e for e in shown if e.service in health], rest, healthy)
        _lookups(out, lookups or {})
        _overload(out, stats)
        _own_state(out, stats, reloads)
        process.add(out)
        return out.text()


def _requests(out: Exposition, stats: Stats) -> None:
    out.simple(
        "fastmesh_requests_total",
        "counter",
        "Requests answered, by listener, service (empty: answered by the proxy itself) and status code.",
        (
            ({"listener": pair.listener, "service": pair.service, "code": code}, count)
            for pair in stats.pairs
            for code, count in sorted(pair.codes.items())
        ),
    )
    name = "fastmesh_request_duration_seconds"
    out.family(name, "histogram", "Time from the first byte of a request to the last byte of its response.")
    for pair in stats.pairs:
        counts, total = bucket_counts(pair.duration)
        out.histogram(name, {"listener": pair.listener, "service": pair.service}, BOUNDS, counts, total)
    name = "fastmesh_upstream_duration_seconds"
    out.family(
        name, "histogram", "Time that the endpoints of a service took, from request sent to response end."
    )
    for service in stats.services:
        counts, total = bucket_counts(service.upstream_duration)
        out.histogram(name, {"service": service.service}, BOUNDS, counts, total)


def _services(out: Exposition, stats: Stats) -> None:
    counters = (
        ("fastmesh_retries_total", "Requests that were sent again.", "retries"),
        (
            "fastmesh_retries_refused_total",
            "Requests that were not sent again because the budget of retries was spent.",
            "retries_refused",
        ),
        ("fastmesh_limited_total", "Requests refused because a limit of the service was reached.", "limited"),
    )
    for name, text, field in counters:
        values = (({"service": item.service}, getattr(item, field)) for item in stats.services)
        out.simple(name, "counter", text, values)
    out.simple(
        "fastmesh_queued_requests",
        "gauge",
        "Requests that wait in the queue of a service.",
        (({"service": item.service}, item.queued) for item in stats.services),
    )


def _connections(out: Exposition, stats: Stats) -> None:
    out.simple(
        "fastmesh_connections_active",
        "gauge",
        "Client connections that are open.",
        (({"listener": item.listener}, item.connections_active) for item in stats.listeners),
    )
    out.simple(
        "fastmesh_connections_total",
        "counter",
        "Client connections accepted.",
        (({"listener": item.listener}, item.connections_total) for item in stats.listeners),
    )
    out.simple(
        "fastmesh_bytes_total",
        "counter",
        "Bytes received from and sent to clients.",
        (
            ({"listener": item.listener, "direction": direction}, value)
            for item in stats.listeners
            for direction, value in (("received", item.bytes_received), ("sent", item.bytes_sent))
        ),
    )
    upstream: dict[str, int] = {service.service: 0 for service in stats.services}
    for endpoint in stats.endpoints:
        open_now = endpoint.connections_active + endpoint.connections_idle
        upstream[endpoint.service] = upstream.get(endpoint.service, 0) + open_now
    out.simple(
        "fastmesh_upstream_connections_active",
        "gauge",
        "Connections to the endpoints of a service that are open, in use or kept for the next request.",
        (({"service": service}, count) for service, count in upstream.items()),
    )


def _endpoints(out: Exposition, shown: list[EndpointStats], rest: Mapping[str, RestStats]) -> None:
    up = [({"service": e.service, "endpoint": e.address}, int(e.state == "up")) for e in shown]
    up += [({"service": service, "endpoint": OTHER}, others.up) for service, others in rest.items()]
    out.simple("fastmesh_endpoint_up", "gauge", f"Whether an endpoint is picked for requests; {NOTE}", up)
    requests = [({"service": e.service, "endpoint": e.address}, e.requests) for e in shown]
    requests += [
        ({"service": service, "endpoint": OTHER}, others.requests) for service, others in rest.items()
    ]
    out.simple(
        "fastmesh_endpoint_requests_total", "counter", f"Requests sent to an endpoint; {NOTE}", requests
    )
    ejections = [({"service": e.service, "endpoint": e.address}, e.ejections) for e in shown]
    ejections += [
        ({"service": service, "endpoint": OTHER}, others.ejections) for service, others in rest.items()
    ]
    out.simple(
        "fastmesh_endpoint_ejections_total",
        "counter",
        f"How often an endpoint was left out for failures; {NOTE}",
        ejections,
    )


def _checks(
    out: Exposition,
    health: Mapping[str, ServiceHealth],
    shown: list[EndpointStats],
    rest: Mapping[str, RestStats],
    healthy: Container[tuple[str, str]],
) -> None:
    """``shown``: endpoints of services with checks that have series of their own."""
    out.simple(
        "fastmesh_health_checks_total",
        "counter",
        "Active checks made, by what they found (error: could not be made).",
        (
            ({"service": service, "result": result}, count)
            for service, found in health.items()
            for result, count in found.results.items()
        ),
    )
    gauges = [
        ({"service": e.service, "endpoint": e.address}, int((e.service, e.address) in healthy)) for e in shown
    ]
    gauges += [
        ({"service": service, "endpoint": OTHER}, others.healthy)
        for service, others in rest.items()
        if service in health
    ]
    out.simple(
        "fastmesh_endpoint_healthy", "gauge", f"Whether an endpoint passes its active checks; {NOTE}", gauges
    )


def _lookups(out: Exposition, lookups: Mapping[str, LookupCounts]) -> None:
    out.simple(
        "fastmesh_dns_lookups_total",
        "counter",
        "Lookups of the names of endpoints.",
        (({"name": name}, count.lookups) for name, count in lookups.items()),
    )
    out.simple(
        "fastmesh_dns_lookup_failures_total",
        "counter",
        "Lookups that gave no address: no such name, no answer, or a server that refuses.",
        (({"name": name}, count.failures) for name, count in lookups.items()),
    )


def _overload(out: Exposition, stats: Stats) -> None:
    resources = stats.overload.resources
    out.simple(
        "fastmesh_overload_level",
        "gauge",
        "How hard a resource presses: 0 enough, 1 short (from 92 % on), 2 used up (from 97 % on).",
        (({"resource": item.resource}, item.level) for item in resources),
    )
    out.simple(
        "fastmesh_resource_usage_ratio",
        "gauge",
        "Share of a resource's limit that is used; 0 where there is no limit.",
        (({"resource": item.resource}, item.share) for item in resources),
    )
    for item in resources:
        if item.limit:
            name, what = _LIMITS[item.resource]
            out.simple(name, "gauge", what, [({}, item.limit)])
    out.simple(
        "fastmesh_overload_closed_total",
        "counter",
        "Connections that did nothing and were closed to make room, of clients and to endpoints.",
        (
            ({"side": side}, count)
            for side, count in (
                ("client", stats.overload.closed_clients),
                ("endpoint", stats.overload.closed_endpoints),
            )
        ),
    )


def _own_state(out: Exposition, stats: Stats, reloads: ReloadCounts) -> None:
    out.simple(
        "fastmesh_errors_total",
        "counter",
        "Exchanges and connections that failed, by the code of x-fastmesh-error.",
        (({"code": code}, count) for code, count in sorted(stats.errors.items())),
    )
    out.simple(
        "fastmesh_config_reloads_total",
        "counter",
        "Configurations read while running, by what became of them.",
        (({"result": result}, getattr(reloads, result)) for result in ("applied", "unchanged", "refused")),
    )
    out.simple(
        "fastmesh_config_last_reload_successful",
        "gauge",
        "1 if the last configuration that was read is in force, 0 if it was refused.",
        [({}, int(reloads.last_successful))],
    )
    out.simple(
        "fastmesh_config_generation",
        "gauge",
        "Number of the snapshot that the data plane serves from.",
        [({}, stats.generation)],
    )
    out.simple(
        "fastmesh_access_log_lines_dropped_total",
        "counter",
        "Access log lines that were dropped because the log could not be written fast enough.",
        [({}, stats.access_lines_dropped)],
    )
    _stalls(out, stats)
    out.simple("fastmesh_workers", "gauge", "Worker threads of the data plane.", [({}, len(stats.workers))])
    out.simple(
        "fastmesh_build_info",
        "gauge",
        "1, labelled with the version.",
        [({"version": __version__, "python": platform.python_version()}, 1)],
    )


def _stalls(out: Exposition, stats: Stats) -> None:
    out.simple(
        "fastmesh_worker_slow_turns_total",
        "counter",
        "Turns of a worker that took over 100 ms.",
        (({"worker": str(worker.index)}, worker.slow_turns) for worker in stats.workers),
    )
    out.simple(
        "fastmesh_worker_stalls_total",
        "counter",
        "Turns of a worker that were seen to take over 1 s.",
        (({"worker": str(worker.index)}, worker.stalls) for worker in stats.workers),
    )
    out.simple(
        "fastmesh_control_plane_stalls_total",
        "counter",
        "How often the control plane did not run for 5 s.",
        [({}, stats.control_stalls)],
    )
    out.simple(
        "fastmesh_control_plane_failures_total",
        "counter",
        "How often the control plane failed and was started again.",
        [({}, stats.control_failures)],
    )
