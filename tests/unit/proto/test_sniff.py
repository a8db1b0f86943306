"""Whether first bytes are HTTP/1: said for each beginning of them, never taken back, and as soon as it is
certain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh._native.proto import _t_proto as proto


def decided(data: bytes) -> tuple[str, int]:
    """What is said of the bytes, and after how many."""
    for end in range(len(data) + 1):
        found = proto.sniff(data[:end])
        if found != "more":
            assert proto.sniff(data) == found, "taken back"
            return found, end
    return "more", len(data)


@pytest.mark.parametrize(
    ("data", "after"),
    [
        (b"GET / HTTP/1.1\r\n", 5),
        (b"M-SEARCH /x HTTP/1.1\r\n", 10),
        (b"OPTIONS * HTTP/1.0\r\n", 17),
        (b"GET http://a/ HTTP/1.1\r\n", 11),
        (b"GET HTTPS://a/ HTTP/1.1\r\n", 12),
        (b"A" * 32 + b" /", 34),
    ],
)
def test_requests(data: bytes, after: int) -> None:
    assert decided(data) == ("http", after)


@pytest.mark.parametrize(
    ("data", "after"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 1),
        (b"\r\nGET / HTTP/1.1", 1),
        (b"get / HTTP/1.1", 1),
        (b"*1\r\n$4\r\nPING\r\n", 1),
        (b" / ", 1),
        (b"-A /", 1),
        (b"AB /", 3),
        (b"HELO example.org", 6),
        (b"EHLO host", 7),
        (b"CONNECT example.org:443 HTTP/1.1", 9),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n", 7),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 12),
        (b"OPTIONS * RTSP/1.0\r\n", 11),
        (b"GET httpd://", 9),
        (b"GET http:/x", 11),
        (b"SSH-2.0-x", 5),
        (b"GET\t/", 4),
        (b"A" * 33, 33),
    ],
)
def test_what_is_none(data: bytes, after: int) -> None:
    assert decided(data) == ("other", after)


@pytest.mark.parametrize(
    "data", [b"", b"G", b"GET", b"GET ", b"GET h", b"GET https:/", b"PRI * HTTP/", b"A" * 32]
)
def test_what_is_not_certain(data: bytes) -> None:
    assert decided(data) == ("more", len(data))


@given(st.binary(max_size=60))
def test_no_bytes_are_undecided_for_long(data: bytes) -> None:
    found, after = decided(data)
    assert after <= 43
    if found == "http":
        method = data.partition(b" ")[0]
        assert method.replace(b"-", b"").isalpha()
        assert method.isupper()
