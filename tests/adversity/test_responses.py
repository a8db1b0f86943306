"""Rows 99 to 106 of the HTTP/1 acceptance list: what origins send."""

from __future__ import annotations

import threading

import pytest

from support.client import ConnectionEnded
from support.origin import Exchange, Handler
from support.rig import Rig, unique
from support.wire import chunked, get, post, request


def sends(raw: bytes, *, then: str = "") -> Handler:
    """A handler that answers these bytes and then keeps, closes or resets the connection."""

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(raw)
        if then == "close":
            exchange.close()
        elif then == "reset":
            exchange.reset()
        elif then == "end":
            exchange.wait_peer_end()

    return handler


def upstream_is_left(rig: Rig, path: str) -> None:
    """The connection that served that path is closed and carried no request behind it."""
    arrived = rig.origin.requests_for(path)[-1]
    link = rig.origin.connections[arrived.connection]
    rig.origin.wait(lambda: link.ended, "the end of the upstream connection")
    assert link.requests[-1].path == path, "the upstream connection was used again"


def refuse_response(rig: Rig, raw: bytes, *, then: str = "end") -> None:
    """The response is discarded: 502 to the client, the upstream connection closed."""
    path = unique()
    with rig.origin.answering(path, sends(raw, then=then)):
        with rig.client() as client:
            response = client.request(get(path))
            assert response.status == 502, f"{response.status} for {raw[:300]!r}"
            assert response.error_code in ("upstream_malformed", "upstream_closed", "upstream_reset")
            rig.sentinels(client if not response.says_close else None)
        upstream_is_left(rig, path)


@pytest.mark.parametrize(
    "size", [b"0", b"5", b"999999999999"], ids=["099-head-0", "099-head-5", "099-head-huge"]
)
def test_case_099_head_with_content_length(rig: Rig, size: bytes) -> None:
    path = unique()
    with rig.origin.answering(path, sends(b"HTTP/1.1 200 OK\r\nContent-Length: " + size + b"\r\n\r\n")):
        response = rig.forward(request("HEAD", path)).response
    assert response.get("content-length") == size


