"""What the emitters write, for good requests and for mutated ones, is read by other parsers as we read it.

Requests: h11, llhttp (through httptools) and gunicorn; responses: h11 and llhttp.
"""

from __future__ import annotations

import contextlib
import itertools

import h11
import httptools
import pytest
from adversity.mutations import Mutation, chunk_mutations, coding_bytes, coding_mutations, length_mutations

from fastmesh._native.proto import _t_proto as proto
from support.differential import read_alike

FORWARDING = {
    "emit_for": True,
    "emit_proto": True,
    "emit_host": True,
    "emit_request_id": True,
    "request_id": b"0123",
}


def forward(raw: bytes, **options: object) -> tuple[bytes, dict, bytes] | None:
    """What would be sent upstream for the first message of `raw`, its parse, its body; None if it is refused.
    Chunked bodies are sent as one chunk, as the proxy does with what it has read at once."""
    result, request = proto.parse_request(raw)
    assert result != 0, f"undecided: {raw!r}"
    if result < 0:
        return None
    _, head = proto.forward_request(raw, **options)
    rest = raw[result:]
    if request["body"] != "chunked":
        return head + rest[: request["content_length"]], request, rest[: request["content_length"]]
    decoder = proto.Chunks()
    consumed, body = decoder.feed(rest)
    if consumed < 0 or not decoder.done:
        return None
    chunk = proto.size_line(len(body)) + body + b"\r\n" if body else b""
    return head + chunk + b"0\r\n\r\n", request, body


def judge(raw: bytes, **options: object) -> bool:
    """False if the request is refused; else all parsers agree with us about what is sent."""
    sent = forward(raw, **options)
    if sent is None:
        return False
    data, request, body = sent
    reads = read_alike(data)
    assert len(reads) == 1, reads
    read = reads[0]
    assert (read.method, read.body) == (request["method"], body)
    if read.end < 0:
        assert len(body) < request["content_length"]
    else:
        assert read.end == len(data)
    path = options.get("path") or request["path"]
    target = path if request["query"] is None else path + b"?" + request["query"]
    assert read.target == target
    host = options.get("host_override") or request["host"]
    if host is not None:
        assert dict(read.fields)[b"host"] == host
    kept = [(name.lower(), value) for name, value, dropped in request["fields"] if not dropped]
    ours = (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"max-forwards",
        b"x-request-id",
        b"connection",
        b"te",
    )
    mine = tuple(f for f in read.fields if f[0] not in ours and b"forwarded" not in f[0])
    assert mine == tuple(f for f in kept if f[0] not in ours and b"forwarded" not in f[0])
    return True


MUTATIONS = [*coding_mutations(), *length_mutations(), *chunk_mutations()]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name[:60] for mutation in MUTATIONS])
def test_mutated_requests(mutation: Mutation) -> None:
    forwarded = judge(mutation.raw, **FORWARDING)
    if mutation.expected != "either":
        assert forwarded == (mutation.expected == "forward")


def test_bytes_around_transfer_encoding() -> None:
    for mutation in coding_bytes():
        assert judge(mutation.raw, **FORWARDING) == (mutation.expected == "forward"), mutation.name


LINES = [b"GET / HTTP/1.1", b"POST /a/b?c=d&e HTTP/1.0", b"OPTIONS * HTTP/1.1",
b"PUT http://real:8080/x HTTP/1.1", b"PURGE //a/../b?? HTTP/1.2",
         b"DELETE http://real?q HTTP/1.1", b"OPTIONS http://real HTTP/1.1"]  # fmt: skip
FIELDS = [
    b"",
    b"A: b\r\nEmpty:\r\nX_Under: \xe4\t\xff  \r\n",
    b"Connection: keep-alive, X-Gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\n"
    b"Proxy-Connection: x\r\n",
    b"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=x\r\nX-Request-Id: a\r\n"
    b"X-Forwarded-For: 2.2.2.2\r\n",
    b"Cookie: a=b\r\nMax-Forwards: 5\r\nCookie: c=d\r\nExpect: 100-continue\r\n",
]
BODIES = [
    (b"", b""),
    (b"Content-Length: 5\r\n", b"hello"),
    (b"Content-Length: 00\r\n", b""),
    (b"Transfer-Encoding: Chunked\r\n", b"5;x\r\nhello\r\n0\r\nT: v\r\n\r\n"),
]
OPTIONS = [
    {},
    FORWARDING,
    {**FORWARDING, "trusted": True},
    {"path": b"/new", "host_override": b"other:1", "te_trailers": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "forwarding", "trusted", "rewritten"])
def test_good_requests(options: dict) -> None:
    count = 0
    for line, fields, (framing, body) in itertools.product(LINES, FIELDS, BODIES):
        if b"HTTP/1.0" in line and b"chunked" in framing.lower():
            continue
        if "path" in options and b"OPTIONS" in line:
            continue  # `*` is not rewritten; the unit tests say so
        assert judge(line + b"\r\nHost: test\r\n" + fields + framing + b"\r\n" + body, **options), (
            line,
            fields,
            framing,
        )
        count += 1
    assert count >= 95


class _Llhttp:
    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.ended = False

    def on_header(self, name: bytes, value: bytes | None) -> None:
        self.fields.append((bytes(name).lower(), bytes(value or b"")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended = True


def read_response(data: bytes, method: str) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
    """By h11: status, fields, body, and whether it has ended before the connection does."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    head = parser.next_event()
    assert isinstance(head, h11.Response), head
    body = b""
    ended = False
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Data):
            body += event.data
        else:
            ended = isinstance(event, h11.EndOfMessage)
            break
    return head.status_code, [(bytes(n), bytes(v)) for n, v in head.headers], body, ended


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content", b"304 x", b"404", b"503 a\xe4"])
@pytest.mark.parametrize(
    "reply", [{}, {"close": True}, {"date": b"Mon, 01 Jan 2024 00:00:00 GMT", "keep_alive_10": True}]
)
def test_good_responses(method: str, status: bytes, reply: dict) -> None:
    framings = [
        (b"", "until-close"), (b"Content-Length: 005\r\n", "length"),
        (b"Transfer-Encoding: CHUNKED\r\n", "chunked"),
        (b"Connection: close, X-A\r\nX-A: 1\r\nContent-Length : 5\r\n", "length"),
        (b"Content-Length: 0\r\n", "none"),
    ]  # fmt: skip
    for framing, kind in framings:
        raw = b"HTTP/1.1 " + status + b"\r\nFolded: a\r\n b\r\nB:c\r\n" + framing + b"\r\n"
        asked = 1 if method == "HEAD" else 0
        options = dict(reply)
        _, parsed = proto.parse_response(raw, asked)
        if parsed["body"] == "until-close":
            options["body"] = "chunked"
        result, head, _ = proto.forward_response(raw, asked, **options)
        assert result == len(raw)
        payload = {
            "length": b"hello",
            "chunked": b"5\r\nhello\r\n0\r\n\r\n",
            "until-close": b"5\r\nhello\r\n0\r\n\r\n",
            "none": b"",
        }[kind]
        if parsed["body"] == "none":
            payload = b""
        code, fields, body, ended = read_response(head + payload, method)
        assert (code, ended) == (int(status[:3]), True)
        assert body == (b"hello" if payload else b"")
        assert (b"folded", b"a b") in fields
        names = [name for name, _ in fields]
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        assert b"x-a" not in names
        if method == "GET":
            other = _Llhttp()
            with contextlib.suppress(httptools.HttpParserUpgrade):
                httptools.HttpResponseParser(other).feed_data(head + payload)
            assert (other.fields, other.body, other.ended) == (fields, body, True)
