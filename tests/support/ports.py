"""Free TCP ports for processes that cannot bind port 0.

A port is taken from below the kernel's ephemeral range, so that no outgoing connection and no `bind(0)` of
another test lands on it, and is held by a lock for the life of this process, so that parallel test runs do
not share it. The lock is a name among the abstract Unix sockets: like the port it belongs to the network
namespace, whoever runs the tests, and it is gone with the process.
"""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 10_000, 31_999
_held: dict[int, socket.socket] = {}
_random = (
    random.SystemRandom()
)  # not the seeded generator of the test run: two runs must not try the same ports


def _is_bindable(port: int) -> bool:
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def free_port() -> int:
    """A port that nobody listens on and that no other test run was given."""
    for _ in range(2000):
        port = _random.randint(_FIRST, _LAST)
        if port in _held:
            continue
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock.bind(f"\0fastmesh-test-port-{port}")
        except OSError:
            lock.close()
            continue
        if _is_bindable(port):
            _held[port] = lock
            return port
        lock.close()
    raise RuntimeError("no free port found")
