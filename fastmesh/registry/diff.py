"""What changed from one configuration to the next, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastmesh.config.public import as_public_dict, listener_dict, route_dict, service_dict
from fastmesh.model import Config, Endpoint, Forward, Listener, Redirect, Route, Service

MAX_LINES = 100


def same(old: Config, new: Config) -> bool:
    """Equal, and the listeners in the same order: of two for the same intercepted connections the first one
    has them."""
    return old == new and list(old.listeners) == list(new.listeners)


def changes(old: Config, new: Config) -> tuple[str, ...]:
    """One line for each change, such as `service user: endpoint 10.0.0.3:80 added`; empty for equal ones.

    Secrets are not shown. Past 100 lines the last one counts the rest.
    """
    if same(old, new):
        return ()
    lines = [*_settings(old, new), *_listeners(old, new), *_services(old, new)]
    if not lines and list(old.listeners) != list(new.listeners):
        lines.append("listeners are in another order")
    secrets = {*old.secrets.texts, *new.secrets.texts}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 3:
            lines = [line.replace(secret, "***") for line in lines]
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = [f"and {len(lines) - MAX_LINES:,} changes more"]
    return tuple(lines)


def _settings(old: Config, new: Config) -> Iterator[str]:
    before, after = (_top(config) for config in (old, new))
    yield from _values("", before, after)
    if old.admin.token != new.admin.token:
        yield "admin.token changed"


def _top(config: Config) -> dict[str, Any]:
    """The public dict without listeners and services, which have lines of their own."""
    top = as_public_dict(
        Config(
            {},
            {},
            config.admin,
            config.workers,
            config.registry,
            config.trusted_proxies,
            config.drain,
            config.access_log,
            config.log,
            config.limits,
            ready_timeout=config.ready_timeout,
        )
    )
    return {key: value for key, value in top.items() if key not in ("listeners", "services")}


def _values(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """`key old -> new` for each leaf that differs."""
    for key in dict.fromkeys([*before, *after]):
        name = f"{prefix}{key}"
        one, other = before.get(key), after.get(key)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _values(f"{name}.", one, other)
        elif one is None:
            yield f"{name} set to {_show(other)}"
        elif other is None:
            yield f"{name} {_show(one)} removed"
        else:
            yield f"{name} {_show(one)} -> {_show(other)}"


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_show(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_show(item)}' for key, item in value.items())}}}"
    return str(value)


def _listeners(old: Config, new: Config) -> Iterator[str]:
    for name in dict.fromkeys([*old.listeners, *new.listeners]):
        before, after = old.listeners.get(name), new.listeners.get(name)
        if before == after:
            continue
        if before is None and after is not None:
            binds = ", ".join(bind.text for bind in after.binds)
            where = f"within {after.within}" if after.within else f"on {binds}"
            yield f"listener {name} added {where}{', draining' if after.drain else ''}"
        elif after is None:
            yield f"listener {name} removed"
        elif before is not None:
            yield from _drain(f"listener {name}", before.drain, after.drain)
            yield from _listener(f"listener {name}: ", before, after)


def _listener(prefix: str, before: Listener, after: Listener) -> Iterator[str]:
    for bind in after.binds:
        if bind not in before.binds:
            yield f"{prefix}bind {bind.text} added"
    for bind in before.binds:
        if bind not in after.binds:
            yield f"{prefix}bind {bind.text} removed"
    one, other = listener_dict(before), listener_dict(after)
    for public in (one, other):
        for key in ("bind", "routes", "drain"):
            public.pop(key, None)
    yield from _values(prefix, one, other)
    if before.protocol == after.protocol == "http" and before.routes != after.routes:
        yield from _routes(prefix, before.routes, after.routes)


def _routes(prefix: str, before: tuple[Route, ...], after: tuple[Route, ...]) -> Iterator[str]:
    old, new = set(before), set(after)
    gone = [route for route in before if route not in new]
    come = {_conditions(route): route for route in reversed(after) if route not in old}
    added = [route for route in after if route not in old]
    for route in gone:
        same = come.pop(_conditions(route), None)
        if same is None:
            yield f"{prefix}route {route_text(route)} removed"
        else:
            added.remove(same)
            yield from _values(f"{prefix}route {route_text(route)}: ", _action(route), _action(same))
    for route in added:
        yield f"{prefix}route {route_text(route)} added"
    if [route for route in before if route in new] != [route for route in after if route in old]:
        yield f"{prefix}the order of routes changed"


def _conditions(route: Route) -> tuple[Any, ...]:
    return (route.path_kind, route.path, route.methods, route.hosts, route.headers)


def _action(route: Route) -> dict[str, Any]:
    public = route_dict(route)
    return {key: public[key] for key in public if key in _ACTION_KEYS}


_ACTION_KEYS = ("service", "rewrite", "timeout", "redirect", "respond")


def route_text(route: Route) -> str:
    """A route's conditions and where it leads, such as `GET shop.example.com/user -> user`."""
    parts = []
    if route.methods:
        parts.append("|".join(route.methods))
    hosts = "|".join(route.hosts)
    parts.append(f"{hosts}{'=' if route.path_kind == 'exact' else ''}{route.path}")
    parts += [f"{name}={value}" for name, value in route.headers]
    action = route.action
    if isinstance(action, Forward):
        if len(action.targets) == 1:
            target = action.targets[0][0]
        else:
            target = " + ".join(f"{name}*{weight}" for name, weight in action.targets)
    elif isinstance(action, Redirect):
        target = f"{action.status} {action.to}"
    else:
        target = str(action.status)
    return f"{' '.join(parts)} -> {target}"


