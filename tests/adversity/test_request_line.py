"""Rows 1 to 24 of the HTTP/1 acceptance list: the request line and the request target."""

from __future__ import annotations

import pytest

from support.rig import SMUGGLED, Rig, unique
from support.wire import get, request


@pytest.mark.parametrize("empty_lines", [1, 2], ids=["001-one-crlf", "001-two-crlf"])
def test_case_001_empty_lines_before_a_request_are_skipped(rig: Rig, empty_lines: int) -> None:
    path = unique()
    seen = rig.forward(b"\r\n" * empty_lines + get(path))
    assert seen.request.target == path
    assert seen.raw.startswith(b"GET ")


def test_case_001_empty_lines_between_pipelined_requests(rig: Rig) -> None:
    first, second = unique(), unique()
    with rig.client() as client:
        client.send(get(first) + b"\r\n" + get(second))
        assert client.read_response().json()["target"] == first
        assert client.read_response().json()["target"] == second
        rig.sentinels(client)


@pytest.mark.parametrize(
    "prefix",
    [b"\r\n\r\n\r\n", b"\n", b"\r", b"\r\r\n", b"\r\n\r", b"\r\n\n", b" \r\n"],
    ids=["001-three-crlf", "001-lf", "001-cr", "001-cr-crlf", "001-crlf-cr", "001-crlf-lf", "001-sp-crlf"],
)
def test_case_001_other_prefixes_are_refused(rig: Rig, prefix: bytes) -> None:
    rig.refuse(prefix + get("/"))


@pytest.mark.parametrize(
    "between",
    [b" ", b"\t", b" X: y\r\n ", b"\tHost: other\r\n", b" \r\n"],
    ids=["002-sp", "002-tab", "002-line-and-sp", "002-folded-host", "002-blank-line"],
)
def test_case_002_space_between_request_line_and_first_field(rig: Rig, between: bytes) -> None:
    rig.refuse(b"GET / HTTP/1.1\r\n" + between + b"Host: test\r\n\r\n")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\nHost: test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nA: b\nC: d\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\n\n",
        b"GET / HTTP/1.1\nHost: test\n\n",
    ],
    ids=["003-request-line", "003-host", "003-field", "003-end-of-head", "003-everywhere"],
)
def test_case_003_bare_line_feed(rig: Rig, raw: bytes) -> None:
    rig.refuse(raw)


@pytest.mark.parametrize(
    "line",
    [
        b"GET\r/ HTTP/1.1",
        b"GET /\rx HTTP/1.1",
        b"GET /\r HTTP/1.1",
        b"GET / \rHTTP/1.1",
        b"GET / HTTP/1.1\r",
        b"\rGET / HTTP/1.1",
        b"GET / HTTP/1.1\rX: y",
    ],
    ids=[
        "004-after-method",
        "004-in-target",
        "004-after-target",
        "004-before-version",
        "004-after-version",
        "004-before-method",
        "004-for-crlf",
    ],
)
def test_case_004_bare_carriage_return(rig: Rig, line: bytes) -> None:
    rig.refuse(line + b"\r\nHost: test\r\n\r\n")


@pytest.mark.parametrize(
    "space",
    [b"  ", b"\t", b" \t", b"\x0b", b"\x0c", b"\xa0"],
    ids=["sp-sp", "tab", "sp-tab", "vt", "ff", "nbsp"],
)
@pytest.mark.parametrize(
    "line",
    [b"GET%b/ HTTP/1.1", b"GET /%bHTTP/1.1", b"GET / HTTP/1.1%b", b"%bGET / HTTP/1.1"],
    ids=["005-after-method", "005-after-target", "005-after-version", "005-before-method"],
)
def test_case_005_other_white_space_between_the_parts(rig: Rig, line: bytes, space: bytes) -> None:
    rig.refuse(line % space + b"\r\nHost: test\r\n\r\n")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /\r\n\r\n",
        b"GET /\r\nHost: test\r\n\r\n",
        b"GET\r\nHost: test\r\n\r\n",
        b"GET \r\nHost: test\r\n\r\n",
        b"GET / \r\nHost: test\r\n\r\n",
        b"GET HTTP/1.1\r\nHost: test\r\n\r\n",
    ],
    ids=[
        "006-simple",
        "006-simple-and-host",
        "006-method-alone",
        "006-method-sp",
        "006-empty-version",
        "006-no-target",
    ],
)
def test_case_006_no_version(rig: Rig, raw: bytes) -> None:
    rig.refuse(raw)


