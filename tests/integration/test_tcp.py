"""The TCP relay: ends of each half, time-outs, large transfers, slow readers, endpoints that refuse."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from support.ports import free_port
from support.proxy import Proxy
from support.tcp import TcpServer, echo, receive_all, receive_exactly
from support.waiting import eventually

SIZE = 50 << 20
Start = Callable[..., Proxy]


def relay(start: Start, *endpoints: str, **service: Any) -> tuple[Proxy, tuple[str, int]]:
    port = free_port()
    timeouts = {"connect": "1s", "idle": "10s", **service.pop("timeouts", {})}
    proxy = start(
        {
            "listeners": {"db": {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "service": "db"}},
            "services": {"db": {"endpoints": list(endpoints), "timeouts": timeouts, **service}},
        }
    )
    return proxy, ("127.0.0.1", port)


@contextmanager
def connected(address: tuple[str, int], **options: int) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.settimeout(20)
        if "receive_buffer" in options:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive_buffer"])
        sock.connect(address)
        yield sock


def test_echo_and_end(start: Start) -> None:
    with TcpServer(echo) as server:
        proxy, address = relay(start, server.text)
        with connected(address) as sock:
            for message in (b"\0", b"hello", b"GET / HTTP/1.1\r\n\r\n", b"x" * 100_000):
                sock.sendall(message)
                assert receive_exactly(sock, len(message)) == message
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b""
        eventually(
            lambda: proxy.metric("fastmesh_connections_active", listener="db") == 0, "no connection left"
        )
        assert proxy.metric("fastmesh_connections_total", listener="db") == 1


def test_server_that_speaks_first(start: Start) -> None:
    def greet(sock: socket.socket) -> None:
        sock.sendall(b"220 ready\r\n")
        assert receive_exactly(sock, 4) == b"QUIT"

    with TcpServer(greet) as server:
        _, address = relay(start, server.text)
        with connected(address) as sock:
            assert receive_exactly(sock, 11) == b"220 ready\r\n"
            sock.sendall(b"QUIT")
            assert receive_all(sock) == b""


def test_half_close_by_the_client(start: Start) -> None:
    """The server answers only once it has seen the client's FIN."""

    def answer_at_end(sock: socket.socket) -> None:
        request = receive_all(sock)
        sock.sendall(hashlib.sha256(request).hexdigest().encode() + b"y" * 1_000_000)

    with TcpServer(answer_at_end) as server:
        _, address = relay(start, server.text)
        body = b"z" * 3_000_000
        with connected(address) as sock:
            sock.sendall(body)
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == hashlib.sha256(body).hexdigest().encode() + b"y" * 1_000_000


def test_half_close_by_the_server(start: Start) -> None:
    received: list[bytes] = []

    def say_and_listen(sock: socket.socket) -> None:
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        received.append(receive_all(sock))

    with TcpServer(say_and_listen) as server:
        _, address = relay(start, server.text)
        with connected(address) as sock:
            assert receive_all(sock) == b"last words"
            sock.sendall(b"still ")
            sock.sendall(b"talking")
            sock.shutdown(socket.SHUT_WR)
            eventually(lambda: received, "the server to have read to the end")
    assert received == [b"still talking"]


@pytest.mark.parametrize("side", ["client", "server"])
def test_reset_reaches_the_other_side(start: Start, side: str) -> None:
    reset = struct.pack("ii", 1, 0)
    outcome: list[str] = []
    seen = threading.Event()

    def handler(sock: socket.socket) -> None:
        receive_exactly(sock, 5)
        if side == "server":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            return
        sock.sendall(b"ready")
        try:
            outcome.append("eof" if not sock.recv(1) else "data")
        except ConnectionResetError:
            outcome.append("reset")
        seen.set()

    with TcpServer(handler) as server:
        _, address = relay(start, server.text)
        with connected(address) as sock:
            sock.sendall(b"hello")
            if side == "server":
                with pytest.raises(ConnectionResetError):
                    assert receive_all(sock) != b"", "a reset was turned into a clean end"
            else:
                receive_exactly(sock, 5)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        if side == "client":
            assert seen.wait(5)
            assert outcome == ["reset"]


def test_idle_time_out(start: Start) -> None:
    ended = threading.Event()

    def wait(sock: socket.socket) -> None:
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass
        ended.set()

    with TcpServer(wait) as server:
        _, address = relay(start, server.text, timeouts={"idle": "300ms"})
        with connected(address) as sock:
            started = time.monotonic()
            try:
                assert sock.recv(1) == b""
            except ConnectionResetError:
                pass
            assert 0.25 < time.monotonic() - started < 3
            assert ended.wait(3)


def test_traffic_one_way_is_not_idle(start: Start) -> None:
    def tick(sock: socket.socket) -> None:
        pause = threading.Event()
        for _ in range(10):
            pause.wait(0.1)
            sock.sendall(b".")

    with TcpServer(tick) as server:
        _, address = relay(start, server.text, timeouts={"idle": "500ms"})
        with connected(address) as sock:
            assert receive_all(sock) == b"." * 10