def _services(old: Config, new: Config) -> Iterator[str]:
    for name in dict.fromkeys([*old.services, *new.services]):
        before, after = old.services.get(name), new.services.get(name)
        if before == after:
            continue
        if before is None and after is not None:
            number = len(after.endpoints)
            draining = ", draining" if after.drain else ""
            yield f"service {name} added with {number:,} endpoint{'' if number == 1 else 's'}{draining}"
        elif after is None:
            yield f"service {name} removed"
        elif before is not None:
            yield from _drain(f"service {name}", before.drain, after.drain)
            yield from _service(f"service {name}: ", before, after)


def _drain(what: str, before: bool, after: bool) -> Iterator[str]:
    if before != after:
        yield f"{what} {'drains' if after else 'drains no more'}"


def _service(prefix: str, before: Service, after: Service) -> Iterator[str]:
    olds = {endpoint.address: endpoint for endpoint in before.endpoints}
    news = {endpoint.address: endpoint for endpoint in after.endpoints}
    for address, endpoint in news.items():
        if address not in olds:
            yield f"{prefix}endpoint {address.text} added{_what_is_special(endpoint)}"
    for address in olds:
        if address not in news:
            yield f"{prefix}endpoint {address.text} removed"
    for address, endpoint in news.items():
        other = olds.get(address)
        if other is not None and other != endpoint:
            yield from _drain(
                f"endpoint {address.text} of service {before.name}", other.drain, endpoint.drain
            )
            yield from _endpoint(f"{prefix}endpoint {address.text}: ", other, endpoint)
    if [address for address in olds if address in news] != [address for address in news if address in olds]:
        yield f"{prefix}the order of endpoints changed"
    one, other_public = service_dict(before), service_dict(after)
    for public in (one, other_public):
        for key in ("endpoints", "drain"):
            public.pop(key)
    yield from _values(prefix, one, other_public)


def _what_is_special(endpoint: Endpoint) -> str:
    """` with weight 5 and priority 1, draining`: what an endpoint has that others do not."""
    special = []
    if endpoint.weight != 1:
        special.append(f"weight {endpoint.weight}")
    if endpoint.priority:
        special.append(f"priority {endpoint.priority}")
    draining = ", draining" if endpoint.drain else ""
    return f" with {' and '.join(special)}{draining}" if special else draining


def _endpoint(prefix: str, before: Endpoint, after: Endpoint) -> Iterator[str]:
    one, other = (
        {"weight": endpoint.weight, "priority": endpoint.priority, "labels": dict(endpoint.labels)}
        for endpoint in (before, after)
    )
    yield from _values(prefix, one, other)
