"""What the JSON endpoints show: plain dicts made of the configuration and of `Stats`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fastmesh.admin.control import ControlPlane
from fastmesh.config import as_public_dict
from fastmesh.model.stats import Stats

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


def services_view(stats: Stats, resolved: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Services with their endpoints; ``resolved`` says which addresses each host name stands for."""
    services: dict[str, list[dict[str, Any]]] = {item.service: [] for item in stats.services}
    for endpoint in stats.endpoints:
        services.setdefault(endpoint.service, []).append(
            {
                "address": endpoint.address,
                "state": endpoint.state,
                "weight": endpoint.weight,
                "in_flight": endpoint.in_flight,
                "connections_active": endpoint.connections_active,
                "connections_idle": endpoint.connections_idle,
                "requests": endpoint.requests,
                "failures": endpoint.failures,
            }
        )
    return {
        "services": [{"service": name, "endpoints": endpoints} for name, endpoints in services.items()],
        "resolved": {name: list(addresses) for name, addresses in resolved.items()},
    }


def workers_view(stats: Stats) -> dict[str, Any]:
    return {"generation": stats.generation, "workers": msgspec.to_builtins(stats.workers)}
