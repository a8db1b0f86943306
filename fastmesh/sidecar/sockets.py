"""Who listens on which TCP port of this network namespace: sock_diag(7), else `/proc/net/tcp` (proc(5))."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fastmesh.sidecar import diag
from fastmesh.sidecar.diag import Listening

NET = Path("/proc/self/net")
LISTEN = "0A"
WILDCARDS = ("0.0.0.0", "::")
LOOPBACKS = ("127.0.0.1", "::1")


def listening(net: Path | None = None) -> list[Listening]:
    """All of the network namespace, IPv4 first: of the files in ``net``; None: of the kernel, by the cheaper
    way that works. A family that the kernel does not have has none."""
    if net is None:
        try:
            return diag.listening()
        except OSError:  # a kernel without it, or a profile that forbids it
            net = NET
    found: list[Listening] = []
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError), (net / name).open() as lines:
            found += _rows(lines)
    return found


def _rows(lines: Iterable[str]) -> Iterator[Listening]:
    rows = iter(lines)
    next(rows, None)  # the names of the columns
    for line in rows:
        fields = line.split()
        # Listening sockets come first, and there may be very many of the others.
        if fields[3] != LISTEN:
            return
        host, _, port = fields[1].partition(":")
        yield Listening(int(fields[7]), _host(host), int(port, 16), int(fields[9]))


def _host(text: str) -> str:
    """The canonical address of hexadecimal words of four bytes, each in the machine's order."""
    words = (text[start : start + 8] for start in range(0, len(text), 8))
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def owner_of_port(port: int, net: Path | None = None) -> int | None:
    """The user who listens on a TCP port; None if nobody does. Where several do, on different addresses, the
    one whom a connection to the loopback reaches."""
    found = [item for item in listening(net) if item.port == port]
    return min(found, key=_distance).uid if found else None


def _distance(item: Listening) -> int:
    return 0 if item.host in LOOPBACKS else 1 if item.host in WILDCARDS else 2


def own_user_complaint(uid: int, ports: Iterable[int], net: Path | None = None) -> str | None:
    """What to tell when the application, which listens on one of the ports, runs as the proxy's user ``uid``:
    interception exempts that user, so that what the application opens goes past the proxy."""
    for port in ports:
        if owner_of_port(port, net) == uid:
            return (
                f"the application on port {port} runs as the proxy's own user (uid {uid}), whose connections "
                f"are not intercepted: what it opens goes past the proxy; {ADVICE}"
            )
    return None


ADVICE = (
    'run the application as another user, such as `user: "1000:1000"` in a compose file or `runAsUser: 1000` '
    "in a pod"
)
