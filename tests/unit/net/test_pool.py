"""The pool of an endpoint's idle connections, and when an endpoint counts as down."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from fastmesh._native.net import _t_net as net
from fastmesh.engine.numbering import pack_address
from fastmesh.model import Address

REFUSED, TIMEOUT = 30, 31
DRAINING = 1 << 33
ROOM = 1 << 20


def connections(it: Any, count: int) -> tuple[list[int], list[socket.socket]]:
    links = [it.unix() for _ in range(count)]
    for link in links:
        link.peer.setblocking(False)
    return [link.name for link in links], [link.peer for link in links]


def is_closed(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False


def test_the_last_one_in_is_the_first_one_out(it: Any) -> None:
    names, _ = connections(it, 3)
    for name in names:
        it.put(name, ROOM, 1000)
    assert it.pool == (3, 3)
    assert [it.take() for _ in range(4)] == [*reversed(names), None]
    assert it.pool == (0, 3)


def test_the_oldest_makes_room(it: Any) -> None:
    names, peers = connections(it, 4)
    for name in names:
        it.put(name, 2, 1000)
    assert it.pool == (2, 2)
    assert [is_closed(peer) for peer in peers] == [True, True, False, False]
    assert [it.take(), it.take(), it.take()] == [names[3], names[2], None]


@pytest.mark.parametrize("why", ["no room", "draining"])
def test_one_that_is_not_wanted_is_closed(it: Any, why: str) -> None:
    it.net.health = DRAINING if why == "draining" else 0
    (name,), (peer,) = connections(it, 1)
    it.put(name, 0 if why == "no room" else ROOM, 1000)
    assert it.pool == (0, 0)
    assert is_closed(peer)


def test_down_is_no_reason_to_close(it: Any) -> None:
    it.connect_failed(1_000_000)
    (name,), _ = connections(it, 1)
    it.put(name, ROOM, 1000)
    assert it.take() == name


def test_all_can_be_closed(it: Any) -> None:
    names, peers = connections(it, 5)
    for name in names[:4]:
        it.put(name, ROOM, 1000)
    it.close_pool()
    assert it.pool == (0, 1)
    assert [is_closed(peer) for peer in peers] == [True] * 4 + [False]
    it.close_upstream(names[4])
    it.close_upstream(names[4])
    assert it.pool == (0, 0), "counted once"


def test_a_leased_one_can_be_reset(it: Any) -> None:
    (name,), (peer,) = connections(it, 1)
    it.reset_upstream(name)
    it.reset_upstream(name)
    assert it.pool == (0, 0)
    assert is_closed(peer)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("most", [1, 2, 5])
def test_agrees_with_a_list(it: Any, seed: int, most: int) -> None:
    """Put, take, and close anywhere in the list."""
    chance = random.Random(seed)
    names, peers = connections(it, 8)
    leased, idle = list(names), []
    for _ in range(40):
        action = chance.random()
        if action < 0.45 and leased:
            name = leased.pop(chance.randrange(len(leased)))
            if len(idle) >= most:
                idle.pop(0)
            it.put(name, most, 1000)
            idle.append(name)
        elif action < 0.8:
            taken = it.take()
            assert taken == (idle.pop() if idle else None)
            if taken is not None:
                leased.append(taken)
        elif idle:
            it.close_upstream(idle.pop(chance.randrange(len(idle))))
        assert it.pool == (len(idle), len(idle) + len(leased))
    closed = [name for name, peer in zip(names, peers, strict=True) if is_closed(peer)]
    assert set(closed) == set(names) - set(idle) - set(leased)


# ---------------------------------------------------------------- opening


def test_opening_is_counted(it: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        name = it.open(pack_address(Address("unix", path=str(tmp_path / "s"))))
        it.names.append(name)
        assert it.is_there(name)
        assert it.pool == (0, 1)
        server.accept()[0].close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_nobody_listens(it: Any, tmp_path: Path, kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        address = (
            Address("inet", "127.0.0.1", port) if kind == "tcp" else Address("unix", path=str(tmp_path / "s"))
        )
        result = it.open(pack_address(address))
        if result >= 0:
            it.names.append(result)
        # TCP may be told at once or by an event
        assert result == -REFUSED or (kind == "tcp" and it.is_there(result))
    assert it.live["connections"] == (0 if result == -REFUSED else 1)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ECONNREFUSED, REFUSED),
        (errno.ETIMEDOUT, TIMEOUT),
        (errno.EHOSTUNREACH, REFUSED),
        (errno.ECONNRESET, REFUSED),
    ],
)
def test_what_a_failed_connect_is_called(number: int, error: int) -> None:
    assert net.error_of_connect(number) == error


# ---------------------------------------------------------------- being down


def test_the_pause_doubles_up_to_a_bound(it: Any) -> None:
    now = 5_000_000
    pauses = []
    for _ in range(40):
        it.connect_failed(now)
        pauses.append(it.health - now)
        now += 50_000
    assert pauses == [1000, 2000, 4000, 8000, 16000, *[30000] * 35]


def test_success_begins_anew(it: Any) -> None:
    for _ in range(4):
        it.connect_failed(1_000_000)
    assert it.health_changes == 4
    it.connected()
    assert it.health == 0
    assert it.health_changes == 5
    it.connected()
    assert it.health_changes == 5, "what was up is no news"
    it.connect_failed(1_000_000)
    assert it.health == 1_001_000


def test_being_down_leaves_the_other_bits_alone(it: Any) -> None:
    others = DRAINING | 1 << 32 | 77 << 40
    it.net.health = others
    it.connect_failed(1_000_000)
    assert it.health == others | 1_001_000
    it.connected()
    assert it.health == others


def test_the_clock_of_health_may_wrap(it: Any) -> None:
    """0 would mean that it is not down at all."""
    it.connect_failed(2**32 - 1000)
    assert it.health == 1
    it.connect_failed(2**33 - 500)
    assert it.health == 1500


@pytest.mark.parametrize("workers", [1, 4])
def test_requests_in_flight(make_bench: Any, workers: int) -> None:
    it = make_bench(workers)
    assert [it.flight(True), it.flight(True), it.flight(False), it.flight(False)] == [
        (1, 1),
        (2, 2),
        (1, 1),
        (0, 0),
    ]
