"""Endpoints in a network namespace: from one moment on every packet of one of them is dropped."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.harness.place import BenchError, find_tool
from chaos.programs import IdOrigin, Load
from chaos.stage import CONNECTIONS, Line, Stage, failures, pause, running, unmet

_PORT = 8080
ENDPOINTS = 3


def _run(*argv: str) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f"{' '.join(argv)} failed ({result.returncode}): {result.stderr.strip()}")
    return result.stdout


@dataclass(frozen=True)
class Elsewhere:
    """A network namespace that a pair of interfaces leads to, with an address for each endpoint."""

    name: str
    addresses: list[str]

    def drop(self, address: str, dropped: bool = True) -> None:
        """Whether packets to the address vanish: no answer, no RST, no ICMP."""
        rule = ["INPUT", "-d", address, "-j", "DROP"]
        iptables = find_tool("iptables", "iptables")
        _run("ip", "netns", "exec", self.name, iptables, "-w", "-A" if dropped else "-D", *rule)


@contextmanager
def elsewhere(count: int) -> Iterator[Elsewhere]:
    """It is gone afterwards. BenchError if this process may not make one."""
    if os.geteuid() != 0:
        raise BenchError("a network namespace is made by root only; run this case as root")
    find_tool("ip", "iproute2")
    number = random.SystemRandom().randrange(1 << 14)  # of a network of its own: runs may be parallel
    network = f"10.{192 + (number >> 8)}.{number & 255}"
    name, ours, theirs = f"chaos-{number}", f"fm{number}a", f"fm{number}b"
    inside = ("ip", "netns", "exec", name, "ip")
    with ExitStack() as stack:
        _run("ip", "netns", "add", name)
        stack.callback(_run, "ip", "netns", "del", name)  # and the interfaces with it
        _run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        _run("ip", "address", "add", f"{network}.1/24", "dev", ours)
        _run("ip", "link", "set", ours, "up")
        addresses = [f"{network}.{host}" for host in range(2, 2 + count)]
        for address in addresses:
            _run(*inside, "address", "add", f"{address}/24", "dev", theirs)
        _run(*inside, "link", "set", theirs, "up")
        _run(*inside, "link", "set", "lo", "up")
        yield Elsewhere(name, addresses)


@contextmanager
def origins_in(place: Elsewhere, folder: Path) -> Iterator[list[IdOrigin]]:
    with ExitStack() as stack:
        found = []
        for number, address in enumerate(place.addresses):
            found.append(IdOrigin(number, _PORT, folder, address=address, netns=place.name))
            stack.callback(found[-1].stop)
        yield found


def partition(stage: Stage, seconds: float = 18.0, after: float = 6.0) -> Iterator[Line]:
    """One of three endpoints is cut off without a word: only what was on its way to it fails.

    `seconds` are more than the default response time-out, so that what waits for it does so to its end.
    """
    folder = stage.fresh_folder()
    with (
        elsewhere(ENDPOINTS) as place,
        origins_in(place, folder) as origins,
        stage.mesh(folder, [origin.text for origin in origins], stage.policies[0]) as mesh,
    ):
        load = Load(
            mesh.port,
            folder / "load.log",
            seconds=3600,
            connections=CONNECTIONS,
            timeout=20.0,
            seed=stage.seed,
        )
        with running(load):
            pause(load, 1.0)
            row = mesh.endpoints()[0]
            exposed = row["connections_active"] + row["connections_idle"]
            place.drop(place.addresses[0])
            cut = time.monotonic()
            pause(load, seconds)
            place.drop(place.addresses[0], dropped=False)
            healed = time.monotonic()
            pause(load, after)
            end = time.monotonic()
            result = load.finish()
    share = result.share(0, end - 1.0, end) * ENDPOINTS
    served = result.share(0, cut + 1.0, healed)
    failed = result.failed()
    yield Line(
        "partition",
        f"packets dropped for {seconds:g} s, {stage.policies[0]}",
        {
            **failures(result),
            "connections cut": exposed,
            "p99 ms": result.latency_ms("ok_p99"),
            "max ms": result.latency_ms("ok_max"),
            "share of the fair one afterwards": share,
        },
        unmet(
            (result.mixed_up == 0, "answers of other requests"),
            (served == 0, "the endpoint that was cut off still answered"),
            # Each loop has one request on its way, so that no more connections were cut.
            (failed <= CONNECTIONS, f"{failed} GETs failed, more than were on their way"),
            (result.failures_between(healed + 1.0, end) == 0, "GETs failed after it was over"),
        ),
    )
