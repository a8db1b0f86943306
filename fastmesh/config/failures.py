"""From what was read of the keys about failures to the model's values: inheriting, checks that cross keys."""

from __future__ import annotations

from typing import Any, Final

from msgspec import structs

from fastmesh.config.failure_keys import HTTP_CHECK_KEYS, RETRY_NAMES
from fastmesh.config.kinds import INVALID, Values, problem
from fastmesh.config.source import Node
from fastmesh.model import BodyMatch, Health, OutlierDetection, Retries, ServiceLimits, Timeouts
from fastmesh.units import format_duration

KEPT: Final = object()  # stands for a key that is not written, where None is a value of its own


def warn(key: Node, message: str, suggestion: str) -> None:
    """Report a warning at `key`."""
    key.doc.report(key.line, key.column, message, suggestion, "warning")


def build_retries(values: Values | None, base: Retries) -> Retries:
    """`values` over `base`; `on` replaces both names and codes."""
    if values is None:
        return base
    changes = dict(values.values)
    if "on" in changes:
        names: set[str] = set()
        codes: set[int] = set()
        for _node, reason in changes["on"]:
            if isinstance(reason, str):
                names.add(reason)
            else:
                codes.update((reason,) if isinstance(reason, int) else reason)
        changes["on"] = tuple([name for name in RETRY_NAMES if name in names])
        changes["codes"] = tuple(sorted(codes))
    return structs.replace(base, **changes)


def check_per_try(
    retries_values: Values | None, timeouts_values: Values | None, retries: Retries, timeouts: Timeouts
) -> None:
    """Warn of a `per_try` that never comes to its end, where it or the shorter time-out is written."""
    limits = [(timeouts.response, "response"), (timeouts.total, "total")]
    set_ones = [(seconds, name) for seconds, name in limits if seconds is not None]
    if retries.per_try is None or not set_ones:
        return
    shortest, name = min(set_ones)
    key = _key(retries_values, "per_try") or _key(timeouts_values, name)
    if retries.per_try > shortest and key is not None:
        warn(
            key,
            f"`per_try` ({format_duration(retries.per_try)}) has no effect: `{name}` of `timeouts` "
            f"({format_duration(shortest)}) is shorter",
            f"make `per_try` shorter, or `{name}` longer",
        )


def _key(values: Values | None, name: str) -> Node | None:
    return None if values is None else values.keys.get(name)


def build_outlier_detection(value: Any, base: OutlierDetection | None) -> OutlierDetection | None:
    """`value` is KEPT, None for `off`, or Values over `base` (over the built-in values where that is off)."""
    if value is KEPT:
        return base
    if value is None:
        return None
    detection = structs.replace(base or OutlierDetection(), **value.values)
    if detection.max_ejection_time < detection.base_ejection_time:
        shown = format_duration(detection.base_ejection_time)
        most = format_duration(detection.max_ejection_time)
        if "max_ejection_time" in value.values:
            problem(
                value.nodes["max_ejection_time"],
                f"`max_ejection_time` ({most}) is shorter than `base_ejection_time` ({shown})",
                f"write `{shown}` or more, or a shorter `base_ejection_time`",
            )
        elif "base_ejection_time" in value.values:
            problem(
                value.nodes["base_ejection_time"],
                f"`base_ejection_time` ({shown}) is longer than `max_ejection_time` ({most})",
                f"write `max_ejection_time` too, `{shown}` or more, or a shorter `base_ejection_time`",
            )
    return detection


def build_limits(values: Values | None, base: ServiceLimits) -> ServiceLimits:
    """`values` over `base`, key by key, in `endpoint` too."""
    if values is None:
        return base
    changes = dict(values.values)
    endpoint = changes.pop("endpoint", None)
    if endpoint is not None:
        changes.update({f"endpoint_{name}": value for name, value in endpoint.values.items()})
    return structs.replace(base, **changes)


def check_queue(values: Values | None, limits: ServiceLimits, inherited: Values | None) -> None:
    """Warn of a queue that nothing can wait in, at the most specific key that is written."""
    if limits.queue and all(
        limit is None
        for limit in (
            limits.connections,
            limits.requests,
            limits.endpoint_connections,
            limits.endpoint_requests,
        )
    ):
        key = _key(values, "queue") or _key(inherited, "queue")
        if key is not None:
            warn(
                key,
                "`queue` has no effect where nothing limits the requests or connections of a service",
                "write `requests` or `connections` beside it",
            )
    elif not limits.queue:
        key = _key(values, "queue_timeout")
        if key is not None:
            warn(
                key,
                "`queue_timeout` has no effect: `queue` is 0, so no request waits",
                "write `queue`, the number of requests that may wait",
            )


def build_health(value: Any) -> Health | None:
    """`value` is None (`off`), `tcp`, a path, or the Values of a mapping."""
    if value is None:
        return None
    if isinstance(value, str):
        return Health(type="tcp") if value == "tcp" else Health(path=value)
    changes = dict(value.values)
    kind = changes.get("type", "http")
    if value.has("type") and "type" not in changes:
        kind = ""  # an unknown type, reported: what its other keys should be is not known
    for name in HTTP_CHECK_KEYS:
        if kind == "tcp" and value.has(name):
            problem(
                value.keys[name],
                f"`{name}` has no meaning for a check of the type `tcp`",
                "remove it, or write `type: http`",
            )
            changes.pop(name, None)
    if "headers" in changes:
        changes["headers"] = tuple(
            [(name, item.value) for name, item in changes["headers"].items() if item.value is not INVALID]
        )
    if "expect" in changes:
        changes["expect"] = _ranges([item for _node, item in changes["expect"]])
    if "body" in changes:
        changes["body"] = _body(changes["body"])
        if changes.get("method") == "HEAD":
            problem(
                value.keys["body"],
                "`body` has no meaning beside `method: HEAD`, whose answer has no body",
                "write `method: GET`, or remove `body`",
            )
    if "panic_threshold" in changes:
        changes["panic"] = changes.pop("panic_threshold")
    return Health(**changes)


def _ranges(items: list[int | tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Status codes and ranges of them, in order, those that touch joined."""
    ranges: list[tuple[int, int]] = []
    for first, last in sorted([(item, item) if isinstance(item, int) else item for item in items]):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return tuple(ranges)


def _body(value: Any) -> BodyMatch | None:
    """A text, or Values with `regex`, which may be invalid."""
    if isinstance(value, str):
        return BodyMatch(value)
    return BodyMatch(value.get("regex"), regex=True) if value.get("regex") else None