@pytest.mark.parametrize(
    "version",
    [
        b"HTTP/1.10",
        b"HTTP/01.1",
        b"HTTP/1.1x",
        b"http/1.1",
        b"Http/1.1",
        b"HTTP/1.",
        b"HTTP/.1",
        b"HTTP/11",
        b"HTTP/1",
        b"HTTP 1.1",
        b"HTTP/1,1",
        b"HTTP/+1.1",
        b"HTTP/1.-1",
        b"HTTPS/1.1",
        b"ICY/1.1",
        b"HTTP/x.y",
        b"XTTP/1.1",
    ],
    ids=lambda version: "007-" + version.decode().replace("/", "_"),
)
def test_case_007_malformed_version(rig: Rig, version: bytes) -> None:
    rig.refuse(b"GET / " + version + b"\r\nHost: test\r\n\r\n")


@pytest.mark.parametrize(
    "version",
    [b"HTTP/2.0", b"HTTP/3.0", b"HTTP/0.9", b"HTTP/9.9"],
    ids=lambda version: "007-" + version.decode().replace("/", "_"),
)
def test_case_007_other_major_version(rig: Rig, version: bytes) -> None:
    rig.refuse(b"GET / " + version + b"\r\nHost: test\r\n\r\n", 505)


@pytest.mark.parametrize("minor", [b"2", b"9"], ids=["008-1.2", "008-1.9"])
def test_case_008_later_minor_version_is_forwarded_as_ours(rig: Rig, minor: bytes) -> None:
    seen = rig.forward(get(unique()).replace(b"HTTP/1.1", b"HTTP/1." + minor))
    assert seen.request.version == "1.1"
    assert seen.response.minor_version == 1


@pytest.mark.parametrize(
    "method",
    [
        b"GE(T",
        b"GET\x00",
        b"G\x7fET",
        b"GE\x80T",
        b"GET:",
        b'"GET"',
        b"GE,T",
        b"[GET]",
        b"{GET",
        b"GET@",
        b"",
    ],
    ids=[
        "009-paren",
        "009-nul",
        "009-del",
        "009-high",
        "009-colon",
        "009-quotes",
        "009-comma",
        "009-brackets",
        "009-brace",
        "009-at",
        "009-empty",
    ],
)
def test_case_009_method_that_is_no_token(rig: Rig, method: bytes) -> None:
    rig.refuse(method + b" / HTTP/1.1\r\nHost: test\r\n\r\n")


@pytest.mark.parametrize("method", ["PURGE", "PROPFIND", "FOO", "X-Y", "M-SEARCH", "!#$%&'*+.^_`|~", "A"])
def test_case_010_unknown_method_is_forwarded(rig: Rig, method: str) -> None:
    seen = rig.forward(request(method, unique()))
    assert seen.request.method == method


@pytest.mark.parametrize("method", ["get", "Get", "post", "head"])
def test_case_011_methods_are_case_sensitive(rig: Rig, method: str) -> None:
    # "head" is no HEAD: its answer has a body.
    seen = rig.forward(request(method, unique()))
    assert seen.request.method == method
    assert seen.response.json()["method"] == method


def test_case_012_method_longer_than_the_limit(rig: Rig) -> None:
    rig.refuse(request("M" * 33, "/"), 501, code="method_unsupported")
    rig.refuse(request("M" * 5000, "/"), 501, code="method_unsupported")
    assert rig.forward(request("M" * 32, unique())).request.method == "M" * 32


def test_case_013_target_longer_than_the_limit(rig: Rig) -> None:
    rig.refuse(get("/" + "a" * 8192), 414, code="target_too_long")
    rig.refuse(get("/" + "a" * 20_000), 414, code="target_too_long")
    rig.refuse(b"GET /" + b"a" * 40_000, 414, tail=b"", code="target_too_long")


def test_case_013_a_line_of_eight_thousand_octets_is_served(rig: Rig) -> None:
    path = unique() + "?" + "q" * 8000
    assert rig.forward(get(path)).request.target == path


@pytest.mark.parametrize(
    "byte",
    [b" ", b"\0", b"\x01", b"\x1f", b"\x7f", b"\x80", b"\xa0", b"\xff", b"\xc3\xa9"],
    ids=lambda byte: "014-" + byte.hex(),
)
@pytest.mark.parametrize("place", [b"/%b", b"/a%bb", b"/a?q=%b"], ids=["start", "path", "query"])
def test_case_014_bytes_that_no_target_may_hold(rig: Rig, place: bytes, byte: bytes) -> None:
    rig.refuse(b"GET " + place % byte + b" HTTP/1.1\r\nHost: test\r\n\r\n")


@pytest.mark.parametrize(
    "target",
    ["/a#b", "/#", "/a?b#c", "#", "http://test/a#b"],
    ids=lambda target: "015-" + target.replace("/", "_"),
)
def test_case_015_fragment(rig: Rig, target: str) -> None:
    rig.refuse(get(target))


@pytest.mark.parametrize(
    "target",
    ["*", "foo", "host:80", "a/b", "?q", "host", "*/", ":80"],
    ids=lambda target: "016-" + target.replace("/", "_"),
)
def test_case_016_target_in_no_form_that_get_may_have(rig: Rig, target: str) -> None:
    rig.refuse(get(target))


