"""Request heads: rows 1 to 65 and 82 to 94 of the HTTP/1 acceptance list that a head alone decides."""

from __future__ import annotations

import pytest

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


def accepted(raw: bytes, **settings: object) -> dict:
    result, parsed = proto.parse_request(raw, **settings)
    assert result == len(raw), (result, raw)
    assert proto.parse_request(raw + b"\0\r\n", **settings) == (result, parsed)
    assert proto.parse_request(raw[:-1], **settings)[0] == 0
    steps = list(range(1, len(raw) + 1))
    assert proto.parse_request_in_steps(raw, steps, **settings) == (result, parsed, len(raw))
    return parsed


def refused(raw: bytes, status: int = 400, **settings: object) -> None:
    """All at once and byte by byte; and the same whatever comes behind."""
    results = {
        proto.parse_request(raw, **settings)[0],
        proto.parse_request(raw + b"GET / HTTP/1.1\r\n", **settings)[0],
        proto.parse_request_in_steps(raw + b"\r\n\r\n", list(range(1, len(raw) + 5)), **settings)[0],
    }
    assert len(results) == 1, results
    (result,) = results
    assert result < 0, (result, raw)
    assert STATUS_BY_ERROR[result] == status, raw


# Request line


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
    endless = b"GET " + b"/" * 9000
    result, _, known = proto.parse_request_in_steps(endless, list(range(1, len(endless) + 1)))
    assert STATUS_BY_ERROR[result] == 414
    assert known < 8300


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


# Host


def test_025_026_one_host() -> None:
    refused(request(host=None))
    refused(request(b"Host: a"))
    refused(request(b"A: b", b"HOST: a"))
    parsed = accepted(request(host=None, version=b"HTTP/1.0"))
    assert (parsed["host"], parsed["host_name"]) == (None, None)


@pytest.mark.parametrize(
    "host",
    [
        b"a,b", b"a b", b"a/b", b"a@b", b"[::1", b"::1]", b"[::1]x", b"[]", b"[:::1]", b"[g::1]",
        b"[1.2.3.4]", b"a:65536",
        b"a:x", b"a:80:80", b"a:80:", b"a::80", b":80", b"a..b", b"..", b".", b".a", b"a?b", b'"a"', b"a%zz",
        b"a%2", b"a%",
        b"a\xe9", b"[1:2:3:4:5:6:7]", b"[1:2:3:4:5:6:7:8:9]", b"[1::2::3]", b"[12345::]",
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
        (b"[::]", b"[::]"), (b"[::1]:80", b"[::1]"), (b"[1:2:3:4:5:6:7:8]", b"[1:2:3:4:5:6:7:8]"), (b"[1::]",
        b"[1::]"),
        (b"[::ffff:1.2.3.4]", b"[::ffff:1.2.3.4]"), (b"[1:2:3:4:5:6:1.2.3.4]", b"[1:2:3:4:5:6:1.2.3.4]"),
        (b"[fe80::aBcD:0]", b"[fe80::aBcD:0]"),
        (b"", b""),
    ],
)  # fmt: skip
def test_027_028_030_good_host(host: bytes, name: bytes) -> None:
    parsed = accepted(request(host=host))
    assert (parsed["host"], parsed["host_name"]) == (host, name)


# Fields


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


def test_045_limits_of_the_header_section() -> None:
    limits = (200, 4, 100, 32)
    accepted(request(b"A: b", b"A: b", b"A: b"), limits=limits)
    refused(request(b"A: b", b"A: b", b"A: b", b"A: b"), 431, limits=limits)
    fits = request(b"A: " + b"x" * (200 - len(request(b"A: "))))
    assert len(fits) == 200
    accepted(fits, limits=limits)
    refused(request(b"A: " + b"x" * (201 - len(request(b"A: ")))), 431, limits=limits)
    assert STATUS_BY_ERROR[proto.parse_request(request()[:-2] + b"N" * 400, limits)[0]] == 431
    # An error inside the limit comes first, one behind it is never seen.
    refused(request(b"A : b", b"A: " + b"x" * 300), limits=limits)
    refused(request(b"A: " + b"x" * 300, b"A : b"), 431, limits=limits)
    assert len(accepted(request(*[b"A: b"] * 255), limits=(1 << 16, 1000, 100, 32))["fields"]) == 256
    refused(request(*[b"A: b"] * 256), 431, limits=(1 << 16, 1000, 100, 32))


