"""Network namespaces that tests make: a pod with its loopback, and a peer that it is joined to by a cable.

Sockets are made by threads of the test itself, which enter the namespace, and as another user where one is
given: what the kernel looks at (owner match, the uid of /proc/net/tcp) is who opened a socket. Made by root
only.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from support.native_source import ROOT
from support.network import called_in

T = TypeVar("T")

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST is the same
APP, PROXY = 1000, 1337
REFUSED = "refused"

POD = {"IPv4": "10.77.0.2", "IPv6": "fd77::2"}
PEER = {"IPv4": "10.77.0.1", "IPv6": "fd77::1"}
OTHER = {"IPv4": "10.77.5.1", "IPv6": "fd77:5::1"}  # another address of the peer
LOOPBACK = {"IPv4": "127.0.0.1", "IPv6": "::1"}
SAVES = ("iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "ip6tables-legacy-save")


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}: {done.stderr}"
    return done.stdout


@dataclass
class Namespace:
    """One network namespace, by its name of ip-netns(8)."""

    name: str

    def run(self, *command: str, text: str | None = None) -> str:
        return run("ip", "netns", "exec", self.name, *command, text=text)

    def call(self, do: Callable[[], T], uid: int = 0) -> T:
        """What ``do`` returns, called by a thread in this network, as that user; its sockets stay there."""
        return called_in(f"/run/netns/{self.name}", do, uid)

    def socket(self, host: str, kind: int = socket.SOCK_STREAM, uid: int = 0) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def make() -> socket.socket:
            made = socket.socket(family, kind)
            made.settimeout(5)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            return made

        return self.call(make, uid)

    def listen(self, host: str, port: int, uid: int = APP) -> socket.socket:
        made = self.socket(host, uid=uid)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen()
        return made

    def ask(self, host: str, port: int, uid: int = APP, scope: int = 0) -> str:
        """What who listens there says of itself; `refused` if nobody does."""
        with self.socket(host, uid=uid) as client:
            try:
                client.connect((host, port, 0, scope) if ":" in host else (host, port))
            except ConnectionRefusedError:
                return REFUSED
            said = b""
            while part := client.recv(4096):
                said += part
            return said.decode()

    def ask_by_udp(self, host: str, port: int, uid: int = APP) -> str:
        with self.socket(host, socket.SOCK_DGRAM, uid) as client:
            client.connect((host, port))
            client.send(b"?")
            return client.recv(4096).decode()

    def rules(self) -> list[str]:
        """The ``-A`` and ``-N`` lines of all tables, of both families and both kinds of iptables."""
        found = []
        for program in SAVES:
            for line in self.run(program).splitlines():
                if line.startswith("*"):
                    table = line
                elif line.startswith("-A "):
                    found.append(f"{program} {table} {line}")
                elif line.startswith(":") and line.split()[1] == "-":
                    found.append(f"{program} {table} -N {line[1:].split()[0]}")
        return found

    def own_rules(self) -> list[str]:
        return [line for line in self.rules() if "FASTMESH_" in line]

    def restore(self, program: str, text: str) -> None:
        self.run(f"{program}-restore", "--noflush", text=text)

    def iptables(self, *arguments: str, under: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """``fastmesh sidecar iptables …`` in here. ``under`` is a command that goes before."""
        return subprocess.run(
            [
                *("ip", "netns", "exec", self.name),
                *under,
                *(sys.executable, "-m", "fastmesh", "sidecar", "iptables", *arguments),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def done(self, *arguments: str) -> str:
        """Its output, where it has to succeed."""
        result = self.iptables(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout


@contextmanager
def namespaces(*kinds: str) -> Iterator[list[Namespace]]:
    """New ones with a loopback; they are gone afterwards."""
    number = random.SystemRandom().randrange(1 << 32)
    made: list[Namespace] = []
    try:
        for kind in kinds:
            run("ip", "netns", "add", f"fm-{number:08x}-{kind}")
            made.append(Namespace(f"fm-{number:08x}-{kind}"))
            made[-1].run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        for one in made:
            run("ip", "netns", "del", one.name)


def cable(one: Namespace, device: str, other: Namespace, other_device: str) -> None:
    run(
        *("ip", "link", "add", device, "netns", one.name, "type", "veth"),
        *("peer", "name", other_device, "netns", other.name),
    )
    for place, name in ((one, device), (other, other_device)):
        place.run("ip", "link", "set", name, "up")


def give_address(place: Namespace, device: str, address: str) -> None:
    nodad = ["nodad"] if ":" in address else []
    place.run("ip", "address", "add", address, "dev", device, *nodad)


@contextmanager
def pod_and_peer(*, ipv6: bool = True) -> Iterator[tuple[Namespace, Namespace]]:
    with namespaces("pod", "peer") as (pod, peer):
        if not ipv6:
            for which in ("all", "default"):
                pod.run("tee", f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6", text="1")
        cable(pod, "eth0", peer, "eth0")
        for family, bits in (("IPv4", 24), ("IPv6", 64)) if ipv6 else (("IPv4", 24),):
            give_address(pod, "eth0", f"{POD[family]}/{bits}")
            give_address(peer, "eth0", f"{PEER[family]}/{bits}")
            give_address(peer, "eth0", f"{OTHER[family]}/{bits}")
            pod.run("ip", "-6" if family == "IPv6" else "-4", "route", "add", "default", "via", PEER[family])
        yield pod, peer


def original_destination(connection: socket.socket) -> str:
    """Where a redirected connection was going."""
    if connection.family == socket.AF_INET6:
        packed = connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return f"{socket.inet_ntop(socket.AF_INET6, packed[8:24])} {struct.unpack_from('!H', packed, 2)[0]}"
    packed = connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    return f"{socket.inet_ntop(socket.AF_INET, packed[4:8])} {struct.unpack_from('!H', packed, 2)[0]}"


@dataclass
class Voices:
    """Servers that say who they are, to each connection or datagram, and what they were asked for."""

    sockets: dict[socket.socket, str] = field(default_factory=dict)
    _stop: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)
    _thread: threading.Thread | None = None

    def add(self, name: str, server: socket.socket) -> None:
        self.sockets[server] = name

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stop[0].close()
        if self._thread is not None:
            self._thread.join()
        self._stop[1].close()
        for server in self.sockets:
            server.close()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._stop[1], *self.sockets], [], [])
            for server in ready:
                if server is self._stop[1]:
                    return
                name = self.sockets[server]
                if server.type == socket.SOCK_DGRAM:
                    _, client = server.recvfrom(4096)
                    server.sendto(name.encode(), client)
                    continue
                connection, _ = server.accept()
                with connection:
                    if name in ("inbound", "outbound"):
                        name = f"{name} {original_destination(connection)}"
                    connection.sendall(name.encode())


def instead_of_sbin(folder: Path) -> tuple[str, ...]:
    """A command that goes before another one, for which ``folder`` is /usr/sbin."""
    return ("unshare", "--mount", "sh", "-c", f'mount --bind {folder} /usr/sbin && exec "$@"', "sh")
