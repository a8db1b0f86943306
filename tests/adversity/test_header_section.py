"""Rows 32 to 46 of the HTTP/1 acceptance list: the header section."""

from __future__ import annotations

import pytest

from support.client import Client
from support.origin import Exchange
from support.rig import Rig, unique
from support.wire import get, post, post_chunked, request


def _answering(raw: bytes):  # type: ignore[no-untyped-def]
    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(raw)

    return handler


@pytest.mark.parametrize(
    "line",
    [
        b"A : b",
        b"A\t: b",
        b"A  : b",
        b"Content-Length : 5",
        b"Transfer-Encoding : chunked",
        b"Host : x",
        b"A b: c",
    ],
    ids=["032-sp", "032-tab", "032-sp-sp", "032-length", "032-coding", "032-host", "032-inside"],
)
def test_case_032_space_before_colon(rig: Rig, line: bytes) -> None:
    rig.refuse(get("/", line))


def test_case_033_space_before_colon_in_a_response_is_removed(rig: Rig) -> None:
    path = unique()
    raw = b"HTTP/1.1 200 OK\r\nX-Spaced : one\r\nX-Tabbed\t: two\r\nContent-Length : 2\r\n\r\nok"
    with rig.origin.answering(path, _answering(raw)):
        response = rig.forward(get(path)).response
    assert response.get("x-spaced") == b"one"
    assert response.get("x-tabbed") == b"two"
    assert response.body == b"ok"


@pytest.mark.parametrize(
    "line",
    [
        b"A: b\r\n c",
        b"A: b\r\n\tc",
        b"A:\r\n b",
        b"A: b\r\n ",
        b"A: b\r\n c\r\n d",
        b"A: b\r\n : c",
        b"A: b\r\n Content-Length: 5",
    ],
    ids=["034-sp", "034-tab", "034-at-colon", "034-blank", "034-two", "034-colon", "034-length"],
)
def test_case_034_folded_request_field(rig: Rig, line: bytes) -> None:
    rig.refuse(get("/", line))


@pytest.mark.parametrize(
    "fold",
    [b"\r\n ", b"\r\n\t", b" \r\n  ", b"\r\n \t"],
    ids=["035-sp", "035-tab", "035-spaces", "035-mixed"],
)
def test_case_035_folded_response_field_is_unfolded(rig: Rig, fold: bytes) -> None:
    path = unique()
    raw = b"HTTP/1.1 200 OK\r\nX-Folded: one" + fold + b"two\r\nContent-Length: 2\r\n\r\nok"
    with rig.origin.answering(path, _answering(raw)):
        response = rig.forward(get(path)).response
    value = response.get("x-folded")
    assert value is not None
    assert value.split() == [b"one", b"two"], value
    assert b"\t" not in value.replace(b" ", b"")
    assert response.body == b"ok"


@pytest.mark.parametrize("byte", [b"\0", b"\r", b"\n"], ids=["036-nul", "036-cr", "036-lf"])
@pytest.mark.parametrize(
    "place",
    [b"A: %bx", b"A: x%bx", b"A: x%b", b"%bA: x", b"A%b: x"],
    ids=["start", "middle", "end", "before-name", "after-name"],
)
def test_case_036_nul_cr_lf_in_a_field(rig: Rig, place: bytes, byte: bytes) -> None:
    rig.refuse(get("/", place % byte, b"B: c"))


_CONTROLS = [bytes([value]) for value in range(1, 0x20) if value not in (9, 10, 13)] + [b"\x7f"]


@pytest.mark.parametrize("byte", _CONTROLS, ids=lambda byte: "037-" + byte.hex())
def test_case_037_control_byte_in_a_value(rig: Rig, byte: bytes) -> None:
    rig.refuse(get("/", b"A: x" + byte + b"y"))
    rig.refuse(get("/", b"A: " + byte))


def test_case_037_tab_inside_a_value_is_legal(rig: Rig) -> None:
    assert rig.forward(get(unique(), b"A: x\ty")).request.get("a") == "x\ty"


@pytest.mark.parametrize(
    "value",
    [
        b"\x80",
        b"\xff",
        b"\x85",
        b"\xa0",
        b"\xa0x\xa0",
        b"\x85x\x85",
        b"caf\xc3\xa9",
        b"\xad",
        bytes(range(0x80, 0x100)),
    ],
    ids=lambda value: "038-" + value.hex()[:12],
)
def test_case_038_bytes_above_ascii_in_a_value_are_opaque(rig: Rig, value: bytes) -> None:
    seen = rig.forward(get(unique(), b"A: " + value))
    assert seen.request.get("a") == value.decode("latin-1")
    path = unique()
    raw = b"HTTP/1.1 200 OK\r\nX-High: " + value + b"\r\nContent-Length: 0\r\n\r\n"
    with rig.origin.answering(path, _answering(raw)):
        assert rig.forward(get(path)).response.get("x-high") == value


