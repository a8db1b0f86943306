"""Which route a request takes: the rules, written down slowly and plainly.

The data plane has its own fast matcher; this one explains, and is what tests hold the fast one against.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastmesh.model import Listener, Route


def explain(
    listener: Listener,
    method: str,
    host: str,
    path: str,
    headers: Iterable[tuple[str, str]] = (),
) -> Route | None:
    """The first route of `listener` that matches, or None.

    `host` is the Host field or the target's authority, with or without a port; `path` is the request's path,
    byte by byte as it came and without its query.
    """
    pairs = [(name.lower(), value) for name, value in headers]
    for route in listener.routes:
        if matches(route, method, host, path, pairs):
            return route
    return None


def matches(route: Route, method: str, host: str, path: str, headers: list[tuple[str, str]]) -> bool:
    """Whether all conditions of `route` hold; header names are lower case."""
    return (
        matches_path(route, path)
        and (not route.methods or method in route.methods)
        and (not route.hosts or any(matches_host(pattern, host) for pattern in route.hosts))
        and all(condition in headers for condition in route.headers)
    )


def matches_path(route: Route, path: str) -> bool:
    """Exact: byte by byte. Prefix: by whole elements, so `/user` takes in `/user/1` and not `/users`."""
    if route.path_kind == "exact":
        return path == route.path
    return route.path == "/" or path == route.path or path.startswith(route.path + "/")


def matches_host(pattern: str, host: str) -> bool:
    """Case, port and a trailing dot do not count; `*.x` is any depth below x, and not x itself."""
    name = host.lower()
    if name.startswith("["):
        name = name.partition("]")[0] + "]"
    else:
        name = name.partition(":")[0].removesuffix(".")
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


def rewrite(prefix: str, replacement: str, path: str) -> str:
    """`path` with its matched `prefix` replaced, by the table of the Gateway API's ReplacePrefixMatch.

    Neither a doubled nor a missing slash comes out: `/foo` to `/` makes `/foo` a `/` and `/foo/bar` a `/bar`.
    """
    rest = path[len(prefix) :] if prefix != "/" else path
    base = replacement.rstrip("/")
    if not rest:
        return base or "/"
    return base + (rest if rest.startswith("/") else "/" + rest)
