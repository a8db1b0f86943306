"""Rows 90 to 98 of the HTTP/1 acceptance list: Expect, interim responses, early responses."""

from __future__ import annotations

import threading

import pytest

from support.origin import Exchange
from support.rig import Rig, unique
from support.wire import get, post, request

BODY = b"x" * 1000
EXPECT = b"Expect: 100-continue"
LENGTH = b"Content-Length: 1000"


def test_case_090_head_is_forwarded_at_once_and_100_relayed(rig: Rig) -> None:
    path = unique()
    got_body = []

    def handler(exchange: Exchange) -> None:
        assert exchange.request.get("expect") == "100-continue"
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        got_body.append(exchange.read_body())
        exchange.reply_echo()

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(request("POST", path, EXPECT, LENGTH))  # the body is held back
        assert client.read_response(until_final=False).status == 100
        client.send(BODY)
        assert client.read_response("POST").json()["body_size"] == len(BODY)
        rig.sentinels(client)
    assert got_body == [BODY]


@pytest.mark.parametrize(
    "value",
    [b"100-Continue", b"100-CONTINUE", b" 100-continue "],
    ids=["090-capital", "090-upper", "090-blanks"],
)
def test_case_090_expectation_in_any_case(rig: Rig, value: bytes) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.read_body()
        exchange.reply_echo()

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(request("POST", path, b"Expect:" + value, LENGTH))
        assert client.read_response(until_final=False).status == 100
        client.send(BODY)
        assert client.read_response("POST").status == 200
        rig.sentinels(client)


def test_case_090_origin_that_ignores_expect(rig: Rig) -> None:
    """It waits for a body; the client, told nothing, sends it in the end: no deadlock."""
    path = unique()
    with rig.client() as client:
        client.send(request("POST", path, EXPECT, LENGTH))
        rig.origin.wait_request(path)
        client.send(BODY)
        assert client.read_response("POST").json()["body_size"] == len(BODY)
        rig.sentinels(client)


def test_case_090_chunked_body_held_back(rig: Rig) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.read_body()
        exchange.reply_echo()

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(request("POST", path, EXPECT, b"Transfer-Encoding: chunked"))
        assert client.read_response(until_final=False).status == 100
        client.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert client.read_response("POST").json()["body"] == "hello"
        rig.sentinels(client)


@pytest.mark.parametrize("status", [417, 401, 413, 500])
@pytest.mark.parametrize("sends_body", [False, True], ids=["body-held-back", "body-sent"])
def test_case_091_refusal_before_the_body(rig: Rig, status: int, sends_body: bool) -> None:
    path = unique()
    mark = rig.origin.mark()

    def handler(exchange: Exchange) -> None:
        exchange.reply(status, b"no")
        exchange.wait_peer_end()  # no request may come on a connection that lacks a body

    with rig.origin.answering(path, handler):
        with rig.client() as client:
            client.send(request("POST", path, EXPECT, LENGTH))
            response = client.read_response("POST")
            assert (response.status, response.body) == (status, b"no")
            if sends_body:
                client.send(BODY)
            if response.says_close:
                if not sends_body:
                    assert client.how_it_ended() == "eof"
            elif sends_body:
                rig.sentinel(client)
        rig.sentinels()
    link = rig.origin.connections[rig.origin.requests_for(path)[0].connection]
    rig.origin.wait(lambda: link.ended, "the end of the upstream connection")
    assert [seen.path for seen in rig.origin.since(mark).requests if seen.connection == link.number] == [path]


def test_case_092_expect_of_http_1_0_is_stripped(rig: Rig) -> None:
    head = f"POST {unique()} HTTP/1.0\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    raw = head.encode() + b"hello"
    seen = rig.forward(raw, kept=False)
    assert seen.request.all("expect") == []
    assert seen.response.informational == []


@pytest.mark.parametrize(
    "lines",
    [
        [b"Expect: y 100-continue"],
        [b"Expect: 100-continue, x"],
        [b"Expect: 100-continue", b"Expect: 100-continue"],
        [b"Expect: foo"],
        [b"Expect: 100-continue;q=1"],
        [b"Expect: 100-continue, 100-continue"],
        [b"Expect: 100"],
        [b"Expect: 100-continued"],
        [b"Expect: x", b"Expect: 100-continue"],
    ],
    ids=[
        "093-y",
        "093-x",
        "093-twice",
        "093-foo",
        "093-parameter",
        "093-list",
        "093-short",
        "093-long",
        "093-two",
    ],
)
def test_case_093_other_expectations(rig: Rig, lines: list[bytes]) -> None:
    mark = rig.origin.mark()
    with rig.client() as client:
        response = client.request(request("POST", "/", *lines, b"Content-Length: 5", body=b"hello"))
        assert response.status == 417
        assert response.error_code
        if response.says_close:
            assert client.how_it_ended() == "eof"
        else:
            rig.sentinel(client)
    rig.sentinels()
    rig.untouched(mark)


@pytest.mark.parametrize(
    "raw",
    [get("/", EXPECT), request("POST", "/", EXPECT, b"Content-Length: 0")],
    ids=["094-get", "094-zero-length"],
)
def test_case_094_expect_without_a_body(rig: Rig, raw: bytes) -> None:
    path = unique()
    seen = rig.forward(raw.replace(b" / ", b" %s " % path.encode(), 1))
    assert seen.request.body == b""


INTERIM = [b"100 Continue", b"102 Processing", b"103 Early Hints", b"199 Odd"]


