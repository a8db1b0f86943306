"""Rows 25 to 31 of the HTTP/1 acceptance list: Host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.origin import Origin
from support.rig import Rig, unique
from support.wire import get, request


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"], ids=lambda method: "025-" + method)
def test_case_025_no_host(rig: Rig, method: str) -> None:
    rig.refuse(request(method, "/", host=None))


@pytest.mark.parametrize(
    "second",
    [b"Host: test", b"Host: other", b"HOST: test", b"host:", b"A: b\r\nHost: test"],
    ids=["026-equal", "026-different", "026-case", "026-empty", "026-apart"],
)
def test_case_026_two_hosts(rig: Rig, second: bytes) -> None:
    rig.refuse(get("/", second))
    rig.refuse(request("GET", "/", second, b"Host: test", host=None))


_BAD_HOSTS = [
    b"a,b",
    b"a, b",
    b"a b",
    b"a\tb",
    b"a/b",
    b"/",
    b"a@b",
    b"@",
    b"user@a",
    b"a\x01b",
    b"a\x7f",
    b"[::1",
    b"::1]",
    b"[::1]x",
    b"[]",
    b"[:::1]",
    b"[g::1]",
    b"[1.2.3.4]",
    b"[::1]:",
    b"[::1]:x",
    b"a:65536",
    b"a:99999",
    b"a:080x",
    b"a:-1",
    b"a:+80",
    b"a:80:80",
    b"a:80:",
    b"a::80",
    b":80",
    b"a..b",
    b"..",
    b".",
    b".a",
    b"a?b",
    b"a#b",
    b"a\\b",
    b'"a"',
    b"a<b",
    b"a>b",
    b"a[b]",
    b"a{b",
    b"a|b",
    b"a^b",
    b"a`b",
    b"a%zzb",
    b"a%",
    b"a%2",
    b"a;b c",
    b"http://a",
    b"a\xe9",
    b"\x80",
    b"\xa0a",
    b"a:\x20",
    b"a :80",
    b"a: 80",
    b"fe80::1",
    b"a:8\x000",
]


@pytest.mark.parametrize(
    "host",
    [host for host in _BAD_HOSTS if host.strip() == host and host not in (b"[::1]:", b"a:080x")],
    ids=lambda host: "027-" + host.decode("latin-1").encode("unicode_escape").decode().replace("/", "_"),
)
def test_case_027_malformed_host(rig: Rig, host: bytes) -> None:
    rig.refuse(request("GET", "/", host=host))


@pytest.mark.parametrize(
    "host",
    [
        b"example.com",
        b"example.com:8080",
        b"a_b.example",
        b"1.2.3.4",
        b"1.2.3.4:80",
        b"[::1]",
        b"[::1]:8080",
        b"[2001:db8::1]:1",
        b"a-b",
        b"localhost",
        b"xn--bcher-kva.example",
        b"a%41b",
        b"a!b",
        b"~a",
        b"a:65535",
        b"x" * 200,
    ],
    ids=lambda host: "027-good-" + host.decode()[:40],
)
def test_case_027_good_host_is_forwarded_unchanged(rig: Rig, host: bytes) -> None:
    assert rig.forward(request("GET", unique(), host=host)).request.get("host") == host.decode()


@pytest.fixture(scope="module")
def by_host() -> Iterator[Rig]:
    """Two services told apart by host alone, and a route for any host on /any."""
    special = Origin(name="special")
    routes = [
        {"path": "/", "hosts": ["shop.example.com", "*.wild.example.com"], "service": "special"},
        {"path": "/any", "service": "origin"},
        {"path": "/sentinel-", "service": "origin"},
    ]
    rig = Rig(listener={"routes": routes})
    rig.config["services"]["special"] = {"endpoints": [special.text]}
    # Prefixes match by path element, so the sentinels, whose paths are numbered, get their own catch-all by
    # host.
    routes[2] = {"path": "/", "hosts": ["sentinel"], "service": "origin"}
    rig.proxy.write(rig.config)
    rig.start()
    yield rig
    rig.stop()
    special.close()


@pytest.mark.parametrize("line", [b"Host:", b"Host: ", b"Host: \t "], ids=["028-bare", "028-sp", "028-blank"])
def test_case_028_empty_host_is_forwarded(rig: Rig, line: bytes) -> None:
    assert rig.forward(request("GET", unique(), line, host=None)).request.get("host") == ""


def test_case_028_empty_host_matches_no_hosts_route(by_host: Rig) -> None:
    with by_host.client() as client:
        response = client.request(request("GET", "/shop", host=b""))
        assert (response.status, response.error_code) == (404, "no_route")
        response = client.request(request("GET", "/any", host=b""))
        assert response.status == 200
        by_host.sentinel(client)


def test_case_029_http_1_0_without_host_gets_the_address_of_the_endpoint(rig: Rig) -> None:
    seen = rig.forward(f"GET {unique()} HTTP/1.0\r\n\r\n".encode(), kept=False)
    assert seen.request.get("host") == rig.origin.text
    assert seen.request.version == "1.1"


def test_case_029_http_1_0_with_host_keeps_it(rig: Rig) -> None:
    seen = rig.forward(f"GET {unique()} HTTP/1.0\r\nHost: Old.example\r\n\r\n".encode(), kept=False)
    assert seen.request.get("host") == "Old.example"


@pytest.mark.parametrize(
    "host",
    [
        b"shop.example.com",
        b"SHOP.Example.COM",
        b"shop.example.com.",
        b"shop.example.com:80",
        b"shop.example.com:8080",
        b"a.wild.example.com",
        b"A.B.WILD.example.com",
    ],
    ids=lambda host: "030-" + host.decode(),
)
def test_case_030_routing_ignores_the_case_of_host_and_its_port(by_host: Rig, host: bytes) -> None:
    with by_host.client() as client:
        answer = client.request(request("GET", unique(), host=host)).json()
        assert answer["origin"] == "special"
        assert [value for name, value in answer["fields"] if name.lower() == "host"] == [host.decode()], (
            "Host must pass unchanged"
        )
        by_host.sentinel(client)


@pytest.mark.parametrize(
    "host",
    [
        b"shop.example.org",
        b"wild.example.com",
        b"xshop.example.com",
        b"shop.example.com.evil",
        b"shop.example.co",
    ],
    ids=lambda host: "030-other-" + host.decode(),
)
def test_case_030_other_hosts_match_no_hosts_route(by_host: Rig, host: bytes) -> None:
    with by_host.client() as client:
        assert client.request(request("GET", "/", host=host)).status == 404
        by_host.sentinel(client)


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: test\r\n Host: other",
        b"Host: test\r\n\tother",
        b"Host: test\nHost: other",
        b"Host:\r\n test",
        b"A: b\nHost: other",
        b"A: b\rHost: other\r\nHost: test",
        b"A: b\r\n Host: other\r\nHost: test",
    ],
    ids=[
        "031-fold",
        "031-fold-tab",
        "031-lf",
        "031-folded-value",
        "031-lf-alone",
        "031-cr",
        "031-fold-before",
    ],
)
def test_case_031_host_by_folding_or_line_feed(rig: Rig, lines: bytes) -> None:
    rig.refuse(b"GET / HTTP/1.1\r\n" + lines + b"\r\n\r\n")
