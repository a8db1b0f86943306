"""What is read once and not in rounds: system calls a request, memory at idle and of idle connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.contenders import HTTP, Running
from bench.harness.meters import Memory, memory
from bench.harness.place import BenchError, raise_descriptor_limit
from bench.harness.syscalls import Tracer, reads_and_writes
from bench.measure import Bench, load_on
from bench.scenarios import SMALL

IDLE_CONNECTIONS = 10_000
# A source address of 127.0.0.0/8 for so many connections: finding a free port is slow once half are taken.
_PORTS_PER_ADDRESS = 2_000
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen by connect(2), when the peer is known
_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"


@dataclass(frozen=True)
class SystemCalls:
    """Calls a request under the small keep-alive load; `by_name` counts failed calls too."""

    requests: int
    by_name: dict[str, int]

    @property
    def reads_and_writes(self) -> float:
        return reads_and_writes(self.by_name) / self.requests

    def per_request(self, name: str) -> float:
        return self.by_name.get(name, 0) / self.requests


def system_calls(bench: Bench, name: str) -> SystemCalls:
    """strace counts all threads of the proxy while wrk runs over 64 connections that are warm already."""
    running = bench.start(name)
    try:
        load_on(bench, running, SMALL, 1).result(running.check_alive)
        tracer = Tracer(running.tree(), bench.folder / f"strace-{name}.log")
        try:
            result = load_on(bench, running, SMALL, 2).result(running.check_alive)
            counts = tracer.counts()
        finally:
            tracer.stop()
    finally:
        running.stop()
    if result.failed or not result.requests:
        raise BenchError(f"requests failed under strace: {result.error_text() or 'none was answered'}")
    return SystemCalls(result.requests, counts)


@dataclass(frozen=True)
class ConnectionMemory:
    """Of a process before, and with, `connections` that are idle after one request each."""

    before: Memory
    with_connections: Memory
    connections: int

    @property
    def per_connection(self) -> float:
        """Bytes; proportional, so that pages shared by a proxy's processes count once."""
        return (self.with_connections.proportional - self.before.proportional) / self.connections


def idle_memory(bench: Bench, name: str) -> Memory:
    """Of a fresh process that has served one request, by which it is known to be ready."""
    running = bench.start(name)
    try:
        return memory(running.tree())
    finally:
        running.stop()


def connection_memory(bench: Bench, name: str) -> ConnectionMemory:
    """Of a fresh process. 500 connections come and go first: what is made once shall not count as theirs."""
    # Proxies that set aside two descriptors for each connection would turn the last ones away, and close idle
    # ones before they come to that.
    count = min(IDLE_CONNECTIONS, raise_descriptor_limit() * 9 // 20 - 500)
    running = bench.start(name)
    try:
        with idle_connections(running, 500):
            pass
        before = memory(running.tree())
        with idle_connections(running, count):
            after = memory(running.tree())
    finally:
        running.stop()
    return ConnectionMemory(before=before, with_connections=after, connections=count)


@contextmanager
def idle_connections(running: Running, count: int) -> Iterator[None]:
    """Keep-alive connections that have sent one request and read its whole answer."""
    target = ("127.0.0.1", running.port(HTTP))
    opened: list[socket.socket] = []
    try:
        for number in range(count):
            opened.append(socket.socket())
            opened[-1].settimeout(10)
            opened[-1].setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            opened[-1].bind((f"127.0.0.{2 + number // _PORTS_PER_ADDRESS}", 0))
            opened[-1].connect(target)
            opened[-1].sendall(_REQUEST)
            _read_answer(opened[-1])
        running.check_alive()
        yield
    except OSError as error:
        raise BenchError(f"{running.contender.name}, idle connection {len(opened)}: {error}") from error
    finally:
        for connection in opened:
            connection.close()


def _read_answer(connection: socket.socket) -> None:
    """Reads one answer with a Content-Length and checks its status."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    status, *fields = head.lower().split(b"\r\n")
    lengths = [field.split(b":")[1] for field in fields if field.startswith(b"content-length:")]
    if b" 200 " not in status or not lengths:
        raise BenchError(f"unexpected answer: {head[:120]!r}")
    left = int(lengths[0]) - len(body)
    while left > 0:
        left -= len(_some(connection))


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise BenchError("the proxy closed a keep-alive connection")
    return data
