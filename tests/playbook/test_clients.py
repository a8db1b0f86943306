"""The client's side: accepting, refusing, time for heads, the order of closing, and what is counted."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmesh.model import Forward, Limits, Redirect, Respond, Route, Timeouts
from support.stage import CLOSE_SOCKET, OK, OPEN_SOCKET, End, Listening, Stage, get, post

SetStage = Callable[..., Stage]


def test_beyond_the_limit_of_connections(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=2)
    first, second = stage.client(), stage.client()
    third = stage.client()
    assert third.head().startswith(b"HTTP/1.1 503 ")
    third.until(b"\n")
    assert third.end() == "eof"
    third.close()
    stage.until(lambda: len(stage.of_kind("client")) == 2, "the refused one to go")
    assert stage.worker.errors() == {"too_many_connections": 1}
    upstream = stage.exchange(first)
    second.close()
    stage.settle()
    stage.exchange(stage.client(), upstream)


def test_a_relay_beyond_the_limit_is_closed(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=1, protocol="tcp")
    first = stage.client()
    upstream = stage.origins[0].accept()
    assert stage.client().end() in ("eof", "reset")
    assert stage.worker.errors() == {"too_many_connections": 1}
    first.send(b"hello")
    assert upstream.exactly(5) == b"hello"


def test_a_queue_longer_than_the_budget_is_taken_over_several_turns(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=1000)
    for _ in range(150):
        End(stage, stage.front.connect())
    stage.turn()
    first = len(stage.of_kind("client"))
    assert 64 <= first < 150, "the budget of one visit"
    stage.until(lambda: len(stage.of_kind("client")) == 150, "all clients")
    assert stage.worker.listener(0)[:2] == (150, 150)


def test_no_descriptor_left(set_stage: SetStage) -> None:
    """The queue keeps its place, and is looked at again without spinning."""
    stage = set_stage()
    sock = socket.socket(socket.AF_UNIX)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = socket.socket(socket.AF_UNIX)
    lowest_free = highest.fileno()
    highest.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        sock.connect(str(stage.front.path))
        stage.settle()
        assert stage.of_kind("client") == []
        assert stage.worker.errors() == {"too_many_connections": 1}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    stage.wait(lambda: stage.of_kind("client"), "the client to be accepted")
    stage.exchange(End(stage, sock))


def test_a_head_that_does_not_come_in_time(set_stage: SetStage) -> None:
    stage = set_stage(timeouts=Timeouts(header=0.04))
    begun, silent = stage.client(), stage.client()
    begun.send(b"GET / HTTP/1.1\r\nHo")
    stage.settle()
    stage.wait(lambda: stage.worker.errors(), "the time-out")
    assert begun.head().startswith(b"HTTP/1.1 408 ")
    begun.until(b"\n")
    assert begun.end() == "eof"
    stage.wait(lambda: (silent.look(), silent.ended)[1], "the silent one to be closed")
    assert silent.received == b"", "who has asked nothing is answered nothing"
    assert stage.worker.errors() == {"header_timeout": 1}
    assert stage.worker.pair(0) == {408: 1}


@pytest.mark.parametrize("fresh", [True, False])
def test_bytes_of_a_head_do_not_extend_its_time(set_stage: SetStage, fresh: bool) -> None:
    stage = set_stage(timeouts=Timeouts(header=0.06))
    client = stage.client()
    if not fresh:
        stage.exchange(client)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    give_up = time.monotonic() + 2
    while not stage.worker.errors():
        assert time.monotonic() < give_up, "each byte gave it more time"
        client.send_what_fits(b"x")
        stage.turn()
    assert client.head().startswith(b"HTTP/1.1 408 ")


def test_an_idle_client_is_closed_without_a_word(set_stage: SetStage) -> None:
    stage = set_stage(timeouts=Timeouts(idle=0.04))
    client = stage.client()
    stage.exchange(client)
    stage.wait(lambda: not stage.of_kind("client"), "the idle client to be closed")
    assert client.end() == "eof"
    assert client.received == b""
    assert stage.worker.errors() == {}


def test_a_body_that_does_not_come_in_time(set_stage: SetStage) -> None:
    stage = set_stage(timeouts=Timeouts(idle=0.04))
    client = stage.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    upstream = stage.origins[0].accept()
    upstream.until(b"half")
    stage.wait(lambda: stage.worker.errors(), "the time-out")
    assert client.head().startswith(b"HTTP/1.1 408 ")
    assert upstream.end() == "eof", "a half request must not look whole"
    assert stage.worker.errors() == {"body_timeout": 1}


def test_total_bounds_the_whole_exchange(set_stage: SetStage) -> None:
    stage = set_stage(timeouts=Timeouts(total=0.05))
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    stage.wait(lambda: stage.worker.errors(), "the end of the time")
    assert client.head().startswith(b"HTTP/1.1 504 ")
    assert upstream.end() == "eof"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 35])
def test_a_head_in_pieces(set_stage: SetStage, size: int) -> None:
    stage = set_stage()
    client = stage.client()
    raw = get("/pieces?a=1", b"X-A: b") + get("/next")
    for at in range(0, len(raw), size):
        client.send(raw[at : at + size])
        stage.turn()
    upstream = stage.origins[0].accept()
    assert upstream.head().startswith(b"GET /pieces?a=1 ")
    upstream.send(OK)
    assert upstream.head().startswith(b"GET /next ")
    upstream.send(OK)
    client.until(b"ok")
    client.until(b"ok")


@pytest.mark.parametrize("size", [1, 3, 16, 39])
def test_an_answer_in_pieces(set_stage: SetStage, size: int) -> None:
    stage = set_stage()
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
    for at in range(0, len(raw), size):
        upstream.send(raw[at : at + size])
        stage.turn()
    assert client.head().startswith(b"HTTP/1.1 103 ")
    assert client.head().startswith(b"HTTP/1.1 200 ")
    assert client.exactly(2) == b"ok"
    stage.exchange(client, upstream)


def test_a_staged_close_reads_what_still_comes(set_stage: SetStage) -> None:
    """The answer to a request that is refused must not be destroyed by a reset."""
    stage = set_stage(limits=Limits(body=10))
    client = stage.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000)
    stage.settle()
    client.send_turning(b"x" * 50_000)
    assert client.head().startswith(b"HTTP/1.1 413 ")
    client.until(b"\n")
    assert client.end() == "eof"
    assert stage.of_kind("client") == ["linger"]
    client.close()
    stage.settle()
    assert stage.of_kind("client") == []


def test_a_staged_close_has_a_bound(set_stage: SetStage) -> None:
    """In bytes: a client that never stops sending is closed all the same."""
    stage = set_stage(limits=Limits(body=10))
    client = stage.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
    chunk = b"x" * 65536

    def gone() -> bool:
        try:
            client.send_what_fits(chunk)
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False

    stage.until(gone, "the connection to be closed")


def test_a_reset_by_the_client_frees_the_endpoint(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    client.close()
    stage.until(lambda: stage.worker.ledger()["busy"] == 0, "the exchange to be given up")
    assert upstream.end() == "eof"
    assert stage.worker.errors() == {"client_aborted": 1}
    assert stage.worker.pair(1) == {499: 1}


def test_a_fin_behind_the_request_is_no_abort(set_stage: SetStage) -> None:
    """A client may say that it has no more to say, and wait for the answer."""
    stage = set_stage()
    client = stage.client()
    client.send(get())
    client.finish()
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(OK)
    assert client.until(b"ok").startswith(b"HTTP/1.1 200 ")
    assert client.end() == "eof"
    assert stage.worker.errors() == {}


def test_answers_of_the_proxy_itself(set_stage: SetStage) -> None:
    routes = (
        Route(Respond(200, b"fixed"), path="/fixed"),
        Route(Redirect("/new", 308), path="/old"),
        Route(Forward((("s", 1),)), path="/api"),
    )
    stage = set_stage(routes=routes)
    client = stage.client()
    client.send(get("/fixed") + get("/old?a=b") + get("/nowhere"))
    assert client.until(b"fixed").startswith(b"HTTP/1.1 200 ")
    assert b"location: /new?a=b\r\n" in client.head().lower()
    assert client.until(b"HTTP/1.1 404 ")
    client.head()
    client.received = b""
    assert stage.worker.pair(0) == {200: 1, 308: 1, 404: 1}
    assert stage.worker.errors() == {"no_route": 1}
    stage.exchange(client, target="/api")
    assert stage.worker.pair(1) == {200: 1}


def test_bytes_are_counted(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    request = post(b"x" * 1000)
    client.send(request)
    upstream = stage.origins[0].accept()
    upstream.until(b"x" * 1000)
    upstream.send(OK)
    answer = client.until(b"ok")
    stage.settle()
    assert stage.worker.listener(0) == (1, 1, len(request), len(answer))


def test_weights_share_requests_between_services(set_stage: SetStage) -> None:
    """By chance, so the bounds are wide: 9 to 1 over 300 requests."""
    stage = set_stage()
    routes = (Route(Forward((("s", 9), ("other", 1)))),)
    stage.listener = type(stage.listener)("l", (), routes=routes)
    stage.publish(
        stage.listener,
        {"s": stage.service, "other": type(stage.service)("other")},
        slots={"s": [0], "other": []},
    )
    stage.turn()
    client = stage.client()
    upstream = None
    for _ in range(300):
        client.send(get())
        stage.turn(2)
        client.look()
        if client.received:  # the other has no endpoint
            assert client.head().startswith(b"HTTP/1.1 503 ")
            client.until(b"\n")
            continue
        upstream = upstream or stage.origins[0].accept()
        upstream.head()
        upstream.send(OK)
        client.until(b"ok")
    counts = {"s": stage.worker.pair(1)[200], "other": stage.worker.pair(2)[503]}
    assert sum(counts.values()) == 300
    assert 10 <= counts["other"] <= 60


# ---------------------------------------------------------------- no memory


@pytest.mark.parametrize("after", range(4))
def test_no_buffer_left(set_stage: SetStage, after: int) -> None:
    """Wherever memory ends, the client gets an answer or a closed connection, and nothing leaks."""
    stage = set_stage()
    client, other = stage.client(), stage.client()
    upstream = stage.exchange(other)
    stage.worker.fail_buffers_after(after)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")
    stage.settle()
    client.send_what_fits(b"lo\r\n0\r\n\r\n")
    stage.settle()
    upstream.look()
    client.look()
    whole = upstream.received.endswith(b"0\r\n\r\n")
    assert whole != (client.received.startswith(b"HTTP/1.1 503 ") or client.ended is not None)
    assert whole or after < 3, "enough memory, yet it failed"
    stage.worker.fail_buffers_after(-1)
    upstream.received = b""
    if whole:
        upstream.send(OK)
        client.until(b"ok")
    stage.exchange(other, upstream if upstream.ended is None else None)


def test_no_exchange_left(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    stage.worker.fail_exchanges_after(0)
    client.send(get())
    assert client.head().startswith(b"HTTP/1.1 503 ")
    assert stage.worker.errors() == {"overloaded": 1}
    stage.worker.fail_exchanges_after(-1)
    stage.exchange(stage.client())


def test_no_exchange_left_for_a_relay(set_stage: SetStage) -> None:
    stage = set_stage(protocol="tcp")
    stage.worker.fail_exchanges_after(0)
    assert stage.client().end() in ("eof", "reset")
    stage.worker.fail_exchanges_after(-1)
    stage.client().send(b"hello")
    assert stage.origins[0].accept().exactly(5) == b"hello"


def test_a_listener_that_the_poller_refused_is_asked_for_again(set_stage: SetStage, tmp_path: Path) -> None:
    """A folder cannot be polled, nor a socket without memory of the kernel; the timer tries again."""
    stage = set_stage()
    number = os.open(tmp_path, os.O_RDONLY)
    stage.worker.post(OPEN_SOCKET, number, 0, 2)
    stage.turn()
    listener = Listening(stage, tmp_path / "late")
    os.dup2(listener.sock.fileno(), number)
    client = End(stage, listener.connect())
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(OK)
    assert client.until(b"ok").startswith(b"HTTP/1.1 200 ")
    other = End(stage, listener.connect())  # by the poller now
    stage.exchange(other, upstream)
    stage.worker.post(CLOSE_SOCKET, -1, 0, 2)
    stage.turn()
    os.close(number)
    for socket_end in (client, other, upstream, listener):
        socket_end.sock.close()
