"""What the JSON endpoints show: plain dicts made of the configuration and of `Stats`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fastmesh.admin.control import ControlPlane
from fastmesh.model import Address, Bind, Config
from fastmesh.model.stats import Stats

MASK = "***"


def mask(value: Any, secrets: tuple[str, ...]) -> Any:
    """``value`` (of dicts, lists and scalars) with each secret text replaced wherever a string holds it."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return value
    if isinstance(value, dict):
        return {mask(key, secrets): mask(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(item, secrets) for item in value]
    return value


def config_as_data(config: Config) -> dict[str, Any]:
    """``config`` with all defaults filled in and secrets masked. Durations are seconds, sizes bytes."""
    data: dict[str, Any] = {
        name: _plain(getattr(config, name)) for name in config.__struct_fields__ if name != "secrets"
    }
    if config.admin.token is not None:
        data["admin"]["token"] = MASK
    # The longest first, so that a secret that holds another one is masked whole.
    secrets = sorted((text for text in config.secrets.texts if text), key=len, reverse=True)
    masked: dict[str, Any] = mask(data, tuple(secrets))
    return masked


def _plain(value: Any) -> Any:
    """Dicts, lists and scalars. (`msgspec.to_builtins` would write bytes as base64; bodies read better as
    text.)"""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Address | Bind):
        return value.text
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name.rstrip("_"): _plain(item) for name, item in fields.items() if item is not msgspec.UNSET}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def config_view(control: ControlPlane) -> dict[str, Any]:
    outcome = control.last_reload()
    config = control.config()
    return {
        "file": control.config_file(),
        "last_reload": mask(_plain(outcome), config.secrets.texts),
        "reloads": msgspec.to_builtins(control.reload_counts()),
        "config": config_as_data(config),
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
