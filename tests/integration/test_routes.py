"""Routes as a user sees them: what matches, what is rewritten, redirected, answered here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.client import Client, Response
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.wire import get, request

NAMES = ("user", "exact", "post", "canary", "shop", "wild", "deep", "rest")

ROUTES: list[dict[str, Any]] = [
    {"path": "/user", "service": "user"},
    {"path": {"exact": "/exact"}, "service": "exact"},
    {"path": "/method", "methods": ["POST", "PUT"], "service": "post"},
    {"path": "/header", "headers": {"x-canary": "yes", "x-two": "2"}, "service": "canary"},
    {"path": "/host", "hosts": ["shop.example.com"], "service": "shop"},
    {"path": "/host", "hosts": ["*.example.com"], "service": "wild"},
    {"path": "/a/b/c", "service": "deep"},
    {"path": "/strip", "service": "rest", "rewrite": {"prefix": "/"}},
    {"path": "/swap", "service": "rest", "rewrite": {"prefix": "/new/place"}},
    {"path": "/old", "redirect": {"to": "/new"}},
    {"path": "/moved", "redirect": {"to": "https://elsewhere.example/x", "status": 301}},
    {"path": "/ping", "respond": {"status": 200, "body": "pong\n"}},
    {"path": "/teapot", "respond": {"status": 418}},
    {"path": "/quick", "service": "rest", "timeout": "200ms"},
    {"path": "/", "hosts": ["only.example"], "service": "rest"},
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tuple[str, int], dict[str, Origin]]]:
    origins = {name: Origin(name=name) for name in NAMES}
    address = ("127.0.0.1", free_port())
    config = {
        "workers": 1,
        "listeners": {"web": {"bind": f"127.0.0.1:{address[1]}", "routes": ROUTES}},
        "services": {name: {"endpoints": [origin.text]} for name, origin in origins.items()},
    }
    proxy = Proxy(tmp_path_factory.mktemp("proxy"), config).start()
    yield address, origins
    print(proxy.new_stderr())
    proxy.stop()
    for origin in origins.values():
        origin.close()


Site = tuple[tuple[str, int], dict[str, Origin]]


def ask(site: Site, raw: bytes) -> Response:
    with Client(site[0]) as client:
        return client.request(raw)


def served_by(site: Site, raw: bytes) -> str | None:
    """Name of the service that answered; None for 404 `no_route`."""
    response = ask(site, raw)
    if response.status == 404:
        assert response.error_code == "no_route"
        return None
    assert response.status == 200
    name: str = response.json()["origin"]
    return name


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/user", "user"),
        ("/user/", "user"),
        ("/user/1/2", "user"),
        ("/user?x=1", "user"),
        ("/users", None),
        ("/use", None),
        ("/User", None),
        ("/exact", "exact"),
        ("/exact?q", "exact"),
        ("/exact/", None),
        ("/exact/1", None),
        ("/a/b/c/d", "deep"),
        ("/a/b", None),
        ("/a/b/cd", None),
        ("/", None),
        ("/user%2F1", None),
        ("/x/../user", None),
        ("//user", None),
    ],
)
def test_paths(site: Site, path: str, service: str | None) -> None:
    assert served_by(site, get(path)) == service


@pytest.mark.parametrize(
    ("method", "service"), [("POST", "post"), ("PUT", "post"), ("GET", None), ("post", None)]
)
def test_methods(site: Site, method: str, service: str | None) -> None:
    assert served_by(site, request(method, "/method")) == service


@pytest.mark.parametrize(
    ("lines", "service"),
    [
        ([b"X-Canary: yes", b"X-Two: 2"], "canary"),
        ([b"x-CANARY:yes", b"x-two:  2 "], "canary"),
        ([b"X-Canary: yes"], None),
        ([b"X-Canary: no", b"X-Two: 2"], None),
        ([b"X-Canary: YES", b"X-Two: 2"], None),
        ([b"X-Canary: yes, no", b"X-Two: 2"], None),
    ],
    ids=["both", "case-and-blanks", "one", "other-value", "value-case", "list"],
)
def test_headers(site: Site, lines: list[bytes], service: str | None) -> None:
    assert served_by(site, get("/header", *lines)) == service


@pytest.mark.parametrize(
    ("host", "service"),
    [
        (b"shop.example.com", "shop"),
        (b"Shop.Example.Com:8080", "shop"),
        (b"a.example.com", "wild"),
        (b"a.b.example.com", "wild"),
        (b"example.com", None),
        (b"shop.example.com.evil", None),
        (b"badexample.com", None),
        (b"only.example", "rest"),
    ],
)
def test_hosts(site: Site, host: bytes, service: str | None) -> None:
    assert served_by(site, request("GET", "/host", host=host)) == service


def test_absolute_form_is_routed_by_its_own_host(site: Site) -> None:
    assert served_by(site, request("GET", "http://shop.example.com/host", host=b"other")) == "shop"


@pytest.mark.parametrize(
    ("path", "forwarded"),
    [
        ("/strip", "/"),
        ("/strip/", "/"),
        ("/strip/a/b?c=d", "/a/b?c=d"),
        ("/strip?c=d", "/?c=d"),
        ("/strip//a", "/a"),
        ("/swap", "/new/place"),
        ("/swap/", "/new/place/"),
        ("/swap/a%2Fb/../c", "/new/place/a%2Fb/../c"),
        ("/swap?x", "/new/place?x"),
    ],
)
def test_rewriting_of_the_prefix(site: Site, path: str, forwarded: str) -> None:
    assert ask(site, get(path)).json()["target"] == forwarded


@pytest.mark.parametrize(
    ("path", "status", "location"),
    [
        ("/old", 308, b"/new"),
        ("/old?a=b", 308, b"/new?a=b"),
        ("/moved?a=b&c", 301, b"https://elsewhere.example/x?a=b&c"),
    ],
)
def test_redirects(site: Site, path: str, status: int, location: bytes) -> None:
    response = ask(site, get(path))
    assert (response.status, response.get("location")) == (status, location)
    assert response.error_code is None


def test_redirect_below_its_path(site: Site) -> None:
    """It replaces the path."""
    location = ask(site, get("/old/deeper?q")).get("location")
    assert location in (b"/new?q", b"/new/deeper?q")


def test_answers_of_a_route(site: Site) -> None:
    response = ask(site, get("/ping"))
    assert (response.status, response.body, response.error_code) == (200, b"pong\n", None)
    head = ask(site, request("HEAD", "/ping"))
    assert (head.status, head.body, head.get("content-length")) == (200, b"", b"5")
    assert ask(site, get("/teapot")).status == 418
    posted = ask(site, request("POST", "/ping", b"Content-Length: 5", body=b"hello"))
    assert posted.body == b"pong\n"


def test_body_of_a_request_that_is_answered_here_is_no_next_request(site: Site) -> None:
    hidden = get("/user/hidden")
    with Client(site[0]) as client:
        client.send(request("POST", "/ping", b"Content-Length: %d" % len(hidden), body=hidden) + get("/ping"))
        assert client.read_response("POST").body == b"pong\n"
        assert client.read_response().body == b"pong\n"
        client.send(request("POST", "/nowhere", b"Content-Length: %d" % len(hidden), body=hidden))
        response = client.read_response("POST")
        assert response.status == 404
        if not response.says_close:
            assert client.request(get("/ping")).body == b"pong\n"
    assert site[1]["user"].requests_for("/user/hidden") == []


def test_time_out_of_a_route(site: Site) -> None:
    def silent(exchange: Exchange) -> None:
        exchange.wait_peer_end()

    with site[1]["rest"].answering("/quick", silent):
        started = time.monotonic()
        response = ask(site, get("/quick"))
        assert (response.status, response.error_code) == (504, "upstream_timeout")
        assert 0.15 < time.monotonic() - started < 2
