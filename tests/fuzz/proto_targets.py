"""What must hold for any bytes given to a protocol core: one function a parser, shared by the property tests
and by ``tools/fuzz``. Each takes bytes and raises AssertionError when an invariant is broken; reads out of
bounds crash, because the test module puts every input before a page that may not be touched.
"""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Callable

import h11
import httptools

from fastmesh._native.proto import _t_proto as proto

LIMITS = (600, 12, 120, 20)  # small ones, so that short inputs reach them
_END = b"\r\n\r\n"
_JUNK = b"\r\n\0GET / HTTP/1.1\r\n"

REQUEST_SEEDS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a/b?c=d&e HTTP/1.1\r\nHost: shop.example.com:8080\r\nUser-Agent: x\r\nAccept: */*\r\n"
    b"Connection: keep-alive, X-Foo\r\nX-Foo: 1\r\nCookie: a=b; c=d\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"PUT /p HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n"
    b"TE: trailers\r\nConnection: TE\r\n\r\n0\r\n\r\n",
    b"GET http://h.test:1/x?y HTTP/1.1\r\nHost: other\r\nX-Forwarded-For: 1.2.3.4\r\n"
    b"Forwarded: for=x\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n"
    b"Sec-WebSocket-Key: x\r\n\r\n",
    b"OPTIONS http://h HTTP/1.1\r\nHost: h\r\nMax-Forwards: 3\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\r\nGET / HTTP/1.0\r\nConnection: keep-alive\r\nX-Request-Id: q\r\nX_Forwarded_For: z\r\n\r\n",
    b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"PURGE /x HTTP/1.2\r\nHost: a%41b.\r\nContent-Length: 007\r\nA:\tb\t \r\n\r\n1234567",
]

RESPONSE_SEEDS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\nConnection: X-A, close\r\n"
    b"X-A: b\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200\r\nX-Folded : a\r\n b\r\n\tc\r\nConnection: keep-alive\r\n"
    b"Keep-Alive: timeout=5, max=9\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 07\r\nTrailer: X\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: x\r\nTransfer-Encoding: y\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
]

CHUNKED_SEEDS = [
    b"5\r\nhello\r\n0\r\n\r\nGET /",
    b'5;a="b\\"c";d=e;f\r\nhello\r\nA\r\n0123456789\r\n000\r\nX-T: v\r\nContent-Length: 5\r\n\r\n',
    b"1\r\na\r\n" * 20 + b"0\r\n\r\n",
    b"7fffffffffffffff\r\nx",
]

PROXY_SEEDS = [
    b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\nGET /",
    b"PROXY TCP6 2001:db8::1 ::1 65535 1\r\n",
    b"PROXY UNKNOWN ffff::1 anything\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\1\2\3\4\5\6\7\x08\0\x50\1\xbb",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x28" + bytes(36) + b"\4\0\1x",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8" + b"/src".ljust(108, b"\0") + b"/dst".ljust(108, b"\0"),
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
]

TOKENS = (
    b"\r\n", b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b";", b"\r\n ", b"\r\n\r\n", b"\x7f", b"\x80",
    b"\xff",
    b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 05\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close, X-A\r\n", b"X-A: b\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n",
    b"X-Forwarded-For: 9.9.9.9\r\n", b"HTTP/1.1", b"HTTP/1.0", b"http://", b"chunked", b"0\r\n",
    b"ffffffffffffffff",
    b'"', b"\\", b"?", b"#", b"%41", b"[::1]", b"18446744073709551616", b"A: b\r\n" * 13, b"x" * 130,
    b"x" * 700,
)  # fmt: skip


def cuts(data: bytes) -> list[int]:
    """Up to a dozen increasing ends, the last one the whole; they depend on the bytes alone."""
    rng = random.Random(zlib.crc32(data))
    ends = sorted({rng.randrange(len(data) + 1) for _ in range(rng.randrange(12))} | {len(data)})
    return [end for end in ends if end] or [0]


def _framed_body(request: dict[str, object]) -> bytes:
    if request["body"] == "chunked":
        return b"3\r\nabc\r\n0\r\n\r\n"
    length = request["content_length"]
    assert isinstance(length, int)
    return b"x" * length if length < 1000 else b""


def _h11_request(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    parser.receive_data(data)
    head = parser.next_event()
    assert isinstance(head, h11.Request), f"h11 finds no head in {data!r}"
    return bytes(head.method), bytes(head.target), [(bytes(n), bytes(v)) for n, v in head.headers]


class _Llhttp:
    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        self.fields.append((bytes(name).lower(), bytes(value or b"")))


def judge_emitted(head: bytes, request: dict[str, object]) -> None:
    """An emitted head is plain for us and for two other parsers, and has one framing at most."""
    again, reread = proto.parse_request(head, (1 << 20, 256, 1 << 16, 1 << 10))
    assert again == len(head), (again, head)
    assert reread["method"] == request["method"]
    assert reread["body"] == request["body"]
    method, target, fields = _h11_request(head)
    assert (method, target) == (reread["method"], reread["target"])
    assert fields == [(name.lower(), value) for name, value, _ in reread["fields"]]
    other = _Llhttp()
    known = (
        head if method in {b"GET", b"POST", b"PUT", b"OPTIONS", b"HEAD"} else b"POST" + head[len(method) :]
    )
    with contextlib.suppress(httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(other).feed_data(known)
    assert (other.url, other.fields) == (target, fields), head
    names = [name for name, _ in fields]
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1, head
    assert names.count(b"host") == 1, head
    for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"):
        assert names.count(name) <= 1, head


def fuzz_request(data: bytes) -> None:
    """Independent of how the input is cut and of what follows; whatever is accepted is emitted plainly."""
    result, request = proto.parse_request(data, LIMITS)
    stepped, same, known = proto.parse_request_in_steps(data, cuts(data), LIMITS)
    if result < 0:
        assert proto.parse_request(data + _JUNK, LIMITS)[0] == result
        if stepped == 0:  # an error in a head that came in pieces is found at its end at the latest
            stepped = proto.parse_request_in_steps(data + _END, [*cuts(data), len(data) + 4], LIMITS)[0]
    assert stepped == result, (stepped, result)
    assert known <= len(data)
    if result <= 0:
        return
    assert same == request
    assert data[result - 2 : result] == b"\r\n"
    assert proto.parse_request(data[:result] + _JUNK, LIMITS) == (result, request)
    assert proto.parse_request(data[: result - 1], LIMITS)[0] == 0
    _, head = proto.forward_request(
        data, LIMITS, emit_for=True, emit_proto=True, emit_host=True, emit_request_id=True, request_id=b"id"
    )
    judge_emitted(head, request)
    assert b"\r\nX-Forwarded-For: 192.0.2.7\r\n" in head
    _, head = proto.forward_request(data, LIMITS, trusted=True, emit_for=True, upgrade=request["upgrade"])
    again, reread = proto.parse_request(head, (1 << 20, 256, 1 << 16, 1 << 10))
    assert again == len(head)
    assert reread["forwarded_for"] == b"192.0.2.7"


def fuzz_response(data: bytes) -> None:
    """As for requests; a head that may be sent on as it came is what would be emitted."""
    for asked in (0, 1, 4):
        result, response = proto.parse_response(data, asked, LIMITS)
        stepped, same, _ = proto.parse_response_in_steps(data, cuts(data), asked, LIMITS)
        if result < 0 and stepped == 0:
            ends = [*cuts(data), len(data) + 4]
            stepped = proto.parse_response_in_steps(data + _END, ends, asked, LIMITS)[0]
        assert stepped == result, (stepped, result)
        assert same == response
        if result < 0:
            assert proto.parse_response(data + _JUNK, asked, LIMITS)[0] == result
        if result <= 0:
            continue
        assert proto.parse_response(data[:result] + b"x", asked, LIMITS)[0] == result
        _, head, verbatim = proto.forward_response(data, asked)
        if verbatim:
            assert head == data[:result]
        again, reread = proto.parse_response(head, asked, (1 << 20, 256, 0, 0))
        assert again == len(head), (again, head)
        for key in ("status", "body", "reason"):
            assert reread[key] == response[key]
        if response["body"] != "none":
            assert reread["content_length"] == response["content_length"]
        kept = [f for f in response["fields"] if not f[2] and b"\r" not in f[1]]
        emitted = {(name.lower(), value) for name, value, _ in reread["fields"]}
        framing = (b"content-length", b"transfer-encoding", b"trailer")
        assert all((name.lower(), value) in emitted for name, value, _ in kept if name.lower() not in framing)


def fuzz_chunked(data: bytes) -> None:
    """The data, the end and the trailers do not depend on how the input is cut or where the output goes."""
    whole = proto.Chunks(256)
    consumed, body = whole.feed(data)
    pieces = proto.Chunks(256)
    got = b""
    total = 0
    start = 0
    for end in cuts(data):
        n, part = pieces.feed(data[start:end], in_place=False)
        got += part
        start = end
        if n < 0:
            total = n
            break
        total += n
        if pieces.done:
            break
    assert got == body
    assert pieces.done == whole.done
    assert (total < 0) == (consumed < 0)
    if consumed >= 0:
        assert total == consumed
        assert whole.done or consumed == len(data)
        assert pieces.trailers == whole.trailers
        assert len(body) <= consumed
    if whole.done:
        assert data[consumed - 2 : consumed] == b"\r\n"
        again = proto.Chunks()
        assert again.feed(data[:consumed] + _JUNK) == (consumed, body)
        assert whole.trailers == b"" or whole.trailers.endswith(b"\r\n")


def fuzz_proxy(data: bytes) -> None:
    """Nothing after the header counts; what is understood is emitted so that it is understood again."""
    result, address = proto.parse_proxy(data)
    if result > 0:
        assert result <= len(data)
        assert proto.parse_proxy(data[:result]) == (result, address)
        assert proto.parse_proxy(data[: result - 1])[0] == 0
        family, src, src_port, dst, dst_port = address
        for version in (1, 2):
            header = proto.emit_proxy(version, family, src, src_port, dst, dst_port)
            again, reread = proto.parse_proxy(header)
            assert again == len(header)
            assert reread == (address if version == 2 or family in (1, 2) else (0, b"", 0, b"", 0))
    elif result == 0:
        assert len(data) < 536
    else:
        assert proto.parse_proxy(data + b"x")[0] == result


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "request": (fuzz_request, REQUEST_SEEDS),
    "response": (fuzz_response, RESPONSE_SEEDS),
    "chunked": (fuzz_chunked, CHUNKED_SEEDS),
    "proxy": (fuzz_proxy, PROXY_SEEDS),
}