@pytest.mark.parametrize("direction", ["down", "up", "both"])
def test_large_transfer_arrives_whole(start: Start, direction: str) -> None:
    block = random.Random(3).randbytes(1 << 20)
    digest = hashlib.sha256(block * (SIZE >> 20)).hexdigest()
    arrived: list[str] = []

    def send(sock: socket.socket) -> None:
        for _ in range(SIZE >> 20):
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)

    def receive(sock: socket.socket) -> str:
        check = hashlib.sha256()
        while data := sock.recv(1 << 18):
            check.update(data)
        return check.hexdigest()

    def serve(sock: socket.socket) -> None:
        if direction == "down":
            send(sock)
        elif direction == "up":
            arrived.append(receive(sock))
        else:
            sender = threading.Thread(target=send, args=(sock,))
            sender.start()
            arrived.append(receive(sock))
            sender.join()

    with TcpServer(serve) as server:
        proxy, address = relay(start, server.text)
        before = proxy.resident_bytes()
        with connected(address) as sock:
            if direction == "up":
                send(sock)
                assert sock.recv(1) == b""
            elif direction == "down":
                sock.shutdown(socket.SHUT_WR)
                assert receive(sock) == digest
            else:
                sender = threading.Thread(target=send, args=(sock,))
                sender.start()
                assert receive(sock) == digest
                sender.join()
        if direction != "down":
            eventually(lambda: arrived == [digest], "all of it at the server")
        assert proxy.resident_bytes() - before < 8 << 20
        expected = SIZE * 2 if direction == "both" else SIZE
        eventually(
            lambda: proxy.metric("fastmesh_bytes_total", listener="db") >= expected, "the bytes to be counted"
        )


def test_slow_reader_stops_the_writer(start: Start) -> None:
    sent = [0]
    total = 96 << 20

    def send(sock: socket.socket) -> None:
        while sent[0] < total:
            sock.sendall(b"x" * 65536)
            sent[0] += 65536

    with TcpServer(send) as server:
        proxy, address = relay(start, server.text)
        with connected(address, receive_buffer=65536) as sock:
            before = proxy.resident_bytes()
            last = [-1, time.monotonic()]

            def stalled() -> bool:
                if sent[0] != last[0]:
                    last[:] = [sent[0], time.monotonic()]
                return time.monotonic() - last[1] > 0.3

            eventually(stalled, "the server to block", within=10)
            assert 0 < sent[0] < total
            assert proxy.resident_bytes() - before < 4 << 20
            assert len(receive_all(sock)) == total


def test_idle_time_out_with_bytes_that_were_not_taken_is_no_clean_end(start: Start) -> None:
    """A FIN behind half of the data would say that this was all."""
    released = threading.Event()

    def send(sock: socket.socket) -> None:
        sock.settimeout(3)
        with suppress(OSError):
            while not released.is_set():
                sock.sendall(b"x" * 65536)

    with TcpServer(send) as server:
        proxy, address = relay(start, server.text, timeouts={"idle": "400ms"})
        with connected(address, receive_buffer=65536) as sock:
            active = "fastmesh_connections_active"
            eventually(lambda: proxy.metric(active, listener="db") == 1, "the connection")
            eventually(lambda: proxy.metric(active, listener="db") == 0, "the time-out")
            released.set()
            with pytest.raises(ConnectionResetError):
                receive_all(sock)


def test_refused_connection_goes_to_another_endpoint(start: Start) -> None:
    with TcpServer(echo) as server:
        _, address = relay(start, f"127.0.0.1:{free_port()}", server.text, balance="round_robin")
        for _ in range(10):
            with connected(address) as sock:
                sock.sendall(b"hello")
                assert receive_exactly(sock, 5) == b"hello"


def test_no_endpoint_answers(start: Start) -> None:
    proxy, address = relay(start, f"127.0.0.1:{free_port()}")
    for _ in range(3):
        # The reset may come before connect() has returned.
        with contextlib.suppress(ConnectionResetError), connected(address) as sock:
            assert sock.recv(1) == b""
    assert proxy.metric("fastmesh_errors_total", code="connect_refused") >= 3


def test_unix_sockets_and_many_connections(start: Start, tmp_path: Path) -> None:
    listening = tmp_path / "relay.sock"
    with TcpServer(echo, path=tmp_path / "server.sock") as server:
        start(
            {
                "listeners": {"db": {"bind": f"unix:{listening}", "protocol": "tcp", "service": "db"}},
                "services": {"db": {"endpoints": [server.text]}},
            }
        )
        socks = [socket.socket(socket.AF_UNIX) for _ in range(100)]
        for index, sock in enumerate(socks):
            sock.settimeout(10)
            sock.connect(str(listening))
            sock.sendall(b"%03d" % index)
        for index, sock in enumerate(socks):
            assert receive_exactly(sock, 3) == b"%03d" % index
            sock.close()


def test_spread_over_endpoints(start: Start) -> None:
    def name(text: bytes) -> Callable[[socket.socket], None]:
        return lambda sock: sock.sendall(text)

    with TcpServer(name(b"a")) as one, TcpServer(name(b"b")) as two:
        _, address = relay(start, one.text, two.text, balance="round_robin")
        answers = []
        for _ in range(20):
            with connected(address) as sock:
                answers.append(receive_all(sock))
    assert answers.count(b"a") == answers.count(b"b") == 10