def test_case_099_head_with_coding_or_without_framing(rig: Rig) -> None:
    for raw in (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
        path = unique()
        with rig.origin.answering(path, sends(raw)):
            assert rig.forward(request("HEAD", path)).response.body == b""


@pytest.mark.parametrize(
    "head",
    [
        b"204 No Content\r\n",
        b"304 Not Modified\r\nContent-Length: 5\r\n",
        b"304 Not Modified\r\n",
        b"204 No Content\r\nContent-Length: 5\r\n",
    ],
    ids=["099-204", "099-304-length", "099-304", "099-204-length"],
)
def test_case_099_statuses_without_a_body(rig: Rig, head: bytes) -> None:
    path = unique()
    with rig.origin.answering(path, sends(b"HTTP/1.1 " + head + b"\r\n")):
        response = rig.forward(get(path), status=int(head[:3])).response
    assert response.body == b""


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"200 OK\r\nContent-Length: 5\r\n"),
        ("GET", b"204 No Content\r\n"),
        ("GET", b"304 Not Modified\r\nContent-Length: 5\r\n"),
        ("HEAD", b"200 OK\r\nTransfer-Encoding: chunked\r\n"),
    ],
    ids=["099-stray-head", "099-stray-204", "099-stray-304", "099-stray-head-chunked"],
)
@pytest.mark.parametrize(
    "stray", [b"hello", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"], ids=["junk", "response"]
)
def test_case_099_stray_body_never_reaches_a_client(rig: Rig, method: str, head: bytes, stray: bytes) -> None:
    path = unique()
    with rig.origin.answering(path, sends(b"HTTP/1.1 " + head + b"\r\n" + stray, then="end")):
        with rig.client() as client:
            response = client.request(request(method, path))
            assert response.status == int(head[:3])
            rig.sentinels(client)
        upstream_is_left(rig, path)


def test_case_099_stray_body_that_comes_later(rig: Rig) -> None:
    path = unique()
    answered = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert answered.wait(5)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        exchange.wait_peer_end()

    with rig.origin.answering(path, handler), rig.client() as client:
        assert client.request(get(path)).status == 204
        answered.set()
        upstream_is_left(rig, path)
        rig.sentinels(client)


_BAD_FRAMINGS = {
    "length-plus": b"Content-Length: +5\r\n",
    "length-minus": b"Content-Length: -5\r\n",
    "length-junk": b"Content-Length: 5x\r\n",
    "length-hex": b"Content-Length: 0x5\r\n",
    "length-empty": b"Content-Length: \r\n",
    "length-overflow": b"Content-Length: 18446744073709551621\r\n",
    "length-two": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "length-two-reversed": b"Content-Length: 6\r\nContent-Length: 5\r\n",
    "length-list": b"Content-Length: 5, 6\r\n",
    "length-and-coding": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "coding-and-length": b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
    "coding-unknown": b"Transfer-Encoding: cow\r\n",
    "coding-gzip": b"Transfer-Encoding: gzip, chunked\r\n",
    "coding-twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "coding-list": b"Transfer-Encoding: chunked, chunked\r\n",
    "coding-not-last": b"Transfer-Encoding: chunked, identity\r\n",
    "coding-vt": b"Transfer-Encoding: \x0bchunked\r\n",
    "coding-comma": b"Transfer-Encoding: ,chunked\r\n",
}


@pytest.mark.parametrize("name", _BAD_FRAMINGS, ids=["100-" + name for name in _BAD_FRAMINGS])
def test_case_100_malformed_framing(rig: Rig, name: str) -> None:
    body = chunked(b"hello") if "coding" in name else b"hello"
    refuse_response(rig, b"HTTP/1.1 200 OK\r\n" + _BAD_FRAMINGS[name] + b"\r\n" + body)


@pytest.mark.parametrize(
    "extra",
    [b"x", b"world", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", b"y" * 100_000],
    ids=["101-byte", "101-word", "101-response", "101-much"],
)
def test_case_101_body_longer_than_its_length(rig: Rig, extra: bytes) -> None:
    path = unique()
    with rig.origin.answering(
        path, sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" + extra, then="end")
    ):
        with rig.client() as client:
            response = client.request(get(path))
            assert response.body == b"hello"
            rig.sentinels(client)
        upstream_is_left(rig, path)


def test_case_101_bytes_behind_the_last_chunk(rig: Rig) -> None:
    path = unique()
    raw = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunked(b"hello")
        + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    )
    with rig.origin.answering(path, sends(raw, then="end")):
        with rig.client() as client:
            assert client.request(get(path)).body == b"hello"
            rig.sentinels(client)
        upstream_is_left(rig, path)


_CUT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    "chunk-data": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwo",
    "between-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "last-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "bad-size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
    "bad-chunk-end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
}


@pytest.mark.parametrize("name", _CUT, ids=["102-" + name for name in _CUT])
@pytest.mark.parametrize("then", ["close", "reset"])
def test_case_102_cut_body(rig: Rig, name: str, then: str) -> None:
    path = unique()
    seen_body = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.send(_CUT[name])
        if then == "reset" and not name.startswith("bad-"):
            assert seen_body.wait(5)  # a reset may overtake bytes that nobody has read yet
        if then == "close":
            exchange.close()
        else:
            exchange.reset()

    with rig.origin.answering(path, handler):
        with rig.client() as client:
            client.send(get(path))
            if then == "reset" and not name.startswith("bad-"):
                while b"hello" not in client.buffer:
                    assert client._receive()
            seen_body.set()
            response = client.read_response()
            if response.status == 502:
                # All of it was there when the head was decided: nothing of it need be shown.
                assert name.startswith("bad-")
                rig.sentinels(client if not response.says_close else None)
            else:
                assert response.status == 200
                assert response.truncated, "a cut body must not look complete"
                assert b"hellowo".startswith(response.body)
        rig.sentinels()
    assert len(rig.origin.requests_for(path)) == 1, "retried behind the first byte of a response"


