"""Which failures of an endpoint are mended by another attempt, and what the client gets when they are not."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from fastmesh.model import Timeouts
from support.stage import OK, UNHEALTHY, End, Stage, get, post

SetStage = Callable[..., Stage]


def fail(upstream: End, how: str) -> None:
    """The request was read when the FIN comes; it is unread at the reset. Half a head is a head begun."""
    if how == "closed":
        upstream.head()
        upstream.close()
    elif how == "reset":
        upstream.close()  # with the request unread
    elif how == "cut":
        upstream.head()
        upstream.send(b"HTTP/1.1 20")
        upstream.close()
    elif how == "malformed":
        upstream.head()
        upstream.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


# method, how the first attempt ends, whether a second is made, and else the answer
RULES = [
    ("GET", "closed", True, None),
    ("GET", "reset", True, None),
    ("GET", "cut", True, None),
    ("GET", "malformed", True, None),
    ("PUT", "closed", True, None),
    ("DELETE", "reset", True, None),
    ("POST", "closed", False, (502, "upstream_closed")),
    ("POST", "reset", False, (502, "upstream_reset")),
    ("PATCH", "closed", False, (502, "upstream_closed")),
    ("POST", "cut", False, (502, "upstream_malformed")),
    ("POST", "malformed", False, (502, "upstream_malformed")),
]


@pytest.mark.parametrize("pooled", [False, True], ids=["fresh", "pooled"])
@pytest.mark.parametrize(("method", "how", "again", "answer"), RULES)
def test_after_bytes_were_sent(
    set_stage: SetStage, method: str, how: str, again: bool, answer: tuple[int, str] | None, pooled: bool
) -> None:
    """What may have been acted upon goes out twice only if that does no harm and nothing was answered."""
    stage = set_stage(origins=2)
    client = stage.client()
    first = stage.exchange(client) if pooled else None
    if pooled:  # the turn is the other's now
        stage.worker.mark_slot(1, UNHEALTHY)
    client.send(get().replace(b"GET", method.encode()))
    if first is None:
        first = stage.origins[0].accept()
    stage.settle()
    stage.worker.mark_slot(1, 0)
    fail(first, how)
    if again:
        second = stage.origins[1].accept()
        assert second.head().startswith(method.encode() + b" / HTTP/1.1\r\n")
        second.send(OK)
        assert client.until(b"ok").startswith(b"HTTP/1.1 200 ")
        assert stage.worker.retries(0) == 1
        assert stage.worker.pair(1) == {200: 1 + pooled}
    else:
        assert answer is not None
        assert client.response()[:2] == answer
        stage.settle()
        assert stage.origins[1].waiting() is None
        assert stage.worker.retries(0) == 0
        assert stage.worker.errors() == {answer[1]: 1}


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_refused_before_a_byte_was_sent(set_stage: SetStage, method: bytes) -> None:
    """Nothing of it was sent, so even POST goes to another endpoint."""
    stage = set_stage(origins=2)
    stage.origins[0].refuse()
    client = stage.client()
    client.send(post(b"body", method=method))
    second = stage.origins[1].accept()
    assert second.until(b"body").startswith(method)
    second.send(OK)
    assert client.until(b"ok").startswith(b"HTTP/1.1 200 ")
    assert stage.worker.endpoint(0)["failures"] == stage.worker.endpoint(0)["ejections"] == 1
    assert stage.worker.endpoint(1)["failures"] == stage.worker.endpoint(1)["ejections"] == 0


def test_three_sends_at_most(set_stage: SetStage) -> None:
    stage = set_stage(origins=4)
    client = stage.client()
    client.send(get())
    for _ in range(3):
        _, upstream = stage.asked()
        stage.settle()
        upstream.reset()
    assert client.response()[:2] == (502, "upstream_reset")
    assert stage.nobody_is_asked()
    assert sorted(stage.requests()) == [0, 1, 1, 1], "none twice while another is left"


def test_a_pooled_connection_that_broke_is_tried_anew_at_the_same_endpoint(set_stage: SetStage) -> None:
    """The endpoint may just have closed an idle connection; there is no other to go to."""
    stage = set_stage()
    client = stage.client()
    pooled = stage.exchange(client)
    client.send(get("/again"))
    stage.settle()
    pooled.reset()
    fresh = stage.origins[0].accept()
    assert b"/again" in fresh.head()
    fresh.send(OK)
    client.until(b"ok")


def test_a_fresh_connection_that_broke_is_tried_again_at_the_same_endpoint(set_stage: SetStage) -> None:
    """There is no other: it may just have been restarted. Not at once, and twice at most."""
    stage = set_stage()
    client = stage.client()
    client.send(get())
    for _ in range(3):
        upstream = stage.origins[0].accept()
        stage.settle()
        upstream.reset()
    assert client.response()[:2] == (502, "upstream_reset")
    assert stage.nobody_is_asked()
    assert stage.requests() == [3]


def test_the_second_attempt_never_uses_a_pooled_connection(set_stage: SetStage) -> None:
    """Two idle connections broke at once, as at a restart: the second attempt would meet the other."""
    stage = set_stage()
    clients = [stage.client(), stage.client()]
    for client in clients:
        client.send(get())
    pooled = [stage.origins[0].accept(), stage.origins[0].accept()]
    for upstream, client in zip(pooled, clients, strict=True):
        upstream.head()
        upstream.send(OK)
        client.until(b"ok")
    clients[0].send(get("/again"))
    stage.settle()
    pooled[1].reset()
    stage.origins[0].accept().send(OK)
    clients[0].until(b"ok")
    assert pooled[0].is_open()


def test_a_request_larger_than_the_replay_buffer_is_not_sent_twice(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    client.send_turning(post(b"x" * 200_000, method=b"PUT"))
    first = stage.origins[0].accept()
    first.head()
    first.exactly(200_000)
    first.close()
    assert client.response()[:2] == (502, "upstream_closed")
    assert stage.origins[1].waiting() is None


def test_a_request_within_the_replay_buffer_is_sent_again_whole(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    body = bytes(range(256)) * 200
    client = stage.client()
    client.send_turning(post(body, method=b"PUT"))
    first = stage.origins[0].accept()
    first.head()
    assert first.exactly(len(body)) == body
    first.close()
    second = stage.origins[1].accept()
    second.head()
    assert second.exactly(len(body)) == body
    second.send(OK)
    client.until(b"ok")


@pytest.mark.parametrize("body_begun", [False, True])
def test_when_the_answer_has_begun_it_is_cut_for_all_to_see(set_stage: SetStage, body_begun: bool) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    client.send(get())
    first = stage.origins[0].accept()
    first.head()
    first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + b"half" * body_begun)
    client.head()
    first.close()
    assert client.end() == "eof"
    assert client.received == b"half" * body_begun
    assert stage.origins[1].waiting() is None
    assert stage.worker.errors() == {"upstream_closed": 1}


@pytest.mark.parametrize(("minor", "how"), [(0, "reset"), (1, "eof")])
def test_a_cut_body_without_a_length_ends_by_reset(set_stage: SetStage, minor: int, how: str) -> None:
    """To a client of HTTP/1.0 the connection's end is the body's end: FIN would say that it is whole."""
    stage = set_stage(tcp=True)
    client = stage.client()
    client.send(b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor)
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    client.until(b"hello")
    upstream.close()
    assert client.end() == how
    assert stage.worker.errors() == {"upstream_closed": 1}


def test_a_silent_endpoint_is_not_retried(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, timeouts=Timeouts(response=0.03))
    client = stage.client()
    client.send(get())
    first = stage.origins[0].accept()
    stage.wait(lambda: stage.worker.errors(), "the time-out")
    assert client.response()[:2] == (504, "upstream_timeout")
    first.head()
    assert first.end() == "eof"
    assert stage.origins[1].waiting() is None
    assert stage.worker.endpoint(0)["failures"] == 1
    assert stage.worker.left_out_ms(0) is None, "a slow answer is no failed connect"


def full(stage: Stage, number: int) -> list[socket.socket]:
    """Fills the backlog of an endpoint of a backlog of 0, so that a connect finds no room."""
    stage.origins[number].sock.listen(0)
    filling = []
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        filling.append(sock)
        try:
            sock.connect(str(stage.origins[number].path))
        except BlockingIOError:
            return filling


def test_a_full_backlog_counts_as_refused(set_stage: SetStage) -> None:
    stage = set_stage()
    filling = full(stage, 0)
    client = stage.client()
    client.send(get())
    assert client.response()[:2] == (502, "connect_refused")
    for sock in filling:
        sock.close()


def test_no_endpoint_is_usable(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    for number in range(2):
        stage.worker.mark_slot(number, UNHEALTHY)
    client = stage.client()
    client.send(get())
    assert client.response()[:2] == (503, "no_endpoint")
    assert client.is_open(), "the client may ask again"
