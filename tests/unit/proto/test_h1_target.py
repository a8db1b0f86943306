"""Request targets and hosts: rows 14 to 24, 27, 28 and 30 of the HTTP/1 acceptance list."""

from __future__ import annotations

import pytest

from support.heads import accepted, refused, request


@pytest.mark.parametrize("byte", [b"\0", b"\x1f", b"\x7f", b"\x80", b"\xff", b"#", b"\r", b" "])
@pytest.mark.parametrize("pad", [0, 3, 15, 16, 17, 40])
def test_014_015_bytes_that_no_target_has(byte: bytes, pad: int) -> None:
    refused(request(target=b"/" + b"a" * pad + byte + b"b" * pad))


def test_014_each_other_byte_is_kept() -> None:
    target = (
        b"/"
        + bytes(set(range(0x21, 0x7F)) - {ord("#"), ord("?")})
        + b"?"
        + bytes(set(range(0x21, 0x7F)) - {ord("#")})
    )
    parsed = accepted(request(target=target))
    assert parsed["target"] == target
    assert parsed["path"] + b"?" + parsed["query"] == target


@pytest.mark.parametrize(
    "target", [b"*", b"foo", b"host:80", b"?q", b":80", b"a/b", b"*/", b"http:/a", b"http:a", b"1http://a/"]
)
def test_016_targets_in_no_form(target: bytes) -> None:
    refused(request(target=target))


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", None),
        (b"/a?", b"/a", b""),
        (b"/a?b?c", b"/a", b"b?c"),
        (b"//a/../%00;", b"//a/../%00;", None),
    ],
)
def test_022_origin_form(target: bytes, path: bytes, query: bytes | None) -> None:
    parsed = accepted(request(target=target))
    assert (parsed["target"], parsed["path"], parsed["query"], parsed["form"]) == (target, path, query, 0)


def test_017_asterisk_form() -> None:
    parsed = accepted(request(method=b"OPTIONS", target=b"*"))
    assert (parsed["target"], parsed["path"], parsed["form"]) == (b"*", b"*", 3)


@pytest.mark.parametrize(
    ("method", "target", "sent", "path", "query", "host", "name"),
    [
        (b"GET", b"http://h.test/a?b", b"/a?b", b"/a", b"b", b"h.test", b"h.test"),
        (b"GET", b"HTTP://h.test:81/a", b"/a", b"/a", None, b"h.test:81", b"h.test"),
        (b"GET", b"http://h", b"/", b"/", None, b"h", b"h"),
        (b"GET", b"http://h?q", b"?q", b"/", b"q", b"h", b"h"),
        (b"OPTIONS", b"http://h", b"*", b"*", None, b"h", b"h"),
        (b"OPTIONS", b"http://h/", b"/", b"/", None, b"h", b"h"),
        (b"GET", b"http://[::1]:8/", b"/", b"/", None, b"[::1]:8", b"[::1]"),
    ],
)
def test_018_019_absolute_form(
    method: bytes, target: bytes, sent: bytes, path: bytes, query: bytes | None, host: bytes, name: bytes
) -> None:
    parsed = accepted(request(method=method, target=target, host=b"other"))
    assert [parsed[key] for key in ("target", "path", "query", "host", "host_name", "form")] == [
        sent,
        path,
        query,
        host,
        name,
        1,
    ]
    assert parsed["bare_query"] == (sent == b"?q")


def test_019_host_is_needed_and_judged_beside_an_absolute_form() -> None:
    refused(request(target=b"http://h/", host=None))
    refused(request(target=b"http://h/", host=b"a b"))


@pytest.mark.parametrize(
    "target", [b"http://u@h/", b"http:///a", b"http://", b"http://a,b/", b"http://a:99999/", b"http://:80/"]
)
def test_020_malformed_authority(target: bytes) -> None:
    refused(request(target=target))


@pytest.mark.parametrize("target", [b"https://h/", b"ftp://h", b"httpx://h/", b"a+b-c.1://"])
def test_021_other_schemes(target: bytes) -> None:
    refused(request(target=target), 421)


@pytest.mark.parametrize("target", [b"h:443", b"[::1]:443", b"h:1"])
def test_023_connect_is_off(target: bytes) -> None:
    refused(request(method=b"CONNECT", target=target), 405)


@pytest.mark.parametrize(
    "target", [b"h", b"h:", b"h:0", b"h:65536", b"/", b"*", b":443", b"http://h:443/", b"u@h:1"]
)
def test_024_malformed_connect(target: bytes) -> None:
    refused(request(method=b"CONNECT", target=target))


@pytest.mark.parametrize(
    "host",
    [
        b"a,b", b"a b", b"a/b", b"a@b", b"[::1", b"::1]", b"[::1]x", b"[]", b"[:::1]", b"[g::1]",
        b"[1.2.3.4]", b"a:65536",
        b"a:x", b"a:80:80", b"a:80:", b"a::80", b":80", b"a..b", b"..", b".", b".a", b"a?b", b'"a"', b"a%zz",
        b"a%2", b"a%",
        b"a\xe9", b"[1:2:3:4:5:6:7]", b"[1:2:3:4:5:6:7:8:9]", b"[1::2::3]", b"[1:2:3:4::5:6:7:8]",
        b"[12345::]",
        b"[1:2:3:4:5:6:7:1.2.3.4]",
        b"[::1.2.3]", b"[::256.1.1.1]", b"[::1.2.3.4.5]", b"[1:]", b"[:1]", b"[::%25eth0]", b"a\\b", b"a|b",
    ],
)  # fmt: skip
def test_027_malformed_host(host: bytes) -> None:
    refused(request(host=host))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"Example.COM", b"Example.COM"), (b"a.b.:80", b"a.b"), (b"a:", b"a"), (b"1.2.3.4:65535",
        b"1.2.3.4"), (b"a%41!~_", b"a%41!~_"),
        (b"[::]", b"[::]"), (b"[::1]:80", b"[::1]"), (b"[1:2:3:4:5:6:7:8]", b"[1:2:3:4:5:6:7:8]"),
        (b"[1::]", b"[1::]"), (b"[1:2:3::4:5:6:7]", b"[1:2:3::4:5:6:7]"),
        (b"[::ffff:1.2.3.4]", b"[::ffff:1.2.3.4]"), (b"[1:2:3:4:5:6:1.2.3.4]", b"[1:2:3:4:5:6:1.2.3.4]"),
        (b"[fe80::aBcD:0]", b"[fe80::aBcD:0]"),
        (b"", b""),
    ],
)  # fmt: skip
def test_027_028_030_good_host(host: bytes, name: bytes) -> None:
    parsed = accepted(request(host=host))
    assert (parsed["host"], parsed["host_name"]) == (host, name)
