"""Fields, cookies and query parameters that a hash key may name."""

from __future__ import annotations

import pytest

from fastmesh._native.proto import _t_proto as proto

RAW = (
    b"GET /p?a=1&bb=2&empty=&bare&a=3&=x&c%3D=4&last=5 HTTP/1.1\r\nHost: h\r\nX-User: one\r\n"
    b"x-USER: two\r\nEmpty:\r\n"
    b'Cookie: sid=abc; theme=dark ;x\r\nCookie: sid=second; other="q"; sidx=no\r\n\r\n'
)


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"x-user", b"one"), (b"host", b"h"), (b"empty", b""), (b"x-use", None), (b"x-users", None)],
)
def test_field(name: bytes, value: bytes | None) -> None:
    assert proto.find(RAW, field=name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"sid", b"abc"),
        (b"theme", b"dark"),
        (b"x", b""),
        (b"other", b'"q"'),
        (b"sidx", b"no"),
        (b"si", None),
        (b"SID", None),
        (b"dark", None),
    ],
)
def test_cookie(name: bytes, value: bytes | None) -> None:
    assert proto.find(RAW, cookie=name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"a", b"1"),
        (b"bb", b"2"),
        (b"empty", b""),
        (b"bare", b""),
        (b"b", None),
        (b"last", b"5"),
        (b"c%3D", b"4"),
        (b"missing", None),
    ],
)
def test_query_parameter(name: bytes, value: bytes | None) -> None:
    assert proto.find(RAW, param=name) == value


def test_nothing_to_look_in() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    assert proto.find(raw, param=b"a") is None
    assert proto.find(raw, cookie=b"a") is None
    assert proto.find(raw.replace(b"/ ", b"/? "), param=b"a") is None
