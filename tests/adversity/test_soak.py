"""The verdict of the soak run sees what it is there for: swapped answers, wrong bytes, leaks of all kinds."""

from __future__ import annotations

import io
import random
import select
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.harness.place import BenchError
from soak.command import main
from soak.course import STEPS, Course, Places
from soak.programs import RATES, KindCounts, Load, Origin
from soak.samples import MIB, Sample, descriptors, take_sample, theil_sen, warm_up
from soak.table import Scene, Screen, line, table
from soak.verdict import Account, Check, judge, judge_failures, judge_matches, judge_memory
from soak.world import Doings
from support.config_folder import Folder
from support.ports import free_port
from support.waiting import eventually

pytestmark = pytest.mark.no_sanitizer

# What an origin answers without a proxy in front of it, and soon; none so seldom that it may not come at all.
DIRECT = {
    kind: max(rate, 20)
    for kind, rate in RATES.items()
    if kind not in ("proxy's own", "dying endpoint", "toxic endpoint", "slow reader", "slow sender")
}


# ---------------------------------------------------------------- a proxy that is wrong on purpose


class Relay(threading.Thread):
    """Passes connections on to a port. `spoil` gets each piece that comes back and the connection that it is
    for, and gives the pieces that are sent now, each with where to."""

    def __init__(
        self, target: int, spoil: Callable[[bytes, socket.socket], list[tuple[bytes, socket.socket]]]
    ) -> None:
        super().__init__(daemon=True)
        self.target, self.spoil = target, spoil
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.peers: dict[socket.socket, socket.socket] = {}
        self.clients: set[socket.socket] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            ready, _, _ = select.select([self.listener, *self.peers], [], [], 0.02)
            for sock in ready:
                if sock is self.listener:
                    self._accept()
                elif sock in self.peers:
                    self._pass_on(sock)
        for sock in [self.listener, *self.peers]:
            sock.close()

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        server = socket.create_connection(("127.0.0.1", self.target))
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peers |= {client: server, server: client}
        self.clients.add(client)

    def _pass_on(self, sock: socket.socket) -> None:
        try:
            piece, peer = sock.recv(1 << 20), self.peers[sock]
            if not piece:
                raise ConnectionError
            for part, to in [(piece, peer)] if sock in self.clients else self.spoil(piece, peer):
                to.sendall(part)
        except OSError:
            for end in (self.peers.pop(sock), sock):
                self.peers.pop(end, None)
                self.clients.discard(end)
                end.close()


class Swapper:
    """Every fifth answer waits for that of another connection, and the two change places; ten times."""

    def __init__(self) -> None:
        self.count = self.swapped = 0
        self.held: tuple[bytes, socket.socket] | None = None

    def __call__(self, piece: bytes, peer: socket.socket) -> list[tuple[bytes, socket.socket]]:
        self.count += 1
        if not piece.startswith(b"HTTP/1."):  # the rest of one
            return [(piece, peer)]
        if self.held and self.held[1] is not peer:
            (other, other_peer), self.held = self.held, None
            self.swapped += 1
            return [(other, peer), (piece, other_peer)]
        if self.held is None and self.count % 5 == 0 and self.swapped < 10:
            self.held = (piece, peer)
            return []
        return [(piece, peer)]


def flip(piece: bytes, peer: socket.socket) -> list[tuple[bytes, socket.socket]]:
    """One bit of each piece of a certain length is another one."""
    at = len(piece) // 2
    if len(piece) > 1000:
        piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
    return [(piece, peer)]


@contextmanager
def origin(folder: Path) -> Iterator[Origin]:
    found = Origin(1, free_port(), free_port(), folder)
    try:
        yield found
    finally:
        found.stop()


@contextmanager
def relay(target: int, spoil: Any) -> Iterator[int]:
    found = Relay(target, spoil)
    found.start()
    try:
        yield found.port
    finally:
        found.ended.set()
        found.join(10)


