"""Rows 68 to 81 of the HTTP/1 acceptance list: the chunked body.

A bad body is tried twice: all in one segment, where nothing may reach the origin; and behind a head and a
good chunk that the origin has already seen, where the upstream connection must end without a last chunk.
"""

from __future__ import annotations

import time

import pytest

from support.origin import Exchange
from support.rig import Rig, unique
from support.wire import chunked, get, post, post_chunked, request

GOOD = b"5\r\nhello\r\n"
HEAD = (b"Transfer-Encoding: chunked",)


def refuse_body(rig: Rig, bad: bytes) -> None:
    """A body that goes wrong at `bad` is refused, whether the origin has seen its start or not."""
    rig.refuse(request("POST", "/", *HEAD, body=bad))
    path = unique()
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(request("POST", path, *HEAD, body=GOOD))
        arrived = rig.origin.wait_request(path)
        link = rig.origin.connections[arrived.connection]
        rig.origin.wait(lambda: b"hello" in link.received[arrived.start :], "the good chunk")
        client.send(bad + get("/smuggled"))
        response = client.read_response()
        assert response.status == 400, response
        assert response.error_code == "bad_request"
        assert client.how_it_ended() == "eof"
        rig.origin.wait(lambda: link.ended, "the end of the upstream connection")
    rig.sentinels()
    seen = rig.seen(mark)
    assert [(request.path, request.complete) for request in seen.requests] == [(path, False)]
    assert b"\r\n0\r\n" not in link.received[arrived.start :], "a last chunk was sent"
    assert b"/smuggled" not in seen.raw


@pytest.mark.parametrize(
    "size",
    [
        b"+5",
        b"-5",
        b"0x5",
        b"5_0",
        b"_5",
        b" 5",
        b"\t5",
        b"",
        b"5h",
        b"g",
        b"5.",
        b"5,",
        b"\xff5",
        b"\x005",
        b"0X5",
        b"#5",
        b"5\x0b",
    ],
    ids=lambda size: "068-" + size.hex(),
)
def test_case_068_size_that_is_no_number(rig: Rig, size: bytes) -> None:
    refuse_body(rig, size + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "size",
    [
        b"1" + b"0" * 16,
        b"F" * 16,
        b"f" * 17,
        b"0" * 16 + b"5",
        b"8" + b"0" * 15,
        b"1" + b"0" * 15 + b"5",
        b"0" * 400 + b"5",
    ],
    ids=[
        "069-17-digits",
        "069-16-f",
        "069-17-f",
        "069-17-with-zeros",
        "069-sign-bit",
        "069-2^64+5",
        "069-400-zeros",
    ],
)
def test_case_069_size_that_overflows(rig: Rig, size: bytes) -> None:
    refuse_body(rig, size + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "size", [b"05", b"005", b"0000000000000005"], ids=lambda size: "070-" + size.decode()
)
def test_case_070_leading_zeros(rig: Rig, size: bytes) -> None:
    seen = rig.forward(request("POST", unique(), *HEAD, body=size + b"\r\nhello\r\n0\r\n\r\n"))
    assert seen.request.body == b"hello"
    assert size + b"\r\n" not in seen.raw


@pytest.mark.parametrize("size", [b"A", b"a", b"0A"], ids=lambda size: "070-" + size.decode())
def test_case_070_hexadecimal_of_either_case(rig: Rig, size: bytes) -> None:
    seen = rig.forward(request("POST", unique(), *HEAD, body=size + b"\r\n0123456789\r\n0\r\n\r\n"))
    assert seen.request.body == b"0123456789"


