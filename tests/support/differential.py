"""Judges of emitted requests: h11, llhttp (through httptools) and gunicorn's parser must read the same.

`read_alike(data)` splits a byte stream into requests by h11 and demands that the two others agree on method,
target, fields, body and end of each. The answer is the list of requests as all three read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h11
import httptools
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

# A complete request behind the one under judgement: whoever reads the end of a body differently stumbles
# over it.
_NEXT = b"GET /judge-next HTTP/1.1\r\nHost: judge\r\n\r\n"

# llhttp knows a fixed list of methods and refuses others; what a method is called changes nothing in the
# framing of a request, so an unknown one is judged under a known name.
_LLHTTP_METHODS = frozenset(
    b"DELETE GET HEAD POST PUT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK "
    b"BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE NOTIFY SUBSCRIBE UNSUBSCRIBE "
    b"PATCH PURGE LINK UNLINK".split()
)


class Disagreement(AssertionError):
    """Two parsers read the same bytes differently, or one refuses what another accepts."""


@dataclass(frozen=True)
class Read:
    """A request as a parser read it; names in lower case. `end` is the offset behind it, -1 if it is
    incomplete."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    end: int


def _by_h11(data: bytes) -> Read | None:
    """The first request; None if not even its head is complete. h11's own RemoteProtocolError if it is
    malformed."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    parser.receive_data(data)
    head = parser.next_event()
    if head is h11.NEED_DATA:
        return None
    assert isinstance(head, h11.Request)
    parts = []
    end = -1
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Data):
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            end = len(data) - len(parser.trailing_data[0])
            break
        else:
            break
    fields = tuple((bytes(name), bytes(value)) for name, value in head.headers)
    return Read(bytes(head.method), bytes(head.target), fields, b"".join(parts), end)


class _Collector:
    """Callbacks of httptools."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.head_complete = False
        self.complete = False
        self.begun = 0

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        if not self.head_complete:
            self.fields.append((bytes(name).lower(), bytes(value or b"")))

    def on_headers_complete(self) -> None:
        self.head_complete = True

    def on_body(self, body: bytes) -> None:
        self.body.append(bytes(body))

    def on_message_complete(self) -> None:
        self.complete = True


def _by_llhttp(data: bytes, end: int) -> Read:
    method, _, rest = data.partition(b" ")
    judged = data if method in _LLHTTP_METHODS else b"POST " + rest
    end += len(judged) - len(data) if end >= 0 else 0
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        if end < 0:
            parser.feed_data(judged)
            if collector.complete:
                raise Disagreement(f"llhttp finds an end where h11 finds none: {data!r}")
        else:
            parser.feed_data(judged[: end - 1])
            if collector.complete:
                raise Disagreement(f"llhttp ends the request before offset {end - 1}: {data!r}")
            parser.feed_data(judged[end - 1 : end])
            if not collector.complete:
                raise Disagreement(f"llhttp does not end the request at {end}: {data!r}")
    except httptools.HttpParserUpgrade:
        pass  # a request that asks for an upgrade: llhttp stops behind its head, where h11 does too
    except httptools.HttpParserError as error:
        raise Disagreement(f"llhttp refuses ({error}) what h11 accepts: {data!r}") from None
    return Read(method, collector.target, tuple(collector.fields), b"".join(collector.body), end)


def _gunicorn_config() -> Config:
    config = Config()
    config.set("permit_unconventional_http_method", True)  # methods in lower case are tokens too
    config.set(
        "header_map", "dangerous"
    )  # keep names with an underscore: we look at parsing, not at WSGI's variables
    config.set("limit_request_line", 0)
    config.set("limit_request_fields", 32768)
    config.set("limit_request_field_size", 1 << 20)
    return config


_GUNICORN = _gunicorn_config()


def _by_gunicorn(data: bytes, end: int) -> Read:
    stream = data[:end] + _NEXT if end >= 0 else data
    parser = RequestParser(_GUNICORN, iter([stream]), ("127.0.0.1", 1))
    try:
        request = next(parser)
        body = request.body.read()
        fields = tuple(
            (name.encode("latin-1").lower(), value.encode("latin-1")) for name, value in request.headers
        )
        target = request.uri.encode("latin-1")
        method = request.method.encode("latin-1")
        if end >= 0 and (rest := parser.unreader.take_buffered()) != _NEXT:
            raise Disagreement(f"gunicorn ends the request elsewhere, leaving {rest!r}: {data!r}")
    except (Disagreement, AssertionError):
        raise
    except Exception as error:
        if end < 0:
            return Read(b"", b"", (), b"", -1)
        raise Disagreement(f"gunicorn refuses ({error!r}) what h11 accepts: {data!r}") from None
    return Read(method, target, fields, body, end)


def _compare(data: bytes, one: str, a: Any, other: str, b: Any) -> None:
    if a != b:
        raise Disagreement(f"{one} reads {a!r}, {other} reads {b!r}, in {data!r}")


def read_alike(data: bytes) -> list[Read]:
    """Requests in `data`, which starts at one. Disagreement if the parsers differ; the last may be
    incomplete."""
    requests = []
    while data:
        try:
            ours = _by_h11(data)
        except h11.RemoteProtocolError as error:
            raise Disagreement(f"h11 refuses ({error}): {data!r}") from None
        if ours is None:
            break
        _strict_look(data, ours)
        theirs = _by_llhttp(data, ours.end)
        _compare(data, "h11", (ours.target, ours.fields), "llhttp", (theirs.target, theirs.fields))
        _compare(data, "h11", ours.body, "llhttp", theirs.body)
        third = _by_gunicorn(data, ours.end)
        if ours.end >= 0:
            whole = (ours.method, ours.target, ours.fields, ours.body)
            _compare(data, "h11", whole, "gunicorn", (third.method, third.target, third.fields, third.body))
        requests.append(ours)
        if ours.end < 0:
            break
        data = data[ours.end :]
    return requests


def _strict_look(data: bytes, request: Read) -> None:
    """What all three may forgive but other servers read differently: bare CR or LF in the head."""
    head = data[: data.index(b"\r\n\r\n")].replace(b"\r\n", b"") if b"\r\n\r\n" in data else data
    if b"\r" in head or b"\n" in head or b"\0" in head:
        raise Disagreement(f"bare CR, LF or NUL in an emitted head: {data!r}")
    lengths = [value for name, value in request.fields if name == b"content-length"]
    codings = [value for name, value in request.fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise Disagreement(f"more than one framing field: {data!r}")
    if any(not value.isdigit() or value != str(int(value)).encode() for value in lengths):
        raise Disagreement(f"Content-Length not canonical: {lengths}")
    if any(value != b"chunked" for value in codings):
        raise Disagreement(f"Transfer-Encoding not canonical: {codings}")
