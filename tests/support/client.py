"""A raw-socket HTTP/1 client for tests: sends exactly the bytes it is told to, reads with a strict parser of
its own.

The parser accepts only what a proxy may send: anything doubtful raises `BadResponse`, so that a test never
passes by the tolerance of its own client.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import re
import socket
import struct
import termios
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

Address = tuple[str, int] | str
"""(host, port), or the path of a Unix socket."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) ([\t \x21-\x7e\x80-\xff]*)")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t \x21-\x7e\x80-\xff]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")


class BadResponse(AssertionError):
    """The bytes that came are not a response that a strict client accepts."""


class ConnectionEnded(AssertionError):
    """The connection ended before the head of a response was complete; `how` is "eof" or "reset"."""

    def __init__(self, how: str, received: bytes) -> None:
        super().__init__(f"connection ended by {how} after {received!r}")
        self.how = how
        self.received = received


@dataclass
class Response:
    """One final response with what came before and after its body."""

    minor_version: int
    status: int
    reason: bytes
    fields: list[tuple[str, bytes]]
    raw_head: bytes
    informational: list[Response] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[str, bytes]] = field(default_factory=list)
    framing: str = "none"  # none | length | chunked | close
    truncated: str | None = None  # None, or how the connection ended inside the body: eof | reset

    def all(self, name: str) -> list[bytes]:
        """Values of all fields of that lower-case name, in order."""
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> bytes | None:
        """Value of the only field of that name; None if there is none; BadResponse if there are several."""
        values = self.all(name)
        if len(values) > 1:
            raise BadResponse(f"{len(values)} fields {name}: {values}")
        return values[0] if values else None

    @property
    def error_code(self) -> str | None:
        value = self.get("x-fastmesh-error")
        return None if value is None else value.decode("ascii")

    @property
    def says_close(self) -> bool:
        return any(b"close" in value.lower() for value in self.all("connection"))

    def json(self) -> Any:
        return json.loads(self.body)


def _fields_of(lines: Iterable[bytes]) -> list[tuple[str, bytes]]:
    fields = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadResponse(f"bad field line {line!r}")
        fields.append((match[1].decode("ascii").lower(), match[2]))
    return fields


