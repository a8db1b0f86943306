"""From what was read of `listeners` to the model's listeners and routes, with the checks that cross keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import UNSET

from fastmesh.config.kinds import INVALID, Item, Values, all_of, did_you_mean, one_of, problem
from fastmesh.config.services import Draft
from fastmesh.config.source import Node
from fastmesh.model import Bind, Forward, Forwarded, Listener, Redirect, Respond, Route
from fastmesh.units import format_size

_HTTP_ONLY = ("forwarded", "upgrade")
MOST_RESPOND_BYTES = 64 << 10  # head and body go out in one piece
_ACTIONS = ("service", "redirect", "respond")


def build_listener(name: str, item: Item, services: dict[str, Draft]) -> Listener:
    """The listener of `item`; what is invalid is reported and left out."""
    values: Values = item.value
    protocol = values.get("protocol", "http")
    binds = tuple([bind for _, bind in values.get("bind", ())])
    if protocol == "tcp":
        for key in _HTTP_ONLY:
            if values.has(key):
                problem(values.keys[key], f"`{key}` has no meaning for a TCP listener", "remove it")
    if values.has("intercept"):
        _check_intercepting(name, values)
        return Listener(name=name, binds=binds, protocol="tcp", drain=values.get("drain", False))
    if values.has("services"):
        problem(
            values.keys["services"],
            f"`services` is for a listener with `intercept`, and `{name}` has none",
            "write `service: NAME`, or `routes:`",
        )
    routes = _routes_of(name, item, values, protocol, services)
    for node, token in values.get("upgrade", ()):
        if token != "websocket":
            message = f"the upgrade to `{token}` is not in effect yet"
            node.doc.report(node.line, node.column, message, "it is stripped until then", "warning")
    forwarded = values.get("forwarded")
    flags = {} if forwarded is None else forwarded.values
    return Listener(
        name=name,
        binds=binds,
        protocol=protocol,
        accept_proxy=values.get("accept_proxy", False),
        forwarded=Forwarded(
            flags.get("for", True),
            flags.get("proto", True),
            flags.get("host", True),
            flags.get("request_id", True),
        ),
        upgrade=tuple(dict.fromkeys(token for _, token in values.get("upgrade", ((None, "websocket"),)))),
        routes=routes,
        drain=values.get("drain", False),
    )


def _check_intercepting(name: str, values: Values) -> None:
    """What it does with a connection is the service's to say."""
    for key in ("protocol", "accept_proxy", "forwarded", "upgrade", "routes", "service"):
        if values.has(key):
            advice = "set the `protocol` of each service" if key == "protocol" else "remove it"
            problem(
                values.keys[key], f"`{key}` has no meaning beside `intercept` (listener `{name}`)", advice
            )
    for node, bind in values.get("bind", ()):
        if bind.family == "unix":
            problem(node, "the kernel redirects to a TCP port, and this is a Unix socket", "write `:PORT`")


def _routes_of(
    name: str, item: Item, values: Values, protocol: str, services: dict[str, Draft]
) -> tuple[Route, ...]:
    if values.has("routes") and values.has("service"):
        problem(
            values.keys["service"],
            f"listener `{name}` has both `routes` and `service`",
            "make the service the last route, without a `path`, or remove one of the two",
        )
    elif protocol == "tcp" and values.has("routes"):
        problem(
            values.keys["routes"],
            f"listener `{name}` is TCP and cannot have `routes`",
            "write `service: NAME`",
        )
        return ()
    elif not values.has("routes") and not values.has("service"):
        advice = "write `service: NAME`" if protocol == "tcp" else "write `routes:`, or `service: NAME`"
        problem(item.key, f"listener `{name}` leads nowhere", advice)
    if values.has("service"):
        targets = _targets(values.nodes["service"], values.get("service"), services)
        return (Route(Forward(targets)),) if targets else ()
    routes = values.get("routes")
    if routes is None:
        return ()
    if isinstance(routes, dict):
        return _short_routes(routes, services)
    pairs = [(node, build_route(route, services)) for node, route in routes]
    built = [(node, route) for node, route in pairs if route is not None]
    _warn_shadowed(built)
    return tuple([route for _, route in built])


