"""The origin over real sockets: bodies, and what it does on command."""

import os
import random
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.harness.origin import Counts, Origin
from bench.harness.place import BenchError, free_ports

CPU = min(os.sched_getaffinity(0))
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = b"POST /echo-length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    origin = Origin(free_ports(2), cpu=CPU, folder=tmp_path_factory.mktemp("origin"))
    yield origin
    origin.check_alive()
    origin.stop()


@pytest.fixture
def origin(running: Origin) -> Iterator[Origin]:
    """The same one for all tests; its ports are normal, and hold no request, at the start of each."""
    yield running
    for port in running.ports:
        running.behave(port, "normal")
        wait_for(running, port, lambda counts: not counts.waiting and not counts.serving)


@pytest.fixture
def port(origin: Origin) -> int:
    return origin.ports[0]


@pytest.fixture
def connect(port: int) -> Iterator[Callable[[], socket.socket]]:
    """Opens connections to the port; the test's end closes them."""
    opened: list[socket.socket] = []

    def one() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=20))
        opened[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened[-1]

    yield one
    for connection in opened:
        connection.close()


def wait_for(origin: Origin, port: int, condition: Callable[[Counts], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition(origin.counts(port)):
        assert time.monotonic() < deadline, origin.counts(port)


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and body of the next answers."""
    found = []
    data = b""
    while len(found) < count:
        head, end, rest = data.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or 0)
        if end and len(rest) >= length:
            found.append((int(head[9:12]), rest[:length]))
            data = rest[length:]
            continue
        more = connection.recv(65536)
        assert more, data
        data += more
    assert not data
    return found


def ask(connection: socket.socket, request: bytes = GET) -> tuple[int, bytes]:
    connection.sendall(request)
    return answers(connection, 1)[0]


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


# ---- bodies


def chunks(rng: random.Random, body_bytes: int) -> bytes:
    pieces = []
    while body_bytes:
        size = min(body_bytes, rng.choice([1, 15, 16, 4096, 70_000]))
        body_bytes -= size
        spelling = rng.choice(
            [f"{size:x}", f"{size:X}", f"000{size:x}", f'{size:x};a=b;c="d"', f"{size:x} ;e"]
        )
        pieces.append(spelling.encode() + b"\r\n" + rng.randbytes(size) + b"\r\n")
    return b"".join(pieces) + rng.choice([b"0\r\n\r\n", b"00;x\r\n\r\n", b"0\r\nA: b\r\nC:\r\n\r\n"])


def test_a_chunked_body_split_at_each_byte(
    origin: Origin, port: int, connect: Callable[[], socket.socket]
) -> None:
    request = CHUNKED + b'5;a="b"\r\nhello\r\n0A \r\n0\r\n3456\r\n9\r\n0\r\nTrailer: x\r\nB:\r\n\r\n' + LAST
    for split in range(1, len(request)):
        connection = connect()
        connection.sendall(request[:split])
        origin.count(port)  # answered after the origin has read what came before
        connection.sendall(request[split:])
        assert answers(connection, 2) == [(200, b"15"), (200, b"x" * 128)], split
        assert connection.recv(1) == b""
        connection.close()


@pytest.mark.parametrize("size", [1, 65_536, 3_000_000])
def test_bodies_come_through_whole(connect: Callable[[], socket.socket], size: int) -> None:
    rng = random.Random(size)
    connection = connect()
    plain = f"POST /echo-length HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    for _ in range(3):
        assert ask(connection, CHUNKED + chunks(rng, size)) == (200, str(size).encode())
        assert ask(connection, plain + rng.randbytes(size)) == (200, str(size).encode())
    assert ask(connection, GET) == (200, b"x" * 128)


def test_pipelined_bodies_keep_their_own_lengths(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    requests, expected = [], []
    for i in range(200):
        requests.append(CHUNKED + chunks(random.Random(i), i) if i % 3 else GET)
        expected.append((200, str(i).encode() if i % 3 else b"x" * 128))
    connection.sendall(b"".join(requests))
    assert answers(connection, len(expected)) == expected


@pytest.mark.parametrize(
    ("head", "body"),
    [("Content-Length: 5", b"hello"), ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")],
)
def test_the_answer_follows_the_whole_body(
    origin: Origin, port: int, connect: Callable[[], socket.socket], head: str, body: bytes
) -> None:
    connection = connect()
    before = origin.count(port)
    connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body[:-1])
    assert origin.count(port) == before
    assert select.select([connection], [], [], 0)[0] == []
    assert ask(connection, body[-1:]) == (200, b"x" * 128)
    assert origin.count(port) == before + 1


@pytest.mark.parametrize("head", [b"", b"Content-Length: 0\r\n"])
def test_the_length_of_no_body(connect: Callable[[], socket.socket], head: bytes) -> None:
    assert ask(connect(), b"POST /echo-length HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n") == (200, b"0")


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\rx0\r\n\r\n",
        b";a\r\n",
        b"f" * 16 + b"\r\n",
        b"1\rx",
        b"5;\0\r\n",
        b"0\r\n: x\r\n\r\n",
        b"0\r\nname\r\n\r\n",
        b"0\r\na: b\n\r\n",
        b"0\r\n\rx",
        b"0\r\na b: c\r\n\r\n",
        b" 5\r\nhello\r\n",
    ],
)
def test_a_wrong_chunked_body(connect: Callable[[], socket.socket], body: bytes) -> None:
    connection = connect()
    connection.sendall(GET + CHUNKED + body + b"x" * 1000 + GET)
    assert answers(connection, 2) == [(200, b"x" * 128), (400, b"x" * 32)]
    assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: x",
        "Content-Length:",
        "Content-Length: -1",
        "Content-Length: 5 5",
        "Content-Length: 5, 5",
        "Content-Length: 99999999999999999999",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunkedx",
        "transfer-encoding:\tgzip",
    ],
)
def test_a_body_that_has_no_length(connect: Callable[[], socket.socket], lines: str) -> None:
    connection = connect()
    connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n".encode() + b"0\r\n\r\n" + GET * 4000)
    assert answers(connection, 1) == [(400, b"x" * 32)]
    assert connection.recv(1) == b""


def test_random_bytes_do_not_end_it(origin: Origin, port: int, connect: Callable[[], socket.socket]) -> None:
    rng = random.Random(3)
    good = CHUNKED + chunks(rng, 200) + GET + b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc" + LAST
    for i in range(300):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            place = rng.randrange(len(bad))
            bad[place : place + rng.randrange(3)] = rng.choice([b"", b"\r\n", b"\n", b"0", rng.randbytes(3)])
        origin.behave(port, rng.choice(["normal", "delay uniform 0ms 1ms", "fail cut share 0.5", "slots 1"]))
        connection = connect()
        connection.sendall(bad)
        if i % 2:
            connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                everything(connection)
        reset(connection)
    origin.check_alive()
    assert len(list(Path(f"/proc/{origin.pid}/fd").iterdir())) < 100


# ---- delays


@pytest.mark.parametrize(
    ("delay", "least_ms", "mean_ms"),
    [
        ("fixed 20ms", 20, 20),
        ("fixed 20000us", 20, 20),
        ("fixed 0.02s", 20, 20),
        ("exponential 20ms", 0, 20),
        ("uniform 10ms 30ms", 10, 20),
        ("lognormal 20ms 0.5", 0, 20 * 1.133),
    ],
)
def test_delays(
    origin: Origin,
    port: int,
    connect: Callable[[], socket.socket],
    delay: str,
    least_ms: float,
    mean_ms: float,
) -> None:
    """What a busy machine adds is not bounded closely; what was drawn is a part of what is seen."""
    origin.behave(port, f"delay {delay}")
    before = origin.counts(port).delayed
    waits = []
    connections = [connect() for _ in range(40)]
    for _ in range(8):
        sent = []
        for connection in connections:
            sent.append(time.monotonic())
            connection.sendall(GET)
        waiting = dict(zip(connections, sent, strict=True))
        while waiting:
            for connection in select.select(list(waiting), [], [])[0]:
                assert answers(connection, 1) == [(200, b"x" * 128)]
                waits.append((time.monotonic() - waiting.pop(connection)) * 1000)
    assert origin.counts(port).delayed - before == len(waits) == 320
    assert min(waits) >= least_ms
    assert 0.7 * mean_ms < sum(waits) / len(waits) < 10 * mean_ms
    if not delay.startswith("fixed"):
        assert max(waits) - min(waits) > 10


def test_delayed_answers_keep_their_order(
    origin: Origin, port: int, connect: Callable[[], socket.socket]
) -> None:
    origin.behave(port, "delay uniform 0ms 4ms share 0.7")
    paths = ["/", "/16k", "/500", "/echo-length"] * 25
    connection = connect()
    connection.sendall("".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths).encode())
    connection.shutdown(socket.SHUT_WR)  # seen while requests are held; all are answered
    sizes = {"/": 128, "/16k": 16384, "/500": 32, "/echo-length": 1}
    assert [len(body) for _, body in answers(connection, 100)] == [sizes[path] for path in paths]
    assert connection.recv(1) == b""


def test_short_delays_come_before_long_ones_and_ports_are_apart(
    origin: Origin, port: int, connect: Callable[[], socket.socket]
) -> None:
    origin.behave(port, "delay fixed 300ms")
    slow, quick = connect(), connect()
    start = time.monotonic()
    slow.sendall(GET)
    wait_for(origin, port, lambda counts: counts.serving == 1)
    origin.behave(port, "delay fixed 1ms")
    assert ask(quick) == (200, b"x" * 128)
    with socket.create_connection(("127.0.0.1", origin.ports[1]), timeout=20) as other:
        assert ask(other) == (200, b"x" * 128)
    assert origin.counts(origin.ports[1]).delayed == 0
    assert answers(slow, 1) == [(200, b"x" * 128)]
    assert time.monotonic() - start >= 0.3


# ---- failures


def test_a_status_at_once_and_on_the_same_connection(
    origin: Origin, port: int, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    origin.behave(port, "delay fixed 1000s")
    for status in (500, 503, 599):
        origin.behave(port, f"fail status {status}")
        assert ask(connection, CHUNKED + b"1\r\nx\r\n0\r\n\r\n") == (status, b"x" * 32)
    origin.behave(port, "normal")
    assert ask(connection) == (200, b"x" * 128)
    origin.behave(port, "fail status 502")
    assert ask(connection, LAST) == (502, b"x" * 32)
    assert connection.recv(1) == b""


def test_a_share_fails_and_a_share_of_the_rest_is_slow(
    origin: Origin, port: int, connect: Callable[[], socket.socket]
) -> None:
    before = origin.counts(port)
    origin.behave(port, "fail status 500 share 0.25")
    origin.behave(port, "delay fixed 10us share 0.5")
    connection = connect()
    connection.sendall(GET * 1000)
    failed = sum(status == 500 for status, _ in answers(connection, 1000))
    after = origin.counts(port)
    assert (after.requests - before.requests, after.failed - before.failed) == (1000, failed)
    assert 150 < failed < 350
    assert 275 < after.delayed - before.delayed < 475
    origin.behave(port, "fail reset share 0")
    assert ask(connection) == (200, b"x" * 128)


def test_reset(origin: Origin, port: int, connect: Callable[[], socket.socket]) -> None:
    origin.behave(port, "fail reset")
    for request in (GET, CHUNKED + b"1\r\nx\r\n0\r\n\r\n", LAST):
        connection = connect()
        connection.sendall(request)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_close_without_a_byte(origin: Origin, port: int, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    assert ask(connection) == (200, b"x" * 128)
    origin.behave(port, "fail close")
    for request in (GET, GET + CHUNKED + b"5\r\n", GET + GET):  # bytes behind it must not make it a reset
        connection = connect()
        connection.sendall(request)
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("method", "path", "body"), [("GET", "/", 128), ("GET", "/1m", 1 << 20), ("HEAD", "/", 0)]
)
def test_half_an_answer(
    origin: Origin, port: int, connect: Callable[[], socket.socket], method: str, path: str, body: int
) -> None:
    origin.behave(port, "fail cut")
    connection = connect()
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, end, half = everything(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(half) == body // 2
    assert bool(end) == (method == "GET")


def test_hanging(origin: Origin, port: int, connect: Callable[[], socket.socket]) -> None:
    failed = origin.counts(port).failed
    origin.behave(port, "fail hang")
    hung = connect()
    hung.sendall(GET + b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n")
    hung.sendall(b"x" * 4_000_000)  # returns, so it is read
    wait_for(origin, port, lambda counts: counts.failed == failed + 1)
    origin.behave(port, "normal")
    assert ask(connect()) == (200, b"x" * 128)
    assert select.select([hung], [], [], 0)[0] == []
    hung.shutdown(socket.SHUT_WR)
    assert hung.recv(1) == b""


def test_refusing_and_listening_again(
    origin: Origin, port: int, connect: Callable[[], socket.socket]
) -> None:
    origin.behave(port, "delay fixed 100s")
    held, idle = connect(), connect()
    held.sendall(GET)
    wait_for(origin, port, lambda counts: counts.serving == 1)
    origin.behave(port, "delay fixed 0ms")
    assert ask(idle) == (200, b"x" * 128)
    for behaviour in ("fail refuse", "slots 3", "delay fixed 0ms"):  # the later two change nothing of it
        origin.behave(port, behaviour)
        with pytest.raises(ConnectionRefusedError):
            connect()
    for connection in (held, idle):
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with socket.create_connection(("127.0.0.1", origin.ports[1]), timeout=20) as other:
        assert ask(other) == (200, b"x" * 128)
    for behaviour in ("fail status 500", "normal"):
        origin.behave(port, behaviour)
        assert ask(connect())[0] == (500 if behaviour != "normal" else 200)
        origin.behave(port, "fail refuse")
    origin.restart()  # the held request's work would take its 100 s


# ---- slots


def test_so_many_are_served_at_a_time(
    origin: Origin, port: int, connect: Callable[[], socket.socket]
) -> None:
    origin.behave(port, "slots 2")
    origin.behave(port, "fail hang")
    connections = []
    for i in range(5):
        connections.append(connect())
        connections[-1].sendall(GET)
        wait_for(origin, port, lambda counts, i=i: counts.serving + counts.waiting == i + 1)
    assert (origin.counts(port).serving, origin.counts(port).waiting) == (2, 3)
    connections[0].close()  # its slot goes to the next
    wait_for(origin, port, lambda counts: (counts.serving, counts.waiting) == (2, 2))
    reset(connections[3])  # in the queue
    wait_for(origin, port, lambda counts: (counts.serving, counts.waiting) == (2, 1))
    origin.behave(port, "normal")
    assert answers(connections[4], 1) == [(200, b"x" * 128)]
    assert select.select(connections[1:3], [], [], 0)[0] == []


def test_slots_bound_the_rate(origin: Origin, port: int, connect: Callable[[], socket.socket]) -> None:
    origin.behave(port, "slots 3")
    origin.behave(port, "delay fixed 20ms")
    connections = [connect() for _ in range(12)]
    start = time.monotonic()
    for connection in connections:
        connection.sendall(GET)
    order = []
    while len(order) < 12:
        for connection in select.select([c for c in connections if c not in order], [], [])[0]:
            assert answers(connection, 1) == [(200, b"x" * 128)]
            order.append(connection)
        assert time.monotonic() - start >= (len(order) + 2) // 3 * 0.02
    ranks = [order.index(connection) // 3 for connection in connections]
    assert ranks == sorted(ranks)


def test_lateness_does_not_lessen_the_rate(
    origin: Origin, port: int, connect: Callable[[], socket.socket]
) -> None:
    """A slot goes on with the next request as of the time at which it fell free."""
    origin.behave(port, "slots 1")
    origin.behave(port, "delay fixed 100ms")
    first, second = connect(), connect()
    first.sendall(GET)
    wait_for(origin, port, lambda counts: counts.serving == 1)
    second.sendall(GET)
    wait_for(origin, port, lambda counts: counts.waiting == 1)
    os.kill(origin.pid, signal.SIGSTOP)
    try:
        time.sleep(0.25)
    finally:
        os.kill(origin.pid, signal.SIGCONT)
    assert answers(first, 1) == [(200, b"x" * 128)]
    assert origin.counts(port).serving == 0  # both were due, so both are answered
    assert answers(second, 1) == [(200, b"x" * 128)]


def test_work_goes_on_when_its_client_has_gone(
    origin: Origin, port: int, connect: Callable[[], socket.socket]
) -> None:
    origin.behave(port, "slots 1")
    origin.behave(port, "delay fixed 100ms")
    gone = connect()
    start = time.monotonic()
    gone.sendall(GET)
    wait_for(origin, port, lambda counts: counts.serving == 1)
    reset(gone)
    assert ask(connect()) == (200, b"x" * 128)
    assert time.monotonic() - start >= 0.2


# ---- the process and its control socket


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        ("", "unknown command ''; known: normal, delay, fail, slots, count"),
        ("slow 5ms", "unknown command 'slow'; known: normal, delay, fail, slots, count"),
        ("delay", "unknown delay ''; known: fixed, exponential, lognormal, uniform"),
        ("delay gamma 5ms", "unknown delay 'gamma'; known: fixed"),
        ("delay fixed", "takes 1 value"),
        ("delay fixed 5ms 6ms", "takes 1 value"),
        ("delay fixed 5", "'5' is no time"),
        ("delay fixed -5ms", "'-5ms' is no time"),
        ("delay fixed nanms", "'nanms' is no time"),
        ("delay fixed 0x5ms", "'0x5ms' is no time"),
        ("delay fixed 3601s", "'3601s' is no time up to an hour"),
        ("delay uniform 9ms 1ms", "'1ms' is no time from 9ms up"),
        ("delay lognormal 5ms 0.5ms", "sigma '0.5ms' is no number from 0 to 10"),
        ("delay fixed 5ms share 2", "share '2' is no number from 0 to 1"),
        ("fail", "unknown failure ''; known: status, reset, close, cut, hang, refuse"),
        ("fail status", "one status from 500 to 599"),
        ("fail status 404", "one status from 500 to 599"),
        ("fail reset 5", "takes no value"),
        ("fail refuse share 0.5", "takes no share"),
        ("normal 5", "normal takes no value"),
        ("slots 0", "slots takes one number from 1"),
        ("slots 5x", "slots takes one number from 1"),
        ("fail status 500 share 0.5 and more", "too many|takes one status"),
        ("a b c d e f g h i j", "too many words"),
        ("x" * 500, "unknown command 'x{40}'"),
    ],
)
def test_wrong_commands_change_nothing(
    origin: Origin, port: int, connect: Callable[[], socket.socket], behaviour: str, complaint: str
) -> None:
    before = origin.counts(port)
    with pytest.raises(BenchError, match=complaint):
        origin.behave(port, behaviour)
    assert ask(connect()) == (200, b"x" * 128)
    after = origin.counts(port)
    assert (after.delayed, after.failed) == (before.delayed, before.failed)


def test_a_port_of_another(origin: Origin) -> None:
    with pytest.raises(BenchError, match="'1' is no port of this origin"):
        origin.behave(1, "normal")
    with pytest.raises(BenchError, match="'1' is no port of this origin"):
        origin.count(1)


def test_kill_and_restart(tmp_path: Path) -> None:
    ports = free_ports(2)
    origin = Origin(ports, cpu=CPU, folder=tmp_path)
    try:
        assert os.sched_getaffinity(origin.pid) == {CPU}
        first = origin.pid
        connection = socket.create_connection(("127.0.0.1", ports[1]), timeout=20)
        with connection:
            assert ask(connection) == (200, b"x" * 128)
            assert origin.count(ports[1]) == 1
            origin.behave(ports[1], "fail status 500")
            origin.kill()
            assert connection.recv(1) == b""
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=20)
        for use in (origin.check_alive, lambda: origin.count(ports[0])):
            with pytest.raises(BenchError, match="origin ended with exit code -9"):
                use()
        origin.restart()
        assert origin.pid != first
        assert origin.count(ports[1]) == 0
        with socket.create_connection(("127.0.0.1", ports[1]), timeout=20) as connection:
            assert ask(connection) == (200, b"x" * 128)
        origin.restart()  # of one that runs
        origin.check_alive()
    finally:
        origin.stop()
    with pytest.raises(BenchError, match="origin ended"):
        origin.check_alive()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        busy = other.getsockname()[1]
        with pytest.raises(BenchError, match=re.escape("bind: Address already in use")):
            Origin([*free_ports(1), busy], cpu=CPU, folder=tmp_path)


def test_a_folder_that_is_too_deep_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with pytest.raises(BenchError, match="path is longer than 107 bytes"):
        Origin(free_ports(1), cpu=CPU, folder=folder)
