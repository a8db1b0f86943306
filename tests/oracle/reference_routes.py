"""Slow reference of routing: every route from top to bottom, by the words of the rules."""

PREFIX, EXACT = 0, 1


def host_name(host: bytes) -> bytes:
    if host.startswith(b"["):
        name = host[: host.index(b"]") + 1] if b"]" in host else host
    else:
        name = host.split(b":")[0]
    return name.removesuffix(b".").lower()


def path_fits(kind: int, pattern: bytes, path: bytes) -> bool:
    if kind == EXACT:
        return path.startswith(b"/") and path == pattern
    elements = pattern.rstrip(b"/").split(b"/")[1:]
    if not elements:
        return True
    return path.startswith(b"/") and path.split(b"/")[1 : 1 + len(elements)] == elements


def host_fits(pattern: bytes, host: bytes) -> bool:
    name, wanted = host_name(host), pattern.lower().removesuffix(b".")
    if not name or len(name) > 255:
        return False
    if wanted.startswith(b"*."):
        return len(name) > len(wanted) - 1 and name.endswith(wanted[1:])
    return name == wanted


def match(routes, method: bytes, host: bytes, path: bytes, fields) -> int:
    for index, (kind, pattern, methods, hosts, headers, _action) in enumerate(routes):
        if (
            path_fits(kind, pattern, path)
            and (not methods or method in methods)
            and (not hosts or any(host_fits(wanted, host) for wanted in hosts))
            and all(
                any(name.lower() == wanted.lower() and value == exact for name, value in fields)
                for wanted, exact in headers
            )
        ):
            return index
    return -1
