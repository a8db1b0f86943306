"""`sidecar` and intercepting listeners: what they stand for, as services and listeners."""

from __future__ import annotations

import socket
from typing import Any

from msgspec import structs

from fastmesh.config.kinds import INVALID, Item, Values, problem
from fastmesh.config.listeners import service_exists
from fastmesh.config.services import Draft
from fastmesh.config.sidecar_keys import INBOUND_PORT, OUTBOUND_PORT
from fastmesh.config.source import Node
from fastmesh.model import (
    Address,
    Bind,
    Drain,
    Forward,
    Forwarded,
    Listener,
    Route,
    Service,
    Sidecar,
)

APP = "app"
PASSTHROUGH = "passthrough"
INBOUND, OUTBOUND = "inbound", "outbound"
DRAIN_SECONDS = 8.0
"""Docker kills 10 s after it asked for the end, and compose asks the sidecar before its application."""

# A sidecar is part of the machine that its application has for its own: what peers say of earlier hops is the
# application's to believe or not, as it would be without a sidecar.
_AS_IT_CAME = Forwarded(False, False, False, False)
_EVERYBODY = ("0.0.0.0/0", "::/0")


# ---------------------------------------------------------------- services


def add_services(values: Values, drafts: dict[str, Draft]) -> None:
    """The services that `sidecar` and intercepting listeners bring in join those of the files."""
    sidecar: Values | None = values.get("sidecar")
    if sidecar is not None:
        if sidecar.has("app") and sidecar.get("app") is not None:
            _add_endpoints(drafts, APP, sidecar.keys["app"], [(sidecar.nodes["app"], sidecar.get("app"))])
        for name, item in sidecar.get("outbound", {}).items():
            if what := _is_taken(name, sidecar):
                problem(item.key, f"`{name}` is {what}", "give the dependency another name")
        for name, item in _dependencies(sidecar):
            _add_dependency(drafts, name, item)
    intercepting = [
        item.value.keys["intercept"]
        for item in values.get("listeners", {}).values()
        if item.value is not INVALID and item.value.get("intercept")
    ]
    if sidecar is not None and sidecar.get("mode"):
        intercepting.append(sidecar.keys["mode"])
    if intercepting:
        draft = drafts.get(PASSTHROUGH)
        if draft is not None and "endpoints" in draft.keys:
            problem(
                draft.keys["endpoints"],
                f"the service `{PASSTHROUGH}` leads to where each connection was going, and has no endpoints",
                "remove them, or give the service another name",
            )
            return
        _add_endpoints(drafts, PASSTHROUGH, intercepting[0], [(intercepting[0], Address("original"))])


def _dependencies(sidecar: Values) -> list[tuple[str, Item]]:
    """What `outbound` names, without what was reported."""
    named: dict[str, Item] = sidecar.get("outbound", {})
    return [
        (name, item)
        for name, item in named.items()
        if item.value is not INVALID and not _is_taken(name, sidecar)
    ]


def _is_taken(name: str, sidecar: Values) -> str:
    """What else the name stands for, whose endpoints would join those of a dependency; "" if nothing."""
    if name == APP and sidecar.has("app"):
        return "the application beside this sidecar, and not what it calls"
    if name == PASSTHROUGH and sidecar.get("mode"):
        return "where connections that are for nobody else were going"
    return ""


def _add_dependency(drafts: dict[str, Draft], name: str, item: Item) -> None:
    value = item.value
    if not isinstance(value, Values):
        _add_endpoints(drafts, name, item.key, value)
        return
    if value.has("to"):
        _add_endpoints(drafts, name, item.key, value.get("to", ()))
    if value.has("protocol"):
        draft = drafts.get(name)
        if draft is None:
            service_exists(item.key, name, drafts)
        elif "protocol" in draft.keys:
            first = draft.keys["protocol"]
            problem(
                value.keys["protocol"],
                f"the `protocol` of service `{name}` stands in line {first.line + 1} already",
                "keep one of them",
            )
        else:
            draft.keys["protocol"], draft.nodes["protocol"] = value.keys["protocol"], value.nodes["protocol"]
            draft.values["protocol"] = value.get("protocol", "http")


def _add_endpoints(drafts: dict[str, Draft], name: str, key: Node, endpoints: Any) -> None:
    draft = drafts.setdefault(name, Draft(name, key))
    draft.keys.setdefault("endpoints", key)
    draft.endpoints.extend(endpoints)


def check_passthrough(listener: Listener, services: dict[str, Service], node: Node) -> None:
    """Only what was intercepted was going anywhere else."""
    if listener.intercept:
        return
    for route in listener.routes:
        for name, _ in route.action.targets if isinstance(route.action, Forward) else ():
            if any(endpoint.address.kind == "original" for endpoint in services[name].endpoints):
                problem(
                    node,
                    f"`{name}` is for connections that were intercepted, and none are by `{listener.name}`",
                    "name another service",
                )