_NOT_TOKEN = [bytes([value]) for value in b'"(),/;<=>?@[\\]{}'] + [
    b"\x80",
    b"\xa0",
    b"\xad",
    b"\xff",
    b"\x01",
    b"\x0b",
    b"\x1f",
    b"\x7f",
    b" ",
]


@pytest.mark.parametrize("byte", _NOT_TOKEN, ids=lambda byte: "039-" + byte.hex())
def test_case_039_byte_in_a_name_that_no_token_holds(rig: Rig, byte: bytes) -> None:
    for name in (byte + b"A", b"A" + byte + b"B", b"A" + byte, byte):
        rig.refuse(get("/", name + b": x"))


@pytest.mark.parametrize(
    "line",
    [b": x", b":", b"A", b"no colon here", b"::", b" ", b"\t", b": : x", b"=x"],
    ids=[
        "040-empty-name",
        "040-colon",
        "040-word",
        "040-words",
        "040-colons",
        "040-sp",
        "040-tab",
        "040-sp-colon",
        "040-equals",
    ],
)
def test_case_040_line_that_is_no_field(rig: Rig, line: bytes) -> None:
    rig.refuse(get("/", line))
    rig.refuse(get("/", line, b"B: c"))


@pytest.mark.parametrize(
    "line", [b"A:", b"A: ", b"A:\t", b"A:   \t "], ids=["041-bare", "041-sp", "041-tab", "041-blank"]
)
def test_case_041_empty_value(rig: Rig, line: bytes) -> None:
    assert rig.forward(get(unique(), line, b"B: c")).request.get("a") == ""


@pytest.mark.parametrize(
    "line",
    [b"A:x", b"A: x", b"A:  x  ", b"A:\tx\t", b"A: \t x \t "],
    ids=["none", "one", "spaces", "tabs", "mixed"],
)
def test_case_041_white_space_around_a_value_is_no_part_of_it(rig: Rig, line: bytes) -> None:
    assert rig.forward(get(unique(), line)).request.get("a") == "x"


def test_case_042_underscore_in_a_name(rig: Rig) -> None:
    seen = rig.forward(
        get(unique(), b"X_Under_Score: 1", b"_: 2", b"Content_Length: 7", b"Transfer_Encoding: chunked")
    )
    assert seen.request.get("x_under_score") == "1"
    assert seen.request.get("_") == "2"
    assert seen.request.get("content_length") == "7"
    assert seen.request.get("transfer_encoding") == "chunked"


def test_case_043_order_of_fields_with_one_name(rig: Rig) -> None:
    lines = [b"X-A: 1", b"X-B: 1", b"X-A: 2", b"Cookie: a=1", b"X-A: 3", b"X-B: 2", b"Cookie: b=2"]
    seen = rig.forward(get(unique(), *lines))
    assert seen.request.all("x-a") == ["1", "2", "3"]
    assert seen.request.all("x-b") == ["1", "2"]
    assert seen.request.all("cookie") == ["a=1", "b=2"]
    path = unique()
    raw = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-A: 1\r\nSet-Cookie: b=2\r\nX-A: 2\r\n"
    raw += b"Content-Length: 0\r\n\r\n"
    with rig.origin.answering(path, _answering(raw)):
        response = rig.forward(get(path)).response
    assert response.all("set-cookie") == [b"a=1", b"b=2"]
    assert response.all("x-a") == [b"1", b"2"]


def test_case_044_case_of_names_is_kept(rig: Rig) -> None:
    seen = rig.forward(
        get(unique(), b"x-lower: 1", b"X-UPPER: 2", b"x-MiXeD: 3", b"aCCept: */*", b"uSER-agent: t")
    )
    names = [name for name, _ in seen.request.fields]
    assert {"x-lower", "X-UPPER", "x-MiXeD", "aCCept", "uSER-agent"} <= set(names)
    path = unique()
    raw = b"HTTP/1.1 200 OK\r\nx-LoWeR: 1\r\nSERVER: s\r\nContent-Length: 0\r\n\r\n"
    with rig.origin.answering(path, _answering(raw)):
        head = rig.forward(get(path)).response.raw_head
    assert b"\r\nx-LoWeR: 1\r\n" in head
    assert b"\r\nSERVER: s\r\n" in head


def test_case_045_head_larger_than_the_limit(rig: Rig) -> None:
    rig.refuse(get("/", b"A: " + b"x" * 33_000), 431, code="header_too_large")
    rig.refuse(
        get("/", *[b"A%d: " % number + b"x" * 1000 for number in range(40)]), 431, code="header_too_large"
    )
    rig.refuse(get("/")[:-2] + b"A: " + b"x" * 100_000, 431, tail=b"", code="header_too_large")
    rig.refuse(get("/")[:-2] + b"N" * 100_000, 431, tail=b"", code="header_too_large")


