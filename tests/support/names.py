"""Servers for names: lookups from a table, a DNS server that says what a test wants, and a real dnsmasq."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import trio

from fastmesh.discovery.answers import Hosts, Services
from fastmesh.discovery.system import Settings
from support.waiting import eventually

ELSEWHERE = Settings(servers=(("192.0.2.53", 53),))  # not a loopback address


class FakeLookups:
    """Answers from ``table``; an Event there is waited for, and then there is no such name."""

    def __init__(self, table: Mapping[str, Any], settings: Settings = ELSEWHERE) -> None:
        self.table = dict(table)
        self.asked: list[str] = []
        self.times: list[float] = []
        self.system = self
        self.wanted: list[str] = []
        self.as_configured = settings

    def settings(self) -> Settings:
        return self.as_configured

    def keep_only(self, names: list[str]) -> None:
        self.wanted = list(names)

    async def hosts(self, name: str) -> Hosts:
        found = await self._look(name)
        return found if isinstance(found, Hosts) else Hosts(missing="there is no such name")

    async def services(self, name: str) -> Services:
        found = await self._look(name)
        return found if isinstance(found, Services) else Services(missing="there is no such name")

    async def _look(self, name: str) -> Any:
        self.asked.append(name)
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        found = self.table.get(name)
        if isinstance(found, trio.Event):
            await found.wait()
        return found


Handler = Callable[["Question"], list[bytes]]


class Question:
    """One that came, and ways to answer it. ``transport`` is `udp` or `tcp`."""

    def __init__(self, wire: bytes, transport: str) -> None:
        self.message = dns.message.from_wire(wire)
        self.transport = transport
        self.name = self.message.question[0].name.to_text()
        self.kind = dns.rdatatype.to_text(self.message.question[0].rdtype)

    def answer(
        self, *records: str, additional: tuple[str, ...] = (), rcode: str = "NOERROR", flags: str = ""
    ) -> dns.message.Message:
        """``records``: `name ttl kind data`, a chain of aliases among them."""
        reply = dns.message.make_response(self.message)
        reply.set_rcode(dns.rcode.from_text(rcode))
        if flags:
            reply.flags |= dns.flags.from_text(flags)
        for section, texts in ((reply.answer, records), (reply.additional, additional)):
            for text in texts:
                name, ttl, kind, data = text.split(" ", 3)
                reply.find_rrset(
                    section,
                    dns.name.from_text(name),
                    dns.rdataclass.IN,
                    dns.rdatatype.from_text(kind),
                    create=True,
                ).add(dns.rdata.from_text("IN", kind, data), int(ttl))
        return reply


class DnsServer:
    """At a port of 127.0.0.1, over UDP and TCP. ``handler`` gives the messages to send; none is silence."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.questions: list[Question] = []
        self.ids: list[int] = []
        self.ports: list[int] = []
        self._udp, self._tcp = _pair()
        self.address: tuple[str, int] = ("127.0.0.1", self._udp.getsockname()[1])
        self._threads = [threading.Thread(target=one) for one in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def _ask(self, wire: bytes, transport: str, port: int) -> list[bytes]:
        question = Question(wire, transport)
        self.questions.append(question)
        self.ids.append(question.message.id)
        self.ports.append(port)
        return self.handler(question)

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, peer = self._udp.recvfrom(65535)
                if not wire:
                    return
                for reply in self._ask(wire, "udp", peer[1]):
                    self._udp.sendto(reply, peer)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, peer = self._tcp.accept()
                with link:
                    size = link.recv(2, socket.MSG_WAITALL)
                    if len(size) < 2:
                        return
                    wire = link.recv(struct.unpack("!H", size)[0], socket.MSG_WAITALL)
                    for reply in self._ask(wire, "tcp", peer[1]):
                        link.sendall(struct.pack("!H", len(reply)) + reply)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.address)
        with socket.socket() as link:
            link.connect(self.address)
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket with the same port."""
    for _ in range(50):
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp
    raise AssertionError("no port is free for UDP and TCP")


@contextlib.contextmanager
def dns_server(handler: Handler) -> Iterator[DnsServer]:
    server = DnsServer(handler)
    try:
        yield server
    finally:
        server.close()


class Dnsmasq:
    """A real one, at port 53 of a loopback address of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        chance = random.SystemRandom()
        self.address = f"127.{chance.randint(64, 254)}.{chance.randint(1, 254)}.{chance.randint(1, 254)}"
        self.hosts = folder / "dnsmasq.hosts"
        self.log = folder / "dnsmasq.log"
        self.hosts.write_text("")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> Dnsmasq:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
                    "--bind-interfaces", f"--listen-address={self.address}", "--user=root", "--pid-file=",
                    f"--addn-hosts={self.hosts}", "--local=/test/", "--local-ttl=600", "--log-facility=-",
                    "--log-queries", *options,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"},
            )  # fmt: skip
        eventually(lambda: b"started" in self.log.read_bytes(), "dnsmasq starts")
        return self

    def say(self, names: Mapping[str, list[str]]) -> None:
        """These names have these addresses from now on."""
        assert self._process is not None
        read = self.log.read_bytes().count(b"read ")
        lines = [f"{address} {name}\n" for name, found in names.items() for address in found]
        self.hosts.write_text("".join(lines))
        self._process.send_signal(1)
        eventually(lambda: self.log.read_bytes().count(b"read ") > read, "dnsmasq reads its hosts again")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(5)
            self._process = None


def with_files(resolv_conf: Path, hosts: Path) -> tuple[str, ...]:
    """A command that becomes another, which sees these files as the machine's own."""
    script = 'mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/hosts && shift && exec "$@"'
    return (
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        str(resolv_conf),
        str(hosts),
    )
