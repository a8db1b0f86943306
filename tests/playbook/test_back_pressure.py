"""Whoever reads slowly stops the other side: the worker holds a bounded amount, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastmesh.model import Forward, Route, Timeouts
from support.stage import OK, End, Stage, buffer_of, get

SetStage = Callable[..., Stage]

MOST_COPIED = 128 * 1024  # the largest buffer that exists
ONE_READ = 64 * 1024
MOST_SPLICED = 1 << 20  # a pipe
BIG = bytes(range(256)) * (64 << 10)  # 16 MiB


def pour(stage: Stage, source: End, data: bytes) -> int:
    """How much can be sent until nobody takes any more."""
    sent = 0
    while True:
        taken = source.send_what_fits(data[sent : sent + (1 << 16)])
        sent += taken
        stage.turn(2)
        if not taken:
            stage.settle()
            if not source.send_what_fits(data[sent : sent + 1]):
                return sent
            sent += 1


def drain(stage: Stage, source: End, data: bytes, sink: End) -> None:
    """The rest of `data` goes to whoever reads again."""
    view = memoryview(data)
    while view:
        view = view[source.send_what_fits(view[: 1 << 18]) :]
        stage.turn(2)
        sink.look()
    stage.settle()


@pytest.mark.parametrize("framing", ["length", "chunked", "until close", "short"])
def test_a_client_that_does_not_read_stops_the_endpoint(set_stage: SetStage, framing: str) -> None:
    """``short``: below what is spliced."""
    stage = set_stage()
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    body = BIG[: 200 * 1024 * (20 if framing != "short" else 1)]
    if framing == "chunked":
        framed = b"".join(
            b"%x\r\n%s\r\n" % (len(p), p) for p in (body[i : i + 5000] for i in range(0, len(body), 5000))
        )
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
    elif framing == "until close":
        data = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
    else:
        data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    sent = pour(stage, upstream, data)
    if framing != "short":
        assert sent < len(data)
    assert stage.held() <= (MOST_SPLICED if framing == "length" else MOST_COPIED)
    assert sent <= stage.held() + 2 * buffer_of(client.sock) + 2 * buffer_of(upstream.sock)
    drain(stage, upstream, data[sent:], client)
    if framing == "until close":
        upstream.close()
        stage.settle()
    client.look()
    assert b"\r\n\r\n" in client.received
    client.head()
    if framing in ("length", "short"):
        assert client.exactly(len(body)) == body
        assert client.is_open()
    else:
        assert unchunk(client.until(b"\r\n0\r\n\r\n")) == body
    assert stage.held() == 0


def unchunk(data: bytes) -> bytes:
    parts, at = [], 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + size + 4


@pytest.mark.parametrize("chunked", [False, True])
def test_an_endpoint_that_does_not_read_stops_the_client(set_stage: SetStage, chunked: bool) -> None:
    stage = set_stage()
    client = stage.client()
    body = BIG[: 4 << 20]
    if chunked:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body))
        data = body + b"\r\n0\r\n\r\n"
    else:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        data = body
    upstream = stage.origins[0].accept()
    sent = pour(stage, client, data)
    assert sent < len(data)
    # What waits for the endpoint is the exchange's: one read, and what the kernel holds.
    assert stage.worker.ledger()["buffers"] <= 2
    assert sent <= MOST_COPIED + 2 * buffer_of(client.sock) + 2 * buffer_of(upstream.sock)
    drain(stage, client, data[sent:], upstream)
    upstream.head()
    if chunked:
        assert unchunk(upstream.until(b"\r\n0\r\n\r\n")) == body
    else:
        assert upstream.exactly(len(body)) == body
    upstream.send(OK)
    client.until(b"ok")
    assert client.is_open()


def relay(set_stage: SetStage, **settings: object) -> tuple[Stage, End, End]:
    stage = set_stage(protocol="tcp", routes=(Route(Forward((("s", 1),))),), **settings)
    client = stage.client()
    return stage, client, stage.origins[0].accept()


@pytest.mark.parametrize("to_endpoint", [False, True])
def test_a_relay_is_bounded_both_ways(set_stage: SetStage, to_endpoint: bool) -> None:
    stage, client, upstream = relay(set_stage)
    source, sink = (client, upstream) if to_endpoint else (upstream, client)
    sent = pour(stage, source, BIG)
    assert sent < len(BIG)
    for _, _, unsent, _, in_pipe, _ in stage.worker.connections():
        assert unsent <= ONE_READ
        assert in_pipe <= MOST_SPLICED
        assert not (unsent and in_pipe), "went on reading for a side that had not taken what was read"
    assert sent <= stage.held() + 2 * buffer_of(client.sock) + 2 * buffer_of(upstream.sock)
    # The other way is free meanwhile.
    sink.send(b"and back")
    assert source.until(b"and back") == b"and back"
    source_fin = BIG[sent:]
    drain(stage, source, source_fin, sink)
    source.finish()
    assert sink.exactly(len(BIG)) == BIG
    assert sink.end() == "eof"


def test_a_fin_behind_unsent_bytes_comes_after_them(set_stage: SetStage) -> None:
    stage, client, upstream = relay(set_stage)
    sent = pour(stage, client, BIG[: 3 << 20])
    client.finish()
    stage.settle()
    assert upstream.exactly(sent) == BIG[:sent]
    assert upstream.end() == "eof"
    upstream.send(b"late")
    assert client.until(b"late")
    upstream.finish()
    assert client.end() == "eof"
    assert stage.worker.ledger()["busy"] == 0


def test_a_client_that_never_reads_is_given_up(set_stage: SetStage) -> None:
    """The time of an idle body runs from the last byte that it took."""
    stage = set_stage(timeouts=Timeouts(idle=0.05))
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG))
    pour(stage, upstream, BIG)
    stage.wait(lambda: stage.worker.ledger()["busy"] == 0, "the exchange to be given up")
    upstream.look()
    assert upstream.ended is not None
    assert stage.worker.errors() == {"client_aborted": 1}


def test_an_endpoint_that_stops_in_a_body_is_given_up(set_stage: SetStage) -> None:
    stage = set_stage(timeouts=Timeouts(idle=0.05))
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    client.until(b"half")
    stage.wait(lambda: stage.worker.ledger()["busy"] == 0, "the exchange to be given up")
    assert client.end() == "eof"
    assert client.received == b"", "a cut body must not look whole"
    assert stage.worker.errors() == {"upstream_timeout": 1}


def test_without_a_free_pipe_bytes_are_copied(set_stage: SetStage) -> None:
    """More large answers at once than a worker has pipes: all of them come through."""
    stage = set_stage()
    size = 2 << 20
    links = []
    for _ in range(70):
        client = stage.client()
        client.send(get())
        upstream = stage.origins[0].accept()
        upstream.head()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        links.append((client, upstream, pour(stage, upstream, BIG[:size])))
    pipes = sum(1 for *_, held, _ in stage.worker.connections() if held)
    assert pipes == 64
    for client, upstream, sent in links:
        drain(stage, upstream, BIG[sent:size], client)
        client.head()
        assert client.exactly(size) == BIG[:size]
