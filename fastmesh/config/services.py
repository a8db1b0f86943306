"""From what was read of `services` to the model's services: joining files, inheriting defaults, checking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from msgspec import Struct, structs

from fastmesh.config.failures import (
    KEPT,
    build_health,
    build_limits,
    build_outlier_detection,
    build_retries,
    check_per_try,
    check_queue,
    warn,
)
from fastmesh.config.kinds import INVALID, Item, Values, problem
from fastmesh.config.service_keys import ADDRESS_KEYS, HASH_POLICIES
from fastmesh.config.source import Node
from fastmesh.model import (
    Address,
    Balance,
    Endpoint,
    HashKey,
    OutlierDetection,
    Retries,
    Service,
    ServiceLimits,
    Timeouts,
    Upstream,
)

_T = TypeVar("_T", bound=Struct)


class Draft:
    """One service as its files say: `values`, `keys` and `nodes` by key, and the endpoints of all files."""

    __slots__ = ("endpoints", "key", "keys", "name", "nodes", "values")

    def __init__(self, name: str, key: Node) -> None:
        self.name = name
        self.key = key
        self.values: dict[str, Any] = {}
        self.keys: dict[str, Node] = {}
        self.nodes: dict[str, Node] = {}
        self.endpoints: list[tuple[Node, Any]] = []


def join(parts: Iterable[dict[str, Item]]) -> dict[str, Draft]:
    """One draft for each name. Endpoints join; any other key that two files set is an error in the second.

    A service that is invalid as a whole keeps its name, so that routes to it are not reported as well.
    """
    drafts: dict[str, Draft] = {}
    for services in parts:
        for name, (key, _node, values) in services.items():
            draft = drafts.get(name)
            if draft is None:
                draft = drafts[name] = Draft(name, key)
            if values is not INVALID:
                _add(draft, values)
            else:
                draft.keys.setdefault("endpoints", key)
    return drafts


def _add(draft: Draft, values: Values) -> None:
    for name, key in values.keys.items():
        if name == "endpoints":
            draft.endpoints.extend(values.get(name, ()))
            draft.keys.setdefault(name, key)
            continue
        first = draft.keys.get(name)
        if first is not None:
            problem(
                key,
                f"service `{draft.name}`: `{name}` is set in `{first.doc.name}` (line {first.line + 1}) "
                f"and in `{key.doc.name}`",
                "keep one of them: only the `endpoints` of several files join",
            )
            continue
        draft.keys[name] = key
        draft.nodes[name] = values.nodes[name]
        if name in values.values:
            draft.values[name] = values.values[name]


class Inherited:
    """What `defaults` says, over the built-in values."""

    def __init__(self, defaults: Values | None) -> None:
        values: dict[str, Any] = {} if defaults is None else defaults.values
        get = values.get
        self.timeouts = _timeouts(get("timeouts"), Timeouts())
        self.retries = build_retries(get("retries"), Retries())
        self.outlier_detection = build_outlier_detection(
            values.get("outlier_detection", KEPT), OutlierDetection()
        )
        self.limits = build_limits(get("limits"), ServiceLimits())
        self.limits_values: Values | None = get("limits")
        self.slow_start: float | None = get("slow_start")
        self.upstream = _replaced(get("upstream"), Upstream())
        self.balance = _balance(get("balance"), Balance())
        check_per_try(get("retries"), get("timeouts"), self.retries, self.timeouts)


def build_service(draft: Draft, inherited: Inherited) -> Service:
    """The service of `draft`; what is invalid is reported and left at its default."""
    get = draft.values.get
    if "endpoints" not in draft.keys:
        problem(
            draft.key,
            f"service `{draft.name}` has no `endpoints`",
            "write a list of addresses; `[]` where there are none yet",
        )
    timeouts = get("timeouts")
    if timeouts is not None and timeouts.has("header"):
        warn(
            timeouts.keys["header"],
            "`header` has no effect in a service: it runs before the service is known",
            "set it under `defaults`",
        )
    service = Service(
        name=draft.name,
        endpoints=_endpoints(draft),
        balance=_balance(get("balance"), inherited.balance),
        timeouts=_timeouts(timeouts, inherited.timeouts),
        retries=build_retries(get("retries"), inherited.retries),
        upstream=_replaced(get("upstream"), inherited.upstream),
        health=build_health(get("health")),
        send_proxy=get("send_proxy"),
        outlier_detection=build_outlier_detection(
            get("outlier_detection", KEPT), inherited.outlier_detection
        ),
        limits=build_limits(get("limits"), inherited.limits),
        slow_start=get("slow_start", inherited.slow_start),
        drain=get("drain", False),
        protocol=get("protocol", "http"),
        refresh=get("refresh"),
    )
    if service.refresh is not None and not any(one.address.is_name for one in service.endpoints):
        warn(
            draft.keys["refresh"],
            f"`refresh` has no effect: service `{draft.name}` has no name among its endpoints",
            "remove it, or write an endpoint such as `{dns: api:8080}`",
        )
    check_per_try(get("retries"), timeouts, service.retries, service.timeouts)
    check_queue(get("limits"), service.limits, inherited.limits_values)
    if service.balance.policy == "maglev" and len(service.endpoints) > service.balance.table_size:
        problem(
            draft.nodes.get("balance", draft.key),
            f"service `{draft.name}` has {len(service.endpoints):,} endpoints, more than its maglev "
            "table has "
            f"entries ({service.balance.table_size:,})",
            "set a larger `table_size`",
        )
    return service


def _endpoints(draft: Draft) -> tuple[Endpoint, ...]:
    first_node: dict[Address, Node] = {}
    endpoints: list[Endpoint] = []
    for node, value in draft.endpoints:
        if type(value) is Address:
            endpoint = Endpoint(value)
        else:
            address = _address(node, value)
            if address is None:
                continue
            labels = value.get("labels")
            pairs = () if labels is None else tuple([(name, item.value) for name, item in labels.items()])
            endpoint = Endpoint(
                address,
                value.get("weight", 1),
                tuple([p for p in pairs if p[1] is not INVALID]),
                value.get("priority", 0),
                value.get("drain", False),
            )
        first = first_node.setdefault(endpoint.address, node)
        if first is not node:
            where = f"line {first.line + 1}"
            if first.doc is not node.doc:
                where += f" of `{first.doc.name}`"
            problem(
                node,
                f"service `{draft.name}` has the endpoint `{endpoint.address.text}` twice",
                f"it stands in {where} already; give that one a larger `weight` instead",
            )
            continue
        endpoints.append(endpoint)
    return tuple(endpoints)


def _address(node: Node, value: Values) -> Address | None:
    """That of the one key that says it; None where that was reported."""
    written = [key for key in ADDRESS_KEYS if value.has(key)]
    if not written:
        problem(
            node,
            "an endpoint needs `address`, `dns` or `dns_srv`",
            "write an address such as `10.0.0.1:8080`, `dns: api:8080` or `dns_srv: _http._tcp.api`",
        )
        return None
    for key in written[1:]:
        problem(
            value.keys[key],
            f"an endpoint has `{written[0]}` or `{key}`, not both",
            "write two endpoints, or remove one",
        )
    address: Address | None = value.get(written[0])
    return address


def _replaced(values: Values | None, base: _T) -> _T:
    return base if values is None else structs.replace(base, **values.values)


def _timeouts(values: Values | None, base: Timeouts) -> Timeouts:
    if values is None:
        return base
    changes = dict(values.values)
    if "idle" in changes:
        changes["idle_tcp"] = changes["idle"]
    return structs.replace(base, **changes)


def _balance(value: Any, inherited: Balance) -> Balance:
    """A policy's name or the Values of a mapping; a service's replaces that of `defaults` as a whole."""
    if value is None:
        return inherited
    if isinstance(value, str):
        return _with_key(Balance(policy=value))  # type: ignore[arg-type]
    policy = value.get("policy", "least_request")
    if value.has("policy") and value.get("policy") is None:
        return inherited  # an unknown policy, reported: what its other keys should be is not known
    for name, policies in (
        ("key", HASH_POLICIES),
        ("bounded_load", HASH_POLICIES),
        ("ring_size", ("ring_hash",)),
        ("table_size", ("maglev",)),
    ):
        if value.has(name) and policy not in policies:
            problem(
                value.keys[name],
                f"`{name}` has no meaning for the policy `{policy}`",
                f"write `policy: {policies[0]}`, or remove `{name}`",
            )
    keys = [_hash_key(node, key) for node, key in value.get("key", ())]
    return _with_key(
        Balance(
            policy=policy,
            key=tuple([key for key in keys if key is not None]),
            bounded_load=value.get("bounded_load"),
            ring_size=value.get("ring_size", 1024),
            table_size=value.get("table_size", 65537),
        )
    )


def _with_key(balance: Balance) -> Balance:
    """A hash policy without a key hashes the client's address."""
    if balance.policy in HASH_POLICIES and not balance.key:
        return structs.replace(balance, key=(HashKey("source_ip"),))
    return balance


def _hash_key(node: Node, value: Any) -> HashKey | None:
    if isinstance(value, str):
        return HashKey(value)  # type: ignore[arg-type]
    if len(value.keys) != 1:
        problem(node, f"a hash key names one source, and this has {len(value.keys)}", "write a list of them")
        return None
    for kind, name in value.values.items():
        return HashKey(kind, name)
    return None
