"""The PROXY protocol, both versions, both ways."""

from __future__ import annotations

import socket
import struct

import pytest

from fastmesh._native.proto import _t_proto as proto

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
NONE, INET, INET6, UNIX = range(4)


def understood(raw: bytes) -> tuple:
    result, address = proto.parse_proxy(raw + b"GET / HTTP/1.1\r\n")
    assert result == len(raw), (result, raw)
    for end in range(len(raw)):
        assert proto.parse_proxy(raw[:end])[0] == 0, f"decided after {end} bytes of {raw!r}"
    return address


def refused(raw: bytes) -> None:
    result, address = proto.parse_proxy(raw)
    assert address is None
    assert result < 0, raw
    assert proto.error_name(result) == ("bad_proxy_header", 400)


def v2(command: int, family: int, payload: bytes, size: int | None = None) -> bytes:
    return (
        SIGNATURE
        + bytes([command, family])
        + struct.pack("!H", len(payload) if size is None else size)
        + payload
    )


IN4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 5000, 443)
IN6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "::1")
    + struct.pack("!HH", 1, 65535)
)


def test_v1() -> None:
    assert understood(b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n") == (
        INET,
        IN4[:4],
        5000,
        IN4[4:8],
        443,
    )
    assert understood(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n") == (INET6, IN6[:16], 1, IN6[16:32], 65535)
    assert understood(b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n")[2] == 0
    longest = b"PROXY UNKNOWN " + b"f" * (107 - 16) + b"\r\n"
    assert len(longest) == 107
    assert understood(longest)[0] == NONE
    assert understood(b"PROXY UNKNOWN\r\n")[0] == NONE


@pytest.mark.parametrize(
    "line",
    [
        b"TCP4 192.0.2.1 198.51.100.2 5000", b"TCP4 192.0.2.1 198.51.100.2 5000 65536",
        b"TCP4 192.0.2.1 198.51.100.2 05000 443",
        b"TCP4 192.0.2.1 198.51.100.2 5000 443 ", b"TCP4  192.0.2.1 198.51.100.2 5000 443",
        b"TCP4 192.0.2.1 198.51.100.2 5000 443 1",
        b"TCP4 ::1 ::1 5000 443", b"TCP6 192.0.2.1 198.51.100.2 5000 443",
        b"TCP4 192.0.2 198.51.100.2 5000 443", b"TCP4 192.0.2.256 1.1.1.1 1 1",
        b"TCP4 192.0.2.1 198.51.100.2 +500 443", b"TCP4 192.0.2.1 198.51.100.2 5000 ",
        b"TCP5 192.0.2.1 198.51.100.2 5000 443", b"UNKNOWNX", b"", b"TCP4",
        b"TCP4 192.0.2.1 198.51.100.2 5000 4x3", b"tcp4 192.0.2.1 198.51.100.2 5000 443",
        b"TCP4 192.0.2.1\0 198.51.100.2 5000 443", b"UNKNOWN\n",
    ],
)  # fmt: skip
def test_v1_malformed(line: bytes) -> None:
    refused(b"PROXY " + line + b"\r\n")


def test_v1_ends() -> None:
    good = b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443"
    refused(good + b"\n")
    refused(good + b"\rX")
    refused(b"PROXY UNKNOWN " + b"f" * 93)  # 107 bytes and no end
    refused(b"PROXY UNKNOWN " + b"f" * 92 + b"\r")  # the LF would be the 108th
    refused(b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n")


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/1.1\r\n", b"POST", b"PRO ", b"\x16\x03\x01", b"\r\nGET", b"\n", b"\0"]
)
def test_no_header_is_seen_at_once(raw: bytes) -> None:
    refused(raw)


def test_v2() -> None:
    assert understood(v2(0x21, 0x11, IN4)) == (INET, IN4[:4], 5000, IN4[4:8], 443)
    assert understood(v2(0x21, 0x12, IN4))[0] == INET
    assert understood(v2(0x21, 0x21, IN6)) == (INET6, IN6[:16], 1, IN6[16:32], 65535)
    assert understood(v2(0x21, 0x11, IN4 + b"\x03\0\x04abcd"))[2] == 5000
    names = b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0")
    assert understood(v2(0x21, 0x31, names)) == (UNIX, names[:108], 0, names[108:], 0)
    assert understood(v2(0x20, 0x00, b""))[0] == NONE
    assert understood(v2(0x20, 0x11, IN4))[0] == NONE
    assert understood(v2(0x20, 0xFF, b"xyz"))[0] == NONE
    assert understood(v2(0x21, 0x00, b"tlv"))[0] == NONE
    assert understood(v2(0x21, 0x11, IN4 + b"t" * (520 - 12)))[0] == INET


@pytest.mark.parametrize(
    "raw",
    [
        v2(0x11, 0x11, IN4), v2(0x22, 0x11, IN4), v2(0x31, 0x11, IN4), v2(0x21, 0x41, IN4),
        v2(0x21, 0x13, IN4), v2(0x21, 0x11, IN4[:-1]),
        v2(0x21, 0x21, IN6[:-1]), v2(0x21, 0x31, b"x" * 215), v2(0x21, 0x11, b"", 521), v2(0x21, 0x11,
        b"", 65535), SIGNATURE[:-1] + b"X",
        SIGNATURE + b"\x11",
    ],
)  # fmt: skip
def test_v2_malformed(raw: bytes) -> None:
    refused(raw)


def test_emit() -> None:
    assert (
        proto.emit_proxy(1, INET, IN4[:4], 5000, IN4[4:8], 443)
        == b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n"
    )
    assert (
        proto.emit_proxy(1, INET6, IN6[:16], 1, IN6[16:32], 65535)
        == b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"
    )
    assert proto.emit_proxy(1, UNIX, b"/a", 0, b"/b", 0) == b"PROXY UNKNOWN\r\n"
    assert proto.emit_proxy(1, NONE, b"", 0, b"", 0) == b"PROXY UNKNOWN\r\n"
    assert proto.emit_proxy(2, INET, IN4[:4], 5000, IN4[4:8], 443) == v2(0x21, 0x11, IN4)
    assert proto.emit_proxy(2, INET6, IN6[:16], 1, IN6[16:32], 65535) == v2(0x21, 0x21, IN6)
    assert proto.emit_proxy(2, UNIX, b"/a", 0, b"/b", 0) == v2(
        0x21, 0x31, b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0")
    )
    assert proto.emit_proxy(2, NONE, b"", 0, b"", 0) == v2(0x20, 0x00, b"")


def test_the_longest_v1_header_fits() -> None:
    longest = socket.inet_pton(socket.AF_INET6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe")
    assert len(proto.emit_proxy(1, INET6, longest, 65535, longest, 65535)) == 104
