"""Requests and judgements of HTTP checks, byte by byte and without a socket."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.health import http
from fastmesh.health.http import Conversation, expectation, host_of
from fastmesh.model import Address, BodyMatch, Health

HERE = Address("inet", "10.0.0.1", 80)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def conversation(**settings):
    return Conversation(HERE, Health(**settings))


def judged(*parts, **settings):
    """(passed, text) once ``parts``, each one read, have come."""
    talk = conversation(**settings)
    for part in parts[:-1]:
        assert talk.receive(part) is None, part
    result = talk.receive(parts[-1])
    assert result is not None
    return result.passed, result.text


def asked(**settings):
    """(request line, {name: value}) that an independent parser reads."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(conversation(**settings).request)
    request = server.next_event()
    assert type(server.next_event()) is h11.EndOfMessage
    names = [name for name, _ in request.headers]
    assert len(set(names)) == len(names)
    line = f"{request.method.decode()} {request.target.decode()} HTTP/{request.http_version.decode()}"
    return line, {name.decode(): value.decode() for name, value in request.headers}


def test_the_request_by_default():
    line, fields = asked(path="/healthz")
    assert line == "GET /healthz HTTP/1.1"
    assert fields == {"host": "10.0.0.1:80", "user-agent": "fastmesh-health", "connection": "close"}


def test_the_request_as_configured():
    headers = (("X-Token", "t"), ("User-Agent", "probe"))
    line, fields = asked(path="/a?b=c", method="POST", host="shop.example", headers=headers)
    assert line == "POST /a?b=c HTTP/1.1"
    assert fields == {
        "host": "shop.example",
        "user-agent": "probe",
        "connection": "close",
        "x-token": "t",
        "content-length": "0",
    }


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (Address("inet6", "::1", 80), "[::1]:80"),
        (Address("inet6", "fe80::1%eth0", 80), "[fe80::1]:80"),
        (Address("unix", path="/run/s"), "localhost"),
    ],
)
def test_the_host_that_stands_for_an_endpoint(address, host):
    assert host_of(address) == host


@pytest.mark.parametrize(
    "parts",
    [
        [OK],
        [OK[index : index + 1] for index in range(len(OK))],
        [b"HTTP/1.0 200 OK\r\n\r\nany", b"thing", b""],
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"0\r\n\r\n"],
        [b"HTTP/1.1 204 No Content\r\n\r\n"],
    ],
)
def test_answers_that_pass(parts):
    assert judged(*parts) in {(True, "answered 200"), (True, "answered 204")}


def test_a_head_answer_has_no_body():
    assert judged(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", method="HEAD") == (True, "answered 200")


def test_a_wrong_code_fails_before_the_body_comes():
    head = b"HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\n"
    assert judged(head) == (False, "answered 500, expected 200-399")
    assert judged(head, expect=((200, 204), (404, 404))) == (
        False,
        "answered 500, expected 200-204 or 404",
    )
    assert judged(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", expect=((404, 404),))[0]


def test_what_is_expected_in_words():
    assert expectation(Health(expect=((200, 299), (404, 404), (500, 599)))) == "200-299 or 404 or 500-599"


@pytest.mark.parametrize(
    ("match", "body", "verdict"),
    [
        (BodyMatch("ok"), b"all ok here", (True, "answered 200")),
        (BodyMatch("ok"), b"no", (False, "the body does not hold 'ok'")),
        (BodyMatch("grün"), "alles grün".encode(), (True, "answered 200")),
        (BodyMatch("o.", regex=True), b"\xff ok", (True, "answered 200")),
        (BodyMatch("^o[0-9]$", regex=True), b"ok", (False, "the body does not match '^o[0-9]$'")),
        (BodyMatch("."), b"ok", (False, "the body does not hold '.'")),
    ],
)
def test_the_body(match, body, verdict):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert judged(head, body, body=match) == verdict
    assert judged(b"HTTP/1.0 200 OK\r\n\r\n" + body, b"", body=match) == verdict


def test_no_more_of_a_body_is_read_than_the_limit():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    rest = b"x" * (http.BODY_BYTES - 2)
    assert judged(head, rest, b"ok and more") == (True, "answered 200")
    assert judged(head, rest, b"ok and more", body=BodyMatch("ok")) == (True, "answered 200")
    assert judged(head, rest, b"no, ok", body=BodyMatch("ok")) == (
        False,
        "the first 64 KiB of the body do not hold 'ok'",
    )


@pytest.mark.parametrize(
    ("chunk", "limit"),
    [
        (b"1\r\nx\r\n", 6 * http.CHUNKS),
        (b"1;" + b"e" * 300 + b"\r\nx\r\n", http.ALL_BYTES),
    ],
)
def test_a_body_in_tiny_chunks_is_read_up_to_a_limit_too(chunk, limit):
    talk = conversation(body=BodyMatch("ok"))
    assert talk.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") is None
    fed = 0
    result = None
    while result is None:
        result = talk.receive(chunk * 10)
        fed += len(chunk) * 10
    assert limit <= fed < limit + 20 * len(chunk)
    assert (result.passed, result.text) == (False, "the beginning of the body does not hold 'ok'")


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([b""], "closed the connection without an answer"),
        ([b"HTTP/1.1 200 OK\r\nConte", b""], "closed the connection without an answer"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b""], "closed the connection without an answer"),
        ([OK[:-1], b""], "closed the connection before its answer was complete"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "its answer is not valid HTTP/1.1: illegal status line"),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
            "its answer is not valid HTTP/1.1: bad Content-Length",
        ),
        ([b"HTTP/1.1 200 OK\r\nA: " + b"a" * 20_000], "the head of its answer is longer than 16 KiB"),
        ([b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 5000], "the head of its answer is longer than 16 KiB"),
        (
            [b"HTTP/1.1 103 Early Hints\r\nLink: " + b"a" * 9000 + b"\r\n\r\n"] * 2,
            "the head of its answer is longer than 16 KiB",
        ),
        ([b"HTTP/1.1 102 Processing\r\n\r\n" * 11], "sent more than 10 interim answers"),
    ],
)
def test_answers_that_fail(parts, why):
    assert judged(*parts) == (False, why)


def test_an_answer_that_switches_protocols_fails():
    passed, why = judged(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    assert not passed
    assert why.startswith("its answer is not valid HTTP/1.1")


def test_what_a_peer_sent_is_not_quoted_at_length():
    _, why = judged(b"x" * 3000 + b"\r\n\r\n")
    assert len(why) < 150


START = st.sampled_from(
    [b"", b"HTTP/1.1 200 OK\r\n", OK[:-2], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)


@given(START, st.lists(st.binary(min_size=1, max_size=300), max_size=20))
def test_any_bytes_end_in_a_verdict(start, parts):
    talk = conversation(body=BodyMatch("ok"))
    result = None
    for part in [*filter(None, [start, *parts]), b""]:
        result = result or talk.receive(part)
    assert result is not None
    assert result.passed is not None
    assert result.text