# ---------------------------------------------------------------- listeners


def build_sidecar(values: Values | None) -> Sidecar | None:
    if values is None:
        return None
    app = values.get("app")
    return Sidecar(
        app=() if app is None else (app,),
        transparent=values.get("mode", False),
        exit_with=values.get("exit_with"),
    )


def drain_of(drain: Drain, values: Values) -> Drain:
    """Waits for an application that was not told to end too last as long as a drain may."""
    written: Values | None = values.get("drain")
    if not values.has("sidecar") or (written is not None and written.has("timeout")):
        return drain
    return structs.replace(drain, timeout=DRAIN_SECONDS)


def sidecar_listeners(
    values: Values | None, drafts: dict[str, Draft], services: dict[str, Service]
) -> list[tuple[Node, Listener]]:
    """The listeners that `sidecar` stands for, each with the node that it comes from."""
    if values is None:
        return []
    if not values.has("app") and not values.has("outbound"):
        problem(
            values.node, "`sidecar` needs `app` or `outbound`", "write `app: 8000`, the application's port"
        )
        return []
    if values.get("mode"):
        return _transparent(values, drafts, services)
    return _explicit(values, drafts, services)


def _explicit(
    values: Values, drafts: dict[str, Draft], services: dict[str, Service]
) -> list[tuple[Node, Listener]]:
    built: list[tuple[Node, Listener]] = []
    if values.get("app") is not None:
        node = values.keys["inbound" if values.has("inbound") else "app"]
        binds = _inbound_binds(values)
        _check_loop(node, binds, services[APP])
        built.append((node, _plain(INBOUND, binds, services[APP])))
    elif values.has("inbound"):
        problem(
            values.keys["inbound"], "`inbound` leads nowhere without `app`", "write `app: 8000`, or remove it"
        )
    by_bind: dict[Bind, str] = {}
    for name, item in _dependencies(values):
        if not service_exists(item.key, name, drafts):
            continue
        bind = _listen(item, services[name])
        if bind is None or _is_the_application(item.key, name, bind, values.get("app"), by_bind):
            continue
        other = by_bind.setdefault(bind, name)
        if other != name:
            problem(
                item.key,
                f"the application would call `{other}` and `{name}` at the same address, {bind.text}",
                f"give one another port: `{name}: {{to: …, listen: 127.0.0.1:{_free(bind, by_bind)}}}`, or "
                "write `mode: transparent`",
            )
            continue
        _check_loop(item.key, (bind,), services[name])
        built.append((item.key, _plain(f"{OUTBOUND}/{name}", (bind,), services[name], OUTBOUND)))
    return built


def _check_loop(node: Node, binds: tuple[Bind, ...], service: Service) -> None:
    """An endpoint that is the listener itself would be asked by itself for ever."""
    for bind in binds:
        for endpoint in service.endpoints:
            if _leads_to(endpoint.address, bind):
                problem(
                    node,
                    f"`{bind.text}` takes what is meant for `{service.name}` itself, {endpoint.address.text}",
                    "listen elsewhere" if bind.family == "unix" else "listen on another port",
                )
                return


def _leads_to(address: Address, bind: Bind) -> bool:
    """Whether connections to ``address`` come to ``bind``, as far as it can be known before names are looked
    up."""
    if bind.family == "unix" or address.kind == "unix":
        return bind.family == address.kind and bind.path == address.path
    if not bind.port or bind.port != address.port:
        return False
    host = address.host.removesuffix(".")
    if address.kind == "name":
        if host == socket.gethostname().lower():
            return bind.dual_stack or bind.host in ("0.0.0.0", "::")
        if host != "localhost" and not host.endswith(".localhost"):
            return False
        host = "::1" if ":" in bind.host else "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # what connect(2) makes of them
    everywhere = bind.dual_stack or bind.host == ("::" if ":" in host else "0.0.0.0")
    return bind.host == host or (everywhere and (host == "::1" or host.startswith("127.")))


def _is_the_application(
    node: Node, name: str, bind: Bind, app: Address | None, by_bind: dict[Bind, str]
) -> bool:
    """Reports a dependency that would be called where the application itself listens."""
    if app is None or not _leads_to(app, bind):
        return False
    taken = {**by_bind, bind: name}
    problem(
        node,
        f"the application would call `{name}` at {bind.text}, where it listens itself (`app`)",
        f"give it another port: `{name}: {{to: …, listen: 127.0.0.1:{_free(bind, taken)}}}`, or "
        "write `mode: transparent`",
    )
    return True