def send(
    folder: Path, port: int, echo_port: int, rates: Mapping[str, float], requests: int
) -> dict[str, KindCounts]:
    """The counts of a load that has sent at least so many requests."""
    seed = random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}")
    load = Load(port, echo_port, folder, seed=seed, rates=rates)
    try:
        eventually(lambda: sum(kind.sent for kind in load.counts()) >= requests, "the requests", within=30)
        load.finish(30)
        print(load.log())
        return {kind.name: kind for kind in load.counts() if kind.sent}
    finally:
        load.stop()


def test_what_is_right_is_counted_as_right(tmp_path: Path) -> None:
    with origin(tmp_path) as at:
        kinds = send(tmp_path, at.port, at.echo_port, DIRECT, 3000)
        counts = at.counts()
    account = Account(kinds=list(kinds.values()), origins=[counts])
    assert judge_matches(account).holds, judge_matches(account).text()
    assert judge_failures(account).holds, judge_failures(account).text()
    assert {name for name, kind in kinds.items() if kind.ok} == set(DIRECT)
    for kind in kinds.values():
        assert kind.sent == kind.ok + kind.left, kind
        assert kind.active == 0
    assert counts["requests"] > 1000
    assert counts["echoes"] > 0


def test_swapped_answers_are_mismatched(tmp_path: Path) -> None:
    swap = Swapper()
    with origin(tmp_path) as at, relay(at.port, swap) as port:
        kinds = send(tmp_path, port, at.echo_port, {"keep-alive": 400}, 300)
    check = judge_matches(Account(kinds=list(kinds.values())))
    assert swap.swapped == 10
    assert not check.holds
    assert kinds["keep-alive"].mismatched >= swap.swapped
    assert kinds["keep-alive"].causes["wrong"] > 0


@pytest.mark.parametrize("kind", ["TCP relay", "tunnel", "download", "POST"])
def test_a_wrong_byte_is_mismatched(tmp_path: Path, kind: str) -> None:
    with origin(tmp_path) as at, relay(at.port, flip) as port, relay(at.echo_port, flip) as echo_port:
        kinds = send(tmp_path, port, echo_port, {kind: 30}, 100)
    check = judge_matches(Account(kinds=list(kinds.values())))
    assert not check.holds
    assert kinds[kind].mismatched > 0, kinds


def test_a_load_that_is_told_nonsense_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="known KIND=RATE"):
        Load(1, 1, tmp_path, seed=1, rates={"carrier pigeon": 1})


# ---------------------------------------------------------------- samples


def samples(seconds: float, size: Callable[[float], float], noise: float = 0.1) -> list[Sample]:
    """One a second; `size` of a time in MiB, `noise` too."""
    rng = random.Random(1)
    found = []
    for second in range(round(warm_up(seconds)), round(seconds)):
        bytes_now = round((size(second) + rng.gauss(0, noise)) * MIB)
        found.append(Sample(float(second), bytes_now, bytes_now, bytes_now, bytes_now, 100))
    return found


def test_a_leak_is_seen_in_an_hour() -> None:
    leaking = judge_memory(samples(3600, lambda at: 40 + 1.2 * at / 3600), 3600)
    assert not leaking.holds
    assert "MiB/h" in leaking.broken[0]


@pytest.mark.parametrize(
    "size",
    [
        lambda at: 40.0,
        lambda at: 40 + 0.5 * at / 3600,
        # A file is being read every 4 s, and every 30 s a big one.
        lambda at: 40 + (3 if at % 4 < 1 else 0) + (10 if at % 30 < 2 else 0),
        # Steps that stay, as of slabs, ever more seldom.
        lambda at: 40 + 0.3 * sum(at > step for step in (800, 1000, 1500)),
    ],
    ids=["flat", "slow", "spikes", "steps"],
)
def test_noise_is_no_leak(size: Callable[[float], float]) -> None:
    check = judge_memory(samples(3600, size), 3600)
    assert check.holds, check.text()


@pytest.mark.parametrize(("lost_a_request", "holds"), [(0, True), (4, True), (64, False)])
def test_a_short_run_sees_what_each_request_loses(lost_a_request: int, holds: bool) -> None:
    check = judge_memory(samples(180, lambda at: 40 + 2000 * at * lost_a_request / MIB), 180)
    assert check.holds == holds, check.text()


