"""One question to DNS servers, and the answer that belongs to it (RFC 1035, RFC 5452, RFC 7766).

Each try has a socket of its own, so the kernel chooses a port at random, and is connected to its server, so
that the kernel drops what comes from elsewhere. The number of a question is random. What is no answer to the
question is ignored, and what is cut short is asked for again over TCP.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from itertools import cycle, islice

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import trio

from fastmesh.discovery.system import Settings

RETRY_SECONDS = 1.0  # a lost packet must not cost more
MOST_TRIES = 6
LARGEST = 65535

Server = tuple[str, int]


class NoAnswer(Exception):
    """Why a question has no answer. ``servfail``: a server gave one, and it was a refusal."""

    def __init__(self, text: str, servfail: bool = False) -> None:
        super().__init__(text)
        self.servfail = servfail


async def ask(
    name: dns.name.Name, kind: dns.rdatatype.RdataType, settings: Settings, turn: int = 0
) -> dns.message.QueryMessage:
    """The answer of the first server that has one: NOERROR or NXDOMAIN. Raises NoAnswer when each has
    refused.

    Servers are asked one after the other, the next when one has refused or said nothing for a second; who
    answers late is heard too. ``turn`` is where to begin, for `rotate`. Never gives up by itself while a try
    may still be answered, so it is to be called under a time limit.
    """
    tries = min(MOST_TRIES, settings.attempts * len(settings.servers))
    start = turn % len(settings.servers) if settings.rotate else 0
    servers = tuple(islice(cycle(settings.servers), start, start + tries))
    return await _Race(name, kind, settings, servers).run()


class _Race:
    def __init__(
        self,
        name: dns.name.Name,
        kind: dns.rdatatype.RdataType,
        settings: Settings,
        servers: Sequence[Server],
    ) -> None:
        self._name = name
        self._kind = kind
        self._settings = settings
        self._servers = servers
        self._failures: list[NoAnswer] = []
        self._failed = trio.Event()
        self._answer: dns.message.QueryMessage | None = None

    async def run(self) -> dns.message.QueryMessage:
        patience = min(self._settings.timeout, RETRY_SECONDS)
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                self._failed = trio.Event()
                nursery.start_soon(self._try, server, nursery.cancel_scope)
                with trio.move_on_after(patience):
                    await self._failed.wait()
        if self._answer is None:
            refused = [failure for failure in self._failures if failure.servfail]
            raise (refused or self._failures)[0]
        return self._answer

    async def _try(self, server: Server, race: trio.CancelScope) -> None:
        query = dns.message.make_query(self._name, self._kind)
        try:
            reply = await (over_tcp if self._settings.tcp else over_udp)(server, query)
        except OSError as error:
            why = error.strerror or type(error).__name__
            self._failures.append(NoAnswer(f"the DNS server {server[0]}: {why}"))
        except NoAnswer as failure:
            self._failures.append(failure)
        else:
            if reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                self._answer = reply
                race.cancel()
                return
            text = f"the DNS server {server[0]} says {dns.rcode.to_text(reply.rcode())}"
            self._failures.append(NoAnswer(text, servfail=True))
        self._failed.set()


async def over_udp(server: Server, query: dns.message.QueryMessage) -> dns.message.QueryMessage:
    """Raises OSError, and NoAnswer for an answer that cannot be read."""
    with _socket(server, socket.SOCK_DGRAM) as sock:
        await sock.connect(server)
        await sock.send(query.to_wire())
        while True:
            data = await sock.recv(LARGEST)
            head = _head(data, query)
            if head is None:
                continue  # somebody else's, or an answer to an earlier question
            if not head.flags & dns.flags.TC:
                return _whole(data, server)
            break
    return await over_tcp(server, query)


async def over_tcp(server: Server, query: dns.message.QueryMessage) -> dns.message.QueryMessage:
    """As `over_udp`."""
    with _socket(server, socket.SOCK_STREAM) as sock:
        await sock.connect(server)
        wire = query.to_wire()
        rest = memoryview(len(wire).to_bytes(2, "big") + wire)
        while rest:
            rest = rest[await sock.send(rest) :]
        size = int.from_bytes(await _exactly(sock, 2, server), "big")
        data = await _exactly(sock, size, server)
    if _head(data, query) is None:
        raise NoAnswer(f"the DNS server {server[0]} answered another question")
    return _whole(data, server)


def _socket(server: Server, kind: socket.SocketKind) -> trio.socket.SocketType:
    return trio.socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, kind)


async def _exactly(sock: trio.socket.SocketType, size: int, server: Server) -> bytes:
    data = b""
    while len(data) < size:
        more = await sock.recv(size - len(data))
        if not more:
            raise NoAnswer(f"the DNS server {server[0]} closed the connection")
        data += more
    return data


def _head(data: bytes, query: dns.message.QueryMessage) -> dns.message.Message | None:
    """Header and question of ``data``, if it answers ``query``: same number, same question."""
    try:
        head = dns.message.from_wire(data, question_only=True)
    except Exception:  # whatever such bytes do to the parser, they are no answer
        return None
    return head if query.is_response(head) else None


def _whole(data: bytes, server: Server) -> dns.message.QueryMessage:
    try:
        reply = dns.message.from_wire(data)
    except Exception as error:  # the same: DNSException is not all that a parser of records can raise
        raise NoAnswer(f"the answer of the DNS server {server[0]} cannot be read") from error
    if not isinstance(reply, dns.message.QueryMessage):
        raise NoAnswer(f"the DNS server {server[0]} answered what was not asked")
    return reply