def test_case_045_more_fields_than_the_limit(rig: Rig) -> None:
    rig.refuse(get("/", *[b"A: b"] * 120), 431, code="header_too_large")
    rig.refuse(get("/", *[b"A:"] * 5000), 431, code="header_too_large")


def test_case_045_head_just_inside_the_limits(rig: Rig) -> None:
    seen = rig.forward(get(unique(), *[b"A: b"] * 90))
    assert seen.request.all("a") == ["b"] * 90
    seen = rig.forward(get(unique(), b"A: " + b"x" * 31_000))
    assert len(seen.request.get("a") or "") == 31_000


def test_case_045_one_byte_a_packet(rig: Rig) -> None:
    path = unique()
    with rig.client(unix=True) as client:
        raw = get(path, b"A: b")
        client.send_pieces(raw[index : index + 1] for index in range(len(raw)))
        assert client.read_response().json()["target"] == path
        rig.sentinels(client)


def test_case_045_head_over_the_limit_in_small_pieces(rig: Rig) -> None:
    raw = get("/")[:-2] + b"A: " + b"x" * 40_000
    mark = rig.origin.mark()
    with rig.client(unix=True) as client:
        for start in range(0, len(raw), 97):
            client.send(raw[start : start + 97])
        assert client.read_response().status == 431
    rig.sentinels()
    rig.untouched(mark)


def test_case_045_head_that_does_not_end_is_timed_out(hasty: Rig) -> None:
    for part in (b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: test\r\nA: "):
        mark = hasty.origin.mark()
        with hasty.client() as client:
            client.send(part)
            response = client.read_response()
            assert (response.status, response.error_code) == (408, "header_timeout")
            assert response.says_close
            assert client.how_it_ended() == "eof"
        hasty.sentinels()
        hasty.untouched(mark)


_SPLIT = {
    "get": get("/split", b"Accept: */*"),
    "get-crlf-before": b"\r\n" + get("/split"),
    "post-length": post("/split", b"hello world"),
    "post-chunked": post_chunked("/split", b"hello", b" world", fields=(b"TE: trailers", b"Connection: TE")),
    "chunk-extension-and-trailer": request(
        "POST", "/split", b"Transfer-Encoding: Chunked", body=b'5;a="b;c"\r\nhello\r\n0;x\r\nT: v\r\n\r\n'
    ),
    "absolute-form": b"GET http://test/split?q=1 HTTP/1.1\r\nHost: other\r\n\r\n",
    "high-bytes": get("/split", b"A: \xff\x80 \xa0", b"Empty:"),
    "hop-by-hop": get("/split", b"Connection: X-Gone, keep-alive", b"X-Gone: 1", b"Keep-Alive: timeout=5"),
    "bad-space-before-colon": get("/split", b"A : b"),
    "bad-length": request("POST", "/split", b"Content-Length: 5x", body=b"hello"),
    "bad-two-framings": request(
        "POST", "/split", b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "bad-fold": get("/split", b"A: b\r\n c"),
    "bad-version": b"GET /split HTTP/1.1x\r\nHost: test\r\n\r\n",
    "unknown-coding": request("POST", "/split", b"Transfer-Encoding: gzip", body=b"x"),
}


def _verdict(client: Client) -> object:
    response = client.read_response()
    if response.status != 200:
        return response.status, response.error_code
    answer = response.json()
    fields = [(name.lower(), value) for name, value in answer["fields"] if name.lower() != "x-request-id"]
    return response.status, answer["method"], answer["target"], fields, answer["body"], answer["trailers"]


@pytest.mark.parametrize("name", _SPLIT, ids=["046-" + name for name in _SPLIT])
def test_case_046_split_at_each_offset(rig: Rig, name: str) -> None:
    raw = _SPLIT[name]
    mark = rig.origin.mark()
    with rig.client(unix=True) as client:
        client.send(raw)
        expected = _verdict(client)
    with rig.client(unix=True) as client:
        client.send_pieces(raw[index : index + 1] for index in range(len(raw)))
        assert _verdict(client) == expected, "byte by byte"
    keep = rig.client(unix=True)
    for offset in range(1, len(raw)):
        if not keep.is_open():
            keep.close()
            keep = rig.client(unix=True)
        keep.send_pieces([raw[:offset]])
        keep.send(raw[offset:])
        assert _verdict(keep) == expected, f"split at {offset}: {raw[:offset]!r} + {raw[offset:]!r}"
        if expected[0] != 200:  # type: ignore[index]
            keep.how_it_ended()
    keep.close()
    rig.sentinels()
    rig.seen(mark)