def test_connections_that_are_open_explain_memory() -> None:
    grown = samples(180, lambda at: 40 + (5 if at > 140 else 0))
    assert not judge_memory(grown, 180).holds
    busy = [replace(sample, descriptors=1500 if sample.at > 140 else 100) for sample in grown]
    assert judge_memory(busy, 180).holds


@pytest.mark.parametrize(("more", "holds"), [(0.0, True), (0.2, True), (1.0, False)])
def test_what_each_process_hands_to_the_next(more: float, holds: bool) -> None:
    lives = [samples(90, lambda at, n=n: 35 + at / 10 + more * n) for n in range(10)]  # type: ignore[misc]
    (check,) = [found for found in judge(replace(held(), lives=lives)) if found.name == "memory"]
    assert check.holds == holds, check.text()


def test_a_run_without_samples_does_not_hold() -> None:
    assert not judge_memory([], 3600).holds


def test_a_process_that_leaks() -> None:
    """Its memory and descriptors as they are read."""
    text = (
        "import os, sys\nkept = []\n"
        "for line in sys.stdin:\n kept.append((bytearray(b'x' * (1 << 20)), os.dup(0)))\n print(flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdin
    assert child.stdout
    try:
        found, before = [], None
        for second in range(60):
            child.stdin.write("more\n")
            child.stdout.readline()
            found.append(take_sample(child.pid, float(second)))
            before = before or descriptors(child.pid)
        after = descriptors(child.pid)
    finally:
        child.kill()
        child.stdin.close()
        child.stdout.close()
        child.wait()
    assert found[-1].anonymous - found[0].anonymous == pytest.approx(59 * MIB, rel=0.1)
    assert found[-1].descriptors - found[0].descriptors == 59
    assert before
    assert after - before == Counter(pipe=59)
    assert not judge_memory(found, 60).holds


def test_slopes() -> None:
    exact = theil_sen([(60.0 * minute, 5.0 * minute) for minute in range(60)])
    assert exact.value == pytest.approx(300)
    assert exact.low == pytest.approx(300)
    with_outliers = theil_sen([(60.0 * m, 5.0 * m + (9000 if m % 7 == 0 else 0)) for m in range(60)])
    assert with_outliers.value == pytest.approx(300, rel=0.1)
    assert theil_sen([]).value == 0


@pytest.mark.parametrize(("seconds", "warm"), [(3600, 720), (180, 60), (90, 30), (600, 120), (240, 60)])
def test_warm_up(seconds: float, warm: float) -> None:
    assert warm_up(seconds) == warm


# ---------------------------------------------------------------- the verdict


def held() -> Account:
    """Of a run that held."""
    kinds = [KindCounts(name, sent=1000, ok=1000) for name in RATES]
    return Account(
        seconds=3600,
        kinds=kinds,
        origins=[{"requests": 1000, "wrong": 0, "bad": 0, "echoes": 1}],
        samples=samples(3600, lambda at: 40.0),
        descriptors_before=Counter(socket=10, file=3),
        descriptors_after=Counter(socket=10, file=3, pipe=8),
        ledger_before={"connections": 4, "exchanges": 0, "pipes": 0},
        ledger_after={"connections": 4, "exchanges": 0, "pipes": 4},
        exit_code=0,
        changes=10,
        refused=2,
        kept_lines=1000,
    )


def broken(account: Account) -> list[Check]:
    return [check for check in judge(account) if not check.holds]


def with_kind(name: str, **numbers: Any) -> dict[str, Any]:
    kinds = [replace(kind, **numbers) if kind.name == name else kind for kind in held().kinds]
    return {"kinds": kinds}


def test_a_run_that_held() -> None:
    assert broken(held()) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (with_kind("POST", ok=999, mismatched=1), "mismatched responses"),
        (with_kind("toxic endpoint", ok=999, mismatched=1), "mismatched responses"),
        (with_kind("tunnel", ok=999, failed=1, causes={"reset": 1}), "failed requests"),
        (with_kind("tunnel", sent=0, ok=0), "failed requests"),
        (with_kind("dying endpoint", ok=800, failed=200), "failed requests"),
        ({"origins": [{"wrong": 1, "bad": 0}]}, "mismatched responses"),
        ({"samples": samples(3600, lambda at: 40 + 2 * at / 3600)}, "memory"),
        ({"descriptors_after": Counter(socket=11, file=3)}, "descriptors"),
        ({"descriptors_after": Counter(socket=10, file=3, pipe=10)}, "descriptors"),
        ({"ledger_after": {"connections": 5, "exchanges": 0, "pipes": 4}}, "leak ledger"),
        ({"ledger_after": {"connections": 4, "exchanges": 1, "pipes": 4}}, "leak ledger"),
        ({"log": "error fastmesh: native objects leaked: {'buffers': 1}"}, "leak ledger"),
        ({"log": "Traceback (most recent call last):\n  boom"}, "final drain"),
        ({"exit_code": 4}, "final drain"),
        ({"exit_code": None}, "final drain"),
        ({"changes": 0}, "changes"),
        ({"doings_wrong": ["a change was not in force"]}, "changes"),
        ({"kept_lines": 999}, "access log"),
        ({"kept_lines": 1001}, "access log"),
    ],
)
def test_what_does_not_hold(change: dict[str, Any], name: str) -> None:
    assert [check.name for check in broken(replace(held(), **change))] == [name]


