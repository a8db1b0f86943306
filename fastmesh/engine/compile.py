"""From the model to the plain values that native blocks are built from (see ``core/blocks.pyx``).

No I/O, no state.

Times become whole milliseconds, where 0 means no limit and anything above it at least 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from msgspec import UNSET

from fastmesh.engine.numbering import Slots
from fastmesh.model import (
    Address,
    Config,
    Forward,
    Listener,
    OutlierDetection,
    Place,
    Redirect,
    Resolved,
    Respond,
    Route,
    Service,
    ServiceLimits,
)

Spec = dict[str, Any]
# Address, its canonical text, weight, priority, whether it drains
Endpoints = tuple[tuple[Address, str, int, int, bool], ...]
Targets = tuple[tuple[str, int], ...]  # service, weight
Destination = tuple[bytes, int, int]  # IPv6 or mapped IPv4 address (zeros: any), port, number of a listener

UNSET_MS = 0xFFFFFFFF
WITHIN_NONE = 0xFFFFFFFF
_UNLIMITED = 0xFFFFFFFF
_RETRY_ON = {"connect-failure": 1, "reset": 2, "timeout": 4}
_LONGEST_MS = 0x7FFFFFFF
_MOST_WEIGHT = 65535
_MOST_PRIORITY = 127
_POLICIES = {"round_robin": 0, "random": 1, "least_request": 2, "ring_hash": 3, "maglev": 4}
_KEY_KINDS = {"source_ip": 0, "path": 1, "header": 2, "cookie": 3, "query": 4}
_PROTOCOLS = {"http": 0, "tcp": 1, "auto": 2}
_FORWARD, _REDIRECT, _RESPOND = 0, 1, 2
_FORWARDED_FOR, _FORWARDED_PROTO, _FORWARDED_HOST, _FORWARDED_REQUEST_ID = 1, 2, 4, 8


def milliseconds(seconds: float | None) -> int:
    """0 for None."""
    if seconds is None:
        return 0
    return max(1, min(round(seconds * 1000), _LONGEST_MS))


def resolve_endpoints(service: Service, resolved: Resolved) -> Endpoints:
    """Address, text, weight, priority and drain of each endpoint, names replaced by all their addresses.

    An address that is reached twice is one endpoint with the sum of the weights and the lowest priority. It
    drains when it does each time.
    """
    found: dict[Address, tuple[int, int, bool]] = {}
    for endpoint in service.endpoints:
        address = endpoint.address
        places = resolved.get(address.text, ()) if address.is_name else (Place(address),)
        for place in places:
            weight, priority, drain = found.get(place.address, (0, _MOST_PRIORITY, True))
            found[place.address] = (
                weight + min(endpoint.weight * place.weight, _MOST_WEIGHT),
                min(priority, endpoint.priority + place.priority),
                drain and endpoint.drain,
            )
    return tuple((address, address.text, *rest) for address, rest in found.items())


def resolved_differently(before: Mapping[str, Endpoints], now: Mapping[str, Endpoints]) -> tuple[str, ...]:
    """A line for each service whose endpoints have changed without a change of the configuration."""
    return tuple(
        f"service {name}: its endpoints resolve to other addresses"
        for name in now
        if now[name] != before.get(name)
    )


def service_spec(service: Service, index: int, slots: list[tuple[int, int, int]]) -> Spec:
    """``slots``: (slot index, weight, priority) of each endpoint."""
    balance = service.balance
    timeouts = service.timeouts
    bounded = balance.bounded_load
    return {
        "index": index,
        "name": service.name.encode(),
        "policy": _POLICIES[balance.policy],
        "ring_size": balance.ring_size,
        "table_size": balance.table_size,
        "bounded_load": 0 if bounded is None else round(bounded * 1000),
        "keys": [(_KEY_KINDS[key.kind], key.name.encode()) for key in balance.key]
        or [(_KEY_KINDS["source_ip"], b"")],
        "endpoints": slots,
        "connect_ms": milliseconds(timeouts.connect),
        "response_ms": milliseconds(timeouts.response),
        "idle_ms": milliseconds(timeouts.idle),
        "tunnel_idle_ms": milliseconds(timeouts.idle_tcp),
        "total_ms": milliseconds(timeouts.total),
        "pool_idle_ms": milliseconds(service.upstream.idle),
        "keepalive": service.upstream.keepalive,
        "send_proxy": {None: 0, "v1": 1, "v2": 2}[service.send_proxy],
        "max_age_ms": milliseconds(service.upstream.max_age),
        "draining": service.drain,
        **_failures_spec(service),
        **_limits_spec(service.limits),
    }


def _failures_spec(service: Service) -> Spec:
    """Retries, and when an endpoint is left out. Counts of 0 switch a rule off."""
    retries = service.retries
    outliers = service.outlier_detection
    detected = outliers or OutlierDetection(consecutive_5xx=None, consecutive_gateway_errors=None)
    return {
        "retry_attempts": retries.attempts,
        "retry_budget": _UNLIMITED if retries.budget is None else round(retries.budget * 1000),
        "retry_on": sum(_RETRY_ON[condition] for condition in set(retries.on)),
        "retry_codes": list(retries.codes),
        "retry_unsafe": retries.retry_unsafe,
        "per_try_ms": milliseconds(retries.per_try),
        "eject_5xx": detected.consecutive_5xx or 0,
        "eject_gateway": detected.consecutive_gateway_errors or 0,
        "eject_base_ms": milliseconds(detected.base_ejection_time),
        "eject_max_ms": milliseconds(detected.max_ejection_time),
        "eject_most": round(detected.max_ejected * 1000),
        "slow_start_ms": milliseconds(service.slow_start),
    }


def _limits_spec(limits: ServiceLimits) -> Spec:
    def most(count: int | None) -> int:
        return _UNLIMITED if count is None else count

    return {
        "limit_requests": most(limits.requests),
        "limit_connections": most(limits.connections),
        "limit_endpoint_requests": most(limits.endpoint_requests),
        "limit_endpoint_connections": most(limits.endpoint_connections),
        "limit_queue": limits.queue,
        "queue_ms": milliseconds(limits.queue_timeout),
    }


def _takes_requests(service: Service) -> bool:
    """Endpoints of weight 0 are picked by none, so it depends on the others whether all drain."""
    picked = [endpoint for endpoint in service.endpoints if endpoint.weight]
    return not service.drain and not (picked and all(endpoint.drain for endpoint in picked))


def split(targets: Targets, services: Mapping[str, Service]) -> Targets:
    """The weights of a split while services of it drain: 0 for those, as long as the others have a share."""
    weights = [(name, weight if _takes_requests(services[name]) else 0) for name, weight in targets]
    return tuple(weights) if any(weight for _, weight in weights) else targets


def _action_spec(
    route: Route,
    services: Mapping[str, Service],
    service_index: Callable[[str], int],
    pair_index: Callable[[str], int],
) -> Spec:
    spec: Spec = {
        "kind": _FORWARD,
        "status": 0,
        "response_ms": UNSET_MS,
        "prefix_len": len(route.path.rstrip("/").encode()),
        "rewrite": None,
        "location": b"",
        "body": b"",
        "targets": [],
    }
    action = route.action
    if isinstance(action, Forward):
        spec["targets"] = [
            (service_index(name), pair_index(name), weight)
            for name, weight in split(action.targets, services)
        ]
        if action.rewrite_prefix is not None:
            spec["rewrite"] = action.rewrite_prefix.encode()
        if action.response_timeout is not UNSET:
            spec["response_ms"] = milliseconds(action.response_timeout)
    elif isinstance(action, Redirect):
        spec.update(kind=_REDIRECT, status=action.status, location=action.to.encode())
    elif isinstance(action, Respond):
        spec.update(kind=_RESPOND, status=action.status, body=action.body)
    return spec


def _trusted(ranges: tuple[str, ...]) -> list[tuple[bytes, int]]:
    packed = []
    for text in ranges:
        network = ip_network(text)
        if network.version == 4:
            packed.append((b"\0" * 10 + b"\xff\xff" + network.network_address.packed, network.prefixlen + 96))
        else:
            packed.append((network.network_address.packed, network.prefixlen))
    return packed


def _route_tuple(route: Route, action: int) -> tuple[Any, ...]:
    return (
        0 if route.path_kind == "prefix" else 1,
        route.path.encode(),
        tuple(method.encode() for method in route.methods),
        tuple(host.encode() for host in route.hosts),
        tuple((name.encode(), value.encode()) for name, value in route.headers),
        action,
    )


def listener_spec(
    listener: Listener,
    config: Config,
    index: int,
    service_index: Callable[[str], int],
    pair_index: Callable[[str], int],
    within: int = WITHIN_NONE,
    destinations: Sequence[Destination] = (),
) -> Spec:
    """``pair_index`` numbers the statistics of (this listener, service); "" is for own answers. ``within`` is
    the number of the listener that this one is within, ``destinations`` whose its connections are, for one
    that intercepts."""
    limits = config.limits
    forwarded = listener.forwarded
    return {
        "index": index,
        "name": listener.name.encode(),
        "protocol": _PROTOCOLS[listener.protocol],
        "accept_proxy": listener.accept_proxy,
        "forwarded": (
            _FORWARDED_FOR * forwarded.for_
            + _FORWARDED_PROTO * forwarded.proto
            + _FORWARDED_HOST * forwarded.host
            + _FORWARDED_REQUEST_ID * forwarded.request_id
        ),
        "upgrade_websocket": "websocket" in listener.upgrade,
        "own_pair_index": pair_index(""),
        "header_ms": milliseconds(config.timeouts.header),
        "client_idle_ms": milliseconds(config.timeouts.idle),
        "body_limit": limits.body or 0,
        "min_rate": limits.min_rate or 0,
        "header_bytes": limits.header_bytes,
        "header_count": limits.header_count,
        "target_bytes": limits.target_bytes,
        "method_bytes": limits.method_bytes,
        "trusted": _trusted(config.trusted_proxies if listener.trusted is None else listener.trusted),
        "intercepts": listener.intercept,
        "draining": listener.drain and listener.within is not None,
        "within": within,
        "destinations": list(destinations),
        "routes": [_route_tuple(route, number) for number, route in enumerate(listener.routes)],
        "actions": [
            _action_spec(route, config.services, service_index, pair_index) for route in listener.routes
        ],
    }


def services_of(listener: Listener) -> set[str]:
    """The services that a listener's routes name, and "" for what the proxy answers itself."""
    names = {""}
    for route in listener.routes:
        if isinstance(route.action, Forward):
            names.update(name for name, _ in route.action.targets)
    return names


def weights(endpoints: Mapping[str, Endpoints], slots: Slots) -> tuple[tuple[str, str, int, int], ...]:
    """(service, address, slot, weight) of each endpoint."""
    return tuple(
        (name, text, slots.of[name, text].index, weight)
        for name, found in endpoints.items()
        for _, text, weight, *_ in found
    )