def test_case_017_options_asterisk_is_forwarded(rig: Rig) -> None:
    assert rig.forward(request("OPTIONS", "*")).request.target == "*"


def test_case_018_options_of_an_authority_becomes_asterisk(rig: Rig) -> None:
    seen = rig.forward(request("OPTIONS", "http://example.test", host=b"example.test"))
    assert seen.request.target == "*"
    assert seen.request.get("host") == "example.test"


@pytest.mark.parametrize(
    ("target", "origin_form", "host"),
    [
        ("http://real.test/a?b=c", "/a?b=c", "real.test"),
        ("http://real.test:8080/a", "/a", "real.test:8080"),
        ("HTTP://real.test/a", "/a", "real.test"),
        ("http://real.test", "/", "real.test"),
        ("http://real.test?q=1", "/?q=1", "real.test"),
        ("http://[::1]:80/a", "/a", "[::1]:80"),
    ],
    ids=["019-path", "019-port", "019-scheme-case", "019-no-path", "019-query-alone", "019-ipv6"],
)
def test_case_019_absolute_form_overrides_host(rig: Rig, target: str, origin_form: str, host: str) -> None:
    seen = rig.forward(get(target))
    assert seen.request.target == origin_form
    assert seen.request.get("host") == host


def test_case_019_absolute_form_with_a_malformed_host_is_still_refused(rig: Rig) -> None:
    rig.refuse(request("GET", "http://real.test/", b"Host: b", host=b"a"))
    rig.refuse(request("GET", "http://real.test/", host=b"a b"))
    rig.refuse(request("GET", "http://real.test/", host=None))


@pytest.mark.parametrize(
    "target",
    ["http://user@test/", "http://user:secret@test/", "http://@test/", "http://a@b@test/"],
    ids=["020-user", "020-password", "020-empty-user", "020-two"],
)
def test_case_020_userinfo(rig: Rig, target: str) -> None:
    rig.refuse(get(target))


@pytest.mark.parametrize(
    "target",
    [
        "http:///a",
        "http://",
        "http:/a",
        "http:a",
        "http://a b/",
        "http://a:99999/",
        "http://[::1/",
        "http://a,b/",
    ],
    ids=["no-host", "nothing", "one-slash", "no-slash", "space", "port", "bracket", "comma"],
)
def test_case_020_malformed_authority(rig: Rig, target: str) -> None:
    rig.refuse(get(target))


@pytest.mark.parametrize("scheme", ["https", "ftp", "ws", "foo"], ids=lambda scheme: "021-" + scheme)
def test_case_021_other_schemes_are_misdirected(rig: Rig, scheme: str) -> None:
    mark = rig.origin.mark()
    with rig.client() as client:
        response = client.request(get(f"{scheme}://test/"))
        assert response.status == 421
        assert response.error_code
        rig.sentinels(None if response.says_close else client)
    rig.untouched(mark)


@pytest.mark.parametrize(
    "suffix",
    [
        "/a/../b",
        "//a",
        "/%2e%2e/b",
        "/%00",
        "/;p=1",
        "/./a",
        "/a//b",
        "/%2F",
        "/a%20b",
        "/?a=b?c/../d",
        "/\\x",
        "/a|b",
        "/{a}",
        "/%zz",
        "/%",
        "/a?",
        "/!$&'()*+,;=:@-._~",
        "/a?%23",
        "/..",
        "/%2E%2E%2f",
    ],
    ids=lambda suffix: "022-" + suffix.replace("/", "_").replace("\\", "backslash"),
)
def test_case_022_path_and_query_are_forwarded_byte_by_byte(rig: Rig, suffix: str) -> None:
    target = unique() + suffix
    assert rig.forward(get(target)).request.target == target


def test_case_022_double_slash_at_the_start_is_kept(rig: Rig) -> None:
    assert rig.forward(get("//a")).request.target == "//a"
    assert rig.forward(get("//a/../%2e%2e//")).request.target == "//a/../%2e%2e//"


@pytest.mark.parametrize(
    "target", ["host:443", "host.test:80", "[::1]:443", "127.0.0.1:1"], ids=lambda target: "023-" + target
)
def test_case_023_connect_is_off(rig: Rig, target: str) -> None:
    rig.refuse(request("CONNECT", target, host=target.encode()), (405, 501), code="method_unsupported")


@pytest.mark.parametrize(
    "target",
    ["host:", "host", "host:99999", "host:0x50", "/", "/path", "*", ":443", "http://host:443/", "host:44 3"],
    ids=lambda target: "024-" + target.replace("/", "_"),
)
def test_case_024_malformed_connect(rig: Rig, target: str) -> None:
    rig.refuse(request("CONNECT", target))


def test_refused_requests_answer_once(rig: Rig) -> None:
    """Whatever stands behind a refused request is not answered, even if it is read in the same turn."""
    rig.refuse(b"GET / HTTP/9\r\nHost: test\r\n\r\n", tail=SMUGGLED * 50)
