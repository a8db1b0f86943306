"""Peers that are slow on purpose, or never come to an end: timed out, and of bounded cost meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from support.client import Client
from support.origin import Exchange
from support.rig import Rig, unique
from support.waiting import eventually
from support.wire import get, post, request


class Trickle:
    """Sends `data` one byte every `pause` seconds from a thread, until all is sent, the peer ends, or
    `stop`."""

    def __init__(self, send: Callable[[bytes], object], data: bytes, pause: float = 0.05) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(send, data, pause), daemon=True)
        self._thread.start()

    def _run(self, send: Callable[[bytes], object], data: bytes, pause: float) -> None:
        for byte in data:
            if self._stopped.wait(pause):
                return
            try:
                send(bytes([byte]))
            except OSError:
                return

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def test_head_that_trickles_in_is_timed_out(hasty: Rig) -> None:
    """The deadline counts from the first byte on: bytes that keep coming do not move it."""
    with hasty.client() as client:
        started = time.monotonic()
        trickle = Trickle(client.sock.sendall, get("/", b"A: " + b"x" * 200))
        response = client.read_response()
        took = time.monotonic() - started
        trickle.stop()
        assert (response.status, response.error_code) == (408, "header_timeout")
        assert 0.2 < took < 2
    hasty.sentinels()


def test_head_of_a_later_request_has_the_same_deadline(hasty: Rig) -> None:
    with hasty.client() as client:
        assert client.request(get(unique())).status == 200
        client.send(b"GET / HTT")
        response = client.read_response()
        assert (response.status, response.error_code) == (408, "header_timeout")


def test_client_that_says_nothing_is_closed_without_a_word(hasty: Rig) -> None:
    with hasty.client() as client:
        assert client.read_to_end() == b""
    with hasty.client() as client:
        assert client.request(get(unique())).status == 200
        assert client.read_to_end() == b"", (
            "an answer that nobody asked for could be taken for the next request's"
        )
    hasty.sentinels()


@pytest.fixture
def limited() -> Iterator[Rig]:
    """An exchange may take 700 ms in all."""
    rig = Rig(timeouts={"total": "700ms"}).start()
    yield rig
    rig.stop()


def test_body_that_trickles_in_meets_the_total_deadline(limited: Rig) -> None:
    path = unique()
    with limited.client() as client:
        started = time.monotonic()
        client.send(request("POST", path, b"Content-Length: 100"))
        trickle = Trickle(client.sock.sendall, b"x" * 100)
        response = client.read_response("POST")
        trickle.stop()
        assert response.status in (408, 504)
        assert time.monotonic() - started < 3
        assert client.how_it_ended() == "eof"
        arrived = limited.origin.requests_for(path)[0]
        link = limited.origin.connections[arrived.connection]
        limited.origin.wait(lambda: link.ended, "the end of the upstream connection")
    limited.sentinels()


def test_response_that_trickles_out_meets_the_total_deadline(limited: Rig) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        trickle = Trickle(exchange.send, b"x" * 100)
        exchange.wait_peer_end()
        trickle.stop()

    with limited.origin.answering(path, handler), limited.client() as client:
        response = client.request(get(path))
        assert response.status == 200
        assert response.truncated
    limited.sentinels()


def test_response_that_stops_inside_its_body_is_cut(hasty: Rig) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart")
        exchange.wait_peer_end()

    with hasty.origin.answering(path, handler), hasty.client() as client:
        response = client.request(get(path))
        assert response.body == b"start"
        assert response.truncated
    hasty.sentinels()


def test_response_that_trickles_is_not_silence(hasty: Rig) -> None:
    """`idle` is about silence: a slow body whose bytes keep coming is delivered whole."""
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n")
        trickle = Trickle(exchange.send, b"x" * 15, pause=0.08)
        trickle._thread.join()

    with hasty.origin.answering(path, handler), hasty.client() as client:
        assert client.request(get(path)).body == b"x" * 15
    hasty.sentinels()


def test_many_slow_clients_do_not_hold_up_others(hasty: Rig) -> None:
    with hasty.client() as client:
        hasty.sentinel(client)
    before = hasty.proxy.resident_bytes()
    slow = [hasty.client() for _ in range(300)]
    for client in slow:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nA: " + b"x" * 500)
    hasty.sentinels()
    assert hasty.proxy.resident_bytes() - before < 300 * 48 * 1024
    for client in slow:
        assert client.read_response().status == 408
        client.close()
    hasty.sentinels()


# More than the kernel holds in the socket buffers on the way.
BIG = 96 << 20


def _stalled_at(progress: Callable[[], int]) -> int:
    """The value of `progress` once it has not grown for 300 ms."""
    last, since = -1, time.monotonic()

    def stalled() -> bool:
        nonlocal last, since
        now = progress()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 0.3

    eventually(stalled, "the writer to block", within=10)
    return last


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_slow_reader_stops_the_origin(rig: Rig, framing: str) -> None:
    path = unique()
    sent = [0]
    piece = b"x" * 65536

    def handler(exchange: Exchange) -> None:
        head = {
            "length": b"Content-Length: %d\r\n" % BIG,
            "chunked": b"Transfer-Encoding: chunked\r\n",
            "close": b"",
        }[framing]
        exchange.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        while sent[0] < BIG:
            exchange.send(b"10000\r\n" + piece + b"\r\n" if framing == "chunked" else piece)
            sent[0] += len(piece)
        if framing == "chunked":
            exchange.send(b"0\r\n\r\n")
        if framing == "close":
            exchange.close()

    with rig.origin.answering(path, handler), rig.client(receive_buffer=65536, timeout=20) as client:
        before = rig.proxy.resident_bytes()
        client.send(get(path))
        stalled = _stalled_at(lambda: sent[0])
        assert stalled < BIG, f"{stalled} bytes were taken for a client that reads none"
        assert rig.proxy.resident_bytes() - before < 4 << 20
        response = client.read_response()
        assert len(response.body) == BIG
        assert response.truncated is None
    rig.sentinels()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_slow_origin_stops_the_client(rig: Rig, framing: str) -> None:
    path = unique()
    go_on = threading.Event()
    sent = [0]
    piece = b"x" * 65536

    def handler(exchange: Exchange) -> None:
        assert go_on.wait(20)
        exchange.read_body()
        exchange.reply(200, b"%d" % len(exchange.request.body))

    def upload(client: Client) -> None:
        while sent[0] < BIG:
            client.sock.sendall(b"10000\r\n" + piece + b"\r\n" if framing == "chunked" else piece)
            sent[0] += len(piece)
        if framing == "chunked":
            client.sock.sendall(b"0\r\n\r\n")

    field = b"Content-Length: %d" % BIG if framing == "length" else b"Transfer-Encoding: chunked"
    with rig.origin.answering(path, handler), rig.client(timeout=20) as client:
        before = rig.proxy.resident_bytes()
        client.send(request("POST", path, field))
        thread = threading.Thread(target=upload, args=(client,), daemon=True)
        thread.start()
        stalled = _stalled_at(lambda: sent[0])
        assert stalled < BIG, f"{stalled} bytes were taken for an origin that reads none"
        assert rig.proxy.resident_bytes() - before < 4 << 20
        go_on.set()
        assert client.read_response("POST").body == b"%d" % BIG
        thread.join()
    rig.sentinels()


def test_client_that_stops_reading_is_given_up(hasty: Rig) -> None:
    path = unique()
    ended = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        try:
            for _ in range(BIG >> 16):
                exchange.send(b"x" * 65536)
        finally:
            ended.set()

    with hasty.origin.answering(path, handler), hasty.client(receive_buffer=65536) as client:
        client.send(get(path))
        assert ended.wait(5), "an origin was kept busy for a client that does not read"
    hasty.sentinels()


def test_slow_client_does_not_hold_an_upstream_connection_before_its_head_is_whole(rig: Rig) -> None:
    mark = rig.origin.mark()
    with rig.client(unix=True) as client:
        client.send_pieces([b"POST / HTTP/1.1\r\n", b"Host: test\r\n", b"Content-Length: 5\r\n"])
        assert rig.origin.since(mark).requests == []
        assert rig.origin.since(mark).new_connections == 0
    rig.sentinels()


def test_uploads_in_parallel_keep_apart(rig: Rig) -> None:
    """Interleaved by piece: each origin request has the bytes of one client only."""
    clients = [(rig.client(), unique(), bytes([65 + index]) * 50_000) for index in range(20)]
    for client, path, body in clients:
        client.send(post(path, body)[: -len(body)])
    for start in range(0, 50_000, 5_000):
        for client, _, body in clients:
            client.send(body[start : start + 5_000])
    for client, path, body in clients:
        answer = client.read_response("POST").json()
        assert answer["target"] == path
        assert answer["body"] == body.decode()
        client.close()
    rig.sentinels()
