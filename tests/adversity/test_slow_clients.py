"""Slow clients beside a real process: who is too slow is let go, who is only slow is not, and others do not
notice.

The least pace is the built-in one, 240 bytes a second, which is 120 bytes in the 500 ms that `idle` is here.
"""

from __future__ import annotations

import csv
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.client import Client
from support.origin import Exchange
from support.real import environment, program
from support.rig import Rig, unique
from support.waiting import eventually
from support.wire import get, request

BIG = 8 << 20
SLOW_CLIENTS = 60


def sends_big(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
    for _ in range(BIG >> 16):
        exchange.send(b"x" * 65536)


class Slowly:
    """Does something every 50 ms from a thread, until it fails or `stop`."""

    def __init__(self, act: object) -> None:
        assert callable(act)
        self._stopped = threading.Event()
        self._act = act
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(0.05):
            try:
                self._act()
            except OSError:
                return

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_trickles_is_given_up(hasty: Rig, framing: str) -> None:
    path = unique()
    field = b"Content-Length: 100000" if framing == "length" else b"Transfer-Encoding: chunked"
    piece = b"x" if framing == "length" else b"1\r\nx\r\n"
    with hasty.client() as client:
        started = time.monotonic()
        client.send(request("POST", path, field))
        trickle = Slowly(lambda: client.sock.sendall(piece))
        response = client.read_response("POST")
        took = time.monotonic() - started
        trickle.stop()
        assert (response.status, response.error_code) == (408, "body_timeout")
        assert 0.4 < took < 3
    hasty.sentinels()


def test_the_file_says_what_pace_is_asked_for() -> None:
    """With `min_rate: none` a body may take as long as it likes, as long as something comes."""
    rig = Rig(timeouts={"idle": "500ms"}, limits={"min_rate": "none"}).start()
    try:
        with rig.client() as client:
            client.send(request("POST", unique(), b"Content-Length: 30"))
            started = time.monotonic()
            trickle = Slowly(lambda: client.sock.sendall(b"x"))
            response = client.read_response("POST")
            trickle.stop()
            assert response.status == 200
            assert time.monotonic() - started > 1.2, "it was no longer than two windows"
    finally:
        rig.stop()


def test_a_client_that_reads_too_slowly_is_given_up(hasty: Rig) -> None:
    """8 bytes at a time: always some, and never enough."""
    path = unique()
    with hasty.origin.answering(path, sends_big), hasty.client(receive_buffer=4096) as client:
        client.send(get(path))
        started = time.monotonic()
        reader = Slowly(lambda: client.sock.recv(8))
        eventually(lambda: exchanges(hasty) == 0, "the exchange to be given up")
        took = time.monotonic() - started
        reader.stop()
        assert 0.4 < took < 3
        with pytest.raises(ConnectionResetError):  # a part of an answer must not look whole
            read_all(client)
    hasty.sentinels()


def test_a_client_that_reads_slowly_gets_everything(hasty: Rig) -> None:
    """40 KB a second, of a buffer in the kernel so large that the poller is silent for longer than `idle`."""
    path = unique()
    with (
        hasty.origin.answering(path, sends_big),
        hasty.client(receive_buffer=4096, timeout=20) as client,
    ):
        client.send(get(path))
        taken: list[bytes] = []
        reader = Slowly(lambda: taken.append(client.sock.recv(2000)))
        time.sleep(2.5)  # five times `idle`
        reader.stop()
        assert exchanges(hasty) == 1
        client.sock.setsockopt(1, 8, 1 << 20)  # SOL_SOCKET, SO_RCVBUF: from here on fast
        client.buffer = b"".join(taken)
        response = client.read_response()
        assert len(response.body) == BIG
        assert response.truncated is None
    hasty.sentinels()


def read_all(client: Client) -> None:
    while client.sock.recv(65536):
        pass


def exchanges(rig: Rig) -> int:
    return sum(int(worker["ledger"]["exchanges"]) for worker in rig.proxy.api("workers")["workers"])


def connections(rig: Rig) -> int:
    return sum(int(worker["ledger"]["connections"]) for worker in rig.proxy.api("workers")["workers"])


def test_readers_cost_a_bounded_amount_that_comes_back(hasty: Rig) -> None:
    """At most one read of the endpoint each, and its pages go back to the system."""
    path = unique()
    with hasty.origin.answering(path, sends_big):
        hasty.sentinels()
        before = hasty.proxy.resident_bytes()
        readers = [hasty.client(receive_buffer=4096) for _ in range(100)]
        for client in readers:
            client.send(get(path))
        eventually(lambda: exchanges(hasty) == 100, "all to be served at once")
        assert hasty.proxy.resident_bytes() - before < 100 * (80 << 10) + (2 << 20)
        eventually(lambda: exchanges(hasty) == 0, "all to be given up")
        assert hasty.proxy.resident_bytes() - before < 4 << 20
        for client in readers:
            client.close()
    hasty.sentinels()


# ---------------------------------------------------------------- slowhttptest


@pytest.fixture
def attacked() -> Iterator[Rig]:
    """A second for everything that a client can be slow with."""
    rig = Rig(timeouts={"header": "1s", "idle": "1s"}).start()
    yield rig
    rig.stop()


MODES = {
    "headers": ("-H", "-i", "1", "-x", "20"),
    "body": ("-B", "-i", "1", "-x", "20", "-s", "100000"),
    "reading": ("-X", "-w", "256", "-y", "512", "-n", "1", "-z", "32"),
}


@pytest.mark.parametrize("mode", MODES)
def test_slowhttptest(attacked: Rig, tmp_path: Path, mode: str) -> None:
    """It holds no connection: each is closed within some seconds, while the others are served."""
    tool = program("slowhttptest")
    path = unique()
    report = tmp_path / "report"
    with attacked.origin.answering(path, sends_big), Client(attacked.address) as honest:
        attacked.sentinel(honest)
        idle_connections, memory = connections(attacked), attacked.proxy.resident_bytes()
        url = f"http://127.0.0.1:{attacked.address[1]}{path if mode == 'reading' else '/'}"
        command = [tool, *MODES[mode], "-u", url, "-c", str(SLOW_CLIENTS), "-r", "200"]
        attack = subprocess.Popen(
            [*command, "-l", "8", "-p", "2", "-g", "-o", str(report)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        try:
            most = 0

            def let_go() -> bool:
                nonlocal most
                most = max(most, connections(attacked) - idle_connections)
                with attacked.client() as another:
                    attacked.sentinel(another)
                return most >= SLOW_CLIENTS // 2 and connections(attacked) <= idle_connections + 4

            eventually(let_go, "the slow ones to be let go", within=7)
            if mode == "reading":
                assert attack.poll() is None, "it gave up itself"
        finally:
            attack.terminate() if mode == "reading" else attack.wait(20)
            attack.wait(20)
    assert attacked.proxy.resident_bytes() - memory < 4 << 20
    if mode != "reading":  # in that mode it does not look whether it was closed
        with report.with_suffix(".csv").open() as table:
            last = list(csv.DictReader(table))[-1]
        assert int(last["Pending"]) == 0
        assert int(last["Closed"]) + int(last["Connected"]) == SLOW_CLIENTS
    attacked.sentinels()
