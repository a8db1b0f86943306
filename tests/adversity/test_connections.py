"""Rows 107 to 112 of the HTTP/1 acceptance list: pipelining, ends of connections, reuse, upgrades."""

from __future__ import annotations

import threading

import pytest

from support.client import Client
from support.origin import Exchange
from support.rig import SMUGGLED, Rig, unique
from support.wire import get, post, post_chunked, request


def test_case_107_a_hundred_pipelined_requests(rig: Rig) -> None:
    """In one segment, of all kinds; the first one is answered last by its origin, yet first by the proxy."""
    slow = unique("/slow")
    sent = threading.Event()

    def handler(exchange: Exchange) -> None:
        assert sent.wait(5)
        exchange.reply_echo()

    paths = [unique() for _ in range(99)]
    kinds = [
        get,
        lambda path: post(path, b"hello"),
        lambda path: post_chunked(path, b"he", b"llo"),
        lambda path: request("DELETE", path),
    ]
    mark = rig.origin.mark()
    with rig.origin.answering(slow, handler), rig.client() as client:
        client.send(get(slow) + b"".join(kinds[index % 4](path) for index, path in enumerate(paths)))
        sent.set()
        assert client.read_response().json()["target"] == slow
        for index, path in enumerate(paths):
            answer = client.read_response().json()
            assert answer["target"] == path
            assert answer["body"] == ("", "hello", "hello", "")[index % 4]
        rig.sentinels(client)
    assert [seen.path for seen in rig.seen(mark).requests] == [slow, *paths]


def test_case_107_pipelined_head_get_head(rig: Rig) -> None:
    with rig.client() as client:
        client.send(request("HEAD", "/a") + get("/b") + request("HEAD", "/c") + get("/d"))
        assert client.read_response("HEAD").status == 200
        assert client.read_response().json()["target"] == "/b"
        assert client.read_response("HEAD").status == 200
        assert client.read_response().json()["target"] == "/d"
        rig.sentinels(client)


def test_case_107_requests_without_end_behind_a_slow_one_are_not_buffered(rig: Rig) -> None:
    """The proxy stops reading: the client's writes block long before it has sent 64 MiB."""
    slow = unique("/slow")
    go_on = threading.Event()

    def handler(exchange: Exchange) -> None:
        assert go_on.wait(20)
        exchange.reply_echo()

    batch = get("/pipelined", b"A: " + b"x" * 900) * 64
    with rig.origin.answering(slow, handler), rig.client() as client:
        client.send(get(slow))
        rig.origin.wait_request(slow)
        before = rig.proxy.resident_bytes()
        client.sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += client.sock.send(batch)
        except TimeoutError:
            pass
        assert sent < 64 << 20, "the proxy went on reading"
        assert rig.proxy.resident_bytes() - before < 4 << 20
        go_on.set()
        client.reset()
    rig.sentinels()


def test_case_108_bad_request_behind_good_ones(rig: Rig) -> None:
    paths = [unique() for _ in range(20)]
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(
            b"".join(get(path) for path in paths)
            + b"GET / HTTP/1.1\r\nHost : x\r\n\r\n"
            + SMUGGLED
            + b"x" * 100_000
        )
        for path in paths:
            assert client.read_response().json()["target"] == path
        assert client.read_response().status == 400
        assert client.how_it_ended() == "eof", "a reset may take the answers with it"
    rig.sentinels()
    assert [seen.path for seen in rig.seen(mark).requests] == paths


def test_case_108_bad_request_behind_a_large_answer(rig: Rig) -> None:
    path = unique()
    body = b"z" * 3_000_000

    def handler(exchange: Exchange) -> None:
        exchange.reply(200, body)

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(get(path) + b"BROKEN\r\n\r\n")
        assert client.read_response().body == body
        assert client.read_response().status == 400
        assert client.how_it_ended() == "eof"
    rig.sentinels()


