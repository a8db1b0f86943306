"""The effective configuration in the file's own shape, for people to see: defaults filled in, no secrets."""

from __future__ import annotations

import math
from typing import Any

from msgspec import UNSET

from fastmesh.config.failure_keys import RETRY_CODES
from fastmesh.model import (
    Balance,
    Config,
    Forward,
    HashKey,
    Health,
    Limits,
    Listener,
    OutlierDetection,
    Redirect,
    Retries,
    Route,
    Service,
    ServiceLimits,
    Sidecar,
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
        "ready_timeout": _duration(config.ready_timeout),
        "access_log": "off"
        if config.access_log is None
        else {"to": config.access_log.to, "format": config.access_log.format},
        "log": {"level": config.log.level, "format": config.log.format},
        "limits": _limits(config.limits),
        **({} if config.sidecar is None else {"sidecar": _sidecar(config.sidecar)}),
        "listeners": {name: listener_dict(listener) for name, listener in config.listeners.items()},
        "services": {name: service_dict(service) for name, service in config.services.items()},
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


def _sidecar(sidecar: Sidecar) -> dict[str, Any]:
    ends = sidecar.exit_with
    return {
        "mode": "transparent" if sidecar.transparent else "explicit",
        **({"app": sidecar.app[0].text} if sidecar.app else {}),
        **({} if ends is None else {"exit_with": f"{ends.kind}:{ends.number}"}),
    }


def _duration(seconds: float | None) -> str:
    return "none" if seconds is None or seconds == math.inf else format_duration(seconds)


def _limits(limits: Limits) -> dict[str, Any]:
    return {
        "header_bytes": format_size(limits.header_bytes),
        "header_count": limits.header_count,
        "target_bytes": format_size(limits.target_bytes),
        "method_bytes": limits.method_bytes,
        "body": "none" if limits.body is None else format_size(limits.body),
        "min_rate": "none" if limits.min_rate is None else format_size(limits.min_rate),
        "connections": "auto" if limits.connections is None else limits.connections,
        "memory": "auto" if limits.memory is None else format_size(limits.memory),
    }


def listener_dict(listener: Listener) -> dict[str, Any]:
    """One entry of `listeners`, not masked."""
    public: dict[str, Any] = {
        "bind": [bind.text for bind in listener.binds],
        "protocol": listener.protocol,
        "accept_proxy": listener.accept_proxy,
        "drain": listener.drain,
        **({"direction": "outbound"} if listener.direction == "outbound" else {}),
        **({"intercept": True} if listener.intercept else {}),
        **({"within": listener.within} if listener.within else {}),
        **({"ports": list(listener.ports)} if listener.ports else {}),
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
    public["routes"] = [route_dict(route) for route in listener.routes]
    return public


def route_dict(route: Route) -> dict[str, Any]:
    """One entry of `routes`, not masked."""
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


def service_dict(service: Service) -> dict[str, Any]:
    """One entry of `services`, not masked."""
    return {
        "endpoints": [
            {
                "dns_srv" if endpoint.address.kind == "srv" else "address": endpoint.address.text,
                "weight": endpoint.weight,
                "priority": endpoint.priority,
                **({"drain": True} if endpoint.drain else {}),
                **({"labels": dict(endpoint.labels)} if endpoint.labels else {}),
            }
            for endpoint in service.endpoints
        ],
        "balance": _balance(service.balance),
        "timeouts": _timeouts(service.timeouts),
        "retries": _retries(service.retries),
        "outlier_detection": _outlier_detection(service.outlier_detection),
        "limits": _service_limits(service.limits),
        "slow_start": _duration(service.slow_start),
        "upstream": _upstream(service.upstream),
        "health": _health(service.health),
        "send_proxy": service.send_proxy or "off",
        "drain": service.drain,
        "protocol": service.protocol,
        **({} if service.refresh is None else {"refresh": _duration(service.refresh)}),
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


def _share(share: float | None) -> str:
    return "none" if share is None else format_share(share)


def _number(number: int | None) -> int | str:
    return "none" if number is None else number


def _retries(retries: Retries) -> dict[str, Any]:
    codes = set(retries.codes)
    names = []
    for name, group in reversed(RETRY_CODES.items()):  # the widest first
        if codes.issuperset(group):
            codes.difference_update(group)
            names.append(name)
    return {
        "attempts": retries.attempts,
        "budget": _share(retries.budget),
        "on": [*retries.on, *names, *sorted(codes)],
        "per_try": _duration(retries.per_try),
        "retry_unsafe": retries.retry_unsafe,
    }


def _outlier_detection(detection: OutlierDetection | None) -> Any:
    if detection is None:
        return "off"
    return {
        "consecutive_5xx": _number(detection.consecutive_5xx),
        "consecutive_gateway_errors": _number(detection.consecutive_gateway_errors),
        "success_rate": _share(detection.success_rate),
        "interval": _duration(detection.interval),
        "base_ejection_time": _duration(detection.base_ejection_time),
        "max_ejection_time": _duration(detection.max_ejection_time),
        "max_ejected": _share(detection.max_ejected),
    }


def _service_limits(limits: ServiceLimits) -> dict[str, Any]:
    return {
        "connections": _number(limits.connections),
        "requests": _number(limits.requests),
        "queue": limits.queue,
        "queue_timeout": _duration(limits.queue_timeout),
        "endpoint": {
            "connections": _number(limits.endpoint_connections),
            "requests": _number(limits.endpoint_requests),
        },
    }


def _upstream(upstream: Upstream) -> dict[str, Any]:
    return {
        "keepalive": upstream.keepalive,
        "idle": _duration(upstream.idle),
        "max_age": _duration(upstream.max_age),
    }


def _health(health: Health | None) -> Any:
    if health is None:
        return "off"
    return {
        "type": health.type,
        **(_http_check(health) if health.type == "http" else {}),
        **({} if health.port is None else {"port": health.port}),
        "interval": _duration(health.interval),
        "timeout": _duration(health.timeout),
        "healthy": health.healthy,
        "unhealthy": health.unhealthy,
        "panic_threshold": _share(health.panic),
    }


def _http_check(health: Health) -> dict[str, Any]:
    public: dict[str, Any] = {"path": health.path, "method": health.method}
    if health.host is not None:
        public["host"] = health.host
    if health.headers:
        public["headers"] = dict(health.headers)
    public["expect"] = [first if first == last else f"{first}-{last}" for first, last in health.expect]
    if health.body is not None:
        public["body"] = {"regex": health.body.text} if health.body.regex else health.body.text
    return public