def test_045_a_name_longer_than_a_field_can_say() -> None:
    refused(request(b"N" * 65536 + b": x"), 431, limits=(1 << 20, 100, 100, 32))
    assert accepted(request(b"N" * 3000 + b": x"))["fields"][1][0] == b"N" * 3000


def test_045_a_head_byte_by_byte_costs_linear_time() -> None:
    line = b"Field-Name: " + b"v" * 1000
    limits = (1 << 21, 256, 100, 32)
    short, long = (request(*[line] * count) for count in (12, 192))
    times = []
    for raw in (short, long):
        best = min(proto.dribble_request(raw, limits)[1] for _ in range(3))
        assert proto.dribble_request(raw, limits)[0] == len(raw)
        times.append(best / len(raw))
    assert times[1] < 6 * times[0], times  # quadratic would be 16


# Framing


@pytest.mark.parametrize("value", [b"+5", b"-5", b"5x", b"0x5", b"5_0", b"5.0", b"5e0", b"", b"5, 5", b"5,6",
b"9223372036854775808",
                                   b"18446744073709551621", b"\xb2", b"5 5",
                                   b"99999999999999999999"])  # fmt: skip
def test_047_to_051_bad_lengths(value: bytes) -> None:
    refused(request(b"Content-Length: " + value))


@pytest.mark.parametrize("second", [b"5", b"6", b""])
def test_050_to_052_two_lengths(second: bytes) -> None:
    refused(request(b"Content-Length: 5", b"content-length: " + second))
    refused(request(b"Content-Length: " + second, b"content-length: 5"))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"5", 5),
        (b"005", 5),
        (b"0", 0),
        (b"000", 0),
        (b"9223372036854775807", 2**63 - 1),
        (b"4294967301", 2**32 + 5),
    ],
)
def test_048_049_good_lengths(value: bytes, number: int) -> None:
    parsed = accepted(request(b"Content-Length: " + value, method=b"POST"))
    assert (parsed["body"], parsed["content_length"]) == ("length" if number else "none", number)


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


# Connection


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


def _dropped(*lines: bytes) -> list[bytes]:
    return [name for name, _, dropped in accepted(request(*lines))["fields"] if dropped]


def test_082_084_fields_of_one_hop() -> None:
    assert _dropped(b"X-Foo: 1", b"Connection: close, ,x-FOO", b"x-foo: 2", b"X-Food: 3") == [
        b"X-Foo",
        b"Connection",
        b"x-foo",
    ]
    lines = [
        b"Keep-Alive: x",
        b"Proxy-Connection: x",
        b"TE: x",
        b"Upgrade: x",
        b"Trailer: x",
        b"HTTP2-Settings: x",
    ]
    assert _dropped(*lines) == [line.split(b":")[0] for line in lines]
    assert _dropped(
        b"Connection: X-Forwarded-For, Forwarded, X-Request-Id", b"X-Forwarded-For: 1", b"X-Request-Id: 1"
    ) == [b"Connection"]
    assert _dropped(b'Connection: "X-Foo", X-Foo;q=1', b"X-Foo: 1") == [b"Connection"]


@pytest.mark.parametrize("name", [b"Content-Length", b"TRANSFER-encoding", b"host", b"Expect"])
def test_083_connection_may_not_name_framing(name: bytes) -> None:
    refused(request(b"Connection: " + name))
    refused(request(b"Connection: close", b"Connection: x , " + name))


def test_082_names_in_connection_are_bounded() -> None:
    accepted(request(b"Connection: " + b",".join([b"x"] * 64)))
    refused(request(b"Connection: " + b",".join([b"x"] * 65)))


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