def _short_routes(routes: dict[str, Item], services: dict[str, Draft]) -> tuple[Route, ...]:
    built: list[tuple[Node, Route]] = []
    for prefix, (key, node, value) in routes.items():
        targets = _targets(node, value, services)
        if targets:
            built.append((key, Route(Forward(targets), path=prefix)))
    _warn_shadowed(built)
    return tuple([route for _, route in built])


def build_route(values: Values, services: dict[str, Draft]) -> Route | None:
    """The route of `values`, or None when a problem left it without an action or a path."""
    path = _path(values)
    actions = [key for key in values.keys if key in _ACTIONS]
    if len(actions) != 1:
        if actions:
            problem(
                values.keys[actions[1]],
                f"a route has one of `service`, `redirect` and `respond`, and this has {all_of(actions)}",
                "remove one, or make two routes of it",
            )
        else:
            problem(values.node, "the route leads nowhere", "add `service`, `redirect` or `respond`")
        return None
    kind = actions[0]
    for key in ("rewrite", "timeout"):
        if values.has(key) and kind != "service":
            problem(values.keys[key], f"`{key}` has no meaning beside `{kind}`", "remove it")
    action = _action(kind, values, path, services)
    if action is None or path is None:
        return None
    headers = values.get("headers", {})
    return Route(
        action=action,
        path_kind=path[0],  # type: ignore[arg-type]
        path=path[1],
        methods=_unique(values.get("methods", ())),
        hosts=_unique(values.get("hosts", ())),
        headers=tuple([(name, item.value) for name, item in headers.items() if item.value is not INVALID]),
    )


