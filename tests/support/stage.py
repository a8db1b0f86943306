"""A worker without a thread between scripted ends: the test makes the turns, and decides what falls in each.

Listener and endpoints are Unix sockets: what one side sends is there for the other when `send` returns, and
closing with unread bytes is a reset.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from fastmesh._native.core._t_worker import Worker
from fastmesh.engine.compile import listener_spec, service_spec
from fastmesh.engine.numbering import pack_address
from fastmesh.model import (
    Address,
    Balance,
    Config,
    Endpoint,
    Forward,
    Limits,
    Listener,
    Route,
    Service,
    Timeouts,
    Upstream,
)

OPEN_SOCKET, MOVE_SOCKET, CLOSE_SOCKET, CLOSE_IDLE, CLOSE_GONE = range(1, 6)
UNHEALTHY, DRAINING = 1 << 32, 1 << 33
PATIENCE_S = 10.0
ROUND_ROBIN = Balance("round_robin")
TIMEOUTS, UPSTREAM, LIMITS = Timeouts(), Upstream(), Limits()


class End:
    """One end of a connection in the test's hands. Whatever waits makes turns of the worker meanwhile."""

    def __init__(self, stage: Stage, sock: socket.socket) -> None:
        self.stage = stage
        self.sock = sock
        self.sock.setblocking(False)
        self.received = b""
        self.ended: str | None = None  # eof | reset
        stage.ends.append(self)

    def send(self, data: bytes) -> None:
        """All of it, at once: it must fit into the kernel's buffer."""
        assert self.sock.send(data) == len(data)

    def send_what_fits(self, data: bytes) -> int:
        """How much the kernel took."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def send_turning(self, data: bytes) -> None:
        """All of it, with turns of the worker in between."""
        view = memoryview(data)
        deadline = time.monotonic() + PATIENCE_S
        while view:
            view = view[self.send_what_fits(view) :]
            self.stage.turn()
            assert time.monotonic() < deadline, f"{len(view)} bytes were not taken"

    def look(self) -> None:
        """Take what has arrived by now."""
        while self.ended is None:
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                return
            except ConnectionResetError:
                self.ended = "reset"
                return
            if not data:
                self.ended = "eof"
            self.received += data

    def _await(self, condition: Callable[[], Any], what: str) -> None:
        def reached() -> bool:
            self.look()
            return bool(condition()) or self.ended is not None

        self.stage.until(reached, what)
        assert condition(), f"{what}: ended by {self.ended} after {self.received!r}"

    def until(self, mark: bytes) -> bytes:
        """What came up to and with `mark`."""
        self._await(lambda: mark in self.received, repr(mark))
        place = self.received.index(mark) + len(mark)
        data, self.received = self.received[:place], self.received[place:]
        return data

    def head(self) -> bytes:
        return self.until(b"\r\n\r\n")

    def exactly(self, size: int) -> bytes:
        self._await(lambda: len(self.received) >= size, f"{size} bytes")
        data, self.received = self.received[:size], self.received[size:]
        return data

    def response(self) -> tuple[int, str, bytes]:
        """Status, the proxy's error code ("" of an endpoint) and body of an answer that says its length."""
        status_line, *lines = self.head().lower().split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines if line)
        body = self.exactly(int(fields[b"content-length"]))
        return int(status_line[9:12]), fields.get(b"x-fastmesh-error", b"").decode(), body

    def end(self) -> str:
        """How the connection ended: "eof" or "reset"; what came before stays in `received`."""
        self._await(lambda: self.ended, "the end")
        assert self.ended is not None
        return self.ended

    def is_open(self) -> bool:
        """Neither ended nor given anything by now."""
        self.stage.settle()
        self.look()
        return self.ended is None and not self.received

    def finish(self) -> None:
        """FIN; the other direction stays."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with unread bytes (Unix) or at once without lingering (TCP): RST either way."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Listening:
    """A listening socket in the test's hands, that an endpoint's address leads to."""

    def __init__(self, stage: Stage, path: Path | None, backlog: int = 16) -> None:
        """Without a path: TCP, on a port of 127.0.0.1."""
        self.stage = stage
        self.path = path or Path()
        if path is not None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(str(path))
            self.address = Address("unix", path=str(path))
        else:
            self.sock = socket.socket()
            self.sock.bind(("127.0.0.1", 0))
            self.address = Address("inet", *self.sock.getsockname())
        self.sock.listen(backlog)
        self.sock.setblocking(False)

    def connect(self) -> socket.socket:
        sock = socket.socket(self.sock.family)
        sock.connect(self.sock.getsockname())
        return sock

    def waiting(self) -> End | None:
        """A connection that has come, or None."""
        try:
            return End(self.stage, self.sock.accept()[0])
        except BlockingIOError:
            return None

    def accept(self) -> End:
        found: list[End] = []

        def come() -> bool:
            end = self.waiting()
            if end is not None:
                found.append(end)
            return bool(found)

        self.stage.until(come, "a connection to the endpoint")
        return found[0]

    def refuse(self) -> None:
        """From now on connections are refused."""
        self.sock.close()


class Stage:
    """One listener (`protocol`), one service `s` with ``origins`` endpoints in slots 0, 1, 2…, one route.

    ``rules`` are further fields of the service: its retries, limits and so on. The listener's socket is a
    Unix one unless ``tcp``."""

    def __init__(
        self,
        origins: int = 1,
        *,
        protocol: str = "http",
        balance: Balance = ROUND_ROBIN,
        timeouts: Timeouts = TIMEOUTS,
        upstream: Upstream = UPSTREAM,
        limits: Limits = LIMITS,
        connection_limit: int = 100,
        tcp: bool = False,
        trusted: tuple[str, ...] = (),
        send_proxy: Literal["v1", "v2"] | None = None,
        rules: Mapping[str, Any] | None = None,
        seed: int = 1,
        **listener: Any,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastmesh-stage-"))
        self.ends: list[End] = []
        self.worker = Worker(connection_limit, seed)
        self.origins = [Listening(self, self.folder / f"o{number}") for number in range(origins)]
        for number, origin in enumerate(self.origins):
            self.define_slot(number, origin.address)
        self.timeouts = timeouts
        self.service = Service(
            "s",
            tuple(Endpoint(origin.address) for origin in self.origins),
            balance,
            timeouts,
            upstream=upstream,
            send_proxy=send_proxy,
            **(rules or {}),
        )
        self.trusted = trusted
        route = Route(Forward((("s", 1),)))
        self.listener = Listener("l", (), protocol, routes=listener.pop("routes", (route,)), **listener)  # type: ignore[arg-type]
        self.limits = limits
        self.publish(self.listener, {"s": self.service})
        self.front = Listening(self, None if tcp else self.folder / "front", backlog=256)
        self.turn()  # adopts
        self.worker.post(OPEN_SOCKET, self.front.sock.fileno(), 0, 1)
        self.turn()

    # ------------------------------------------------------------ configuration

    def define_slot(self, number: int, address: Address, generation: int = 1) -> None:
        self.worker.define_slot(number, generation, 0, pack_address(address), address.text.encode())

    def publish(self, listener: Listener | None, services: dict[str, Service], slots: Any = None) -> None:
        """A new snapshot of new blocks: services by number in the order given; the service `s` has the slots
        0, 1, 2…, or ``slots``."""
        config = Config(
            {}, services, limits=self.limits, timeouts=self.timeouts, trusted_proxies=self.trusted
        )
        names = list(services)
        pairs = ["", *names]
        blocks = []
        for number, service in enumerate(services.values()):
            held = list(slots[service.name]) if slots else list(range(len(service.endpoints)))
            placed = zip(held, service.endpoints, strict=True)
            slots_of = [(slot, endpoint.weight, endpoint.priority) for slot, endpoint in placed]
            spec = service_spec(service, number, slots_of)
            blocks.append(self.worker.build_service(spec))
        listeners = []
        if listener is not None:
            spec = listener_spec(listener, config, 0, names.index, pairs.index)
            listeners.append(self.worker.build_listener(spec))
        self.worker.publish(listeners, blocks)

    def change_service(self, **changes: Any) -> None:
        """Another block of `s`, adopted."""
        self.service = msgspec.structs.replace(self.service, **changes)
        self.publish(self.listener, {"s": self.service})
        self.turn()

    def listen_again(self, number: int) -> None:
        """The endpoint, which refused, takes connections again."""
        self.origins[number].sock.close()
        path = self.origins[number].path
        path.unlink(missing_ok=True)
        self.origins[number].__init__(self, path)  # type: ignore[misc]

    # ------------------------------------------------------------ turns

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.worker.turn()

    def settle(self) -> None:
        """Enough turns for all that can happen without the test to have happened."""
        self.turn(12)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
            self.turn()

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Like `until`, for what a timer brings: the worker sleeps as it would."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
            self.worker.turn_waiting()

    # ------------------------------------------------------------ ends

    def client(self) -> End:
        """A client, accepted by the worker."""
        end = End(self, self.front.connect())
        self.turn(2)
        return end

    def exchange(
        self, client: End, upstream: End | None = None, *, origin: int = 0, target: str = "/"
    ) -> End:
        """A GET and its answer of 2 bytes; returns the endpoint's end, accepted now unless given."""
        client.send(get(target))
        if upstream is None:
            upstream = self.origins[origin].accept()
        assert upstream.head().startswith(f"GET {target} HTTP/1.1\r\n".encode())
        upstream.send(OK)
        assert client.head().startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.exactly(2) == b"ok"
        return upstream

    def asked(self) -> tuple[int, End]:
        """The endpoint that a connection comes to next, and its end."""
        found: list[tuple[int, End]] = []

        def come() -> bool:
            for number, origin in enumerate(self.origins):
                end = None if origin.sock.fileno() < 0 else origin.waiting()
                if end is not None:
                    found.append((number, end))
                    return True
            return False

        self.until(come, "a connection to an endpoint")
        return found[0]

    # ------------------------------------------------------------ looking

    def nobody_is_asked(self) -> bool:
        """No connection has come to any endpoint by now."""
        self.settle()
        return all(origin.sock.fileno() < 0 or origin.waiting() is None for origin in self.origins)

    def use(self) -> dict[str, int]:
        """Counters of the service."""
        counters: dict[str, int] | None = self.worker.service(0)
        assert counters is not None
        return counters

    def requests(self) -> list[int]:
        """How many attempts went to each endpoint."""
        counters = (self.worker.endpoint(number) for number in range(len(self.origins)))
        return [0 if one is None else one["requests"] for one in counters]

    def of_kind(self, kind: str) -> list[str]:
        """States of the connections of that kind."""
        return [state for k, state, *_ in self.worker.connections() if k == kind]

    def held(self) -> int:
        """Bytes in the worker's hands: unsent, unparsed and in pipes."""
        return sum(out + unparsed + pipe for _, _, out, unparsed, pipe, _ in self.worker.connections())

    # ------------------------------------------------------------ the end

    def finish(self) -> None:
        """All ends go; then nothing may be left, neither counted nor allocated."""
        try:
            for one in [*self.ends, *(origin.sock for origin in self.origins)]:
                one.close()
            self.until(
                lambda: (
                    self.worker.ledger()["busy"] == 0
                    and not self.of_kind("client") + self.of_kind("relay") + self.of_kind("undecided")
                ),
                "the clients' connections to be closed",
            )
            ledger = self.worker.ledger()
            assert (ledger["exchanges"], ledger["buffers"], ledger["clients"]) == (0, 0, 0), ledger
            for number in range(len(self.origins)):
                counters = self.worker.endpoint(number)
                if counters is not None:
                    assert (counters["in_flight"], counters["slot_in_flight"]) == (0, 0), counters
            use = self.worker.service(0) or {}
            gauges = ("in_flight", "retrying", "queued", "in_queue", "for_budget")
            assert not any(use.get(name) for name in gauges), use
            self.worker.stop()
            assert set(self.worker.ledger().values()) == {0}, self.worker.ledger()
            use = self.worker.service(0) or {}
            assert use.get("connections", 0) == 0, use
            for references in self.worker.references():
                assert set(references) <= {0}, references
        finally:
            self.worker.free()
            for origin in [*self.origins, self.front]:
                origin.sock.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def abandon(self) -> None:
        """After a failure: gives everything back without a verdict."""
        with contextlib.suppress(OSError):
            for end in self.ends:
                end.close()
        self.worker.stop()
        self.worker.free()
        for origin in [*self.origins, self.front]:
            origin.sock.close()
        shutil.rmtree(self.folder, ignore_errors=True)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(status: int, *fields: bytes, body: bytes = b"it") -> bytes:
    """An endpoint's answer."""
    lines = [b"HTTP/1.1 %d So" % status, b"Content-Length: %d" % len(body), *fields, b"", b""]
    return b"\r\n".join(lines) + body


def get(target: str = "/", *fields: bytes) -> bytes:
    return b"\r\n".join([f"GET {target} HTTP/1.1".encode(), b"Host: test", *fields, b"", b""])


def post(body: bytes, *fields: bytes, method: bytes = b"POST") -> bytes:
    head = [method + b" / HTTP/1.1", b"Host: test", b"Content-Length: %d" % len(body), *fields, b"", b""]
    return b"\r\n".join(head) + body


def buffer_of(sock: socket.socket) -> int:
    """Bytes that the kernel holds for a socket at most, both directions of a Unix pair counted."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) + sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF
    )
