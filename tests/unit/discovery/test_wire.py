"""One question: what counts as its answer, and whom else to ask."""

from __future__ import annotations

import random
import socket
import struct
import threading
from itertools import pairwise

import dns.message
import dns.name
import dns.rdatatype
import pytest
import trio

from fastmesh.discovery import wire
from fastmesh.discovery.system import Settings
from fastmesh.discovery.wire import NoAnswer, ask
from support.names import DnsServer, Question, dns_server

pytestmark = pytest.mark.trio

API = dns.name.from_text("api.test.")
GOOD = "api.test. 60 A 10.0.0.1"


def to(*servers: DnsServer, **more: object) -> Settings:
    return Settings(tuple(server.address for server in servers), **more)  # type: ignore[arg-type]


async def asked(settings: Settings, within: float = 5.0) -> list[str]:
    with trio.fail_after(within):
        reply = await ask(API, dns.rdatatype.A, settings)
    return sorted(str(record) for rrset in reply.answer for record in rrset)


def good(question: Question) -> list[bytes]:
    return [question.answer(GOOD).to_wire()]


async def test_numbers_and_ports_are_random() -> None:
    with dns_server(good) as server:
        for _ in range(20):
            assert await asked(to(server)) == ["10.0.0.1"]
        for many in (server.ids, server.ports):
            steps = {after - before for before, after in pairwise(many)}
            assert len(set(many)) > 15
            assert len(steps) > 10, many
        assert {question.kind for question in server.questions} == {"A"}


async def test_what_answers_another_question_is_ignored() -> None:
    def hostile(question: Question) -> list[bytes]:
        bad = question.answer("api.test. 60 A 10.6.6.6")
        wrong_id = bad.to_wire()
        wrong_id = bytes([wrong_id[0] ^ 0x55]) + wrong_id[1:]
        other = dns.message.make_response(dns.message.make_query("other.test.", "A", id=bad.id))
        kind = dns.message.make_response(dns.message.make_query("api.test.", "AAAA", id=bad.id))
        query = dns.message.make_query("api.test.", "A", id=bad.id)
        loop = struct.pack("!HHHHHH", bad.id, 0x8180, 1, 0, 0, 0) + b"\xc0\x0c\x00\x01\x00\x01"
        return [b"", b"x", b"\0" * 12, wrong_id, loop, other.to_wire(), kind.to_wire(), query.to_wire(),
                *good(question)]  # fmt: skip

    with dns_server(hostile) as server:
        assert await asked(to(server)) == ["10.0.0.1"]
        assert len(server.questions) == 1


async def test_an_answer_from_elsewhere_is_ignored() -> None:
    """The socket is connected: the kernel drops what another address or port sends to it."""
    done = threading.Event()

    def from_elsewhere(question: Question) -> list[bytes]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            spoof = question.answer("api.test. 60 A 10.6.6.6").to_wire()
            sock.sendto(spoof, ("127.0.0.1", server.ports[-1]))
        done.set()
        return good(question)

    with dns_server(from_elsewhere) as server:
        assert await asked(to(server)) == ["10.0.0.1"]
        assert done.is_set()


def garbage(question: Question) -> list[bytes]:
    whole = question.answer(GOOD).to_wire()
    return [whole[:-3]]


def endless_name(question: Question) -> list[bytes]:
    """The owner of the answer points at itself."""
    head = question.answer().to_wire()
    at = len(head)
    return [head[:6] + b"\0\1" + head[8:] + struct.pack("!HHHIH", 0xC000 | at, 1, 1, 60, 4) + b"\x0a\0\0\1"]


@pytest.mark.parametrize("bad", [garbage, endless_name])
async def test_what_cannot_be_read_sends_to_the_next_server(bad: object) -> None:
    with dns_server(bad) as broken, dns_server(good) as server:  # type: ignore[arg-type]
        assert await asked(to(broken, server), within=0.9) == ["10.0.0.1"]
        with pytest.raises(NoAnswer, match="cannot be read") as caught:
            await asked(to(broken))
        assert not caught.value.servfail


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"])
async def test_a_refusal_sends_to_the_next_server_at_once(rcode: str) -> None:
    with dns_server(lambda q: [q.answer(rcode=rcode).to_wire()]) as refusing, dns_server(good) as server:
        assert await asked(to(refusing, server), within=0.9) == ["10.0.0.1"]
        with pytest.raises(NoAnswer, match=f"says {rcode}") as caught:
            await asked(to(refusing))
        assert caught.value.servfail


