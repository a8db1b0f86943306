"""Clients that send their heads and bodies, or read their answers, as slowly as they can: slowhttptest(1)."""

from __future__ import annotations

import mmap
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.openloop import OpenLoop, OpenLoopResult, merged
from bench.harness.place import BenchError, find_tool
from bench.harness.process import Child
from chaos.failing import origin_ports
from chaos.stage import Line, Mesh, Stage, local, unmet

HONEST_A_SECOND, HONEST_CONNECTIONS = 500.0, 64
SLOWER = 2.0
"""Times the p99 that honest clients have without the slow ones."""
CLIENTS_EACH = 10
"""Clients of one program. It sends what is due for all of them at one moment of its interval, which strangers
do not: 500 at a time hold up a CPU for over 10 ms, 25 for 0.7 ms, whoever serves them. So there are many
programs of few clients, which begin at moments drawn at random."""
_KIB, _MIB, _PAGE = 1 << 10, 1 << 20, 4096
_MACHINE_BYTES = 512 * _KIB
"""More than one of them takes of the machine: in both processes, the kernel, and its own."""
_GONE_SECONDS = 15.0
_STARTING_SECONDS = 5.0
"""No program begins before all are there."""
_STATUS = re.compile(r"^Exit status:\s*(.*?)\s*$", re.MULTILINE)
_COUNTS = re.compile(r"^(pending|connected|error|closed):\s*(\d+)", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Attack:
    """Options of slowhttptest, and what of it docs/operations.md promises.

    `codes`: of `fastmesh_errors_total`, under which the connections are ended. `kib`: the most that one of
    them costs of the process's memory.
    """

    name: str
    options: Sequence[str]
    path: str
    codes: Sequence[str]
    kib: float


ATTACKS = (
    Attack("slow headers", ("-H",), "/small", ("header_timeout",), 16),
    Attack("slow bodies", ("-B", "-s", "65536"), "/small", ("body_timeout",), 16),
    Attack(
        "slow readers",
        # Up to 32 bytes a second, through a window of at most 1 KiB. The answer is more than the 96 KiB that
        # fastmesh and the kernel take for a client. With much more, the origin's wait for memory is measured.
        ("-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "1"),
        "/128k",
        ("client_aborted",),
        80,
    ),
)


@dataclass(frozen=True)
class Scale:
    """How many slow clients, how many come each second (50 is slowhttptest's own default), how often each
    sends something, and the most seconds that an attack lasts."""

    clients: int
    rate: int = 50
    interval: int = 10
    seconds: int = 240
    # Each look takes over ten milliseconds of the CPU that the honest share: 1 % of the time would be seen.
    look_seconds: float = 5.0
    honest_seconds: float = 30.0

    def arriving(self) -> float:
        """Seconds in which programs begin."""
        return self.clients / self.rate

    def lasts(self) -> float:
        """Seconds of an attack, at most."""
        return _STARTING_SECONDS + self.arriving() + self.seconds


def slow_clients(stage: Stage, clients: int = 5000) -> Iterator[Line]:
    """5,000 slow clients of each kind, beside 500 requests a second whose p99 at most doubles.

    Attackers have machines of their own. Here they get one CPU of this, and all else shares the others."""
    # Scaled down, fewer of them attack; how long one is waited for stays.
    scale = Scale(stage.count(clients, least=2 * CLIENTS_EACH), honest_seconds=max(2.0, 30.0 * stage.scale))
    for attack in ATTACKS:
        yield play(stage, attack, scale)


@contextmanager
def apart() -> Iterator[list[str]]:
    """Words that start an attacker on a CPU of its own, which what else is started meanwhile does not use.

    There it leaves the way to the kernel's threads: attackers with machines of their own would not drive them
    to the CPU that the honest share."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) == 1:
        yield ["chrt", "--idle", "0"]
        return
    os.sched_setaffinity(0, cpus[:-1])
    try:
        yield ["chrt", "--idle", "0", "taskset", "-c", str(cpus[-1])]
    finally:
        os.sched_setaffinity(0, cpus)


# ---------------------------------------------------------------- what is seen meanwhile


@dataclass
class Footprint:
    """The most that was seen: slow clients, and memory in bytes; `kernel`: the buffers of all TCP sockets."""

    connections: float = 0
    memory: int = 0
    kernel: int = 0

    def look(self, mesh: Mesh) -> None:
        self.connections = max(self.connections, _connections(mesh) - HONEST_CONNECTIONS)
        self.memory = max(self.memory, mesh.proxy.resident_bytes())
        self.kernel = max(self.kernel, kernel_bytes())


@dataclass(frozen=True)
class Outcome:
    """`ended`: the proxy ended all of them. `by` are errors that were counted meanwhile."""

    seen: Footprint
    ended: bool
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)
    by: Mapping[str, int] = field(default_factory=dict)


def kernel_bytes() -> int:
    """proc(5), /proc/net/sockstat: pages that the buffers of TCP sockets take."""
    text = Path("/proc/net/sockstat").read_text()
    pages = re.search(r"^TCP:.* mem (\d+)", text, re.MULTILINE)
    return int(pages[1]) * _PAGE if pages else 0


def _connections(mesh: Mesh) -> float:
    return mesh.proxy.metric("fastmesh_connections_active")


def _errors(mesh: Mesh) -> dict[str, int]:
    found = re.findall(r'^fastmesh_errors_total\{code="(\w+)"\} (\d+)', mesh.proxy.metrics(), re.MULTILINE)
    return {code: int(count) for code, count in found}


# ---------------------------------------------------------------- the case


class Honest:
    """500 requests a second through the proxy, and fewer straight to the origin, which shows what the machine
    does."""

    def __init__(self, ports: tuple[int, int], folder: Path, label: str, seconds: float) -> None:
        rates = (HONEST_A_SECOND, HONEST_A_SECOND / 5)
        self._loads = [
            OpenLoop(
                port,
                "/small",
                rate=rate,
                seconds=seconds,
                warm_seconds=0.3,
                log=folder / f"{label}-{port}.log",
                cpu=None,
                connections=HONEST_CONNECTIONS,
            )
            for port, rate in zip(ports, rates, strict=True)
        ]

    def __enter__(self) -> Honest:
        return self

    def __exit__(self, *_: object) -> None:
        for load in self._loads:
            load.stop()

    def wait_started(self) -> None:
        for load in self._loads:
            load.wait_started()

    def running(self) -> bool:
        return all(load.running() for load in self._loads)

    def results(self) -> list[OpenLoopResult]:
        """Waits for the end; first that of the proxy."""
        return [load.result() for load in self._loads]

    def finish(self) -> list[OpenLoopResult]:
        """The same, now."""
        return [load.finish() for load in self._loads]


def use_memory(size: int) -> None:
    """Touches so many bytes, or half of what is free, once and gives them back.

    A virtual machine gets each page from its host at the first touch, which costs three times what used
    memory does. An attack takes new memory, so honest requests beside it would wait for the host."""
    size = min(size, os.sysconf("SC_AVPHYS_PAGES") * _PAGE // 2)
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, _PAGE):
            memory[page] = 1


def play(stage: Stage, attack: Attack, scale: Scale) -> Line:
    folder = stage.fresh_folder()
    use_memory(scale.clients * _MACHINE_BYTES)
    with (
        apart() as attacker,
        origin_ports(folder, 1) as origin,
        stage.mesh(folder, local(origin.ports), stage.policies[0]) as mesh,
    ):
        ports = (mesh.port, origin.ports[0])
        alone = [_undisturbed(mesh, ports, folder, "before", scale)]
        before = Footprint(0, mesh.proxy.resident_bytes(), kernel_bytes())
        with (
            attackers(mesh, folder, attack, scale, attacker, stage.seed) as tools,
            Honest(ports, folder, "beside", scale.lasts() + 60.0) as honest,
        ):
            honest.wait_started()
            outcome = _watch(mesh, attack, scale, honest, tools)
            beside = honest.finish()
        left = _left_after(mesh)
        alone.append(_undisturbed(mesh, ports, folder, "after", scale))
    return _line(stage, attack, scale, alone, beside, outcome, before, left)


def _undisturbed(
    mesh: Mesh, ports: tuple[int, int], folder: Path, label: str, scale: Scale
) -> list[OpenLoopResult]:
    with Honest(ports, folder, label, scale.honest_seconds) as honest:
        while honest.running():  # looking costs something too, so it is done in all
            Footprint().look(mesh)
            time.sleep(scale.look_seconds)
        return honest.results()


def _p99_ms(*results: OpenLoopResult) -> float:
    """Of all their requests."""
    return merged(result.latency for result in results).get_value_at_percentile(99) / 1e6


def _line(
    stage: Stage,
    attack: Attack,
    scale: Scale,
    alone: Sequence[Sequence[OpenLoopResult]],
    together: Sequence[OpenLoopResult],
    outcome: Outcome,
    before: Footprint,
    left: float,
) -> Line:
    seen = outcome.seen
    (earlier, earlier_direct), (later, later_direct) = alone
    beside, beside_direct = together
    p99s = _p99_ms(earlier, later), _p99_ms(beside)
    direct = _p99_ms(earlier_direct, later_direct), _p99_ms(beside_direct)
    slower = p99s[1] / (p99s[0] or 1.0)
    each = (seen.memory - before.memory) / max(1.0, seen.connections) / _KIB
    named = sum(outcome.by.get(code, 0) for code in attack.codes)
    return Line(
        "slow-clients",
        f"{scale.clients} {attack.name}",
        {
            "at once": int(seen.connections),
            "ended after s": outcome.seconds if outcome.ended else "never",
            **outcome.by,
            "honest p99 ms": f"{p99s[0]:.2f}/{p99s[1]:.2f}",
            "times": slower,
            "straight to the origin": f"{direct[0]:.2f}/{direct[1]:.2f}",
            "honest failed": beside.failed,
            "KiB each": each,
            "KiB each in the kernel": (seen.kernel - before.kernel) / max(1.0, seen.connections) / _KIB,
            "MiB more": (seen.memory - before.memory) / _MIB,
        },
        unmet(
            (seen.connections >= _at_once(scale) / 2, "there were not so many slow clients"),
            (beside.answered > 0, "no honest request was answered"),
            (beside.failed == 0, f"honest requests failed: {beside.error_text()}"),
            (outcome.ended, f"{outcome.counts.get('connected', 0)} were never ended"),
            (named >= _at_once(scale) / 2, f"only {named} were ended by {' or '.join(attack.codes)}"),
            (
                stage.unhurried or slower <= SLOWER,
                f"honest p99 grows {slower:.1f} times",
            ),
            (
                stage.unhurried or each <= attack.kib,
                f"{each:.1f} KiB a slow client, more than {attack.kib:g}",
            ),
            (left == 0, f"{left:.0f} connections are left"),
        ),
    )


def _at_once(scale: Scale) -> float:
    """So many are there together, when each may stay for 10 s at least: the time for a head."""
    return min(scale.clients, scale.rate * 10.0)


@contextmanager
def attackers(
    mesh: Mesh, folder: Path, attack: Attack, scale: Scale, attacker: Sequence[str], seed: int
) -> Iterator[list[Child]]:
    """Programs of which each waits for its moment and then connects its clients, one a second or faster."""
    url = f"http://127.0.0.1:{mesh.port}{attack.path}"
    program = [find_tool("slowhttptest", "slowhttptest"), *attack.options, "-u", url]
    sizes = {
        "-c": CLIENTS_EACH,
        "-r": max(1, round(CLIENTS_EACH / scale.arriving())),
        "-l": scale.seconds,
        "-i": scale.interval,
        "-p": scale.seconds,  # it asks once whether the proxy is there, instead of each 5 s
    }
    program += [str(word) for pair in sizes.items() for word in pair]
    moments = random.Random(seed)
    with ExitStack() as running:
        tools: list[Child] = []
        for number in range(scale.clients // CLIENTS_EACH):
            wait = _STARTING_SECONDS + moments.uniform(0.0, scale.arriving())
            argv = [*attacker, "sh", "-c", f'sleep {wait:.3f}; exec "$@"', "sh", *program]
            tools.append(Child("slowhttptest", argv, log=folder / f"slowhttptest-{number}.log"))
            running.callback(tools[-1].stop)
        yield tools


def _watch(mesh: Mesh, attack: Attack, scale: Scale, honest: Honest, tools: Sequence[Child]) -> Outcome:
    """Goes on until the proxy has ended all of them, or the time is over."""
    before, begin, seen = _errors(mesh), time.monotonic(), Footprint()
    while any(tool.exit_code() is None for tool in tools):
        time.sleep(scale.look_seconds)
        seen.look(mesh)
        if not honest.running():
            raise BenchError("the honest load ended before the slow clients did")
        if time.monotonic() - begin > scale.lasts() + 60.0:
            raise BenchError("slowhttptest did not end")
    ended, counts = _what_they_say(tools)
    after = _errors(mesh)
    return Outcome(
        seen,
        ended=ended,
        seconds=time.monotonic() - begin,
        counts=counts,
        by={code: after[code] - before[code] for code in after if after[code] > before[code]},
    )


def _what_they_say(tools: Sequence[Child]) -> tuple[bool, Counter[str]]:
    """Whether no connection was left to any, and how many of each state they counted in their last looks."""
    ended, counts = True, Counter[str]()
    for tool in tools:
        text = _COLOURS.sub("", tool.log.read_text(errors="replace"))
        status = _STATUS.findall(text)
        if not status:
            raise BenchError(f"slowhttptest did not do its work:\n{text[-1000:]}")
        ended = ended and status[-1] == "No open connections left"
        counts.update({name: int(count) for name, count in _COUNTS.findall(text)})
    return ended, counts


def _left_after(mesh: Mesh) -> float:
    """Connections of clients that are there though no client is; waits some seconds for it to be none."""
    deadline = time.monotonic() + _GONE_SECONDS
    while (left := _connections(mesh)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
