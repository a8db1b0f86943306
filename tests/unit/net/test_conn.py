"""Connections: names that go stale, what is kept unsent, what a flag says, and the end of a turn."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from typing import Any

import pytest

READABLE, RDHUP, ERROR, EOF = 1, 2, 4, 8
AGAIN, FAILED = -1, -2


# ---------------------------------------------------------------- names


def test_a_name_goes_stale_at_the_end_of_the_turn(it: Any) -> None:
    """Until then whoever looks sees it closed; afterwards its place may be another's, and the name is not."""
    pair = it.unix()
    it.close(pair.name)
    assert it.is_closed(pair.name)
    assert it.live["connections"] == 1
    it.close(pair.name)
    it.end_turn()
    assert not it.is_there(pair.name)
    assert it.live["connections"] == 0
    other = it.unix()
    assert other.name & 0xFFFFFFFF == pair.name & 0xFFFFFFFF
    assert not it.is_there(pair.name)
    assert it.is_there(other.name)


def test_an_event_of_a_closed_connection_finds_nobody(it: Any) -> None:
    """Both have an event in one batch; handling the first closes the second, whose place is used anew."""
    first, second = it.unix(), it.unix()
    for pair in (first, second):
        pair.peer.send(b"x")
    events = [name for name, bits in it.events() if bits & select.EPOLLIN]
    assert sorted(events) == sorted([first.name, second.name])
    it.close(second.name)
    it.end_turn()
    third = it.unix()
    assert [it.is_there(name) for name in (first.name, second.name, third.name)] == [True, False, True]


def test_the_table_grows_and_its_places_are_used_again(it: Any) -> None:
    names = [it.null() for _ in range(300)]
    assert it.table_size == 512
    assert len({name & 0xFFFFFFFF for name in names}) == 300
    for name in names:
        it.close(name)
    it.end_turn()
    again = [it.null() for _ in range(300)]
    assert it.table_size == 512
    assert not set(again) & set(names)
    for name in again:
        it.close(name)
    it.end_turn()
    assert it.live["connections"] == 0


def test_a_closed_connection_on_the_ready_list_stays_until_it_was_visited(it: Any) -> None:
    pair, other = it.unix(), it.unix()
    it.ready(pair.name)
    it.ready(other.name)
    it.ready(pair.name)
    it.close(pair.name)
    it.end_turn()
    assert it.is_there(pair.name)
    assert it.run_ready() == [pair.name, other.name], "in order, and each once"
    it.end_turn()
    assert not it.is_there(pair.name)
    assert it.is_there(other.name)


def test_closing_closes_the_descriptor_and_disarms_the_timer(it: Any) -> None:
    pair = it.unix()
    assert it.timer(pair.name, 100)
    assert not it.timer(pair.name, 0)
    assert it.timer(pair.name, 100)
    it.close(pair.name)
    assert pair.peer.recv(1) == b""
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(pair.fd)


def test_a_reset_is_a_reset(it: Any) -> None:
    pair = it.tcp()
    it.reset(pair.name)
    with pytest.raises(ConnectionResetError):
        pair.peer.recv(1)


# ---------------------------------------------------------------- reading


def test_a_short_read_took_everything(it: Any) -> None:
    pair = it.unix()
    pair.peer.send(b"hello")
    it.set_flags(pair.name, READABLE)
    assert it.recv(pair.name, 100) == b"hello"
    assert it.flags(pair.name) == 0


def test_a_full_read_may_have_left_something(it: Any) -> None:
    pair = it.unix()
    pair.peer.send(b"hello")
    it.set_flags(pair.name, READABLE)
    assert it.recv(pair.name, 3) == b"hel"
    assert it.flags(pair.name) == READABLE
    assert it.recv(pair.name, 2) == b"lo"
    assert it.flags(pair.name) == READABLE
    assert it.recv(pair.name, 2) == AGAIN
    assert it.flags(pair.name) == 0


@pytest.mark.parametrize("told", [RDHUP, ERROR])
def test_a_fin_behind_the_bytes_is_read_too(it: Any, told: int) -> None:
    """It makes no edge of its own."""
    pair = it.unix()
    pair.peer.send(b"bye")
    pair.peer.shutdown(socket.SHUT_WR)
    it.set_flags(pair.name, READABLE | told)
    assert it.recv(pair.name, 100) == b"bye"
    assert it.flags(pair.name) == READABLE | told
    assert it.recv(pair.name, 100) == 0
    assert it.flags(pair.name) == told | EOF


def test_a_broken_connection(it: Any) -> None:
    pair = it.tcp()
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.peer.close()
    it.set_flags(pair.name, READABLE)
    assert it.recv(pair.name, 100) == FAILED
    assert it.flags(pair.name) == ERROR


def test_an_edge_is_told_once(it: Any) -> None:
    pair = it.unix()
    assert [bits & select.EPOLLOUT for _, bits in it.events()] == [select.EPOLLOUT]
    pair.peer.send(b"x")
    ((name, bits),) = it.events()
    assert (name, bits & select.EPOLLIN) == (pair.name, select.EPOLLIN)
    assert it.events() == []
    pair.peer.close()
    ((_, bits),) = it.events()
    assert bits & select.EPOLLRDHUP


# ---------------------------------------------------------------- writing


def receive(sock: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        parts.append(sock.recv(size))
        size -= len(parts[-1])
    return b"".join(parts)


def fill(it: Any, pair: Any) -> bytes:
    """Sends until something is kept; what was sent."""
    sent = b""
    number = 0
    while it.unsent(pair.name)[0] == 0:
        piece = bytes([number % 251]) * 10_000
        assert it.send(pair.name, piece) in (0, 1)
        sent += piece
        number += 1
    return sent


def test_what_is_sent_at_once_is_not_kept(it: Any) -> None:
    pair = it.unix()
    assert it.send(pair.name, b"hello") == 1
    assert it.unsent(pair.name) == (0, False)
    assert it.live["buffers"] == 0
    assert pair.peer.recv(100) == b"hello"


def test_the_rest_is_kept_in_order_and_flushed(it: Any) -> None:
    pair = it.unix()
    sent = fill(it, pair)
    assert it.unsent(pair.name)[1]
    assert it.flush(pair.name) == 0
    pair.peer.recv(1 << 12)
    assert it.send(pair.name, b"behind") == 0, "nothing overtakes what is kept"
    taken = sent[: 1 << 12]
    while it.flush(pair.name) != 1:
        taken += pair.peer.recv(1 << 16)
    assert it.live["buffers"] == 0
    assert it.unsent(pair.name) == (0, False)
    taken += receive(pair.peer, len(sent) + 6 - len(taken))
    assert taken == sent + b"behind"


def test_no_memory_for_the_rest(it: Any) -> None:
    pair = it.unix()
    it.fail_buffers_after(0)
    result = 1
    while result == 1:
        result = it.send(pair.name, bytes(60_000))
    assert result == FAILED


def test_nobody_reads(it: Any) -> None:
    pair = it.unix()
    pair.peer.close()
    assert it.send(pair.name, b"x") == FAILED
    other = it.unix()
    fill(it, other)
    other.peer.close()
    assert it.flush(other.name) == FAILED
    it.close(other.name)
    assert it.live["buffers"] == 0, "what was kept goes with the connection"


def test_fin_is_sent_once_and_reading_goes_on(it: Any) -> None:
    pair = it.unix()
    it.shut_write(pair.name)
    it.shut_write(pair.name)
    assert pair.peer.recv(1) == b""
    pair.peer.send(b"still")
    assert it.recv(pair.name, 10) == b"still"
