"""Connections to endpoints are used again, the freshest first, never one on which something has happened."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastmesh.model import Upstream
from support.stage import OK, Stage, get, post

SetStage = Callable[..., Stage]


def test_the_next_request_takes_the_same_connection(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    upstream = stage.exchange(client)
    for number in range(5):
        stage.exchange(client, upstream, target=f"/{number}")
    stage.exchange(stage.client(), upstream)
    assert stage.origins[0].waiting() is None
    assert stage.worker.endpoint(0)["requests"] == 7
    assert stage.worker.endpoint(0)["connections"] == stage.worker.endpoint(0)["idle"] == 1


def test_two_requests_at_once_take_two_connections(set_stage: SetStage) -> None:
    stage = set_stage()
    clients = [stage.client(), stage.client()]
    for client in clients:
        client.send(get())
    upstreams = [stage.origins[0].accept(), stage.origins[0].accept()]
    assert stage.worker.endpoint(0)["in_flight"] == 2
    for upstream in upstreams:
        upstream.head()
        upstream.send(OK)
    for client in clients:
        client.until(b"ok")
    assert stage.worker.endpoint(0)["idle"] == 2


def two_idle(stage: Stage) -> list[object]:
    """Two idle connections; the second was used last."""
    clients = [stage.client(), stage.client()]
    for client in clients:
        client.send(get())
    upstreams = [stage.origins[0].accept(), stage.origins[0].accept()]
    for upstream, client in zip(upstreams, clients, strict=True):
        upstream.head()
        upstream.send(OK)
        client.until(b"ok")
    return [clients[0], *upstreams]


def test_the_connection_used_last_is_taken_first(set_stage: SetStage) -> None:
    stage = set_stage()
    client, _, last = two_idle(stage)
    stage.exchange(client, last)


def test_the_oldest_goes_when_there_are_too_many(set_stage: SetStage) -> None:
    stage = set_stage(upstream=Upstream(keepalive=1))
    client, oldest, last = two_idle(stage)
    assert oldest.end() == "eof"
    assert last.is_open()
    assert stage.worker.endpoint(0)["idle"] == stage.worker.endpoint(0)["connections"] == 1
    stage.exchange(client, last)


def test_none_is_kept_when_none_is_wanted(set_stage: SetStage) -> None:
    stage = set_stage(upstream=Upstream(keepalive=0))
    assert stage.exchange(stage.client()).end() == "eof"
    assert stage.worker.endpoint(0)["connections"] == 0


def test_idle_ones_close_when_their_time_is_over(set_stage: SetStage) -> None:
    stage = set_stage(upstream=Upstream(idle=0.03))
    upstream = stage.exchange(stage.client())
    stage.wait(lambda: stage.worker.endpoint(0)["idle"] == 0, "the idle connection to be closed")
    assert upstream.end() == "eof"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"], ids=["fin", "bytes and fin"])
@pytest.mark.parametrize("request_first", [True, False])
def test_closed_in_the_turn_of_a_request(set_stage: SetStage, request_first: bool, sent: bytes) -> None:
    """FIN (with or without a last word) and request fall into one turn: they never meet."""
    stage = set_stage()
    client = stage.client()
    idle = stage.exchange(client)
    if request_first:
        client.send(post(b"once"))
    if sent:
        idle.send(sent)
    idle.finish()
    if not request_first:
        client.send(post(b"once"))
    stage.turn()
    fresh = stage.origins[0].accept()
    assert fresh.until(b"once").startswith(b"POST / ")
    fresh.send(OK)
    client.until(b"ok")
    assert idle.end() == ("reset" if sent else "eof")  # with bytes that nobody read, closing is a reset
    assert idle.received == b"", "the request was sent to a connection that was closing"
    assert stage.worker.retries(0) == 0, "it was a matter of luck, not of order"


def test_room_to_write_is_no_reason_to_close_an_idle_connection(set_stage: SetStage) -> None:
    """The endpoint answers first and reads the request afterwards, which makes an edge."""
    stage = set_stage()
    client = stage.client()
    body = b"x" * 100_000
    client.send_turning(post(body))
    upstream = stage.origins[0].accept()
    stage.settle()
    upstream.send(OK)
    client.until(b"ok")
    assert stage.worker.endpoint(0)["idle"] == 1
    upstream.head()
    assert upstream.exactly(len(body)) == body
    assert upstream.is_open()
    stage.exchange(client, upstream)


def test_bytes_that_nobody_asked_for_close_an_idle_connection(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    idle = stage.exchange(client)
    idle.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    stage.settle()
    idle.look()
    assert idle.ended is not None
    assert client.is_open()
    stage.exchange(client)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"x",
        OK + OK,
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["stray byte", "second answer", "says close", "http 1.0"],
)
def test_a_connection_that_is_not_clean_is_not_kept(set_stage: SetStage, answer: bytes) -> None:
    stage = set_stage()
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(answer)
    client.until(b"ok")
    assert upstream.end() in ("eof", "reset")
    assert stage.worker.endpoint(0)["connections"] == 0
    stage.exchange(client)


def test_an_answer_before_the_request_was_whole_spoils_the_connection(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    upstream = stage.origins[0].accept()
    upstream.until(b"half")
    upstream.send(OK)
    assert b"connection: close" in client.until(b"ok").lower()
    assert upstream.end() == "eof"
    assert client.end() == "eof"


def test_pipelined_requests_are_answered_in_order(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    client.send(get("/1") + get("/2") + get("/3"))
    upstream = stage.origins[0].accept()
    for number in b"123":
        assert upstream.head().startswith(b"GET /%c HTTP" % number)
        assert upstream.is_open(), "the next request was sent before the answer"
        upstream.send(OK.replace(b"ok", b"%cx" % number))
    for number in b"123":
        client.until(b"%cx" % number)