def test_case_109_requests_behind_connection_close_are_ignored(rig: Rig) -> None:
    first, last = unique(), unique()
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(get(first) + get(last, b"Connection: close") + SMUGGLED)
        assert client.read_response().json()["target"] == first
        response = client.read_response()
        assert response.json()["target"] == last
        assert response.says_close
        assert client.how_it_ended() == "eof"
    rig.sentinels()
    assert [seen.path for seen in rig.seen(mark).requests] == [first, last]


@pytest.mark.parametrize(
    "value",
    [b"close", b"Close", b"CLOSE", b"keep-alive, close", b"close, keep-alive", b"foo,close"],
    ids=lambda value: "109-" + value.decode().replace(" ", ""),
)
def test_case_109_connection_close_in_any_form(rig: Rig, value: bytes) -> None:
    seen = rig.forward(get(unique(), b"Connection: " + value), kept=False)
    assert seen.response.says_close
    assert not any("close" in told.lower() for told in seen.request.all("connection")), (
        "the upstream connection is our own affair"
    )


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"], ids=["109-1.0", "109-1.0-close"])
def test_case_109_http_1_0_closes(rig: Rig, connection: bytes) -> None:
    path = unique()
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(f"GET {path} HTTP/1.0\r\nHost: test\r\n".encode() + connection + b"\r\n" + SMUGGLED)
        assert client.read_response().json()["target"] == path
        assert client.how_it_ended() == "eof"
    rig.sentinels()
    assert [seen.path for seen in rig.seen(mark).requests] == [path]


def test_case_109_http_1_0_keep_alive_is_an_option_that_must_be_said(rig: Rig) -> None:
    """Either it closes, or it says `Connection: keep-alive` and keeps."""
    path = unique()
    with rig.client() as client:
        response = client.request(
            f"GET {path} HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n".encode()
        )
        assert response.json()["target"] == path
        if any(b"keep-alive" in value.lower() for value in response.all("connection")):
            rig.sentinels(client)
        else:
            assert client.how_it_ended() == "eof"
    rig.sentinels()


def test_case_110_half_close_behind_a_complete_request(rig: Rig) -> None:
    path = unique()
    closed = threading.Event()
    body = b"y" * 2_000_000

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        assert closed.wait(5)
        exchange.reply(200, body)

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(post(path, b"hello"))
        rig.origin.wait_request(path)
        client.shutdown_write()
        closed.set()
        response = client.read_response("POST")
        assert response.body == body
        assert client.how_it_ended() == "eof"
    rig.sentinels()


def test_case_110_half_close_behind_pipelined_requests(rig: Rig) -> None:
    paths = [unique() for _ in range(10)]
    with rig.client() as client:
        client.send(b"".join(get(path) for path in paths))
        client.shutdown_write()
        for path in paths:
            assert client.read_response().json()["target"] == path
        assert client.how_it_ended() == "eof"
    rig.sentinels()


