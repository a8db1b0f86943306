"""Pieces of heads: numbers, runs of kept fields, mended lines (rows 33 and 35 of the HTTP/1 list)."""

from __future__ import annotations

import itertools

import pytest

from fastmesh._native.proto import _t_proto as proto


def response_lines(*fields: bytes) -> list[bytes]:
    raw = b"\r\n".join([b"HTTP/1.1 200 OK", *fields]) + b"\r\n\r\n"
    result, head, _ = proto.forward_response(raw)
    assert result == len(raw)
    return head[:-4].split(b"\r\n")[1:]


def test_033_035_irregular_white_space_is_mended() -> None:
    out = response_lines(
        b"A : b",
        b"B:c",
        b"C: d \r\n \t e\r\n\tf",
        b"D\t: e",
        b"E:\r\n g\r\n \r\n\th\r\n ",
        b"Content-Length : 5",
    )
    assert out == [b"A: b", b"B:c", b"C: d e f", b"D: e", b"E: g h", b"Content-Length: 5"]


def test_a_dropped_line_is_not_mended() -> None:
    assert response_lines(b"Keep-Alive : a\r\n b", b"Trailer : x", b"A: b", b"Content-Length: 1") == [
        b"A: b",
        b"Content-Length: 1",
    ]


@pytest.mark.parametrize("pattern", list(itertools.product((True, False), repeat=6)))
def test_runs_of_kept_lines(pattern: tuple[bool, ...]) -> None:
    """Each way to keep and leave out lines, at the start, the end and in between."""
    fields = [b"K%d: x" % i if kept else b"Keep-Alive: %d" % i for i, kept in enumerate(pattern)]
    kept_lines = [field for field in fields if field.startswith(b"K") and not field.startswith(b"Keep")]
    assert response_lines(b"Content-Length: 0", *fields) == [b"Content-Length: 0", *kept_lines]
    assert response_lines(*fields, b"Content-Length: 0") == [*kept_lines, b"Content-Length: 0"]


@pytest.mark.parametrize("number", [0, 1, 9, 10, 99, 100, 12345, 2**32, 2**63 - 1, 2**64 - 1])
def test_numbers(number: int) -> None:
    raw = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n"
    _, head = proto.forward_request(raw, body="length", content_length=number)
    assert b"\r\nContent-Length: %d\r\n" % number in head