class Client:
    """One connection. All waits have a deadline of `timeout` seconds."""

    def __init__(
        self,
        address: Address,
        *,
        timeout: float = 5.0,
        source: str | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        family = (
            socket.AF_UNIX
            if isinstance(address, str)
            else socket.AF_INET6
            if ":" in address[0]
            else socket.AF_INET
        )
        self.address = address
        self.timeout = timeout
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            self.sock.bind((source, 0))
        try:
            self.sock.connect(address)
        except BaseException:
            self.sock.close()
            raise
        if family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.ended: str | None = None

    def __del__(self) -> None:
        """A client that a test lets go of is closed then and there, not at some later collection."""
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    # Sending

    def send(self, data: bytes) -> None:
        """Send all of it; a peer that closed while we send is no error here: the test looks at what was
        answered."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send each piece once the peer has taken the one before (exact for Unix sockets; for TCP:
        acknowledged)."""
        for piece in pieces:
            self.send(piece)
            self.wait_taken()

    def wait_taken(self) -> None:
        """Return when the send queue is empty: a Unix peer has read all, a TCP peer's kernel has
        acknowledged all."""
        deadline = time.monotonic() + self.timeout
        pending = array.array("i", [0])
        while True:
            fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, pending)
            if pending[0] == 0:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"peer left {pending[0]} bytes unread")
            time.sleep(0)

    def shutdown_write(self) -> None:
        """FIN; a peer that has already ended the connection is no error here."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    # Receiving

    def _receive(self, limit: int = 262_144) -> bool:
        """Append what comes to the buffer. False: the connection ended (`ended` says how)."""
        if self.ended:
            return False
        try:
            data = self.sock.recv(limit)
        except ConnectionResetError:
            self.ended = "reset"
            return False
        except TimeoutError:
            raise AssertionError(
                f"nothing came within {self.timeout} s; so far {self.buffer[:2000]!r}"
            ) from None
        if not data:
            self.ended = "eof"
            return False
        self.buffer += data
        return True

    def read_some(self) -> bytes:
        """Whatever is buffered or comes next; b"" at the end of the connection."""
        if not self.buffer:
            self._receive()
        data, self.buffer = self.buffer, b""
        return data

    def read_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self._receive():
                raise ConnectionEnded(self.ended or "eof", self.buffer)
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_to_end(self) -> bytes:
        parts = [self.buffer]
        self.buffer = b""
        while self._receive():
            parts.append(self.buffer)
            self.buffer = b""
        return b"".join(parts)

    def how_it_ended(self) -> str:
        """Wait for the end: "eof" or "reset". AssertionError if bytes come instead, or nothing does in
        time."""
        if self.buffer or self._receive():
            raise AssertionError(f"bytes instead of the end of the connection: {self.buffer[:2000]!r}")
        return self.ended or "eof"

    def is_open(self) -> bool:
        """True if neither an end nor unexpected bytes have arrived by now."""
        if self.ended:
            return False
        self.sock.setblocking(False)
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            self.ended = "reset"
            return False
        finally:
            self.sock.settimeout(self.timeout)
        if not data:
            self.ended = "eof"
            return False
        self.buffer += data
        raise AssertionError(f"bytes that nothing asked for: {self.buffer[:2000]!r}")

    def _read_head(self) -> Response:
        while b"\r\n\r\n" not in self.buffer:
            if not self._receive():
                raise ConnectionEnded(self.ended or "eof", self.buffer)
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *rest = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise BadResponse(f"bad status line {line!r}")
        return Response(int(match[1]), int(match[2]), match[3], _fields_of(rest), head + b"\r\n\r\n")

    def read_response(self, method: str = "GET", *, until_final: bool = True) -> Response:
        """The next response to a request of that method; with `until_final` interim ones are collected in
        it."""
        informational = []
        while True:
            response = self._read_head()
            if response.status >= 200 or response.status == 101 or not until_final:
                break
            informational.append(response)
        response.informational = informational
        self._read_body(response, method)
        return response

    def _read_body(self, response: Response, method: str) -> None:
        lengths, codings = response.all("content-length"), response.all("transfer-encoding")
        if codings and lengths:
            raise BadResponse(f"both framings: {response.raw_head!r}")
        if len(lengths) > 1 or not all(re.fullmatch(rb"[0-9]{1,18}", value) for value in lengths):
            raise BadResponse(f"Content-Length {lengths}")
        if response.status < 200 or response.status in (204, 304) or method == "HEAD":
            if (response.status < 200 or response.status == 204) and (codings or lengths):
                raise BadResponse(f"framing where no body may be: {response.raw_head!r}")
            return
        if codings:
            if codings != [b"chunked"]:
                raise BadResponse(f"Transfer-Encoding {codings}")
            if response.minor_version == 0:
                raise BadResponse("Transfer-Encoding in an HTTP/1.0 response")
            response.framing = "chunked"
            self._read_chunked(response)
        elif lengths:
            response.framing = "length"
            response.body = self._read_counted(response, int(lengths[0]))
        else:
            response.framing = "close"
            response.body = self.read_to_end()
            if self.ended == "reset":
                response.truncated = "reset"

    def _read_counted(self, response: Response, size: int) -> bytes:
        parts = [self.buffer]
        have = len(self.buffer)
        while have < size:
            self.buffer = b""
            if not self._receive():
                response.truncated = self.ended
                return b"".join(parts)
            parts.append(self.buffer)
            have += len(self.buffer)
        body = b"".join(parts)
        self.buffer = body[size:]
        return body[:size]

    def _read_line(self, response: Response) -> bytes | None:
        while b"\r\n" not in self.buffer:
            if not self._receive():
                response.truncated = self.ended
                return None
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def _read_chunked(self, response: Response) -> None:
        parts: list[bytes] = []
        while response.truncated is None:
            line = self._read_line(response)
            if line is None:
                break
            if _CHUNK_SIZE.fullmatch(line) is None:
                raise BadResponse(f"bad chunk size line {line!r}")
            size = int(line, 16)
            if size == 0:
                self._read_trailers(response)
                break
            data = self._read_counted(response, size + 2)
            if response.truncated is None and data[-2:] != b"\r\n":
                raise BadResponse(f"chunk data not ended by CRLF: {data[-2:]!r}")
            parts.append(data[:size])
        response.body = b"".join(parts)

    def _read_trailers(self, response: Response) -> None:
        lines = []
        while True:
            line = self._read_line(response)
            if line is None:
                return
            if not line:
                break
            lines.append(line)
        response.trailers = _fields_of(lines)

    def request(self, data: bytes, method: str | None = None) -> Response:
        """Send a request and read its response; the method is read from the bytes unless given."""
        self.send(data)
        return self.read_response(method or data.split(b" ", 1)[0].decode("latin-1"))
