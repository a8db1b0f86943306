"""The pool of an endpoint's idle connections: which is taken, which goes, and how long one is kept."""

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

OVERLOADED, REFUSED, TIMEOUT = 23, 30, 31
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


CONNECTIONS, DESCRIPTORS, MEMORY = range(3)


@pytest.mark.parametrize("short", [DESCRIPTORS, MEMORY])
def test_nothing_is_kept_while_descriptors_or_memory_are_short(it: Any, short: int) -> None:
    names, peers = connections(it, 2)
    it.strain(short, 1)
    it.put(names[0], ROOM, 1000)
    assert is_closed(peers[0])
    it.strain(short, 0)
    it.put(names[1], ROOM, 1000)
    assert it.take() == names[1]


def test_connections_of_clients_are_not_those_of_endpoints(it: Any) -> None:
    (name,), _ = connections(it, 1)
    it.strain(CONNECTIONS, 2)
    it.put(name, ROOM, 1000)
    assert it.take() == name


def test_idle_ones_make_room_the_oldest_first(it: Any) -> None:
    names, peers = connections(it, 5)
    for name in names[:4]:
        it.put(name, ROOM, 1000)
    assert it.shed(3) == 3
    assert [is_closed(peer) for peer in peers] == [True, True, True, False, False]
    assert it.shed(3) == 1
    assert it.pool == (0, 1)


def test_pools_that_are_empty_are_not_searched_again_at_once(it: Any) -> None:
    (name,), _ = connections(it, 1)
    assert it.shed(1) == 0
    it.put(name, ROOM, 1000)
    assert it.shed(1) == 0
    it.set_clock(1_000_100)
    assert it.shed(1) == 1


# ---------------------------------------------------------------- opening


def test_an_idle_connection_makes_room_for_a_new_one(it: Any, tmp_path: Path) -> None:
    """The workers may have no more descriptors: the rest is the control plane's."""
    names, peers = connections(it, 2)
    it.put(names[0], ROOM, 1000)
    it.limit_descriptors(2)
    path = str(tmp_path / "endpoint")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        name = it.open(pack_address(Address("unix", path=path)))
        assert name > 0
        assert is_closed(peers[0])
        assert not is_closed(peers[1])
        assert it.live["descriptors"] == 2
        assert it.open(pack_address(Address("unix", path=path))) == -OVERLOADED
        it.close_upstream(name)
        it.set_clock(1_000_000 + 5000)
        name = it.open(pack_address(Address("unix", path=path)))
        assert name > 0
        it.close_upstream(name)


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


# ---------------------------------------------------------------- how long

START = 1_000_000  # the worker's clock at the beginning, ms


def kept_ms(
    it: Any, idle_ms: int, *, max_age_ms: int = 0, now_ms: int = START, opened_ms: int = START
) -> int | None:
    """For how long a connection is kept that goes to the pool now; 0: for ever, None: not at all."""
    it.set_clock(now_ms)
    (name,), _ = connections(it, 1)
    it.opened(name, opened_ms)
    it.put(name, ROOM, idle_ms, max_age_ms)
    kept: int | None = it.keeps_ms(name)
    return kept


def about(ms: int) -> Any:
    return pytest.approx(ms, abs=8)


@pytest.mark.parametrize(
    ("said_ms", "configured_ms", "kept"),
    [
        (60_000, 55_000, 52_500),  # an eighth earlier
        (120_000, 55_000, 55_000),
        (5_000, 55_000, 4_375),
        (2_000, 55_000, 1_500),  # half a second at least
        (2_000, 0, 1_500),
        (501, 55_000, 4),
        (500, 55_000, None),
        (0, 55_000, None),
        (60_000, 1_000, 1_000),
    ],
)
def test_what_the_endpoint_says_of_its_idle_connections(
    it: Any, said_ms: int, configured_ms: int, kept: int | None
) -> None:
    """Ours go before it closes them, so that no request meets a close."""
    it.learn(said_ms)
    found = kept_ms(it, configured_ms)
    assert found == (None if kept is None else about(kept))


def test_nothing_known_and_nothing_configured_is_for_ever(it: Any) -> None:
    assert kept_ms(it, 0) == 0


def test_what_was_learned_is_forgotten(it: Any) -> None:
    it.learn(2_000)
    assert kept_ms(it, 55_000, now_ms=START + 60_000) == about(1_500)
    assert kept_ms(it, 55_000, now_ms=START + 60_001) == about(55_000)


def closed_after(it: Any, idle_ms: int, now_ms: int, *, with_error: bool = False) -> int:
    """The endpoint closes a connection that was idle for so long, at ``now_ms``: the limit known then."""
    it.set_clock(now_ms - idle_ms)
    (name,), _ = connections(it, 1)
    it.opened(name, now_ms - idle_ms)
    it.put(name, ROOM, 0)
    it.set_clock(now_ms)
    limit: int = it.endpoint_closes(name, with_error)
    return limit


@pytest.mark.parametrize(
    ("first", "second", "apart_ms", "limit"),
    [
        (5_000, 5_000, 1_000, 5_000),
        (5_000, 5_600, 1_000, 5_000),  # within an eighth
        (5_600, 5_000, 1_000, 5_000),
        (5_000, 5_800, 1_000, 0),
        (5_000, 5_000, 249, 0),  # together: it ends
        (5_000, 5_000, 250, 5_000),
        (1_000, 1_000, 1_000, 1_000),
        (999, 999, 1_000, 0),  # young ones say nothing
    ],
)
def test_two_closes_of_about_one_age_show_a_limit(
    it: Any, first: int, second: int, apart_ms: int, limit: int
) -> None:
    assert closed_after(it, first, START + 10_000) == 0
    assert closed_after(it, second, START + 10_000 + apart_ms) == limit


def test_a_reset_shows_no_limit(it: Any) -> None:
    for number in range(3):
        assert closed_after(it, 5_000, START + 10_000 * (number + 1), with_error=True) == 0


def test_closes_that_come_together_do_not_hide_a_limit(it: Any) -> None:
    """Each pair is judged alone: two closed at once, and one of the same age later."""
    assert closed_after(it, 5_000, START + 10_000) == 0
    assert closed_after(it, 5_000, START + 10_001) == 0
    assert closed_after(it, 5_000, START + 12_000) == 5_000


# ---------------------------------------------------------------- age


def test_old_connections_go_each_at_a_time_of_its_own(it: Any) -> None:
    """Up to a tenth before `max_age`, so that what was opened together does not close together."""
    found = [kept_ms(it, 0, max_age_ms=100_000) for _ in range(40)]
    times = [one for one in found if one]
    assert len(times) == 40
    assert all(89_990 <= one <= 100_010 for one in times)
    assert len(set(times)) > 10


def test_age_counts_from_the_opening(it: Any) -> None:
    young = kept_ms(it, 0, max_age_ms=100_000, opened_ms=START - 50_000)
    assert young is not None
    assert 39_990 <= young <= 50_010
    assert kept_ms(it, 0, max_age_ms=100_000, opened_ms=START - 100_000) is None
    assert kept_ms(it, 20_000, max_age_ms=100_000, opened_ms=START - 50_000) == about(20_000)


@pytest.mark.parametrize("workers", [1, 4])
def test_requests_in_flight(make_bench: Any, workers: int) -> None:
    it = make_bench(workers)
    assert [it.flight(True), it.flight(True), it.flight(False), it.flight(False)] == [
        (1, 1),
        (2, 2),
        (1, 1),
        (0, 0),
    ]
