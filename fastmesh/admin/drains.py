"""`/api/v1/drain`: what a request names, and what the answer shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from msgspec import Struct

from fastmesh.admin.control import DrainBy, DrainTarget
from fastmesh.admin.http import Response, error_response
from fastmesh.config.kinds import did_you_mean, one_of
from fastmesh.config.texts import parse_endpoint
from fastmesh.model import Config, Service
from fastmesh.model.stats import EndpointStats, Stats

NOTE = "asked for by the API, it lasts until `undrain` or a restart; `drain: true` in the file outlasts that"
PARAMETERS = ("listener", "service", "endpoint", "watch")
MOST_NAMES = 6  # that a message lists


class Wish(Struct, frozen=True):
    """What a request names; no target: the process. ``watch``: who asks wants to know the end of it."""

    target: DrainTarget | None = None
    watch: bool = False


def parse(query: str, config: Config) -> Wish | Response:
    """What ``query`` names, or the answer to what cannot be meant."""
    pairs = parse_qsl(query, keep_blank_values=True)
    given = dict(pairs)
    for name in given:
        if name not in PARAMETERS:
            advice = did_you_mean(name, PARAMETERS) or f"there are {one_of(PARAMETERS, 'and')}"
            return error_response(400, f"there is no parameter `{name}`", advice)
    if len(given) != len(pairs):
        return error_response(400, "a parameter is given twice", "send a request for each")
    listener, service, endpoint = (given.get(name) for name in ("listener", "service", "endpoint"))
    if listener is not None and (service is not None or endpoint is not None):
        return error_response(400, "a listener and a service are named", "send a request for each")
    if endpoint is not None and service is None:
        return error_response(400, "an endpoint needs its service", "add `service=NAME`")
    target: DrainTarget | Response | None = None
    if listener is not None:
        target = _named("listener", listener, config.listeners) or DrainTarget("listener", listener)
    elif service is not None:
        target = _named("service", service, config.services) or DrainTarget("service", service)
        if endpoint is not None and isinstance(target, DrainTarget):
            target = _endpoint(config.services[service], endpoint)
    return target if isinstance(target, Response) else Wish(target, "watch" in given)


def _named(kind: str, name: str, known: Mapping[str, object]) -> Response | None:
    return None if name in known else _missing(f"there is no {kind} `{name}`", name, known, f"{kind}s")


def _endpoint(service: Service, text: str) -> DrainTarget | Response:
    try:
        canonical = parse_endpoint(text).text
    except ValueError:
        canonical = text
    known = {one.address.text: one for one in service.endpoints}
    if canonical in known:
        return DrainTarget("endpoint", service.name, canonical)
    return _missing(
        f"service `{service.name}` has no endpoint `{text}`", text, known, "endpoints, as the file has them"
    )


def _missing(message: str, name: str, known: Mapping[str, object], what: str) -> Response:
    hint = did_you_mean(name, known)
    if hint is None:
        shown = list(known)[:MOST_NAMES]
        hint = f"there are no {what}"
        if shown:
            more = f" and {len(known) - len(shown):,} more" if len(known) > len(shown) else ""
            hint = f"the {what}: {', '.join(f'`{one}`' for one in shown)}{more}"
    return error_response(404, message, hint)


def entries(
    listed: Mapping[DrainTarget, DrainBy], stats: Stats, resolved: Mapping[str, tuple[str, ...]]
) -> list[dict[str, Any]]:
    """How far each is. ``resolved``: the addresses that each endpoint which is a host name stands for."""
    by_service: dict[str, list[EndpointStats]] = {}
    for endpoint in stats.endpoints:
        by_service.setdefault(endpoint.service, []).append(endpoint)
    connections = {one.listener: one.connections_active for one in stats.listeners}
    queued = {one.service: one.queued for one in stats.services}
    made = []
    for target, by in listed.items():
        if target.kind == "listener":
            # Requests are not counted by listener; a connection without one goes within a second
            made.append(_entry(target, by, None, connections.get(target.name, 0)))
            continue
        endpoints = by_service.get(target.name, [])
        if target.kind == "endpoint":
            addresses = resolved.get(target.address, (target.address,))
            endpoints = [one for one in endpoints if one.address in addresses]
        in_flight = sum(one.in_flight for one in endpoints)
        if target.kind == "service":
            in_flight += queued.get(target.name, 0)
        made.append(_entry(target, by, in_flight, sum(one.connections_active for one in endpoints)))
    return made


def named(target: DrainTarget) -> dict[str, str]:
    """`kind`, and the names under `listener`, `service` and `endpoint`."""
    if target.kind == "endpoint":
        return {"kind": "endpoint", "service": target.name, "endpoint": target.address}
    return {"kind": target.kind, target.kind: target.name}


def _entry(target: DrainTarget, by: DrainBy, in_flight: int | None, connections: int) -> dict[str, Any]:
    return {
        **named(target),
        "by": by,
        "in_flight": in_flight,
        "connections": connections,
        "done": not in_flight and connections == 0,
    }
