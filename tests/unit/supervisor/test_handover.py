import os
import resource
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from fastmesh.model.told import Passive, Told
from fastmesh.supervisor import handover
from fastmesh.supervisor.handover import (
    Descriptors,
    Disagreement,
    Endpoints,
    Gone,
    Group,
    Hello,
    Left,
    Offer,
    Wire,
    peer_of,
)
from support.descriptors import open_descriptors


def talk(*sides):
    """Runs each of two coroutine functions on its end of a connection, which closes with it."""
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    async def run(side, sock):
        with Wire(sock) as wire:
            await side(wire)

    async def main():
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, sides[0], ours)
                nursery.start_soon(run, sides[1], theirs)

    trio.run(main)


def pairs(count):
    """So many connected sockets, and their other ends."""
    made = [socket.socketpair() for _ in range(count)]
    return [a for a, _ in made], [b for _, b in made]


@pytest.fixture(autouse=True)
def _no_descriptor_is_left():
    before = set(open_descriptors(""))
    yield
    assert set(open_descriptors("")) <= before


@pytest.mark.parametrize("count", [1, 2, 253, 254, 600])
def test_sockets_arrive_whole_and_in_order(count):
    """However many messages it takes."""
    mine, others = pairs(count)
    got = []

    async def give(wire):
        await wire.send(Offer(handover.PROTOCOL, groups=(Group("listener", "x", count),), endpoints=0))
        await wire.send_sockets(mine)
        await wire.send(Left())

    async def take(wire):
        offer = await wire.receive(Offer)
        got.extend(await wire.receive_sockets(offer.groups[0].sockets))
        assert await wire.receive(Left) == Left()

    talk(give, take)
    for number, (sock, other) in enumerate(zip(got, others, strict=True)):
        assert not os.get_inheritable(sock.fileno())
        assert not sock.getblocking()
        sock.send(b"%d" % number)
        assert other.recv(10) == b"%d" % number
    for sock in (*mine, *others, *got):
        sock.close()


@pytest.mark.parametrize("count", [0, 1, 500, 501, 20_000])
def test_endpoints_arrive_whole(count):
    told = tuple(Told("s", f"10.0.{i >> 8}.{i & 255}:80", passive=Passive(bad_5xx=i)) for i in range(count))
    got = []

    async def give(wire):
        await wire.send_endpoints(told)

    async def take(wire):
        got.append(await wire.receive_endpoints(count))

    talk(give, take)
    assert got == [told]


def test_what_the_other_version_has_more_is_ignored():
    async def newer(wire):
        await wire.sock.send(b'{"protocol": 1, "version": "9.1", "pid": 7, "mood": ["good"]}\n')

    async def older(wire):
        assert await wire.receive(Hello) == Hello(1, "9.1", 7)

    talk(newer, older)


def test_a_line_may_come_byte_by_byte():
    async def slow(wire):
        for byte in b'{"protocol": 1}\n{"protocol": 2}\n':
            await wire.sock.send(bytes([byte]))

    async def take(wire):
        assert await wire.receive(Hello) == Hello(1)
        assert await wire.receive(Hello) == Hello(2)

    talk(slow, take)


async def fails_with(error, text, awaitable):
    with pytest.raises(error, match=text):
        await awaitable


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"GET / HTTP/1.1\r\n", "is no Hello"),
        (b'{"protocol": "one"}\n', "is no Hello: Expected `int`"),
        (b'{"version": "1"}\n', "missing required field `protocol`"),
        (b"\xff\xfe\n", "is no Hello"),
        (b"[]\n", "is no Hello"),
    ],
)
def test_what_makes_no_sense(line, text):
    async def say(wire):
        await wire.sock.send(line)

    async def hear(wire):
        await fails_with(Disagreement, text, wire.receive(Hello))

    talk(say, hear)


@pytest.mark.parametrize("begun", [b"", b'{"protocol": 1'])
def test_one_that_ends_in_the_middle(begun):
    async def say(wire):
        if begun:
            await wire.sock.send(begun)

    async def hear(wire):
        await fails_with(Gone, "closed the connection", wire.receive(Hello))

    talk(say, hear)


def test_a_line_without_an_end(monkeypatch):
    monkeypatch.setattr(handover, "LINE_BYTES", 1000)

    async def say(wire):
        with suppress(OSError):
            while True:
                await wire.sock.send(b"x" * 1000)

    async def hear(wire):
        await fails_with(Disagreement, "more than 1000 bytes", wire.receive(Hello))

    talk(say, hear)


def test_telling_one_that_has_gone():
    async def leave(wire):
        pass

    async def say(wire):
        await trio.testing.wait_all_tasks_blocked()
        await fails_with(Gone, "closed the connection", wire.send(Hello(1)))

    talk(leave, say)


@pytest.mark.parametrize(
    ("announced", "sent", "wanted"), [(2, 1, 2), (1, 2, 2), (3, 3, 2), (1, 0, 1), (0, 0, 1)]
)
def test_other_sockets_than_announced(announced, sent, wanted):
    """None of them stays open, which the fixture sees."""
    mine, others = pairs(sent)

    async def give(wire):
        await wire.send(Descriptors(announced), [sock.fileno() for sock in mine])

    async def take(wire):
        await fails_with(Disagreement, "were announced", wire.receive_sockets(wanted))

    talk(give, take)
    for sock in (*mine, *others):
        sock.close()


def test_a_descriptor_that_is_no_socket():
    mine, others = pairs(2)
    with Path(os.devnull).open() as null:

        async def give(wire):
            await wire.send(Descriptors(3), [mine[0].fileno(), null.fileno(), mine[1].fileno()])

        async def take(wire):
            await fails_with(Disagreement, "no socket", wire.receive_sockets(3))

        talk(give, take)
    for sock in (*mine, *others):
        sock.close()


def test_descriptors_that_nobody_takes_are_closed():
    mine, others = pairs(1)

    async def give(wire):
        await wire.send(Left(), [mine[0].fileno()])

    async def take(wire):
        await wire.receive(Left)

    talk(give, take)
    mine[0].close()
    assert others[0].recv(1) == b"", "somebody holds the other end"
    others[0].close()


def test_too_few_descriptors_to_take_them():
    """The kernel then cuts the list off."""
    mine, others = pairs(20)

    async def give(wire):
        await wire.send_sockets(mine)

    async def take(wire):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.close(lowest := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 5, hard))
        try:
            await fails_with(Disagreement, "ulimit -n", wire.receive_sockets(20))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    talk(give, take)
    for sock in (*mine, *others):
        sock.close()


@pytest.mark.parametrize("batch", [(), ("a", "b", "c")])
def test_other_endpoints_than_announced(batch):
    async def give(wire):
        await wire.send(Endpoints(tuple(Told("s", address) for address in batch)))

    async def take(wire):
        await fails_with(Disagreement, "were to come", wire.receive_endpoints(2))

    talk(give, take)


def test_who_is_there():
    async def one(wire):
        assert peer_of(wire.sock) == (os.getpid(), os.geteuid())

    talk(one, one)
