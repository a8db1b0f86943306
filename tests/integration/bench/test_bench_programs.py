"""The relay floor and the origin over real sockets, and the suite's own processes and meters."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import contenders
from bench.harness.meters import cpu_ns, memory
from bench.harness.origin import Origin
from bench.harness.place import BenchError, Pinning, free_ports
from bench.harness.process import Child, wait_for_port, wait_until
from bench.measure import Bench, take_sample
from bench.scenarios import Scenario

CPU = min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The origin, and a relay floor in front of it."""
    folder = tmp_path_factory.mktemp("programs")
    origin_port, second_port = free_ports(2)
    origin = Origin([origin_port, second_port], cpu=CPU, folder=folder)
    floor = contenders.start(
        contenders.FLOOR, contenders.PLAIN, origin_ports=[origin_port], cpu=CPU, folder=folder
    )
    yield {
        "origin": origin_port,
        "second": second_port,
        "floor": floor.port(contenders.HTTP),
        "floor-tcp": floor.port(contenders.TCP),
        "origin_pid": origin.pid,
        "floor_pid": floor.child.pid,
    }
    floor.stop()
    origin.stop()


def talk(port: int, request: bytes, end_writing: bool = True) -> bytes:
    """Everything that comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        if end_writing:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("target", ["origin", "second", "floor", "floor-tcp"])
@pytest.mark.parametrize(
    ("path", "status", "size"),
    [
        ("/", 200, 128),
        ("/?q", 200, 128),
        ("/16k", 200, 16384),
        ("/1m/x", 200, 1 << 20),
        ("/500", 500, 32),
        ("/16kk", 404, 32),
        ("/x", 404, 32),
    ],
)
def test_answers(ports: dict[str, int], target: str, path: str, status: int, size: int) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nconnection: close\r\n\r\n".encode()
    head, _, body = talk(ports[target], request, end_writing=False).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: %d\r\n" % size in head + b"\r\n"
    assert body == b"x" * size


@pytest.mark.parametrize("target", ["origin", "floor"])
def test_pipelined_requests_are_answered_in_order(ports: dict[str, int], target: str) -> None:
    paths = ["/", "/16k", "/500"] * 70  # more than the origin queues at once
    request = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths)
    request += "HEAD /1m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    rest = talk(ports[target], request.encode(), end_writing=False)
    lengths = []
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        lengths.append(length)
        if length < 1 << 20:
            rest = rest[length:]
    assert lengths == [{"/": 128, "/16k": 16384, "/500": 32}[path] for path in paths] + [1 << 20]


def test_a_head_in_single_bytes_and_a_body_that_is_dropped(ports: dict[str, int]) -> None:
    request = (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", ports["origin"]), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            connection.sendall(bytes([byte]))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2


@pytest.mark.parametrize("target", ["origin", "floor"])
def test_a_slow_reader_gets_every_byte(ports: dict[str, int], target: str) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", ports[target]))
        connection.sendall(b"GET /1m HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
        connection.shutdown(socket.SHUT_WR)
        got = 0
        while data := connection.recv(3000):
            got += len(data)
    assert got > 8 << 20


def test_http_1_0_ends_the_connection(ports: dict[str, int]) -> None:
    answer = talk(ports["origin"], b"GET / HTTP/1.0\r\n\r\n", end_writing=False)
    assert b"Connection: close\r\n" in answer


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_ended_connections_leave_no_descriptor(ports: dict[str, int]) -> None:
    wait_for = time.monotonic() + 10
    before = {name: descriptors(ports[name]) for name in ("origin_pid", "floor_pid")}
    for i in range(50):
        connection = socket.create_connection(("127.0.0.1", ports["floor"]), timeout=10)
        connection.sendall(b"GET /1m HTTP/1.1\r\nHost: x\r\n\r\n")
        if i % 2:  # a reset, in the middle of the answer
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    while any(descriptors(ports[name]) > count for name, count in before.items()):
        assert time.monotonic() < wait_for, "descriptors are left open"
        time.sleep(0.01)


def test_a_child_that_ends_early_is_told_with_its_output(tmp_path: Path) -> None:
    child = Child("teller", [sys.executable, "-c", "print('no such port')"], log=tmp_path / "log")
    with pytest.raises(BenchError, match=r"teller ended with exit code 0:\nno such port"):
        wait_for_port(child, free_ports(1)[0])


def test_the_whole_tree_is_measured_and_ended(tmp_path: Path) -> None:
    burn = (
        "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
        "print('burnt', flush=True)\ntime.sleep(60)"
    )
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])"
    child = Child("parent", [sys.executable, "-c", parent], log=tmp_path / "log", cpu=CPU)
    try:
        wait_until(lambda: "burnt" in (tmp_path / "log").read_text(), child, "burn")
        tree = child.tree()
        assert len(tree) == 2
        assert 300e6 < cpu_ns(tree) < 3e9
        assert cpu_ns(tree[:1]) < 300e6
        assert memory(tree).resident > memory(tree).proportional > 1 << 20
    finally:
        child.stop()
    wait_until_gone(tree)


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.01)


def test_children_die_with_the_suite(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib; from bench.harness.process import Child; "
        f"child = Child('sleeper', ['sleep', '60'], log=pathlib.Path({str(tmp_path / 'log')!r})); "
        "print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).resolve().parents[3]
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False, timeout=30
    )
    deadline = time.monotonic() + 10
    while is_running(int(result.stdout)):
        assert time.monotonic() < deadline, "the child outlived the suite"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("path", "error"), [("/", ""), ("/500", "failed requests: ")])
def test_a_sample_of_the_floor(tmp_path: Path, path: str, error: str) -> None:
    """Under load; an origin that answers 500 makes the sample invalid."""
    origin = Origin(free_ports(1), cpu=CPU, folder=tmp_path)
    bench = Bench(
        pinning=Pinning(load=CPU, proxy=max(os.sched_getaffinity(0))),
        folder=tmp_path,
        origin=origin,
        contenders={"floor": contenders.FLOOR},
        absent={},
    )
    running = bench.start("floor")
    try:
        sample = take_sample(
            bench, running, Scenario("x", "x", ("floor",), 1, path=path, connections=8, seconds=1), 0
        )
    finally:
        running.stop()
        origin.stop()
    assert sample.requests > 100
    assert 1 < sample.cpu_us_per_request < 1000
    assert sample.error.startswith(error)
    assert bool(sample.error) == bool(error)