def test_what_the_faults_and_the_kernel_explain() -> None:
    explained = with_kind("dying endpoint", ok=990, failed=10, causes={"truncated": 10})
    assert broken(replace(held(), **explained)) == []
    cut = with_kind("POST", ok=990, failed=10, causes={"truncated": 4, "reset": 6})
    assert broken(replace(held(), **cut, kernel_cuts=10)) == []
    assert broken(replace(held(), **cut, kernel_cuts=9)) != []
    refused = with_kind("POST", ok=990, failed=10, causes={"connect": 10})
    assert broken(replace(held(), **refused, kernel_cuts=10)) != []
    assert broken(replace(held(), kept_lines=990, dropped_lines=10)) == []


# ---------------------------------------------------------------- the rest


def test_each_change_is_a_valid_configuration(tmp_path: Path) -> None:
    places = Places(
        1000, 1001, [1002, 1003, 1004], tmp_path / "log", ["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"],
        ["1.1.1.1:2", "1.1.1.2:2", "1.1.1.3:2"], ["1.1.1.4:1"], ["1.1.1.5:1"],
    )  # fmt: skip
    course, folder = Course(places, random.Random(1)), Folder(tmp_path)
    seen = [folder.load(yaml_of(course.bare())).config, folder.load(yaml_of(course.config())).config]
    for _ in range(4 * len(STEPS)):
        name = course.change()
        loaded = folder.load(yaml_of(course.config()))
        assert loaded.config != seen[-1], f"{name} changes nothing"
        seen.append(loaded.config)


def yaml_of(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_table() -> None:
    kinds = [KindCounts("POST", 1, 2000, 1998, 0, 1, 1, causes={"reset": 1}, latency=(0, 5, 3))]
    sample = Sample(61.0, 41 * MIB, 35 * MIB, 30 * MIB, 29 * MIB, 120)
    scene = Scene(7, 61.0, 180.0, 60.0, kinds, 1995.0, {"fastmesh": 0.31}, sample, None, 1000, {}, Doings())
    shown = "\n".join(table(scene))
    for text in ("0:01:01 of 0:03:00", "seed 7", "1,995 requests/s", "fastmesh 0.31", "reset 1", "41.0 MiB"):
        assert text in shown, shown
    assert "2,000 sent" in line(scene)
    screen = Screen(out=(terminal := Terminal()))
    screen.show(scene)
    screen.show(scene)
    assert f"\033[{len(table(scene))}F" in terminal.getvalue()
    Screen(out=(plain := io.StringIO())).show(scene)
    assert plain.getvalue() == ""  # a line comes after half a minute


@pytest.mark.parametrize("text", ["5", "an hour", ""])
def test_a_time_without_a_unit_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--for", text])
    assert "--for" in capsys.readouterr().err
