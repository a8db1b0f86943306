"""A scripted origin server that records exactly what reaches it.

Each connection has a thread. A handler, registered for a path, says what to answer to a request and how to
treat the connection; without one the answer is an echo of the request as JSON. Nothing here sleeps: a
handler that must delay waits for an event.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11

Handler = Callable[["Exchange"], None]

_HEAD_LIMIT = 1 << 20
_WHOLE_BODY_IN_ECHO = 65_536


class PeerEnded(Exception):
    """The peer ended the connection inside a request, or while a handler was at work."""


@dataclass
class Request:
    """One request as it was read. `start` and `end` are offsets into what the connection received."""

    connection: int
    number: int
    method: str
    target: str
    version: str
    fields: list[tuple[str, str]]  # names as sent
    start: int
    end: int = -1  # of the head, later of the whole message
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) < 2, f"{name} more than once: {values}"
        return values[0] if values else None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass
class Recorded:
    """What one connection received. `ended`: None, or who ended it: eof | reset (the peer), self (a
    handler)."""

    number: int
    received: bytearray = field(default_factory=bytearray)
    requests: list[Request] = field(default_factory=list)
    ended: str | None = None
    malformed: str | None = None


@dataclass(frozen=True)
class Mark:
    """A moment: how much each connection had received."""

    sizes: dict[int, tuple[int, int]]


@dataclass
class Seen:
    """What came after a mark."""

    data: dict[int, bytes]  # connection -> bytes, only those that received some
    requests: list[Request]
    new_connections: int
    malformed: list[str]

    @property
    def raw(self) -> bytes:
        return b"".join(self.data.values())


class Exchange:
    """One request in the hands of a handler."""

    def __init__(self, origin: Origin, link: _Link, request: Request) -> None:
        self.origin = origin
        self.request = request
        self._link = link
        self.body_was_read = False

    def send(self, data: bytes) -> None:
        """Send as it is. PeerEnded if the peer is gone."""
        try:
            self._link.sock.sendall(data)
        except OSError as error:
            raise PeerEnded(str(error)) from None

    def read_body(self) -> bytes:
        """The request's body, whole. PeerEnded if the peer ends the connection before."""
        self._link.finish_request(self.request)
        self.body_was_read = True
        return self.request.body

    def reply(
        self,
        status: int = 200,
        body: bytes = b"",
        fields: tuple[tuple[str, str], ...] = (),
        *,
        version: str = "1.1",
    ) -> None:
        lines = [f"HTTP/{version} {status} Scripted"]
        lines += [f"{name}: {value}" for name, value in fields]
        lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def reply_echo(self) -> None:
        request = self.request
        body = request.body
        shown: dict[str, Any] = {
            "method": request.method,
            "target": request.target,
            "fields": request.fields,
            "body": body.decode("latin-1") if len(body) <= _WHOLE_BODY_IN_ECHO else None,
            "body_size": len(body),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "trailers": request.trailers,
            "connection": request.connection,
            "origin": self.origin.name,
        }
        if request.method == "HEAD":
            self.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n")
            return
        self.reply(200, json.dumps(shown).encode("ascii"), (("Content-Type", "application/json"),))

    def close(self) -> None:
        """Close in order (FIN); the kernel resets if unread bytes are left."""
        self._link.end("self")

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self._link.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        with contextlib.suppress(OSError):
            self._link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._link.end("self")

    def wait_peer_end(self, timeout: float = 5.0) -> str:
        """Record all that comes until the peer ends the connection: "eof" or "reset". AssertionError if it
        does not."""
        return self._link.wait_end(timeout)

    def receive(self) -> bytes:
        """The next bytes after what was read of this request, e.g. of a tunnel; b"" at the end."""
        return self._link.take()


