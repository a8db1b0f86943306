"""`clients.c` against servers that fail in each way that it tells apart."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.clients import KINDS, Account, Clients, started
from support.ports import free_port

pytestmark = pytest.mark.no_sanitizer  # nothing of fastmesh is in it

# Called with the socket, the id that was asked for, and the number of the request on its connection; False
# closes that.
Answer = Callable[[socket.socket, bytes, int], bool]
Start = Callable[[Answer], int]


@pytest.fixture
def serve() -> Iterator[Start]:
    listeners: list[socket.socket] = []

    def take(connection: socket.socket, answer: Answer) -> None:
        received, number = b"", 0
        with connection, contextlib.suppress(OSError):
            while some := connection.recv(65536):
                received += some
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    found = re.search(rb"x-chaos-id: (\w+)", head)
                    assert found
                    number += 1
                    if not answer(connection, found[1], number):
                        return

    def accept(listener: socket.socket, answer: Answer) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=take, args=(connection, answer), daemon=True).start()

    def begin(answer: Answer) -> int:
        listeners.append(socket.create_server(("127.0.0.1", 0), backlog=512))
        threading.Thread(target=accept, args=(listeners[-1], answer), daemon=True).start()
        port: int = listeners[-1].getsockname()[1]
        return port

    yield begin
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def visit(tmp_path: Path) -> Callable[..., Account]:
    def run(port: int, seconds: float = 0.3, **settings: object) -> Account:
        clients = Clients(port, tmp_path / "clients.log", **settings)  # type: ignore[arg-type]
        with started(clients):
            clients.pause(seconds)
            return clients.finish()

    return run


def good(connection: socket.socket, asked: bytes, more: bytes = b"") -> bool:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\nx-chaos-id: %s\r\n%s\r\n" % (asked, more)
    connection.sendall(head + asked + b"\n")
    return True


def reset(connection: socket.socket) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return False


def part(connection: socket.socket, asked: bytes, number: int) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n" + asked)
    return False


def refuse(connection: socket.socket, asked: bytes, number: int) -> bool:
    connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nx-fastmesh-error: overloaded\r\n\r\n")
    return True


def only(account: Account, *kinds: str) -> None:
    """At least one of each, and nothing else that a client would notice."""
    assert set(account.kinds()) == set(kinds), account.log
    ends = [kind for kind in KINDS if kind not in ("late_reset", "idle_reset")]
    assert account.of("ok", *ends) == account.of("sent")


WAYS: dict[str, Answer] = {
    "reset": lambda connection, *_: reset(connection),
    "closed": lambda *_: False,
    "cut": part,
    "wrong": lambda connection, asked, _: good(connection, b"id1" + asked[3:]),
    "corrupt": lambda connection, *_: bool(
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") or True
    ),
    "protocol": lambda connection, *_: bool(connection.sendall(b"hello\r\n") or True),
    "timeout": lambda *_: True,
    "503": refuse,
}


@pytest.mark.parametrize("way", WAYS)
def test_how_the_request_of_a_visitor_ends(serve: Start, visit: Callable[..., Account], way: str) -> None:
    account = visit(serve(WAYS[way]), new_rate=100, timeout=0.2)
    only(account, way)
    assert account.of("ok") == 0
    assert account.error_codes() == ({"overloaded": account.of("sent")} if way == "503" else {})


def test_nobody_listens(visit: Callable[..., Account]) -> None:
    account = visit(free_port(), new_rate=100, kept=2)
    only(account, "refused")
    assert account.of("refused", who=("kept",)) > 2  # they come again and again


@pytest.mark.parametrize("close_share", [0.0, 1.0])
def test_visitors_that_are_served(serve: Start, visit: Callable[..., Account], close_share: float) -> None:
    """Who wants the server to close waits for that; who does not closes."""

    def answer(connection: socket.socket, asked: bytes, number: int) -> bool:
        return (
            not good(connection, asked, b"Connection: close\r\n" if close_share else b"") or not close_share
        )

    account = visit(serve(answer), new_rate=200, close_share=close_share)
    only(account)
    assert account.of("opened") == account.of("ok") >= 50
    assert account.of("said_close") == (account.of("ok") if close_share else 0)


def test_a_kept_connection_that_stays(serve: Start, visit: Callable[..., Account]) -> None:
    account = visit(serve(lambda connection, asked, _: good(connection, asked)), kept=4, think=(0.0, 0.02))
    only(account)
    assert account.of("opened") == 4
    assert account.of("ok") > 40


@pytest.mark.parametrize("kind", ["lost", "lost_reset"])
def test_a_kept_connection_that_ends_under_a_request(
    serve: Start, visit: Callable[..., Account], kind: str
) -> None:
    def answer(connection: socket.socket, asked: bytes, number: int) -> bool:
        if number == 1:
            return good(connection, asked)
        return reset(connection) if kind == "lost_reset" else False

    account = visit(serve(answer), kept=4, think=(0.01, 0.02))
    only(account, kind)
    assert account.of("opened") >= account.of("ok") >= account.of(kind) > 4


@pytest.mark.parametrize("by_reset", [False, True])
@pytest.mark.parametrize("stay_away", [False, True])
def test_a_kept_connection_that_ends_between_requests(
    serve: Start, visit: Callable[..., Account], by_reset: bool, stay_away: bool
) -> None:
    """An end is no failure, and a resident comes again unless it is told to stay away; a reset is noticed."""

    def answer(connection: socket.socket, asked: bytes, number: int) -> bool:
        good(connection, asked)
        time.sleep(0.005)
        return reset(connection) if by_reset else False

    account = visit(serve(answer), kept=4, think=(0.04, 0.06), stay_away=stay_away)
    only(account, *(["idle_reset"] if by_reset else []))
    ended = account.of("idle_reset" if by_reset else "idle_closed")
    assert ended == 4 if stay_away else ended > 4
    assert account.numbers["gone"] == (4 if stay_away else 0)


@pytest.mark.parametrize("by_reset", [False, True])
def test_an_end_that_was_announced(serve: Start, visit: Callable[..., Account], by_reset: bool) -> None:
    def answer(connection: socket.socket, asked: bytes, number: int) -> bool:
        good(connection, asked, b"Connection: close\r\n")
        time.sleep(0.005)  # else the reset overtakes the answer
        return reset(connection) if by_reset else False

    account = visit(serve(answer), kept=4, think=(0.01, 0.02))
    only(account, *(["late_reset"] if by_reset else []))
    assert account.of("said_close") == account.of("ok") == account.of("opened") > 4