def test_case_103_close_delimited_to_an_http_1_1_client(rig: Rig) -> None:
    path = unique()
    body = b"z" * 200_000
    with rig.origin.answering(path, sends(b"HTTP/1.1 200 OK\r\n\r\n" + body, then="close")):
        response = rig.forward(get(path)).response
    assert response.framing == "chunked"
    assert response.body == body


def test_case_103_close_delimited_to_an_http_1_0_client(rig: Rig) -> None:
    path = unique()
    with rig.origin.answering(path, sends(b"HTTP/1.1 200 OK\r\n\r\nhello", then="close")):
        response = rig.forward(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode(), kept=False).response
    assert (response.framing, response.body) == ("close", b"hello")


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"],
    ids=["103-1.0", "103-1.0-keep-alive"],
)
def test_case_103_close_delimited_by_an_http_1_0_origin(old_origin: Rig, head: bytes) -> None:
    path = unique()
    with old_origin.origin.answering(path, sends(head + b"hello", then="close")):
        assert old_origin.forward(get(path)).response.body == b"hello"


def test_case_103_close_delimited_body_that_is_reset_is_cut(rig: Rig) -> None:
    path = unique()
    seen_body = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        assert seen_body.wait(5)
        exchange.reset()

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(get(path))
        while b"hello" not in client.buffer:
            assert client._receive()
        seen_body.set()
        assert client.read_response().truncated
    rig.sentinels()


def test_case_103_empty_close_delimited_body(rig: Rig) -> None:
    path = unique()
    with rig.origin.answering(path, sends(b"HTTP/1.1 200 OK\r\n\r\n", then="close")):
        assert rig.forward(get(path)).response.body == b""


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 200\r\n",
        b"HTTP/1.1 200 \r\n",
        b"HTTP/1.1 200 a\xe9\tb\r\n",
        b"HTTP/1.1 599 Odd\r\n",
    ],
    ids=["104-no-reason", "104-empty-reason", "104-high-reason", "104-599"],
)
def test_case_104_status_lines_that_are_taken(rig: Rig, line: bytes) -> None:
    path = unique()
    with rig.origin.answering(path, sends(line + b"Content-Length: 2\r\n\r\nok")):
        response = rig.forward(get(path), status=int(line[9:12])).response
    assert response.body == b"ok"
    assert response.minor_version == 1


def test_case_104_http_1_0_response(old_origin: Rig) -> None:
    path = unique()
    raw = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with old_origin.origin.answering(path, sends(raw, then="close")):
        response = old_origin.forward(get(path)).response
    assert (response.body, response.minor_version) == (b"ok", 1)