def _free(bind: Bind, taken: dict[Bind, str]) -> int:
    ports = {one.port for one in taken}
    return next(port for port in range(bind.port + 1, 1 << 17) if port not in ports)


def _listen(item: Item, service: Service) -> Bind | None:
    """Where the application calls the service; None where that cannot be said (reported)."""
    value = item.value
    if isinstance(value, Values) and value.has("listen"):
        bind: Bind | None = value.get("listen")
        return bind
    ports = {endpoint.address.port for endpoint in service.endpoints}
    if len(ports) == 1 and ports != {0}:
        return Bind("inet", "127.0.0.1", ports.pop())
    problem(
        item.key,
        f"it is not clear at which port the application calls `{item.key.text}`",
        "write `listen: 127.0.0.1:PORT`",
    )
    return None


def _inbound_binds(values: Values) -> tuple[Bind, ...]:
    binds = tuple([bind for _, bind in values.get("inbound", ())])
    return binds or (Bind("inet6", "", INBOUND_PORT),)


def _transparent(
    values: Values, drafts: dict[str, Draft], services: dict[str, Service]
) -> list[tuple[Node, Listener]]:
    mode = values.keys["mode"]
    inbound = _intercepting(INBOUND, _inbound_binds(values), INBOUND)
    outbound = _intercepting(OUTBOUND, (Bind("inet6", "", OUTBOUND_PORT),), OUTBOUND)
    built = [(values.keys.get("inbound", mode), inbound)]
    app: Address | None = values.get("app")
    if app is not None and app.kind == "unix":
        problem(
            values.keys["app"],
            "what is redirected was going to a port, and `app` is a Unix socket",
            "write the application's port, or `mode: explicit`",
        )
    elif app is not None:
        _check_loop(values.keys["app"], (*inbound.binds, *outbound.binds), services[APP])
        built.append((values.keys["app"], _within(inbound, services[APP], (app.port,))))
    built.append((mode, outbound))
    for name, item in _dependencies(values):
        if not service_exists(item.key, name, drafts):
            continue
        if isinstance(item.value, Values) and item.value.has("listen"):
            problem(
                item.value.keys["listen"],
                "`listen` has no meaning with `mode: transparent`: the application calls the service itself",
                "remove it",
            )
        built.append((item.key, _within(outbound, services[name])))
    return built


def intercepting_listeners(
    listener: Listener, values: Values, drafts: dict[str, Draft], services: dict[str, Service]
) -> list[Listener]:
    """A listener with `intercept`, and those within it."""
    direction = values.get("intercept")
    whole = _intercepting(listener.name, listener.binds, direction)
    named = values.get("services", ())
    by_port = isinstance(named, dict)
    if by_port != (direction == INBOUND) and values.has("services"):
        wanted = (
            "a mapping of ports to services, such as `{8000: app}`"
            if direction == INBOUND
            else "a list of them"
        )
        problem(values.keys["services"], f"with `intercept: {direction}`, `services` needs {wanted}")
        return [whole]
    built = [whole]
    if isinstance(named, dict):
        ports: dict[str, list[int]] = {}
        for port, item in named.items():
            if item.value is not INVALID and service_exists(item.node, item.value, drafts):
                ports.setdefault(item.value, []).append(int(port))
        built += [_within(whole, services[name], tuple(found)) for name, found in ports.items()]
    else:
        for name in dict.fromkeys([name for node, name in named if service_exists(node, name, drafts)]):
            built.append(_within(whole, services[name]))
    return built


def _plain(name: str, binds: tuple[Bind, ...], service: Service, direction: str = INBOUND) -> Listener:
    """A listener that leads to one service."""
    return Listener(
        name=name,
        binds=binds,
        protocol=service.protocol,
        forwarded=_AS_IT_CAME,
        trusted=_EVERYBODY,
        routes=(Route(Forward(((service.name, 1),))),),
        direction="outbound" if direction == OUTBOUND else "inbound",
    )


def _intercepting(name: str, binds: tuple[Bind, ...], direction: str) -> Listener:
    return Listener(
        name=name,
        binds=binds,
        protocol="tcp",
        routes=(Route(Forward(((PASSTHROUGH, 1),))),),
        direction="outbound" if direction == OUTBOUND else "inbound",
        intercept=True,
    )


def _within(whole: Listener, service: Service, ports: tuple[int, ...] = ()) -> Listener:
    return Listener(
        name=f"{whole.name}/{service.name}",
        binds=(),
        protocol=service.protocol,
        forwarded=_AS_IT_CAME,
        trusted=_EVERYBODY,
        routes=(Route(Forward(((service.name, 1),))),),
        direction=whole.direction,
        within=whole.name,
        ports=ports,
    )