async def test_a_server_that_is_not_there_costs_no_time() -> None:
    with dns_server(good) as server:
        gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        gone.bind(("127.0.0.1", 0))
        address = gone.getsockname()
        gone.close()
        assert await asked(Settings((address, server.address)), within=0.9) == ["10.0.0.1"]
        with pytest.raises(NoAnswer, match="Connection refused"):
            await asked(Settings((address,)))


async def test_a_lost_question_is_asked_again_and_the_next_server_too() -> None:
    with dns_server(lambda q: good(q) if len(server.questions) > 1 else []) as server:
        assert await asked(to(server)) == ["10.0.0.1"]
        assert len(server.questions) == 2
    with dns_server(lambda _: []) as silent, dns_server(good) as server:
        assert await asked(to(silent, server)) == ["10.0.0.1"]


async def test_who_is_slower_than_a_try_is_heard() -> None:
    """A resolver that has to ask others may take longer than the next try begins."""
    later = threading.Event()

    def slow(question: Question) -> list[bytes]:
        if len(server.questions) > 1:
            later.set()
            return []
        later.wait(10)
        return good(question)

    # The thread that waits answers the first try, when the second has come to the other server.
    def other(_: Question) -> list[bytes]:
        later.set()
        return []

    with dns_server(slow) as server, dns_server(other) as second:
        assert await asked(to(server, second)) == ["10.0.0.1"]


async def test_an_answer_that_is_cut_short_is_asked_for_over_tcp() -> None:
    addresses = [f"api.test. 60 A 10.0.{number >> 8}.{number & 255}" for number in range(2000)]

    def long(question: Question) -> list[bytes]:
        if question.transport == "udp":
            return [question.answer(*addresses[:3], flags="TC").to_wire()]
        return [question.answer(*addresses).to_wire()]

    with dns_server(long) as server:
        assert len(await asked(to(server))) == 2000
        assert [question.transport for question in server.questions] == ["udp", "tcp"]
        assert len(await asked(to(server, tcp=True))) == 2000
        assert server.questions[-1].transport == "tcp"
        assert len(server.questions) == 3


@pytest.mark.parametrize("short", [b"", b"\0", b"\xff" * 20])
async def test_tcp_that_ends_or_answers_nonsense(short: bytes) -> None:
    def answer(question: Question) -> list[bytes]:
        return [question.answer(flags="TC").to_wire() if question.transport == "udp" else short]

    with dns_server(answer) as server, pytest.raises(NoAnswer, match="another question"):
        await asked(to(server))


async def test_servers_take_turns_where_they_are_to() -> None:
    with dns_server(good) as one, dns_server(good) as two:
        for turn in range(4):
            await ask(API, dns.rdatatype.A, to(one, two, rotate=True), turn)
        assert (len(one.questions), len(two.questions)) == (2, 2)
        await ask(API, dns.rdatatype.A, to(one, two), 1)
        assert len(one.questions) == 3


async def test_no_bytes_are_more_than_no_answer() -> None:
    """Mutated answers are read, refused or ignored."""
    seed = random.randrange(2**32)
    print("seed:", seed)
    chance = random.Random(seed)
    query = dns.message.make_query("api.test.", "SRV")
    question = Question(query.to_wire(), "udp")
    whole = question.answer(
        "api.test. 60 CNAME b.test.",
        "b.test. 60 SRV 0 5 80 c.test.",
        additional=("c.test. 60 A 10.0.0.1", "c.test. 60 AAAA 2001:db8::1"),
    ).to_wire()
    read = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(2, len(data))] = chance.randrange(256)
        data = data[: chance.choice([len(data), chance.randrange(len(data) + 1)])]
        if wire._head(bytes(data), query) is not None:
            try:
                wire._whole(bytes(data), ("127.0.0.1", 53))
                read += 1
            except NoAnswer:
                pass
    assert read > 100
