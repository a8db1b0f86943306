"""Requests and responses as bytes, said briefly."""

from __future__ import annotations


def request(
    method: str, target: str, *fields: bytes, body: bytes = b"", host: bytes | None = b"test"
) -> bytes:
    """An HTTP/1.1 request; `fields` are whole lines without CRLF. A body is sent as it is: the fields must
    frame it."""
    lines = [f"{method} {target} HTTP/1.1".encode("latin-1")]
    if host is not None:
        lines.append(b"Host: " + host)
    lines += fields
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(target: str, *fields: bytes) -> bytes:
    return request("GET", target, *fields)


def post(target: str, body: bytes, *fields: bytes) -> bytes:
    """POST with the right Content-Length."""
    return request("POST", target, b"Content-Length: %d" % len(body), *fields, body=body)


def chunked(*chunks: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + last


def post_chunked(
    target: str, *chunks: bytes, fields: tuple[bytes, ...] = (), last: bytes = b"0\r\n\r\n"
) -> bytes:
    return request("POST", target, b"Transfer-Encoding: chunked", *fields, body=chunked(*chunks, last=last))