_BAD_HEADS = {
    "status-99": b"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
    "status-1000": b"HTTP/1.1 1000 High\r\nContent-Length: 0\r\n\r\n",
    "status-word": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "status-minus": b"HTTP/1.1 -200 OK\r\nContent-Length: 0\r\n\r\n",
    "status-plus": b"HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n",
    "status-zero": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "status-099": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "status-missing": b"HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "version-2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "version-lower": b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "version-long": b"HTTP/1.10 200 OK\r\nContent-Length: 0\r\n\r\n",
    "http-0.9": b"<html>hello</html>\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "zeros": b"\0" * 100,
    "nul-in-value": b"HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 0\r\n\r\n",
    "nul-in-reason": b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
    "cr-in-value": b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\nContent-Length: 0\r\n\r\n",
    "bare-name": b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
    "empty-name": b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 0\r\n\r\n",
    "bad-name": b"HTTP/1.1 200 OK\r\nA[b]: x\r\nContent-Length: 0\r\n\r\n",
    "fold-at-start": b"HTTP/1.1 200 OK\r\n folded\r\nContent-Length: 0\r\n\r\n",
    "long-value": b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000 + b"\r\n\r\n",
    "long-reason": b"HTTP/1.1 200 " + b"x" * 200_000 + b"\r\n\r\n",
    "many-fields": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    "leading-crlf": b"\r\n\r\n\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@pytest.mark.parametrize("name", _BAD_HEADS, ids=["104-" + name for name in _BAD_HEADS])
def test_case_104_heads_that_are_not_taken(rig: Rig, name: str) -> None:
    refuse_response(rig, _BAD_HEADS[name], then="close" if name == "ssh" else "end")


@pytest.mark.parametrize(
    "part",
    [b"", b"H", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"],
    ids=lambda part: f"104-cut-{len(part)}",
)
def test_case_104_head_cut_short(rig: Rig, part: bytes) -> None:
    """Behind a byte of a response nothing is tried again, and neither is a POST at all."""
    path = unique()
    with rig.origin.answering(path, sends(part, then="close")), rig.client() as client:
        response = client.request(post(path, b"hello"))
        assert response.status == 502
        assert response.error_code in ("upstream_closed", "upstream_malformed")
        rig.sentinels(client if not response.says_close else None)
    assert len(rig.origin.requests_for(path)) == 1


@pytest.mark.parametrize(
    "poison",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"x",
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["105-response", "105-byte", "105-timeout"],
)
def test_case_105_bytes_on_an_idle_upstream_connection(rig: Rig, poison: bytes) -> None:
    path = unique()
    idle = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.reply(200, b"ok")
        assert idle.wait(5)
        exchange.send(poison)
        exchange.wait_peer_end()

    with rig.origin.answering(path, handler), rig.client() as client:
        assert client.request(get(path)).body == b"ok"
        idle.set()
        upstream_is_left(rig, path)
        rig.sentinels(client)


def test_case_106_switching_protocols_that_nobody_asked_for(rig: Rig) -> None:
    refuse_response(
        rig, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    refuse_response(
        rig, b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    )


def test_case_106_switching_to_another_protocol_than_asked(rig: Rig) -> None:
    path = unique()
    raw = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n"
    with rig.origin.answering(path, sends(raw, then="end")):
        with rig.client() as client:
            response = client.request(get(path, b"Connection: Upgrade", b"Upgrade: websocket"))
            assert response.status == 502
        upstream_is_left(rig, path)
    rig.sentinels()


def test_no_answer_ends_in_504(hasty: Rig) -> None:
    path = unique()
    with hasty.origin.answering(path, sends(b"", then="end")):
        with hasty.client() as client:
            response = client.request(get(path))
            assert (response.status, response.error_code) == (504, "upstream_timeout")
            hasty.sentinels(client if not response.says_close else None)
        upstream_is_left(hasty, path)


def test_client_that_is_gone_is_no_reason_to_keep_a_response(rig: Rig) -> None:
    path = unique()
    gone = threading.Event()

    def handler(exchange: Exchange) -> None:
        assert gone.wait(5)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000)
        exchange.wait_peer_end()

    with rig.origin.answering(path, handler):
        client = rig.client()
        client.send(get(path))
        rig.origin.wait_request(path)
        client.reset()
        gone.set()
        upstream_is_left(rig, path)
    rig.sentinels()


def test_head_cut_before_the_first_byte_of_a_get_is_answered_502(rig: Rig) -> None:
    path = unique()
    with rig.origin.answering(path, sends(b"HTTP/1.1 20", then="close")), rig.client() as client:
        try:
            response = client.request(get(path))
        except ConnectionEnded as error:
            raise AssertionError(f"no answer at all: {error}") from None
        assert response.status == 502
        rig.sentinels(client if not response.says_close else None)
    assert len(rig.origin.requests_for(path)) == 3, "a GET is sent again, twice at most"
