"""Single checks against real sockets: good ones, silent ones, hostile ones."""

import contextlib
import errno
import socket
import struct
import time
import tracemalloc

import pytest
import trio

from fastmesh.health import checks
from fastmesh.health.checks import run_check
from fastmesh.model import Address, BodyMatch, Health
from support.descriptors import open_descriptors
from support.ports import free_port
from support.tcp import TcpServer
from support.waiting import eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
QUICK = Health(timeout=0.3)


def read_head(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(4096)
        if not part:
            break
        data += part
    return data


def answering(*parts):
    """A handler that reads a request and sends these."""

    def handler(sock):
        read_head(sock)
        with contextlib.suppress(OSError):
            for part in parts:
                sock.sendall(part)

    return handler


def endless(first, more):
    """A handler that goes on sending until the other side ends it."""

    def handler(sock):
        read_head(sock)
        with contextlib.suppress(OSError):
            sock.sendall(first)
            while True:
                sock.sendall(more)

    return handler


def silent(sock):
    while sock.recv(4096):
        pass


def address_of(server):
    if server.text.startswith("unix:"):
        return Address("unix", path=server.text.removeprefix("unix:"))
    kind = "inet6" if server.text.startswith("[") else "inet"
    return Address(kind, "::1" if kind == "inet6" else "127.0.0.1", server.port)


def check(where, health=QUICK):
    """(passed, text, seconds)"""

    async def main():
        with trio.fail_after(10):
            return await run_check(address_of(where) if isinstance(where, TcpServer) else where, health)

    start = time.monotonic()
    result = trio.run(main)
    return result.passed, result.text, time.monotonic() - start


@pytest.mark.parametrize("way", ["inet", "inet6", "unix"])
def test_every_kind_of_address(way, tmp_path):
    where = {"inet": {}, "inet6": {"host": "::1"}, "unix": {"path": tmp_path / "s"}}[way]
    seen = []

    def handler(sock):
        head = read_head(sock)
        if not head:
            return
        seen.append(head)
        sock.sendall(OK)
        # The check ends its side in order once it has read everything.
        assert sock.recv(1) == b""

    with TcpServer(handler, **where) as server:
        assert check(server, Health(path="/healthz"))[:2] == (True, "answered 200")
        assert check(server, Health(type="tcp"))[:2] == (True, "connected")
        host = "localhost" if way == "unix" else server.text
    assert seen[0].startswith(f"GET /healthz HTTP/1.1\r\nhost: {host}\r\n".encode())


def test_another_port():
    seen = []

    def handler(sock):
        seen.append(read_head(sock))
        sock.sendall(OK)

    with TcpServer(handler) as server:
        health = Health(port=server.port)
        assert check(Address("inet", "127.0.0.1", 1), health)[0]
        assert f"host: 127.0.0.1:{server.port}".encode() in seen[0]


def test_a_unix_socket_has_no_port(tmp_path):
    with TcpServer(answering(OK), path=tmp_path / "s") as server:
        assert check(server, Health(port=1))[0]


def test_the_answer_of_a_server_that_sends_in_pieces():
    with TcpServer(answering(*(OK[i : i + 1] for i in range(len(OK))))) as server:
        assert check(server)[0]


def test_what_the_code_and_the_body_say():
    with TcpServer(answering(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")) as server:
        assert check(server)[:2] == (False, "answered 500, expected 200-399")
    with TcpServer(answering(OK)) as server:
        assert check(server, Health(body=BodyMatch("fine")))[:2] == (False, "the body does not hold 'fine'")
        assert check(server, Health(body=BodyMatch("^o", regex=True)))[0]


def test_nobody_listens(tmp_path):
    port = free_port()
    for health in (QUICK, Health(type="tcp")):
        assert check(Address("inet", "127.0.0.1", port), health)[:2] == (False, "connection refused")
    missing = Address("unix", path=str(tmp_path / "none"))
    assert check(missing)[:2] == (False, "the socket's file does not exist")


def test_no_answer_in_time():
    with TcpServer(silent) as server:
        passed, text, seconds = check(server)
        assert (passed, text) == (False, "no answer within 300 ms")
        assert 0.3 <= seconds < 2
        assert check(server, Health(type="tcp", timeout=0.3))[0], "a TCP check needs no answer"


def test_no_connection_in_time():
    """A full queue: the kernel answers no further SYN."""
    with socket.socket() as listening, contextlib.ExitStack() as held:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            sock = held.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        passed, text, seconds = check(Address("inet", *listening.getsockname()))
    assert (passed, text) == (False, "no connection within 300 ms")
    assert 0.3 <= seconds < 2


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_a_unix_socket_whose_queue_is_full(kind, tmp_path):
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as held:
        listening.bind(str(tmp_path / "s"))
        listening.listen(0)
        held.enter_context(socket.socket(socket.AF_UNIX)).connect(str(tmp_path / "s"))
        health = Health(type=kind, timeout=0.3)
        assert check(Address("unix", path=str(tmp_path / "s")), health)[:2] == (
            False,
            "its queue of connections is full",
        )


def test_one_that_closes_and_one_that_resets():
    def resetting(sock):
        read_head(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with TcpServer(answering()) as server:
        assert check(server)[:2] == (False, "closed the connection without an answer")
    with TcpServer(resetting) as server:
        assert check(server)[:2] == (False, "the connection was reset")


@pytest.mark.parametrize(
    ("first", "more", "why"),
    [
        (
            b"HTTP/1.1 200 OK\r\n",
            b"X-More: and more\r\n" * 50,
            "the head of its answer is longer than 16 KiB",
        ),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 5000, "the head of its answer is longer than 16 KiB"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50, "sent more than 10 interim answers"),
        (b"", bytes(range(128, 256)) * 8, None),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"no" * 2000, "the first 64 KiB of the body do not hold 'ok'"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n" * 500,
            "the beginning of the body does not hold 'ok'",
        ),
    ],
)
def test_a_peer_that_never_stops_sending(first, more, why):
    """It is left long before the time is over, and what it sent is not kept."""
    with TcpServer(endless(first, more)) as server:
        check(server)  # what is loaded once
        tracemalloc.start()
        try:
            passed, text, seconds = check(server, Health(timeout=5.0, body=BodyMatch("ok")))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert passed is False
    assert why is None or text == why
    assert seconds < 4
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("first", "piece", "why"),
    [
        (b"", b"H", "no answer within 300 ms"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", b"x", "no whole answer within 300 ms"),
    ],
)
def test_a_slow_drip_does_not_stretch_the_time(first, piece, why):
    def dripping(sock):
        read_head(sock)
        sock.sendall(first)
        sock.settimeout(0.02)
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(piece)
                with contextlib.suppress(TimeoutError):
                    if not sock.recv(1):
                        return

    with TcpServer(dripping) as server:
        passed, text, seconds = check(server)
    assert (passed, text) == (False, why)
    assert 0.3 <= seconds < 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS])
def test_trouble_of_our_own_is_no_verdict(monkeypatch, number):
    def no_socket(*_):
        raise OSError(number, "Too many")

    monkeypatch.setattr(checks.trio.socket, "socket", no_socket)
    assert check(Address("inet", "127.0.0.1", 1))[:2] == (None, "too many")


def test_no_descriptor_is_left_open():
    with TcpServer(silent) as server, TcpServer(answering(OK)) as good:
        nobody = Address("inet", "127.0.0.1", free_port())
        check(good)
        before = len(open_descriptors("socket:"))
        for _ in range(5):
            check(server, Health(timeout=0.05))
            check(good)
            check(nobody)
        # The server's ends of them are closed by threads.
        eventually(lambda: len(open_descriptors("socket:")) <= before, "the sockets to be closed")