@pytest.mark.parametrize(
    "line",
    [
        b"5\n",
        b"5\r",
        b"5\rX",
        b"5\rh",
        b"5 \n",
        b"5x\r\n",
        b"5 5\r\n",
        b"5 x\r\n",
        b"5\0\r\n",
        b"5\r\r\n",
        b"5\n\r\n",
        b"5\t\n",
        b"5:\r\n",
        b"5/x\r\n",
    ],
    ids=lambda line: "071-" + line.hex(),
)
def test_case_071_size_line_ended_wrongly(rig: Rig, line: bytes) -> None:
    refuse_body(rig, line + b"hello\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "extension",
    [
        b";a",
        b";a=b",
        b';a="b"',
        b';a="b;c"',
        b';a="b\\"c"',
        b';a;b=c;d="e f"',
        b";" + b"x" * 100,
        b';a="\xff"',
        b";!#$%&'*+-.^_`|~09az=1",
    ],
    ids=lambda extension: "072-" + extension[:12].hex(),
)
def test_case_072_extension_is_dropped(rig: Rig, extension: bytes) -> None:
    seen = rig.forward(
        request("POST", unique(), *HEAD, body=b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n")
    )
    assert seen.request.body == b"hello"
    assert extension not in seen.raw


@pytest.mark.parametrize(
    "extension",
    [b"; a = b", b" ;a", b";a =b", b"\t;a", b";a "],
    ids=lambda extension: "072-" + extension.hex(),
)
def test_case_072_bad_white_space_in_an_extension(rig: Rig, extension: bytes) -> None:
    """RFC 9110 section 5.6.3 has it parsed, strict servers refuse it: either, and it is never passed on."""
    mark = rig.origin.mark()
    with rig.client() as client:
        response = client.request(
            request("POST", unique(), *HEAD, body=b"5" + extension + b"\r\nhello\r\n0\r\n\r\n")
        )
        assert response.status in (200, 400)
        if response.status == 200:
            assert response.json()["body"] == "hello"
        rig.sentinels(client if response.status == 200 else None)
    seen = rig.seen(mark)
    assert len(seen.requests) == (response.status == 200)
    assert extension + b"\r\n" not in seen.raw


@pytest.mark.parametrize(
    "extension",
    [
        b";a\nb",
        b";a\n",
        b";a\rb",
        b";\r",
        b";\n",
        b';a="\r\n"',
        b';a="\n"',
        b';a="\r"',
        b";\r\r\n",
        b";a\0",
        b";a\x7f",
        b";" + b"x" * 9000,
        b";a=b" * 3000,
    ],
    ids=lambda extension: "073-" + extension[:12].hex(),
)
def test_case_073_extension_with_line_ends_or_too_long(rig: Rig, extension: bytes) -> None:
    refuse_body(rig, b"5" + extension + b"\r\nhello\r\n0\r\n\r\n")


def test_case_073_extensions_too_long_in_sum(rig: Rig) -> None:
    refuse_body(rig, b"".join(b"1;" + b"x" * 200 + b"\r\nx\r\n" for _ in range(200)) + b"0\r\n\r\n")


@pytest.mark.parametrize(
    "end",
    [b"\n", b"XX", b"\r\r", b"X\r\n", b"\n\r", b"\rX", b"", b" \r\n", b"XXXX\r\n", b"\0\r\n"],
    ids=lambda end: "074-" + end.hex(),
)
def test_case_074_chunk_data_not_followed_by_crlf(rig: Rig, end: bytes) -> None:
    refuse_body(rig, b"5\r\nhello" + end + b"0\r\n\r\n")


@pytest.mark.parametrize(
    "last",
    [
        b"0\r\nXX",
        b"0XX\r\n\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\n\n",
        b"0\r\n\n",
        b"0\r\n\r\r",
        b"0\r\n\rX",
        b"0\n\r\n",
        b"-0\r\n\r\n",
        b"0\r\n \r\n\r\n",
    ],
    ids=lambda last: "075-" + last.hex(),
)
def test_case_075_malformed_last_chunk(rig: Rig, last: bytes) -> None:
    # "0" CRLF "XX": a line that may still become a trailer; what follows it here makes it none.
    refuse_body(rig, b"5\r\nhello\r\n" + last)


@pytest.mark.parametrize(
    "cut",
    [
        b"",
        b"5",
        b"5\r",
        b"5\r\n",
        b"5\r\nhel",
        b"5\r\nhello",
        b"5\r\nhello\r",
        b"0",
        b"0\r",
        b"0\r\n",
        b"0\r\n\r",
        b"0\r\nA: b\r\n",
    ],
    ids=lambda cut: "075-cut-" + cut.hex(),
)
def test_case_075_body_cut_by_fin(rig: Rig, cut: bytes) -> None:
    path = unique()
    with rig.client() as client:
        client.send(request("POST", path, *HEAD, body=GOOD))
        arrived = rig.origin.wait_request(path)
        link = rig.origin.connections[arrived.connection]
        client.send(cut)
        client.shutdown_write()
        rig.origin.wait(lambda: link.ended, "the end of the upstream connection")
        left = client.read_to_end()
        assert left == b"" or left.startswith(b"HTTP/1.1 400 "), left
    rig.sentinels()
    assert not rig.origin.requests_for(path)[0].complete
    assert b"\r\n0\r\n" not in link.received[arrived.start :]


@pytest.mark.parametrize(
    "last",
    [b"000\r\n\r\n", b"0000000000000000\r\n\r\n", b"0;a=b\r\n\r\n"],
    ids=["076-000", "076-16", "076-ext"],
)
def test_case_076_last_chunk_of_several_zeros(rig: Rig, last: bytes) -> None:
    seen = rig.forward(request("POST", unique(), *HEAD, body=GOOD + last))
    assert seen.request.body == b"hello"
    assert seen.raw.endswith((b"\r\n0\r\n\r\n", b"hello"))


@pytest.mark.parametrize("fields", [(), (b"Trailer: X-T",)], ids=["077-plain", "077-announced"])
def test_case_077_request_trailers_without_agreement_are_dropped(rig: Rig, fields: tuple[bytes, ...]) -> None:
    seen = rig.forward(post_chunked(unique(), b"hello", fields=fields, last=b"0\r\nX-T: v\r\n\r\n"))
    assert seen.request.body == b"hello"
    assert seen.request.trailers == []
    assert seen.request.all("x-t") == [], "a trailer was merged into the fields"


def _trailing(trailers: bytes):  # type: ignore[no-untyped-def]
    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(
            b"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunked(b"hello", last=b"0\r\n" + trailers + b"\r\n")
        )

    return handler


def test_case_077_response_trailers_without_te_are_dropped(rig: Rig) -> None:
    path = unique()
    with rig.origin.answering(path, _trailing(b"X-T: v\r\n")):
        response = rig.forward(get(path)).response
    assert response.body == b"hello"
    assert response.trailers == []
    assert response.get("x-t") is None


def test_case_077_response_trailers_to_a_client_that_takes_them(rig: Rig) -> None:
    path = unique()
    with rig.origin.answering(path, _trailing(b"X-T: v\r\n")):
        seen = rig.forward(get(path, b"TE: trailers", b"Connection: TE"))
    assert seen.response.get("x-t") is None, "a trailer was merged into the fields"
    if seen.request.get("te") == "trailers":  # both sides said so: what the origin sends must then arrive
        assert seen.response.trailers == [("x-t", b"v")]
    else:
        assert seen.response.trailers == []


@pytest.mark.parametrize(
    "trailer",
    [
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"Host: evil",
        b"Authorization: Basic x",
        b"Trailer: X",
        b"Content-Encoding: gzip",
        b"Connection: close",
        b"X-Forwarded-For: 1.2.3.4",
        b"Cookie: a=b",
    ],
    ids=lambda trailer: "078-" + trailer.split(b":")[0].decode(),
)
@pytest.mark.parametrize("fields", [(), (b"TE: trailers", b"Connection: TE")], ids=["plain", "te"])
def test_case_078_trailers_that_may_not_be(rig: Rig, trailer: bytes, fields: tuple[bytes, ...]) -> None:
    """Dropped or refused, never applied."""
    mark = rig.origin.mark()
    path = unique()
    with rig.client() as client:
        response = client.request(
            post_chunked(path, b"hello", fields=fields, last=b"0\r\n" + trailer + b"\r\n\r\n")
        )
        assert response.status in (200, 400)
        rig.sentinels(client if response.status == 200 else None)
    for seen in rig.seen(mark).requests:
        if seen.complete:
            assert seen.body == b"hello"
            assert seen.trailers == []
        assert rig.seen(mark).raw.count(trailer) == (trailer == b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "trailer",
    [
        b"A: x\x01",
        b"A: x\0",
        b"A: b\nC: d",
        b"A: b\n",
        b"A : b",
        b": b",
        b"A",
        b"A: b\r\n c",
        b" A: b",
        b"A\x80: b",
        b"A: b\rC: d",
        b"A: \x7f",
    ],
    ids=lambda trailer: "078-" + trailer.hex(),
)
def test_case_078_malformed_trailers(rig: Rig, trailer: bytes) -> None:
    refuse_body(rig, b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n")


@pytest.mark.parametrize(
    "trailers",
    [b"A: " + b"x" * 40_000 + b"\r\n", b"A: b\r\n" * 8000, b"N" * 40_000 + b": b\r\n"],
    ids=["079-long", "079-many", "079-name"],
)
def test_case_079_trailer_section_over_the_limit(rig: Rig, trailers: bytes) -> None:
    path = unique()
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(request("POST", path, *HEAD, body=GOOD))
        rig.origin.wait_request(path)
        client.send(b"0\r\n" + trailers + b"\r\n")
        response = client.read_response()
        assert response.status in (400, 431)
        assert client.how_it_ended() == "eof"
    rig.sentinels()
    assert not any(seen.complete for seen in rig.seen(mark).requests)


def test_case_080_a_million_bytes_in_chunks_of_one(rig: Rig) -> None:
    size = 1_000_000
    path = unique()
    mark = rig.origin.mark()
    before = rig.proxy.resident_bytes()
    started = time.monotonic()
    with rig.client(timeout=30) as client:
        client.send(request("POST", path, *HEAD, body=b"1\r\nx\r\n" * size + b"0\r\n\r\n"))
        answer = client.read_response().json()
        assert answer["body_size"] == size
        rig.sentinels(client)
    assert time.monotonic() - started < 20
    assert rig.proxy.resident_bytes() - before < 8 << 20, "memory grew with the number of chunks"
    sent = len(rig.origin.since(mark).raw)
    assert sent < 2 * size, f"{sent} bytes upstream for a body of {size}: chunks were not joined"


def _old(exchange: Exchange) -> None:
    exchange.read_body()
    exchange.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
    exchange.close()


def test_case_081_chunked_request_to_an_origin_that_speaks_http_1_0(old_origin: Rig) -> None:
    rig = old_origin
    with rig.origin.answering(None, _old):
        with rig.client() as client:
            assert (
                client.request(post_chunked("/first", b"hello")).body == b"ok"
            )  # not known yet: forwarded chunked
        assert rig.origin.requests_for("/first")[0].body == b"hello"
        mark = rig.origin.mark()
        with rig.client() as client:
            response = client.request(post_chunked("/second", b"hello"))
            assert response.status == 411
            assert response.error_code
        assert not rig.origin.since(mark).requests
        with rig.client() as client:
            assert client.request(post("/third", b"hello")).body == b"ok"
            assert client.request(get("/fourth")).body == b"ok"
        assert rig.origin.requests_for("/third")[0].body == b"hello"
