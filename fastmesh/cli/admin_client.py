"""A small HTTP client for the admin API, of plain sockets: a health check that starts every few seconds must
start fast, and must work where the rest of fastmesh does not."""

from __future__ import annotations

import os
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_ADMIN = "127.0.0.1:9400"
ANSWER_BYTES = 16 * 1024 * 1024


class AdminUnreachable(Exception):
    """Nobody answers at the admin address; the text says what to do."""


class Answer:
    __slots__ = ("body", "status")

    def __init__(self, status: int, body: str) -> None:
        self.status = status
        self.body = body

    def json(self) -> Any:
        import json

        return json.loads(self.body)


def _connect(admin: str, seconds: float) -> socket.socket:
    if admin.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        try:
            connection.connect(admin.removeprefix("unix:"))
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = admin.rpartition(":")
    host = host.strip("[]")
    if host in ("", "0.0.0.0"):
        host = "127.0.0.1"  # what a wildcard bind is reached by
    elif host == "::":
        host = "::1"
    # As bytes, unless it needs it, a host is not put through IDNA, whose tables take time to load.
    name = host.encode() if host.isascii() else host
    return socket.create_connection((name, int(port)), seconds)  # type: ignore[arg-type]


def normalise(admin: str) -> str:
    """``host:port`` or ``unix:/path`` of what a user may write: a URL, a bare port, ``:9400``. Raises
    ValueError."""
    text = admin.strip().removeprefix("http://").rstrip("/")
    if text.startswith("unix:"):
        return text
    if text.isdecimal():
        text = f"127.0.0.1:{text}"
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or not 0 < int(port) < 65536 or (":" in host and host[0] != "["):
        raise ValueError(f"{admin!r} is not an address; write host:port or unix:/path")
    return text


def request(
    method: str, path: str, admin: str = DEFAULT_ADMIN, *, token: str | None = None, seconds: float = 5.0
) -> Answer:
    """One request, one connection; ``seconds`` for all of it. Raises AdminUnreachable."""
    deadline = time.monotonic() + seconds
    host = "localhost" if admin.startswith("unix:") else admin
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", "connection: close", "user-agent: fastmesh"]
    if token:
        lines.append(f"authorization: Bearer {token}")
    if method != "GET":
        lines.append("content-length: 0")
    head = "\r\n".join([*lines, "", ""])
    try:
        with _connect(admin, seconds) as connection:
            connection.sendall(head.encode("latin-1"))
            return _parse(_read_all(connection, deadline))
    except OSError as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        raise AdminUnreachable(
            f"no answer from the admin API at {admin} ({reason}); is fastmesh running, and is this "
            "the `admin` of its file? --admin names another one"
        ) from error


def _read_all(connection: socket.socket, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < ANSWER_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(65536)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _parse(data: bytes) -> Answer:
    head, separator, body = data.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if not separator or not words[0].startswith(b"HTTP/1.") or len(words) < 2 or not words[1].isdigit():
        raise AdminUnreachable("what listens there does not speak HTTP; --admin names another address")
    return Answer(int(words[1]), body.decode("utf-8", "replace"))


def default_token() -> str | None:
    return os.environ.get("FASTMESH_ADMIN_TOKEN") or None
