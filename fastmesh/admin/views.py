"""What the JSON endpoints show: plain dicts made of the configuration and of `Stats`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fastmesh.admin.control import ControlPlane
from fastmesh.config import as_public_dict
from fastmesh.discovery import NameView
from fastmesh.health import EndpointHealth, ServiceHealth
from fastmesh.model.stats import Stats
from fastmesh.observability.logs import timestamp

MASK = "***"


def mask(value: Any, secrets: tuple[str, ...]) -> Any:
    """``value`` (of dicts, lists and scalars) with each secret text replaced wherever a string holds it.
    (What `as_public_dict` does for the configuration, for the problems of a refused one.)"""
    if isinstance(value, str):
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, MASK) if len(secret) > 3 else value
        return value
    if isinstance(value, dict):
        return {key: mask(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(item, secrets) for item in value]
    return value


def config_view(control: ControlPlane) -> dict[str, Any]:
    outcome = control.last_reload()
    config = control.config()
    return {
        "file": control.config_file(),
        "last_reload": mask(msgspec.to_builtins(outcome), config.secrets.texts),
        "reloads": msgspec.to_builtins(control.reload_counts()),
        "config": as_public_dict(config),
    }


def listeners_view(stats: Stats) -> dict[str, Any]:
    return {"listeners": msgspec.to_builtins(stats.listeners)}


def services_view(
    stats: Stats,
    resolved: Mapping[str, tuple[str, ...]],
    health: Mapping[str, ServiceHealth],
    names: Iterable[NameView] = (),
) -> dict[str, Any]:
    """Services with their endpoints; ``resolved`` says which addresses each host name stands for, ``health``
    what active checks found, ``names`` what DNS says."""
    services: dict[str, dict[str, Any]] = {
        item.service: _service_view(item.service, health, item.draining) for item in stats.services
    }
    for endpoint in stats.endpoints:
        service = health.get(endpoint.service)
        view = services.setdefault(endpoint.service, _service_view(endpoint.service, health))
        view["endpoints"].append(
            {
                "address": endpoint.address,
                "state": endpoint.state,
                "reason": endpoint.reason,
                "weight": endpoint.weight,
                "in_flight": endpoint.in_flight,
                "connections_active": endpoint.connections_active,
                "connections_idle": endpoint.connections_idle,
                "requests": endpoint.requests,
                "failures": endpoint.failures,
                "answers_5xx": endpoint.answers_5xx,
                "ejections": endpoint.ejections,
                "health": _endpoint_health(service.endpoints.get(endpoint.address)) if service else None,
            }
        )
    return {
        "services": list(services.values()),
        "resolved": {name: list(addresses) for name, addresses in resolved.items()},
        "names": [_name_view(name) for name in names],
    }


def _name_view(name: NameView) -> dict[str, Any]:
    """``ttl`` is None from the hosts file, ``next_lookup`` while it is looked up."""
    return {
        "name": name.name,
        "type": name.type,
        "addresses": list(name.addresses),
        "ttl": name.ttl,
        "last_lookup": None if name.last_lookup is None else timestamp(name.last_lookup),
        "next_lookup": None if name.next_lookup is None else timestamp(name.next_lookup),
        "last_error": name.last_error or None,
    }


def _service_view(name: str, health: Mapping[str, ServiceHealth], draining: bool = False) -> dict[str, Any]:
    """``health`` is None without active checks."""
    found = health.get(name)
    checks = None
    if found is not None:
        checks = {"healthy": found.healthy, "checked": len(found.endpoints), "panic": found.panic}
    return {"service": name, "draining": draining, "health": checks, "endpoints": []}


def _endpoint_health(health: EndpointHealth | None) -> dict[str, Any] | None:
    """The newest check comes last in ``history``; None while the endpoint is not followed yet."""
    if health is None:
        return None
    return {
        "state": health.state,
        "since": timestamp(health.since),
        "last_check": timestamp(health.history[-1].at) if health.history else None,
        "last_duration_ms": _milliseconds(health.history[-1].seconds) if health.history else None,
        "last_error": health.last_error or None,
        "history": [
            {
                "at": timestamp(past.at),
                "passed": past.result.passed,
                "duration_ms": _milliseconds(past.seconds),
                "result": past.result.text,
            }
            for past in health.history
        ],
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def overload_view(stats: Stats) -> dict[str, Any]:
    """A ``limit`` and ``share`` of None: no limit."""
    overload = stats.overload
    return {
        "level": overload.level,
        "resources": {
            item.resource: {
                "used": item.used,
                "limit": item.limit or None,
                "share": round(item.share, 4) if item.limit else None,
                "level": item.level,
            }
            for item in overload.resources
        },
        "closed": {"clients": overload.closed_clients, "endpoints": overload.closed_endpoints},
    }


def workers_view(stats: Stats) -> dict[str, Any]:
    return {"generation": stats.generation, "workers": msgspec.to_builtins(stats.workers)}