def _interim(exchange: Exchange) -> None:
    exchange.read_body()
    for line in INTERIM:
        exchange.send(b"HTTP/1.1 " + line + b"\r\nX-Interim: " + line[:3] + b"\r\n\r\n")
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("raw", [get("/"), post("/", BODY, EXPECT)], ids=["095-get", "095-post-expect"])
def test_case_095_interim_responses_pass_in_order(rig: Rig, raw: bytes) -> None:
    path = unique()
    with rig.origin.answering(path, _interim):
        response = rig.forward(raw.replace(b" / ", b" %s " % path.encode(), 1)).response
    assert [interim.status for interim in response.informational] == [100, 102, 103, 199]
    assert [interim.get("x-interim") for interim in response.informational] == [
        b"100",
        b"102",
        b"103",
        b"199",
    ]
    assert response.body == b"ok"


def test_case_095_interim_responses_are_dropped_for_http_1_0(rig: Rig) -> None:
    path = unique()
    with rig.origin.answering(path, _interim):
        response = rig.forward(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode(), kept=False).response
    assert response.informational == []
    assert response.body == b"ok"


def test_case_095_interim_responses_pass_at_once(rig: Rig) -> None:
    path = unique()
    go_on = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        assert go_on.wait(5)
        exchange.reply(200, b"ok")

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(get(path))
        assert client.read_response(until_final=False).status == 103
        go_on.set()
        assert client.read_response().body == b"ok"
        rig.sentinels(client)


@pytest.mark.parametrize(
    "field",
    [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Length: 0"],
    ids=["096-length", "096-coding", "096-zero"],
)
def test_case_096_framing_of_an_interim_response_is_stripped(rig: Rig, field: bytes) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 103 Early Hints\r\n"
            + field
            + b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        )

    with rig.origin.answering(path, handler):
        response = rig.forward(get(path)).response
    assert response.body == b"ok"
    assert [interim.status for interim in response.informational] == [103]


def test_case_096_body_behind_an_interim_response_is_the_next_head(rig: Rig) -> None:
    """Five bytes that a Content-Length of 100 Continue announced are no body: they make the final head
    malformed."""
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        )
        exchange.wait_peer_end()

    with rig.origin.answering(path, handler), rig.client() as client:
        response = client.request(get(path))
        assert (response.status, response.error_code) == (502, "upstream_malformed")
        rig.sentinels(client if not response.says_close else None)


@pytest.mark.parametrize("status", [200, 307, 500])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_case_097_final_response_before_the_body_is_complete(rig: Rig, status: int, framing: str) -> None:
    """The rest of the body, or what a client hides in it, must never be read as a request on the upstream
    connection."""
    path = unique()
    hidden = get("/smuggled")

    def handler(exchange: Exchange) -> None:
        exchange.reply(status, b"early")
        exchange.wait_peer_end()

    mark = rig.origin.mark()
    with rig.origin.answering(path, handler):
        with rig.client() as client:
            if framing == "length":
                client.send(request("POST", path, b"Content-Length: %d" % (10 + len(hidden)), body=b"y"))
            else:
                client.send(request("POST", path, b"Transfer-Encoding: chunked", body=b"1\r\ny\r\n"))
            response = client.read_response("POST")
            assert (response.status, response.body) == (status, b"early")
            rest = b"z" * 9 + hidden
            client.send(rest if framing == "length" else b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
            if not response.says_close:
                rig.sentinel(client)
        rig.sentinels()
    link = rig.origin.connections[rig.origin.requests_for(path)[0].connection]
    rig.origin.wait(lambda: link.ended, "the end of the upstream connection")
    requests = rig.origin.since(mark).requests
    assert "/smuggled" not in {seen.path for seen in requests}
    assert [seen.path for seen in requests if seen.connection == link.number] == [path]


def test_case_097_early_response_to_a_large_upload_does_not_deadlock(rig: Rig) -> None:
    """The origin answers and reads no further; the client keeps writing megabytes before it reads."""
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.reply(413, b"too large")
        exchange.half_close()
        exchange.wait_peer_end()

    size = 8 << 20
    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(request("POST", path, b"Content-Length: %d" % size))
        client.send(b"x" * 65536)
        response = client.read_response("POST")
        assert (response.status, response.body) == (413, b"too large")
    rig.sentinels()


def test_case_098_pause_inside_the_body_is_timed_out(hasty: Rig) -> None:
    path = unique()
    with hasty.client() as client:
        client.send(request("POST", path, b"Content-Length: 10", body=b"hello"))
        arrived = hasty.origin.wait_request(path)
        response = client.read_response("POST")
        assert (response.status, response.error_code) == (408, "body_timeout")
        assert client.how_it_ended() == "eof"
        link = hasty.origin.connections[arrived.connection]
        hasty.origin.wait(lambda: link.ended, "the end of the upstream connection")
        assert not arrived.complete
    hasty.sentinels()


def test_case_098_pause_inside_a_chunked_body_is_timed_out(hasty: Rig) -> None:
    path = unique()
    with hasty.client() as client:
        client.send(request("POST", path, b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"))
        arrived = hasty.origin.wait_request(path)
        response = client.read_response("POST")
        assert (response.status, response.error_code) == (408, "body_timeout")
        link = hasty.origin.connections[arrived.connection]
        hasty.origin.wait(lambda: link.ended, "the end of the upstream connection")
        assert not link.received.endswith(b"0\r\n\r\n")
    hasty.sentinels()