@pytest.mark.parametrize(
    "part",
    [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: test\r\nA: b\r\n"],
    ids=lambda part: f"110-{len(part)}",
)
def test_case_110_fin_inside_a_head(rig: Rig, part: bytes) -> None:
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(part)
        client.shutdown_write()
        left = client.read_to_end()
        assert left == b"" or left.startswith(b"HTTP/1.1 400 "), left
    rig.sentinels()
    rig.untouched(mark)


def test_case_110_fin_without_a_request(rig: Rig) -> None:
    with rig.client() as client:
        client.shutdown_write()
        assert client.read_to_end() == b""
    with rig.client() as client:
        rig.sentinel(client)
        client.shutdown_write()
        assert client.read_to_end() == b""
    rig.sentinels()


def test_case_110_reset_while_the_origin_is_at_work(rig: Rig) -> None:
    path = unique()
    cancelled = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.wait_peer_end(3)
        cancelled.set()

    with rig.origin.answering(path, handler):
        client = rig.client()
        client.send(get(path))
        rig.origin.wait_request(path)
        client.reset()
        assert cancelled.wait(3), "the origin was left to work for nobody"
    rig.sentinels()


def test_case_110_reset_during_the_response(rig: Rig) -> None:
    path = unique()
    ended = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                exchange.send(b"x" * 65536)
        finally:
            ended.set()

    with rig.origin.answering(path, handler):
        client = rig.client()
        client.send(get(path))
        client.read_exactly(100_000)
        client.reset()
        assert ended.wait(3)
    rig.sentinels()


def _kill_on_reuse(exchange: Exchange) -> None:
    """A connection's first request is answered; at its second one the connection ends without a byte."""
    if exchange.request.number == 0:
        exchange.read_body()
        exchange.reply_echo()
    else:
        exchange.close()


@pytest.fixture
def fresh():  # type: ignore[no-untyped-def]
    """A proxy of its own, so that the pool holds only what the case put there."""
    rig = Rig().start()
    yield rig
    rig.stop()


def test_case_111_upstream_connection_ends_at_reuse(fresh: Rig) -> None:
    with fresh.origin.answering(None, _kill_on_reuse), fresh.client() as client:
        for _ in range(5):
            first, second = unique(), unique()
            assert client.request(get(first)).json()["target"] == first
            response = client.request(get(second))
            assert response.status == 200, "an idempotent request is tried again on another connection"
            assert response.json()["target"] == second
        assert client.is_open()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_case_111_idempotent_methods_are_tried_again(fresh: Rig, method: str) -> None:
    with fresh.origin.answering(None, _kill_on_reuse), fresh.client() as client:
        client.request(get(unique()))
        path = unique()
        fields = [b"Content-Length: 5"] if method == "PUT" else []
        response = client.request(request(method, path, *fields, body=b"hello" if fields else b""))
        assert response.status == 200
        answered = [seen for seen in fresh.origin.requests_for(path) if seen.number == 0]
        assert len(answered) == 1
        assert answered[0].body == (b"hello" if fields else b"")


@pytest.mark.parametrize("method", ["POST", "PATCH", "FOO"])
def test_case_111_other_methods_are_sent_once(fresh: Rig, method: str) -> None:
    with fresh.origin.answering(None, _kill_on_reuse), fresh.client() as client:
        client.request(get(unique()))
        path = unique()
        response = client.request(request(method, path, b"Content-Length: 5", body=b"hello"))
        assert (response.status, response.error_code) in ((502, "upstream_closed"), (502, "upstream_reset"))
        assert len(fresh.origin.requests_for(path)) == 1, (
            "a request that may not be repeated reached the origin twice"
        )
    fresh.sentinels()


def test_case_111_connection_that_ended_while_idle_is_not_used(fresh: Rig) -> None:
    """Its FIN has been here for long: even a POST goes to a new connection."""

    def once(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.reply_echo()
        exchange.close()

    with fresh.origin.answering(None, once), fresh.client() as client:
        for _ in range(20):
            path = unique()
            response = client.request(post(path, b"hello"))
            assert response.json()["target"] == path
            link = fresh.origin.connections[fresh.origin.requests_for(path)[0].connection]
            # The FIN is in the proxy's socket before the next request is: both may be of one batch, the FIN
            # goes first.
            fresh.origin.wait(lambda link=link: link.ended, "the end of the connection")


def test_case_111_all_pooled_connections_end_at_once(fresh: Rig) -> None:
    clients = [fresh.client() for _ in range(8)]
    for client in clients:
        client.send(get(unique()))
    for client in clients:
        assert client.read_response().status == 200
    fresh.origin.end_connections(reset=True)
    for client in clients:
        client.send(get(unique()))
    for client in clients:
        assert client.read_response().status == 200
        client.close()


# Upgrades

WEBSOCKET = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: x\r\n\r\n"
)


def _tunnel(exchange: Exchange) -> None:
    """Switch, then send back in upper case whatever comes, until the peer's half ends."""
    assert "upgrade" in (exchange.request.get("connection") or "").lower()
    assert exchange.request.get("upgrade") == "websocket"
    exchange.send(SWITCH)
    while data := exchange.receive():
        exchange.send(data.upper())
    exchange.send(b"BYE")
    exchange.close()


def _open_tunnel(rig: Rig, path: str, *, early: bytes = b"") -> Client:
    client = rig.client()
    client.send(get(path, *WEBSOCKET) + early)
    response = client.read_response()
    assert response.status == 101
    assert response.get("upgrade") == b"websocket"
    assert b"upgrade" in (response.get("connection") or b"").lower()
    assert response.get("sec-websocket-accept") == b"x"
    return client


def test_case_112_websocket_tunnel(rig: Rig) -> None:
    path = unique()
    with rig.origin.answering(path, _tunnel), _open_tunnel(rig, path) as client:
        client.send(b"\x81\x05hello \r\n\r\n GET / HTTP/1.1\r\n\r\n")
        assert client.read_exactly(31) == b"\x81\x05HELLO \r\n\r\n GET / HTTP/1.1\r\n\r\n"
        client.send(b"x" * 300_000)
        assert client.read_exactly(300_000) == b"X" * 300_000
        client.shutdown_write()  # our half ends; theirs goes on
        assert client.read_to_end() == b"BYE"
        assert client.ended == "eof"
    rig.sentinels()


def test_case_112_half_close_by_the_origin(rig: Rig) -> None:
    path = unique()
    received = []

    def handler(exchange: Exchange) -> None:
        exchange.send(SWITCH + b"last words")
        exchange.half_close()
        while data := exchange.receive():
            received.append(data)
        exchange.close()

    with rig.origin.answering(path, handler), _open_tunnel(rig, path) as client:
        assert client.read_to_end() == b"last words"
        client.send(b"still here")
        client.shutdown_write()
        link = rig.origin.connections[rig.origin.requests_for(path)[0].connection]
        rig.origin.wait(lambda: link.ended, "the end of the tunnel")
    assert b"".join(received) == b"still here"
    rig.sentinels()


def test_case_112_bytes_in_the_segment_of_the_request_and_of_the_switch(rig: Rig) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(SWITCH + b"first frame;")
        while data := exchange.receive():
            exchange.send(data.upper())
        exchange.close()

    with rig.origin.answering(path, handler), _open_tunnel(rig, path, early=b"early") as client:
        client.send(b"late")
        client.shutdown_write()
        assert client.read_to_end() == b"first frame;EARLYLATE"
    rig.sentinels()


@pytest.mark.parametrize("kill", ["client", "origin"])
def test_case_112_reset_ends_both_sides_of_a_tunnel(rig: Rig, kill: str) -> None:
    path = unique()
    opened = threading.Event()
    ended = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.send(SWITCH)
        assert opened.wait(5)
        if kill == "origin":
            exchange.reset()
        else:
            exchange.wait_peer_end(3)
        ended.set()

    with rig.origin.answering(path, handler):
        client = _open_tunnel(rig, path)
        opened.set()
        if kill == "client":
            client.reset()
        else:
            assert client.read_to_end() == b""
            client.close()
        assert ended.wait(3)
    rig.sentinels()


@pytest.mark.parametrize("status", [200, 403, 404, 426])
def test_case_112_refused_upgrade_with_bytes_behind_the_request(rig: Rig, status: int) -> None:
    """They are the next request, or the connection is closed: never are they sent to the origin as they
    are."""
    path, hidden = unique(), unique("/hidden")
    mark = rig.origin.mark()

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.reply(status, b"no")

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(get(path, *WEBSOCKET) + get(hidden, b"X-Forwarded-For: 6.6.6.6"))
        response = client.read_response()
        assert (response.status, response.body) == (status, b"no")
        if response.says_close:
            assert client.how_it_ended() == "eof"
        else:
            assert client.read_response().json()["target"] == hidden
            rig.sentinel(client)
    rig.sentinels()
    seen = rig.seen(mark)
    assert b"6.6.6.6" not in seen.raw, "bytes behind a refused upgrade went to the origin unread"


def test_case_112_refused_upgrade_with_junk_behind_the_request(rig: Rig) -> None:
    path = unique()
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(get(path, *WEBSOCKET) + b"\x81\x05junk!\0\0")
        assert client.read_response().status == 200
        rest = client.read_to_end() if not client.buffer else client.buffer
        assert rest == b"" or rest.startswith(b"HTTP/1.1 400 ")
    rig.sentinels()
    assert b"junk!" not in rig.seen(mark).raw


@pytest.mark.parametrize(
    "lines",
    [
        [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"],
        [b"Connection: upgrade", b"Upgrade: h2c"],
        [b"Connection: Upgrade", b"Upgrade: foo/1.0"],
        [b"Connection: Upgrade"],
        [b"Connection: Upgrade", b"Upgrade: TLS/1.0, HTTP/1.1"],
    ],
    ids=["112-h2c", "112-h2c-bare", "112-foo", "112-nothing", "112-tls"],
)
def test_case_112_other_upgrades_are_stripped(rig: Rig, lines: list[bytes]) -> None:
    seen = rig.forward(get(unique(), *lines))
    assert seen.request.all("upgrade") == []
    assert not any("upgrade" in value.lower() for value in seen.request.all("connection"))
    assert seen.request.all("http2-settings") == []


def test_case_112_h2c_beside_websocket(rig: Rig) -> None:
    path = unique()
    with rig.client() as client:
        answer = client.request(get(path, b"Connection: Upgrade", b"Upgrade: h2c, websocket")).json()
        assert not any("h2c" in value for _, value in answer["fields"])
        rig.sentinels(client)


def test_case_112_upgrade_of_http_1_0_is_ignored(rig: Rig) -> None:
    raw = f"GET {unique()} HTTP/1.0\r\nHost: test\r\n".encode() + b"\r\n".join(WEBSOCKET) + b"\r\n\r\n"
    seen = rig.forward(raw, kept=False)
    assert seen.request.all("upgrade") == []


def test_case_112_upgrade_with_a_body(rig: Rig) -> None:
    """The body is a body, framed as such; the tunnel starts behind it, or the upgrade is not offered, or it
    is refused."""
    path = unique()
    with rig.client() as client:
        response = client.request(request("GET", path, *WEBSOCKET, b"Content-Length: 5", body=b"hello"))
        assert response.status in (200, 400)
        if response.status == 200:
            assert response.json()["body"] == "hello"
            rig.sentinels(client if not response.says_close else None)
    rig.sentinels()


def test_case_112_upgrade_with_expect(rig: Rig) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.reply_echo()

    with rig.origin.answering(path, handler), rig.client() as client:
        response = client.request(
            request("POST", path, *WEBSOCKET, b"Expect: 100-continue", b"Content-Length: 5", body=b"hello")
        )
        assert response.status in (200, 400, 417)
        if response.status == 200:
            assert response.json()["body"] == "hello"
        rig.sentinels(client if not response.says_close else None)


def test_case_112_nothing_flows_before_the_switch(rig: Rig) -> None:
    """A 100 is no 101: what the client sends behind its request stays with the proxy until the protocol is
    switched."""
    path = unique()
    mark = rig.origin.mark()
    interim = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        assert interim.wait(5)
        exchange.reply(403, b"no")

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(get(path, *WEBSOCKET) + b"tunnel bytes")
        assert client.read_response(until_final=False).status == 103
        interim.set()
        assert client.read_response().status == 403
    rig.sentinels()
    assert b"tunnel bytes" not in rig.origin.since(mark).raw
