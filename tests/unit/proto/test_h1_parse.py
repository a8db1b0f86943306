"""Request heads: rows 1 to 13, 25, 26, 31 to 44, 57 to 65, 84 to 94, 109 and 112 of the HTTP/1 list."""

from __future__ import annotations

import pytest

from fastmesh._native.proto import _t_proto as proto
from support.heads import STATUS_BY_ERROR, accepted, refused, request, steps

(VERSION_UNSUPPORTED,) = (error for error, status in STATUS_BY_ERROR.items() if status == 505)


@pytest.mark.parametrize("prefix", [b"", b"\r\n", b"\r\n\r\n"])
def test_001_up_to_two_empty_lines_are_passed_over(prefix: bytes) -> None:
    assert accepted(prefix + request())["method"] == b"GET"


@pytest.mark.parametrize("prefix", [b"\r\n\r\n\r\n", b"\n", b"\r", b"\r\r\n", b"\r\n\n", b" ", b"\t"])
def test_001_other_prefixes_are_refused(prefix: bytes) -> None:
    refused(prefix + request())


@pytest.mark.parametrize("between", [b" ", b"\t", b" X: y\r\n ", b" \r\n"])
def test_002_space_behind_the_request_line(between: bytes) -> None:
    refused(b"GET / HTTP/1.1\r\n" + between + b"Host: a\r\n\r\n")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA: b\nC: d\r\n\r\n",
        b"GET\r/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\rx",
    ],
)
def test_003_004_line_ends_are_crlf(raw: bytes) -> None:
    refused(raw)


@pytest.mark.parametrize("space", [b"  ", b"\t", b"\x0b", b"\x0c", b"\xa0", b""])
@pytest.mark.parametrize("line", [b"GET%b/ HTTP/1.1", b"GET /%bHTTP/1.1"])
def test_005_006_one_space_stands_between_the_parts(line: bytes, space: bytes) -> None:
    refused(line % space + b"\r\nHost: a\r\n\r\n")


@pytest.mark.parametrize(
    "version",
    [
        b"HTTP/1.10",
        b"HTTP/01.1",
        b"HTTP/1.1x",
        b"http/1.1",
        b"HTTP/1.",
        b"HTTP/1",
        b"HTTP/x.1",
        b"HTTPS/1.1",
        b"",
    ],
)
def test_007_malformed_version(version: bytes) -> None:
    refused(request(version=version))


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/3.1"])
def test_007_other_major_version(version: bytes) -> None:
    refused(request(version=version), 505)


def test_008_versions() -> None:
    assert [accepted(request(version=b"HTTP/1." + digit))["minor"] for digit in (b"0", b"1", b"2", b"9")] == [
        0,
        1,
        2,
        9,
    ]


@pytest.mark.parametrize("method", [b"GE(T", b"G\0", b"GE\x80", b"GET:", b"", b"GE,T"])
def test_009_method_that_is_no_token(method: bytes) -> None:
    refused(request(method=method))


