"""Response heads: rows 33, 35, 66, 67, 95, 96, 99, 100, 103, 104 and 106 of the HTTP/1 acceptance list."""

from __future__ import annotations

import pytest

from fastmesh._native.proto import _t_proto as proto

HEAD, CONNECT, UPGRADE = 1, 2, 4
MALFORMED = 502


def response(*lines: bytes, status: bytes = b"200 OK", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([version + b" " + status, *lines]) + b"\r\n\r\n"


def accepted(raw: bytes, asked: int = 0) -> dict:
    result, parsed = proto.parse_response(raw, asked)
    assert result == len(raw), (result, raw)
    assert proto.parse_response(raw + b" x", asked) == (result, parsed)
    assert proto.parse_response(raw[:-1], asked)[0] == 0
    assert proto.parse_response_in_steps(raw, list(range(1, len(raw) + 1)), asked) == (
        result,
        parsed,
        len(raw),
    )
    return parsed


def refused(raw: bytes, asked: int = 0, **settings: object) -> None:
    results = {
        proto.parse_response(raw, asked, **settings)[0],
        proto.parse_response(raw + b"x", asked, **settings)[0],
        proto.parse_response_in_steps(raw + b"\r\n\r\n", list(range(1, len(raw) + 5)), asked, **settings)[0],
    }
    assert len(results) == 1, results
    (result,) = results
    assert result < 0, raw
    assert proto.error_name(result) == ("upstream_malformed", MALFORMED)


@pytest.mark.parametrize(
    ("line", "status", "minor", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, 1, b"OK"),
        (b"HTTP/1.0 404 Not  Found ", 404, 0, b"Not  Found "),
        (b"HTTP/1.1 200", 200, 1, b""),
        (b"HTTP/1.1 200 ", 200, 1, b""),
        (b"HTTP/1.1 599 a\xe9\tb", 599, 1, b"a\xe9\tb"),
        (b"HTTP/1.9 999 x", 999, 9, b"x"),
    ],
)
def test_104_status_lines_that_are_taken(line: bytes, status: int, minor: int, reason: bytes) -> None:
    parsed = accepted(line + b"\r\nContent-Length: 0\r\n\r\n")
    assert (parsed["status"], parsed["minor"], parsed["reason"]) == (status, minor, reason)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 99 Low\r\n\r\n", b"HTTP/1.1 1000 High\r\n\r\n", b"HTTP/1.1 099 x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n", b"http/1.1 200 OK\r\n\r\n", b"HTTP/1.10 200 OK\r\n\r\n",
        b"<html>\r\n\r\n", b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n", b"HTTP/1.1 200 OK\n\r\n", b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200\tOK\r\n\r\n",
    ],
)  # fmt: skip
def test_104_status_lines_that_are_not(raw: bytes) -> None:
    refused(raw)


@pytest.mark.parametrize(
    "line",
    [
        b"A: b\0",
        b"A: b\rC: d",
        b"A: b\nC: d",
        b"no colon",
        b": x",
        b"A[b]: x",
        b" folded: x",
        b"A b: x",
        b"A: \x01",
        b"A: \x7f",
    ],
)
def test_104_malformed_fields(line: bytes) -> None:
    refused(response(line))


def test_104_limits() -> None:
    limits = (200, 3, 0, 0)
    assert proto.parse_response(response(b"A: b", b"A: b", b"A: b"), 0, limits)[0] > 0
    refused(response(b"A: b", b"A: b", b"A: b", b"A: b"), limits=limits)
    refused(response(b"A: " + b"x" * 200), limits=limits)
    refused(b"HTTP/1.1 200 " + b"x" * 400, limits=limits)


def test_033_035_irregular_white_space_is_read_over() -> None:
    parsed = accepted(
        response(b"A : b", b"C\t :d", b"E: f\r\n g\r\n\th ", b"I:\r\n j", b"K: l\r\n ", b"Content-Length : 3")
    )
    fields = [(name, value) for name, value, _ in parsed["fields"]]
    assert fields[:2] == [(b"A", b"b"), (b"C", b"d")]
    assert fields[2] == (b"E", b"f\r\n g\r\n\th")
    assert fields[3:5] == [(b"I", b"j"), (b"K", b"l")]
    assert (parsed["body"], parsed["content_length"]) == ("length", 3)


@pytest.mark.parametrize("value", [b"+5", b"5x", b"", b"5, 5", b"9223372036854775808", b"0x5", b"1\r\n 2"])
@pytest.mark.parametrize("asked", [0, HEAD])
def test_100_bad_lengths(value: bytes, asked: int) -> None:
    refused(response(b"Content-Length: " + value), asked)