class _Link:
    """A connection's thread: reads requests, calls handlers."""

    def __init__(self, origin: Origin, sock: socket.socket, recorded: Recorded) -> None:
        self.origin = origin
        self.sock = sock
        self.recorded = recorded
        self.parsed = 0  # offset into recorded.received: what belongs to finished requests
        self.parser: h11.Connection | None = None
        self.fed = 0  # offset into recorded.received: what the parser was given

    def receive(self) -> bool:
        """Record what comes next; False at the end."""
        try:
            data = self.sock.recv(262_144)
        except TimeoutError:
            raise
        except OSError:
            self.end("reset")
            return False
        if not data:
            with self.origin.changed:
                if self.recorded.ended is None:
                    self.recorded.ended = "eof"
                self.origin.changed.notify_all()
            return False
        with self.origin.changed:
            self.recorded.received += data
            self.origin.changed.notify_all()
        return True

    def end(self, how: str) -> None:
        # Whoever sees `ended` may count on the FIN or RST having been sent.
        self.sock.close()
        with self.origin.changed:
            if self.recorded.ended is None:
                self.recorded.ended = how
            self.origin.changed.notify_all()

    def wait_end(self, timeout: float) -> str:
        self.sock.settimeout(timeout)
        try:
            while self.receive():
                pass
        except TimeoutError:
            raise AssertionError(f"the peer did not end the connection within {timeout} s") from None
        finally:
            with contextlib.suppress(OSError):
                self.sock.settimeout(None)
        return self.recorded.ended or "eof"

    def take(self) -> bytes:
        if self.parsed == len(self.recorded.received) and not self.receive():
            return b""
        data = bytes(self.recorded.received[self.parsed :])
        self.parsed = len(self.recorded.received)
        return data

    def next_event(self) -> Any:
        """The parser's next event, fed with recorded bytes. PeerEnded if they end first."""
        assert self.parser is not None
        while True:
            event = self.parser.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self.fed == len(self.recorded.received) and not self.receive():
                raise PeerEnded
            self.parser.receive_data(bytes(self.recorded.received[self.fed :]))
            self.fed = len(self.recorded.received)

    def next_request(self) -> Request:
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)
        self.fed = self.parsed
        event = self.next_event()
        if not isinstance(event, h11.Request):
            raise PeerEnded
        recorded = self.recorded
        request = Request(
            recorded.number,
            len(recorded.requests),
            event.method.decode("latin-1"),
            event.target.decode("latin-1"),
            event.http_version.decode("latin-1"),
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers.raw_items()],
            self.parsed,
        )
        self.parsed = self.fed - len(self.parser.trailing_data[0])
        request.end = self.parsed
        with self.origin.changed:
            recorded.requests.append(request)
            self.origin.changed.notify_all()
        if not request.all("content-length") and not request.all("transfer-encoding"):
            self.finish_request(request)
        return request

    def finish_request(self, request: Request) -> None:
        if request.complete:
            return
        assert self.parser is not None
        parts: list[bytes] = []
        while True:
            event = self.next_event()
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                continue
            if not isinstance(event, h11.EndOfMessage):
                raise PeerEnded
            break
        request.body = b"".join(parts)
        request.trailers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers.raw_items()]
        self.parsed = self.fed - len(self.parser.trailing_data[0])
        request.end = self.parsed
        with self.origin.changed:
            request.complete = True
            self.origin.changed.notify_all()

    def run(self) -> None:
        try:
            while self.recorded.ended is None:
                request = self.next_request()
                exchange = Exchange(self.origin, self, request)
                handler = self.origin.handler_of(request)
                if handler is None:
                    exchange.read_body()
                    exchange.reply_echo()
                else:
                    handler(exchange)
                if self.recorded.ended is None:
                    self.finish_request(request)
        except h11.RemoteProtocolError as error:
            with self.origin.changed:
                self.recorded.malformed = f"{error}: {bytes(self.recorded.received[self.parsed :])[:1000]!r}"
                self.origin.changed.notify_all()
        except (PeerEnded, OSError):
            pass
        except Exception as error:  # a handler's own failure must reach the test
            self.origin.failures.append(error)
        finally:
            self.end("self")