def _unique(pairs: Iterable[tuple[Node, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([text for _, text in pairs]))


def _path(values: Values) -> tuple[str, str] | None:
    """(kind, path), or None when it is invalid."""
    if not values.has("path"):
        return ("prefix", "/")
    value = values.get("path")
    if value is None or isinstance(value, str):
        return None if value is None else ("prefix", value)
    if len(value.keys) != 1:
        problem(
            value.node,
            f"`path` has one of `prefix`, `exact` and `regex`, and this has {len(value.keys)}",
            "keep one",
        )
        return None
    for kind, path in value.values.items():
        return (kind, path)
    return None


def _action(
    kind: str, values: Values, path: tuple[str, str] | None, services: dict[str, Draft]
) -> Forward | Redirect | Respond | None:
    value = values.get(kind)
    if kind == "service":
        targets = _targets(values.nodes["service"], value, services)
        rewrite = values.get("rewrite")
        if rewrite is not None and path is not None and path[0] != "prefix":
            problem(
                values.keys["rewrite"],
                f"`rewrite` replaces a prefix, and this route's path is `{path[0]}`",
                "match a prefix, or remove it",
            )
        prefix = None if rewrite is None else rewrite.get("prefix")
        return Forward(targets, prefix, values.get("timeout", UNSET)) if targets else None
    if value is None:
        return None
    if kind == "redirect":
        return Redirect(value.get("to"), value.get("status", 308)) if value.get("to") else None
    status, body = value.get("status", 200), value.get("body", "").encode()
    if status in (204, 304) and body:
        problem(value.keys["body"], f"an answer with status {status} has no body", "remove `body`")
    if len(body) > MOST_RESPOND_BYTES:
        problem(
            value.keys["body"],
            f"a fixed answer has at most {format_size(MOST_RESPOND_BYTES)}, this one has {len(body)} bytes",
            "let a service answer it",
        )
    return Respond(status, body)


def _targets(node: Node, value: Any, services: dict[str, Draft]) -> tuple[tuple[str, int], ...]:
    """(service, weight) of a `service:` or a short route; empty when a problem was reported."""
    if value is None or value is INVALID:
        return ()
    if isinstance(value, str):
        return ((value, 1),) if service_exists(node, value, services) else ()
    known = [service_exists(item.key, name, services) for name, item in value.items()]
    weights = [(name, item.value) for name, item in value.items()]
    if not all(known) or any(weight is INVALID for _, weight in weights):
        return ()
    if not any(weight for _, weight in weights):
        problem(node, "all weights of the split are 0", "give one service a weight of 1 or more")
        return ()
    return tuple(weights)


def service_exists(node: Node, name: str, services: dict[str, Draft]) -> bool:
    if name in services:
        return True
    if not services:
        suggestion: str | None = "there are no services yet: define it under `services`"
    else:
        suggestion = did_you_mean(name, services)
        if suggestion is None:
            suggestion = "define it under `services`"
            if len(services) <= 6:
                suggestion += f", or use {one_of(services)}"
    problem(node, f"there is no service `{name}`", suggestion)
    return False


def _warn_shadowed(routes: list[tuple[Node, Route]]) -> None:
    """Warn of routes that are never reached, because one before them matches all that they match."""
    by_prefix: dict[str, list[tuple[Node, Route]]] = {}
    by_exact: dict[str, list[tuple[Node, Route]]] = {}
    for node, route in routes:
        earlier = list(by_exact.get(route.path, ())) if route.path_kind == "exact" else []
        prefix = route.path
        while True:
            earlier += by_prefix.get(prefix or "/", ())
            if prefix in ("", "/"):
                break
            prefix = prefix.rpartition("/")[0]
        for first, other in earlier:
            if _covers(other, route):
                node.doc.report(
                    node.line,
                    node.column,
                    f"this route is never reached: the one in line {first.line + 1} matches all that it "
                    "matches",
                    "put the narrower route first, or remove it",
                    "warning",
                )
                break
        (by_prefix if route.path_kind == "prefix" else by_exact).setdefault(route.path, []).append(
            (node, route)
        )


def _covers(first: Route, second: Route) -> bool:
    """Whether all conditions of `first` but the path hold wherever those of `second` do."""
    return (
        (not first.methods or (bool(second.methods) and set(second.methods) <= set(first.methods)))
        and (not first.hosts or (bool(second.hosts) and set(second.hosts) <= set(first.hosts)))
        and set(first.headers) <= set(second.headers)
    )


class BindTable:
    """The addresses in use so far, to report the ones that overlap."""

    def __init__(self) -> None:
        self._by_port: dict[tuple[str, int], list[tuple[Bind, str, Node | None]]] = {}

    def add(self, bind: Bind, owner: str, node: Node | None) -> None:
        """Take `bind` for `owner` ("listener `web`"); report at `node` when another has it already."""
        if bind.family != "unix" and bind.port == 0:
            return
        taken = self._by_port.setdefault((bind.path, bind.port), [])
        for other, other_owner, other_node in taken:
            if node is not None and _overlap(bind, other):
                where = f" (line {other_node.line + 1})" if other_node is not None else ""
                same = "has it already" if bind == other else f"has `{other.text}`, which includes it"
                if bind != other and _includes(bind, other):
                    same = f"has `{other.text}`, which is part of it"
                problem(node, f"`{bind.text}` is taken: {other_owner}{where} {same}", "choose another port")
                break
        taken.append((bind, owner, node))


def _includes(wide: Bind, narrow: Bind) -> bool:
    """Whether `wide` is a wildcard that takes in `narrow` (on the same port)."""
    if wide.dual_stack:
        return True
    return wide.family == narrow.family and wide.host in ("0.0.0.0", "::") and not narrow.dual_stack


def _overlap(one: Bind, other: Bind) -> bool:
    return one == other or (one.family != "unix" and (_includes(one, other) or _includes(other, one)))
