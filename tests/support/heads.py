"""Shared by the tests of the request parser: requests as bytes, and the verdicts on them.

A verdict is taken three ways: all bytes at once, with more behind them, and byte by byte.
"""

from __future__ import annotations

from fastmesh._native.proto import _t_proto as proto

STATUS_BY_ERROR = {-value: proto.error_name(-value)[1] for value in proto.error_values()}


def request(
    *lines: bytes,
    method: bytes = b"GET",
    target: bytes = b"/",
    version: bytes = b"HTTP/1.1",
    host: bytes | None = b"a",
) -> bytes:
    head = [method + b" " + target + b" " + version]
    if host is not None:
        head.append(b"Host: " + host)
    return b"\r\n".join([*head, *lines]) + b"\r\n\r\n"


def steps(size: int) -> list[int]:
    """Ends of growing input, byte by byte; of long input (each step is a copy) so at both ends only."""
    if size <= 2000:
        return list(range(1, size + 1))
    return [*range(1, 500), *range(500, size - 500, size // 100), *range(size - 500, size + 1)]


def accepted(raw: bytes, **settings: object) -> dict:
    result, parsed = proto.parse_request(raw, **settings)
    assert result == len(raw), (result, raw)
    assert proto.parse_request(raw + b"\0\r\n", **settings) == (result, parsed)
    assert proto.parse_request(raw[:-1], **settings)[0] == 0
    in_steps = proto.parse_request_in_steps(raw, steps(len(raw)), **settings)
    assert in_steps == (result, parsed, len(raw))
    return parsed


def refused(raw: bytes, status: int = 400, **settings: object) -> None:
    """All at once and byte by byte; and the same whatever comes behind."""
    results = {
        proto.parse_request(raw, **settings)[0],
        proto.parse_request(raw + b"GET / HTTP/1.1\r\n", **settings)[0],
        proto.parse_request_in_steps(raw + b"\r\n\r\n", steps(len(raw) + 4), **settings)[0],
    }
    assert len(results) == 1, results
    (result,) = results
    assert result < 0, (result, raw)
    assert STATUS_BY_ERROR[result] == status, raw
