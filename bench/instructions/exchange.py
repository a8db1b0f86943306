"""Small keep-alive requests through a worker that has no thread, between two sockets in our hands.

The client's connection and the endpoint's are open before the count begins; they are Unix sockets, where
what one side sends is there for the other when `send` returns. What is counted is what the worker does in
user space in two turns a request, and the four reads and writes of our own (some dozens of instructions).
What the worker does once a tick of its timers is counted as often as it falls due, which adds less than 0.1
%.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness.place import BenchError

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: text/plain\r\nContent-Length: 128\r\n\r\n"
    + b"x" * 128
)
_OPEN_SOCKET = 1  # COMMAND_OPEN_SOCKET of core/mailbox.pxd
_TURNS_AT_MOST = 100


def exchanges(count: int) -> int:
    """Counts `count` requests on connections that have already had one, so that all memory is allocated."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as front,
        socket.socket(socket.AF_UNIX) as origin,
        socket.socket(socket.AF_UNIX) as client,
    ):
        for listening, name in ((front, "front"), (origin, "origin")):
            listening.bind(f"{folder}/{name}")
            listening.listen()
            listening.setblocking(False)
        worker = _worker(Path(folder, "origin"))
        worker.post(_OPEN_SOCKET, front.fileno(), 0, 1)
        worker.turn()
        client.connect(f"{folder}/front")
        client.setblocking(False)
        client.send(REQUEST)
        upstream = _after_turns(worker, lambda: origin.accept()[0])
        upstream.setblocking(False)
        _after_turns(worker, lambda: upstream.recv(65536))
        upstream.send(RESPONSE)
        _after_turns(worker, lambda: client.recv(65536))
        done = worker.exchange_often(client.fileno(), upstream.fileno(), REQUEST, RESPONSE, count)
        upstream.close()
        worker.stop()
        worker.free()
    if done != count:
        raise BenchError(f"request {done + 1} of {count} did not go through the worker")
    return count


def _worker(origin: Path) -> Any:
    """One listener, one route, one service with one endpoint at a Unix path."""
    from fastmesh._native.core._t_worker import Worker
    from fastmesh.engine.compile import listener_spec, service_spec
    from fastmesh.engine.numbering import pack_address
    from fastmesh.model import Address, Config, Endpoint, Forward, Listener, Route, Service

    worker = Worker(connection_limit=100, seed=1)
    address = Address("unix", path=str(origin))
    service = Service("s", (Endpoint(address),))
    listener = Listener("l", (), routes=(Route(Forward((("s", 1),))),))
    worker.define_slot(0, 1, 0, pack_address(address), address.text.encode())
    config = Config({}, {"s": service})
    spec = listener_spec(listener, config, 0, ["s"].index, ["", "s"].index)
    block = worker.build_service(service_spec(service, 0, [(0, 1, 0)]))
    worker.publish([worker.build_listener(spec)], [block])
    worker.turn()
    return worker


def _after_turns(worker: Any, take: Callable[[], Any]) -> Any:
    """What `take` gives, with turns of the worker until it does."""
    for _ in range(_TURNS_AT_MOST):
        worker.turn()
        try:
            return take()
        except BlockingIOError:
            continue
    raise BenchError("nothing came out of the worker")