def test_100_framing_fields_that_exclude_each_other() -> None:
    for second in (b"5", b"6"):
        refused(response(b"Content-Length: 5", b"Content-Length: " + second))
    refused(response(b"Content-Length: 5", b"Transfer-Encoding: chunked"))
    refused(response(b"Transfer-Encoding: chunked", b"Content-Length: 5"))
    refused(response(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"))
    refused(response(b"Transfer-Encoding: chunked", version=b"HTTP/1.0"))
    for value in (
        b"gzip",
        b"gzip, chunked",
        b"chunked, chunked",
        b"",
        b",chunked",
        b"chunked;a",
        b"chun\r\n ked",
    ):
        refused(response(b"Transfer-Encoding: " + value))


def test_103_framing() -> None:
    assert accepted(response(b"Content-Length: 07"))["content_length"] == 7
    assert accepted(response(b"Content-Length: 0"))["body"] == "none"
    assert accepted(response(b"Transfer-Encoding: cHunked"))["body"] == "chunked"
    parsed = accepted(response())
    assert (parsed["body"], parsed["keep_alive"]) == ("until-close", False)


@pytest.mark.parametrize("status", [b"100 Continue", b"103 Early Hints", b"199 x", b"204 No Content"])
def test_067_096_framing_fields_where_none_may_be_are_ignored(status: bytes) -> None:
    parsed = accepted(
        response(b"Content-Length: x", b"Transfer-Encoding: y", b"Content-Length: z", b"A: b", status=status)
    )
    assert (parsed["body"], parsed["keep_alive"]) == ("none", True)
    assert parsed["informational"] == status.startswith(b"1")
    assert [name for name, _, dropped in parsed["fields"] if not dropped] == [b"A"]


def test_099_answers_without_a_body() -> None:
    parsed = accepted(response(b"Content-Length: 5"), HEAD)
    assert (parsed["body"], parsed["content_length"], parsed["keep_alive"]) == ("none", 5, True)
    parsed = accepted(response(b"Content-Length: 5", status=b"304 x"))
    assert (parsed["body"], parsed["content_length"]) == ("none", 5)
    assert accepted(response(b"Transfer-Encoding: chunked"), HEAD)["body"] == "none"
    assert accepted(response(), HEAD)["keep_alive"]
    parsed = accepted(response(), CONNECT)
    assert (parsed["body"], parsed["keep_alive"]) == ("none", False)
    assert accepted(response(status=b"403 x"), CONNECT)["body"] == "until-close"


def test_106_switching_protocols() -> None:
    switching = b"101 Switching Protocols"
    good = response(b"Upgrade: WebSocket", b"Connection: upgrade", status=switching)
    parsed = accepted(good, UPGRADE)
    assert (parsed["upgrade"], parsed["informational"], parsed["body"], parsed["keep_alive"]) == (
        1,
        False,
        "none",
        False,
    )
    refused(good)
    refused(response(status=switching), UPGRADE)
    refused(response(b"Upgrade: websocket", status=switching), UPGRADE)
    refused(response(b"Upgrade: h2c", b"Connection: upgrade", status=switching), UPGRADE)
    assert (
        accepted(response(b"Upgrade: websocket", b"Connection: upgrade", b"Content-Length: 0"), UPGRADE)[
            "upgrade"
        ]
        == 0
    )


@pytest.mark.parametrize(
    ("version", "value", "kept"),
    [
        (b"HTTP/1.1", b"", True),
        (b"HTTP/1.1", b"Close", False),
        (b"HTTP/1.0", b"", False),
        (b"HTTP/1.0", b"Keep-Alive", True),
    ],
)
def test_persistence(version: bytes, value: bytes, kept: bool) -> None:
    assert (
        accepted(response(b"Connection: " + value, b"Content-Length: 1", version=version))["keep_alive"]
        is kept
    )


def test_keep_alive_timeout() -> None:
    def timeout(*values: bytes) -> int:
        return accepted(response(*[b"Keep-Alive: " + value for value in values]))["keepalive_timeout_s"]

    assert accepted(response())["keepalive_timeout_s"] == -1
    assert timeout(b"timeout=5, max=100") == 5
    assert timeout(b"max=1", b"max=7,Timeout=60") == 60
    assert timeout(b"timeout=") == -1
    assert timeout(b"timeout=0") == 0
    assert timeout(b"timeout=99999999999999999999") > 10**8  # cut off, not overflown


def test_fields_named_by_connection() -> None:
    parsed = accepted(
        response(b"Connection: X-A, Content-Length", b"X-A: 1", b"Content-Length: 3", b"Proxy-Connection: x")
    )
    assert [name for name, _, dropped in parsed["fields"] if dropped] == [
        b"Connection",
        b"X-A",
        b"Proxy-Connection",
    ]
    assert parsed["content_length"] == 3
    refused(response(b"Connection: " + b",".join([b"x"] * 65)))
