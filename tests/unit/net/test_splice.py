"""Bytes through a pipe: held only while they are on their way, by a bounded number of pipes."""

from __future__ import annotations

import random
import socket
import struct
from typing import Any

READABLE, ERROR, EOF = 1, 4, 8
AGAIN, FAILED = -1, -2
PIPES = 64
ALL = 1 << 40


def test_bytes_go_through(it: Any) -> None:
    source, sink = it.tcp(), it.tcp()
    data = random.Random(1).randbytes(100_000)
    moved = b""
    for at in range(0, len(data), 10_000):
        source.peer.sendall(data[at : at + 10_000])
        size = it.fill(source.name, sink.name, ALL)
        while size > 0:
            assert it.drain(sink.name) == 1
            assert not it.unsent(sink.name)[1]
            moved += recv_exactly(sink.peer, size)
            size = it.fill(source.name, sink.name, ALL)
        assert size == AGAIN
        assert it.drain(sink.name) == 1, "an empty pipe is given back"
    assert moved == data
    assert it.free_pipes == PIPES
    assert it.live["pipes"] == 1, "one pipe is enough, and is kept for the next"


def recv_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data


def test_no_more_than_was_asked_for(it: Any) -> None:
    source, sink = it.tcp(), it.tcp()
    source.peer.sendall(b"0123456789")
    assert it.fill(source.name, sink.name, 4) == 4
    assert it.drain(sink.name) == 1
    assert sink.peer.recv(100) == b"0123"


def test_what_flags_say(it: Any) -> None:
    source, sink = it.tcp(), it.tcp()
    it.set_flags(source.name, READABLE)
    source.peer.sendall(b"x")
    assert it.fill(source.name, sink.name, ALL) == 1
    assert it.flags(source.name) == READABLE, "a short splice says nothing"
    assert it.fill(source.name, sink.name, ALL) == AGAIN
    assert it.flags(source.name) == 0
    source.peer.shutdown(socket.SHUT_WR)
    assert it.fill(source.name, sink.name, ALL) == 0
    assert it.flags(source.name) == EOF
    it.set_flags(source.name, READABLE)
    source.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    source.peer.close()
    it.drain(sink.name)


def test_a_full_sink_keeps_the_pipe_until_it_reads(it: Any) -> None:
    source, sink = it.tcp(), it.tcp()
    moved = 0
    while True:
        source.peer.sendall(bytes(60_000))
        size = it.fill(source.name, sink.name, ALL)
        moved += size
        if it.drain(sink.name) == 0:
            break
    assert it.unsent(sink.name) == (0, True)
    assert it.free_pipes == PIPES - 1
    received = 0
    while it.drain(sink.name) == 0:
        received += len(sink.peer.recv(1 << 20))
    received += len(recv_exactly(sink.peer, moved - received))
    assert received == moved
    assert it.free_pipes == PIPES


def test_a_pipe_with_bytes_in_it_is_not_used_again(it: Any) -> None:
    """Its connection broke: the next would be given another's bytes."""
    source, sink, other = it.tcp(), it.tcp(), it.tcp()
    source.peer.sendall(b"secret")
    assert it.fill(source.name, sink.name, ALL) == 6
    it.close(sink.name)
    assert (it.free_pipes, it.live["pipes"]) == (PIPES, 0)
    source.peer.sendall(b"public")
    assert it.fill(source.name, other.name, ALL) == 6
    assert it.drain(other.name) == 1
    assert other.peer.recv(100) == b"public"


def test_a_sink_that_is_gone(it: Any) -> None:
    source, sink = it.tcp(), it.tcp()
    sink.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sink.peer.close()
    source.peer.sendall(b"x")
    assert it.fill(source.name, sink.name, ALL) == 1
    assert it.drain(sink.name) == FAILED


def test_pipes_are_bounded(it: Any) -> None:
    source = it.tcp()
    sinks = [it.tcp() for _ in range(PIPES + 1)]
    source.peer.sendall(bytes(PIPES + 1))
    assert [it.fill(source.name, sink.name, 1) for sink in sinks] == [1] * PIPES + [None]
    assert it.drain(sinks[0].name) == 1
    assert it.fill(source.name, sinks[PIPES].name, 1) == 1


def test_no_new_pipe_while_descriptors_are_short(it: Any) -> None:
    """The caller copies then. One that is there serves on, and an empty one goes."""
    source, sink, other = it.tcp(), it.tcp(), it.tcp()
    source.peer.sendall(b"0123456789")
    assert it.fill(source.name, sink.name, 4) == 4
    it.strain(1, 1)
    assert it.fill(source.name, other.name, 4) is None
    it.shed_pipes()
    assert it.live["pipes"] == 1, "there are bytes in it"
    assert it.drain(sink.name) == 1
    assert sink.peer.recv(100) == b"0123"
    it.shed_pipes()
    assert it.live["pipes"] == 0
    it.strain(1, 0)
    assert it.fill(source.name, other.name, 4) == 4
    assert it.drain(other.name) == 1