def test_010_011_methods() -> None:
    ids = {}
    for method in (
        b"GET",
        b"HEAD",
        b"POST",
        b"PUT",
        b"DELETE",
        b"OPTIONS",
        b"PATCH",
        b"get",
        b"PURGE",
        b"GETX",
        b"GE",
    ):
        parsed = accepted(request(method=method))
        assert parsed["method"] == method
        ids[method] = parsed["method_id"]
        assert parsed["is_head"] == (method == b"HEAD")
        assert parsed["is_idempotent"] == (method in {b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"})
    assert list(ids.values()) == [1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0]


def test_012_013_limits_of_the_request_line() -> None:
    accepted(request(method=b"M" * 32))
    refused(request(method=b"M" * 33), 501)
    accepted(request(target=b"/" * 8192))
    refused(request(target=b"/" * 8193), 414)
    # Decided before the line ends.
    assert STATUS_BY_ERROR[proto.parse_request(b"M" * 33)[0]] == 501
    assert STATUS_BY_ERROR[proto.parse_request(b"GET " + b"/" * 8193)[0]] == 414
    line = b"GET / HTTP/2.0\r\n"
    assert proto.parse_request_in_steps(line + b"Host", steps(20)) == (VERSION_UNSUPPORTED, None, 16)
    endless = b"GET " + b"/" * 9000
    result, _, known = proto.parse_request_in_steps(endless, list(range(1, len(endless) + 1)))
    assert STATUS_BY_ERROR[result] == 414
    assert known < 8300


def test_025_026_one_host() -> None:
    refused(request(host=None))
    refused(request(b"Host: a"))
    refused(request(b"A: b", b"HOST: a"))
    parsed = accepted(request(host=None, version=b"HTTP/1.0"))
    assert (parsed["host"], parsed["host_name"]) == (None, None)


@pytest.mark.parametrize(
    "line",
    [
        b"A : b",
        b"A\t: b",
        b"A: b\r\n c",
        b": x",
        b":",
        b"A",
        b"no colon",
        b"A: \0",
        b"A: b\rc",
        b"A\0: b",
        b"[A]: b",
        b"A\x80: b",
    ],
)
def test_032_to_040_malformed_lines(line: bytes) -> None:
    refused(request(line))
    refused(request(line, b"B: c"))


@pytest.mark.parametrize("byte", [*sorted(set(range(0x20)) - {9}), 0x7F])
@pytest.mark.parametrize("pad", [0, 1, 15, 16, 33])
def test_036_037_control_bytes_in_values(byte: int, pad: int) -> None:
    refused(request(b"A: x" + b"y" * pad + bytes([byte]) + b"z" * pad))


def test_038_other_bytes_in_values_are_kept() -> None:
    value = bytes([*range(0x21, 0x7F), 0x20, 0x09, *range(0x80, 0x100)])
    parsed = accepted(request(b"A: \t " + value + b" \t", b"B:", b"C: \x85x\xa0"))
    assert [field[1] for field in parsed["fields"]] == [b"a", value, b"", b"\x85x\xa0"]


def test_039_each_token_byte_makes_a_name() -> None:
    token = bytes(c for c in range(0x21, 0x7F) if chr(c).isalnum() or c in b"!#$%&'*+-.^_`|~")
    assert accepted(request(token + b": 1"))["fields"][1][0] == token
    for byte in set(range(256)) - set(token) - {ord(":")}:
        refused(request(b"A" + bytes([byte]) + b": 1"))


@pytest.mark.parametrize("second", [b"5", b"6", b""])
def test_050_to_052_two_lengths(second: bytes) -> None:
    refused(request(b"Content-Length: 5", b"content-length: " + second))
    refused(request(b"Content-Length: " + second, b"content-length: 5"))


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"CHUNKED", b"\tchunked "])
def test_062_chunked(coding: bytes) -> None:
    assert accepted(request(b"Transfer-Encoding:" + coding))["body"] == "chunked"


@pytest.mark.parametrize("value", [b"identity", b"gzip", b"chunked, identity", b"chunked, chunked",
b",chunked", b"chunked,", b"", b"gzip,",
                                   b"chunked;q=1", b'"chunked"', b"chunked\x85", b"\xa0chunked",
                                   b"chunked chunked", b"chunked, cow"])  # fmt: skip
def test_058_to_063_bad_codings(value: bytes) -> None:
    refused(request(b"Transfer-Encoding: " + value))


@pytest.mark.parametrize(
    "value",
    [b"gzip, chunked", b"gzip,chunked", b"cow , chunked", b"chunk", b"xchunked", b"cow", b"'chunked'"],
)
def test_058_061_codings_that_are_not_built(value: bytes) -> None:
    refused(request(b"Transfer-Encoding: " + value), 501)