class Origin:
    """A listening server. `address` is (host, port) or a path; `text` is what a configuration says for it."""

    def __init__(
        self, *, host: str = "127.0.0.1", path: Path | None = None, port: int = 0, name: str = "origin"
    ) -> None:
        self.name = name
        self.changed = threading.Condition()
        self.connections: list[Recorded] = []
        self.failures: list[Exception] = []
        self._handlers: dict[str, Handler] = {}
        self._default: Handler | None = None
        self._sockets: list[socket.socket] = []
        if path is not None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self.address: tuple[str, int] | str = str(path)
            self.text = f"unix:{path}"
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.socket(family)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host, port))
            bound = self._listener.getsockname()
            self.address = (bound[0], bound[1])
            self.text = f"[{bound[0]}]:{bound[1]}" if family == socket.AF_INET6 else f"{bound[0]}:{bound[1]}"
        self._listener.listen(1024)
        threading.Thread(target=self._accept, name=f"{name}-accept", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changed:
                recorded = Recorded(len(self.connections))
                self.connections.append(recorded)
                self._sockets = [known for known in self._sockets if known.fileno() >= 0]
                self._sockets.append(sock)
                self.changed.notify_all()
            threading.Thread(
                target=_Link(self, sock, recorded).run, name=f"{self.name}-link", daemon=True
            ).start()

    def close(self) -> None:
        """Stop listening and end every connection."""
        # A thread inside accept() keeps the listening socket alive; shutdown makes accept() return.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self.changed:
            sockets, self._sockets = self._sockets, []
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def end_connections(self, *, reset: bool = False) -> None:
        """End every open connection from this side; go on listening."""
        with self.changed:
            sockets, self._sockets = self._sockets, []
        for sock in sockets:
            with contextlib.suppress(OSError):
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RDWR)

    def handler_of(self, request: Request) -> Handler | None:
        return self._handlers.get(request.path, self._default)

    @contextlib.contextmanager
    def answering(self, path: str | None, handler: Handler) -> Iterator[None]:
        """Within the block, requests for that path (None: any path without a handler) go to the handler."""
        before = self._default
        self.failures.clear()  # of handlers that outlived their test
        if path is None:
            self._default = handler
        else:
            self._handlers[path] = handler
        try:
            yield
        finally:
            if path is None:
                self._default = before
            else:
                del self._handlers[path]
            if self.failures:
                failures, self.failures = self.failures, []
                raise failures[0]

    # Observing

    def mark(self) -> Mark:
        with self.changed:
            return Mark({link.number: (len(link.received), len(link.requests)) for link in self.connections})

    def since(self, mark: Mark) -> Seen:
        """Bytes and requests that came after the mark, and how many connections are new."""
        with self.changed:
            data, requests, malformed, fresh = {}, [], [], 0
            for link in self.connections:
                size, count = mark.sizes.get(link.number, (0, 0))
                fresh += link.number not in mark.sizes
                if len(link.received) > size:
                    data[link.number] = bytes(link.received[size:])
                    if link.malformed:
                        malformed.append(link.malformed)
                requests += link.requests[count:]
            return Seen(data, requests, fresh, malformed)

    def wait(self, condition: Callable[[], Any], what: str, *, within: float = 5.0) -> Any:
        """The first true value of `condition`, looked at whenever something is recorded."""
        deadline = time.monotonic() + within
        with self.changed:
            while True:
                value = condition()
                if value:
                    return value
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{self.name}: not within {within} s: {what}")
                self.changed.wait(min(left, 0.5))

    def requests_for(self, path: str) -> list[Request]:
        with self.changed:
            return [request for link in self.connections for request in link.requests if request.path == path]

    def wait_request(self, path: str, *, count: int = 1, within: float = 5.0) -> Request:
        """The last of `count` requests for that path, once its head has come."""
        self.wait(
            lambda: len(self.requests_for(path)) >= count, f"{count} requests for {path}", within=within
        )
        return self.requests_for(path)[count - 1]

    def open_connections(self) -> int:
        with self.changed:
            return sum(link.ended is None for link in self.connections)
