"""The effective configuration in the file's own shape, for people to see: defaults filled in, no secrets."""

from __future__ import annotations

import math
from typing import Any

from msgspec import UNSET

from fastmesh.model import (
    Balance,
    Config,
    Forward,
    HashKey,
    Health,
    Limits,
    Listener,
    Redirect,
    Retries,
    Route,
    Service,
    Timeouts,
    Upstream,
)
from fastmesh.units import format_duration, format_share, format_size

MASK = "***"


def as_public_dict(config: Config) -> dict[str, Any]:
    """`config` as a plain dict that JSON can hold. Texts from `${file:…}` and the admin token are `***`."""
    public = {
        "admin": _admin(config),
        "workers": "auto" if config.workers is None else config.workers,
        **({} if config.registry is None else {"registry": config.registry}),
        "trusted_proxies": list(config.trusted_proxies),
        "drain": {"delay": _duration(config.drain.delay), "timeout": _duration(config.drain.timeout)},
        "access_log": "off"
        if config.access_log is None
        else {"to": config.access_log.to, "format": config.access_log.format},
        "log": {"level": config.log.level, "format": config.log.format},
        "limits": _limits(config.limits),
        "listeners": {name: _listener(listener) for name, listener in config.listeners.items()},
        "services": {name: _service(service) for name, service in config.services.items()},
    }
    if config.secrets.texts:
        secrets = sorted((text.casefold() for text in config.secrets.texts), key=len, reverse=True)
        public = _masked(public, tuple(secrets))
    return public


def _masked(value: Any, secrets: tuple[str, ...]) -> Any:
    """`value` with every leaf that is a secret, or has a longer one in it, replaced."""
    if isinstance(value, dict):
        return {key: _masked(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item, secrets) for item in value]
    text = str(value).casefold()
    for secret in secrets:
        if text == secret or (len(secret) > 3 and secret in text):
            return MASK
    return value


def _admin(config: Config) -> Any:
    bind = "off" if config.admin.bind is None else config.admin.bind
    return bind if config.admin.token is None else {"bind": bind, "token": MASK}


def _duration(seconds: float | None) -> str:
    return "none" if seconds is None or seconds == math.inf else format_duration(seconds)


def _limits(limits: Limits) -> dict[str, Any]:
    return {
        "header_bytes": format_size(limits.header_bytes),
        "header_count": limits.header_count,
        "target_bytes": format_size(limits.target_bytes),
        "method_bytes": limits.method_bytes,
        "body": "none" if limits.body is None else format_size(limits.body),
        "connections": "auto" if limits.connections is None else limits.connections,
    }


def _listener(listener: Listener) -> dict[str, Any]:
    public: dict[str, Any] = {
        "bind": [bind.text for bind in listener.binds],
        "protocol": listener.protocol,
        "accept_proxy": listener.accept_proxy,
    }
    if listener.protocol == "tcp":
        for route in listener.routes:
            if isinstance(route.action, Forward):
                public["service"] = _targets(route.action)
        return public
    forwarded = listener.forwarded
    public["forwarded"] = {
        "for": forwarded.for_,
        "proto": forwarded.proto,
        "host": forwarded.host,
        "request_id": forwarded.request_id,
    }
    public["upgrade"] = list(listener.upgrade)
    public["routes"] = [_route(route) for route in listener.routes]
    return public


def _route(route: Route) -> dict[str, Any]:
    public: dict[str, Any] = {
        "path": route.path if route.path_kind == "prefix" else {route.path_kind: route.path}
    }
    if route.methods:
        public["methods"] = list(route.methods)
    if route.hosts:
        public["hosts"] = list(route.hosts)
    if route.headers:
        public["headers"] = dict(route.headers)
    action = route.action
    if isinstance(action, Forward):
        public["service"] = _targets(action)
        if action.rewrite_prefix is not None:
            public["rewrite"] = {"prefix": action.rewrite_prefix}
        if action.response_timeout is not UNSET:
            public["timeout"] = _duration(action.response_timeout)
    elif isinstance(action, Redirect):
        public["redirect"] = {"to": action.to, "status": action.status}
    else:
        public["respond"] = {"status": action.status, "body": action.body.decode()}
    return public


def _targets(action: Forward) -> Any:
    return action.targets[0][0] if len(action.targets) == 1 else dict(action.targets)


def _service(service: Service) -> dict[str, Any]:
    return {
        "endpoints": [
            {
                "address": endpoint.address.text,
                "weight": endpoint.weight,
                **({"labels": dict(endpoint.labels)} if endpoint.labels else {}),
            }
            for endpoint in service.endpoints
        ],
        "balance": _balance(service.balance),
        "timeouts": _timeouts(service.timeouts),
        "retries": _retries(service.retries),
        "upstream": _upstream(service.upstream),
        **({} if service.health is None else {"health": _health(service.health)}),
        "send_proxy": service.send_proxy or "off",
    }


def _balance(balance: Balance) -> dict[str, Any]:
    public: dict[str, Any] = {"policy": balance.policy}
    if balance.key:
        public["key"] = [_hash_key(key) for key in balance.key]
        public["bounded_load"] = (
            "none" if balance.bounded_load is None else format_share(balance.bounded_load)
        )
    if balance.policy == "ring_hash":
        public["ring_size"] = balance.ring_size
    elif balance.policy == "maglev":
        public["table_size"] = balance.table_size
    return public


def _hash_key(key: HashKey) -> Any:
    return {key.kind: key.name} if key.name else key.kind


def _timeouts(timeouts: Timeouts) -> dict[str, Any]:
    """In the file's shape `idle` is one key; while it is not written, it has two built-in values."""
    public = {
        "connect": _duration(timeouts.connect),
        "response": _duration(timeouts.response),
        "header": _duration(timeouts.header),
        "total": _duration(timeouts.total),
    }
    if timeouts.idle == timeouts.idle_tcp:
        public["idle"] = _duration(timeouts.idle)
    return public


def _retries(retries: Retries) -> dict[str, Any]:
    budget = "none" if retries.budget is None else format_share(retries.budget)
    return {"attempts": retries.attempts, "budget": budget}


def _upstream(upstream: Upstream) -> dict[str, Any]:
    return {
        "keepalive": upstream.keepalive,
        "idle": _duration(upstream.idle),
        "max_age": _duration(upstream.max_age),
    }


def _health(health: Health) -> dict[str, Any]:
    return {
        "path": health.path,
        "interval": _duration(health.interval),
        "timeout": _duration(health.timeout),
        "healthy": health.healthy,
        "unhealthy": health.unhealthy,
    }