def test_057_059_065_framing_fields_that_exclude_each_other() -> None:
    refused(request(b"Content-Length: 5", b"Transfer-Encoding: chunked"))
    refused(request(b"Transfer-Encoding: chunked", b"Content-Length: 5"))
    refused(request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"))
    refused(request(b"Transfer-Encoding: chunked", version=b"HTTP/1.0"))


def test_064_other_names_frame_nothing() -> None:
    parsed = accepted(
        request(b"Transfer_Encoding: chunked", b"Content_Length: 7", b"Transfer-Encodinx: chunked")
    )
    assert parsed["body"] == "none"


@pytest.mark.parametrize(
    ("version", "value", "kept"),
    [
        (b"HTTP/1.1", None, True), (b"HTTP/1.1", b"close", False), (b"HTTP/1.1", b"Keep-Alive", True),
        (b"HTTP/1.1", b"x, CLOSE ,", False),
        (b"HTTP/1.1", b"closed", True), (b"HTTP/1.0", None, False), (b"HTTP/1.0", b"keep-alive", True),
        (b"HTTP/1.0", b"keep-alive, close", False),
        (b"HTTP/1.2", None, True),
    ],
)  # fmt: skip
def test_109_persistence(version: bytes, value: bytes | None, kept: bool) -> None:
    lines = [] if value is None else [b"Connection: " + value]
    assert accepted(request(*lines, version=version))["keep_alive"] is kept


def test_084_te() -> None:
    assert accepted(request(b"TE: gzip, Trailers;q=1"))["te_trailers"]
    assert not accepted(request(b"TE: trailersx"))["te_trailers"]
    assert not accepted(request(b"X: trailers"))["te_trailers"]


def test_087_trace_and_max_forwards() -> None:
    refused(request(method=b"TRACE"), 405)
    assert accepted(request(b"Max-Forwards: 7", method=b"OPTIONS"))["max_forwards"] == 7
    assert accepted(request(b"Max-Forwards: 99999999999", method=b"OPTIONS"))["max_forwards"] == 2**31 - 1
    assert accepted(request(b"Max-Forwards: x"))["max_forwards"] == -1
    refused(request(b"Max-Forwards: x", method=b"OPTIONS"))
    refused(request(b"Max-Forwards: 1", b"Max-Forwards: 1", method=b"OPTIONS"))


def test_090_to_094_expect() -> None:
    body = b"Content-Length: 1"
    assert accepted(request(b"Expect: 100-Continue", body))["expect_continue"]
    assert accepted(request(b"Expect: 100-continue", b"Transfer-Encoding: chunked"))["expect_continue"]
    assert not accepted(request(b"Expect: 100-continue"))["expect_continue"]
    parsed = accepted(request(b"Expect: nonsense", body, version=b"HTTP/1.0"))
    assert not parsed["expect_continue"]
    assert (b"Expect", b"nonsense", True) in parsed["fields"]
    for lines in (
        [b"Expect: y 100-continue"],
        [b"Expect: 100-continue, x"],
        [b"Expect: 100-continue"] * 2,
        [b"Expect:"],
    ):
        refused(request(*lines, body), 417)


def test_112_upgrade() -> None:
    asked = [b"Connection: keep-alive, Upgrade", b"Upgrade: h2c, WebSocket/13"]
    assert accepted(request(*asked))["upgrade"] == 1
    assert accepted(request(asked[0], b"Upgrade: h2c"))["upgrade"] == 0
    assert accepted(request(asked[0], b"Upgrade: websocketx"))["upgrade"] == 0
    assert accepted(request(asked[1]))["upgrade"] == 0
    assert accepted(request(asked[0]))["upgrade"] == 0
    assert accepted(request(*asked, version=b"HTTP/1.0"))["upgrade"] == 0
    assert accepted(request(*asked, method=b"POST"))["upgrade"] == 0
    assert accepted(request(*asked, b"Content-Length: 1"))["upgrade"] == 0


def test_forwarded_for_is_the_last_address() -> None:
    assert (
        accepted(request(b"X-Forwarded-For: 1, 2", b"x-forwarded-FOR: 3 ,\t4 ", b"X-Forwarded-For:"))[
            "forwarded_for"
        ]
        == b"4"
    )
    assert accepted(request(b"X-Forwarded-For: 1"))["forwarded_for"] == b"1"
    assert accepted(request())["forwarded_for"] is None
