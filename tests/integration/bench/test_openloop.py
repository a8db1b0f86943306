"""The open-loop generator against the origin, and against servers that fail in each way it tells apart."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.harness.openloop import KINDS, OpenLoop, OpenLoopResult
from bench.harness.origin import Origin
from bench.harness.place import BenchError, free_ports

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
RATE = 400


# Called with the socket, the request, and the number of the connection; False closes that.
Answer = Callable[[socket.socket, bytes, int], bool | None]


class Server:
    """Takes connections and calls `answer` for each request."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[tuple[int, bytes]] = []
        self.connections = 0
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                number = self.connections
                self.connections += 1
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            while request := self._read(connection):
                with self._changed:
                    self.requests.append((number, request))
                    self._changed.notify_all()
                if self._answer(connection, request, number) is False:
                    break
        except OSError:
            pass
        finally:
            with self._changed:
                self._open.discard(connection)
            connection.close()

    def _read(self, connection: socket.socket) -> bytes:
        request, length = b"", -1
        while len(request) != length:
            data = connection.recv(65536)
            if not data:
                return b""
            request += data
            head, end, _ = request.partition(b"\r\n\r\n")
            if end:
                body = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or b"0")
                length = len(head) + 4 + body
        return request

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, 20)

    def close(self) -> None:
        """Ends the listener and all connections; a second time does nothing."""
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._changed:
            for connection in self._open:
                with suppress(OSError):  # the other side was quicker
                    connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_ports(1)[0]
    child = Origin([port], cpu=min(os.sched_getaffinity(0)), folder=tmp_path_factory.mktemp("origin"))
    yield port
    child.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., OpenLoop]]:
    loads: list[OpenLoop] = []

    def begin(port: int, path: str = "/", **options: object) -> OpenLoop:
        settings = {
            "rate": RATE,
            "seconds": 0.25,
            "connections": 4,
            "log": tmp_path / "load.log",
            "cpu": None,
        }
        loads.append(OpenLoop(port, path, **{**settings, **options}))  # type: ignore[arg-type]
        return loads[-1]

    yield begin
    for load in loads:
        load.stop()


@pytest.fixture
def run(start: Callable[..., OpenLoop]) -> Callable[..., OpenLoopResult]:
    return lambda *arguments, **options: start(*arguments, **options).result()


def only(kind: str, count: int) -> dict[str, int]:
    return {name: count if name == kind else 0 for name in KINDS}


def sends(answer: bytes, go_on: bool = True) -> Answer:
    def send(connection: socket.socket, _request: bytes, _number: int) -> bool:
        connection.sendall(answer)
        return go_on

    return send


def test_every_request_is_counted_once(origin: int, run: Callable[..., OpenLoopResult]) -> None:
    result = run(origin, rate=500, seconds=0.5, warm_seconds=0.2)
    assert (result.intended, result.answered, result.failed) == (250, 250, 0)
    assert result.latency.get_total_count() == 250
    assert 0 < result.late.get_total_count() <= 250
    assert [part.answered for part in result.timeline] == [50] * 5
    assert result.bytes % 250 == 0
    assert result.bytes > 250 * 128
    assert result.duration_us >= 500_000
    assert result.error_text() == ""
    slowest = max(part.max_latency_ns for part in result.timeline)
    assert result.latency.get_max_value() == pytest.approx(slowest, rel=1e-3)


def test_a_rate_that_is_no_whole_number_is_kept(
    serve: Callable[[Answer], Server], run: Callable[..., OpenLoopResult]
) -> None:
    server = serve(sends(OK))
    result = run(server.port, rate=333.3, seconds=0.6, warm_seconds=0.1)
    assert result.intended == result.answered == 200
    assert len(server.requests) == 200 + 33


def breaks(connection: socket.socket, _request: bytes, _number: int) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return False


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("reset", breaks),
        ("cut", lambda *_: False),
        ("cut", sends(HEAD + b"Content-Length: 10\r\n\r\nshort", go_on=False)),
        ("cut", sends(HEAD + b"Content-Le", go_on=False)),
        ("cut", sends(CHUNKED + b"5\r\nhello\r\n0\r\n", go_on=False)),
        ("status", sends(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n")),
        ("protocol", sends(b"HELLO\r\n\r\n")),
        ("protocol", sends(OK + b"more")),
        ("protocol", sends(HEAD + b"no colon\r\n\r\n")),
        ("protocol", sends(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi")),
        ("protocol", sends(HEAD + b"Content-Length: -2\r\n\r\nhi")),
        ("protocol", sends(HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("protocol", sends(CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n")),
        ("protocol", sends(CHUNKED + b"g\r\n")),
        ("protocol", sends(HEAD + b"X: " + b"y" * 65536)),
        ("timeout", lambda *_: None),
        ("timeout", sends(HEAD + b"Content-Length: 10\r\n\r\nshort")),
    ],
)
def test_each_kind_of_failure(
    serve: Callable[[Answer], Server],
    run: Callable[..., OpenLoopResult],
    kind: str,
    answer: Answer,
) -> None:
    result = run(serve(answer).port, rate=100, timeout_seconds=0.3 if kind == "timeout" else 5)
    assert (result.intended, result.answered) == (25, 0)
    assert result.errors == only(kind, 25)
    assert result.statuses == ({503: 25} if kind == "status" else {})
    assert sum(part.failed for part in result.timeline) == 25
    if kind == "timeout":  # they took that long at least, also those that never had a connection
        assert result.latency.get_total_count() == 25
        assert result.latency.get_min_value() == pytest.approx(300e6, rel=1e-3)
        assert result.max_us == pytest.approx(300e3, rel=1e-3)
    else:
        assert result.latency.get_total_count() == 0


def test_refusals_have_a_latency_of_their_own(
    serve: Callable[[Answer], Server], run: Callable[..., OpenLoopResult]
) -> None:
    """Every second one says when to come again."""
    head = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n"

    def refuse(connection: socket.socket, _request: bytes, number: int) -> None:
        time.sleep(0.02)
        connection.sendall(head + (b"Retry-After: 1\r\n\r\n" if number else b"\r\n"))

    result = run(serve(refuse).port, rate=40, seconds=0.5, warm_seconds=0.1, connections=2)
    assert (result.statuses, result.retry_after) == ({503: 20}, 10)
    assert result.refused.get_total_count() == 20
    assert result.refused.get_min_value() >= 20e6 * 0.99
    assert result.latency.get_total_count() == 0


def test_requests_that_never_get_a_connection_time_out(run: Callable[..., OpenLoopResult]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)  # room for one connection, which nobody takes; a second one hangs
        result = run(listener.getsockname()[1], connections=1, timeout_seconds=0.2)
    assert result.errors == only("timeout", 100)
    assert result.latency.get_total_count() == 100


def test_nobody_listens(run: Callable[..., OpenLoopResult]) -> None:
    result = run(free_ports(1)[0])
    assert result.errors == only("connect", 100)
    assert result.error_text() == "100 connect"


@pytest.mark.parametrize("close", [False, True])
def test_an_origin_that_fails_on_command(
    origin: int, run: Callable[..., OpenLoopResult], close: bool
) -> None:
    result = run(origin, "/500", close=close)
    assert result.errors == only("status", 100)
    assert result.statuses == {500: 100}


def test_a_stall_is_in_every_request_that_it_delayed(
    serve: Callable[[Answer], Server], run: Callable[..., OpenLoopResult]
) -> None:
    lock = threading.Lock()
    seen = 0

    def stall_once(connection: socket.socket, _request: bytes, _number: int) -> None:
        nonlocal seen
        with lock:
            seen += 1
            if seen == 100:
                time.sleep(0.3)
        connection.sendall(OK)

    result = run(serve(stall_once).port, rate=500, seconds=1)
    assert (result.intended, result.failed) == (500, 0)
    assert result.max_us >= 300_000
    assert result.quantile_us(99) >= 250_000
    # Four were in flight, but those due in the first 200 ms of the stall waited for more than 100 ms.
    slow = sum(
        item.count_at_value_iterated_to
        for item in result.latency.get_recorded_iterator()
        if item.value_iterated_to > 100e6
    )
    assert slow >= 98
    assert max(part.max_latency_ns for part in result.timeline) >= 300e6
    # The stall is not the generator's: it could not send for want of a connection.
    assert result.late.get_total_count() < 500 - 98


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", CHUNKED + b"5;a=b\r\nhello\r\n00A \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"),
        ("GET", INTERIM + HEAD + b"content-length:\t2 \r\nConnection: x, Keep-Alive\r\n\r\nhi"),
        ("GET", HEAD + b"Transfer-Encoding: gzip,\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("GET", b"HTTP/1.1 204\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n"),
        ("HEAD", HEAD + b"Content-Length: 50\r\n\r\n"),
        ("GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_answers_in_single_bytes_on_connections_that_stay(
    serve: Callable[[Answer], Server],
    run: Callable[..., OpenLoopResult],
    method: str,
    answer: bytes,
) -> None:
    def dribble(connection: socket.socket, _request: bytes, _number: int) -> None:
        for byte in answer:
            connection.send(bytes([byte]))

    server = serve(dribble)
    result = run(server.port, rate=100, method=method)
    assert (result.answered, result.failed, result.stray) == (25, 0, 0)
    assert result.bytes == 25 * len(answer)
    assert server.connections == 4
    assert server.requests[0][1].startswith(method.encode() + b" / HTTP/1.1\r\n")


def test_connections_are_used_in_turn(
    serve: Callable[[Answer], Server], run: Callable[..., OpenLoopResult]
) -> None:
    server = serve(sends(OK))
    run(server.port, rate=100, seconds=0.32, connections=8)
    counts = Counter(number for number, _ in server.requests)
    assert len(counts) == server.connections == 8
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(
    "answer", [HEAD + b"\r\nuntil the end", HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi"]
)
def test_connections_that_end_with_the_answer_are_opened_anew(
    serve: Callable[[Answer], Server], run: Callable[..., OpenLoopResult], answer: bytes
) -> None:
    server = serve(sends(answer, go_on=False))
    result = run(server.port)
    assert (result.answered, result.failed) == (100, 0)
    assert 100 < server.connections <= 104  # at once, and not only when the next request needs one


def test_connections_that_are_closed_while_idle_cost_no_request(
    serve: Callable[[Answer], Server], run: Callable[..., OpenLoopResult]
) -> None:
    server = serve(sends(OK, go_on=False))  # without a word about it
    result = run(server.port, rate=100, connections=16)
    assert (result.answered, result.failed) == (25, 0)
    assert result.closed >= 9


def test_bytes_that_nobody_asked_for_are_told(
    serve: Callable[[Answer], Server], run: Callable[..., OpenLoopResult]
) -> None:
    held: list[socket.socket] = []

    def late_bytes(connection: socket.socket, _request: bytes, _number: int) -> None:
        if held:
            held.pop().sendall(b"what?")
        connection.sendall(OK)
        held.append(connection)

    result = run(serve(late_bytes).port, rate=100, connections=16)
    assert result.answered == 25
    assert result.stray >= 1


def test_a_connection_for_each_request(
    serve: Callable[[Answer], Server], run: Callable[..., OpenLoopResult]
) -> None:
    server = serve(sends(OK))
    result = run(server.port, close=True)
    assert (result.answered, result.failed) == (100, 0)
    assert server.connections == 100
    assert all(b"\r\nConnection: close\r\n" in request for _, request in server.requests)


def test_the_request_is_what_was_asked_for(
    serve: Callable[[Answer], Server], run: Callable[..., OpenLoopResult]
) -> None:
    server = serve(sends(OK))
    result = run(
        server.port,
        "/a?b",
        rate=20,
        method="POST",
        body_bytes=300_000,  # more than a socket takes at once
        headers=("X-One: 1", "Cookie: a=b; c=d"),
    )
    assert (result.intended, result.answered) == (5, 5)
    head, _, body = server.requests[0][1].partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert first == "POST /a?b HTTP/1.1"
    expected = [f"Host: 127.0.0.1:{server.port}", "X-One: 1", "Cookie: a=b; c=d", "Content-Length: 300000"]
    assert fields == expected
    assert body == b"x" * 300_000


def test_a_server_that_comes_back_is_found_again(
    serve: Callable[[Answer], Server], start: Callable[..., OpenLoop]
) -> None:
    server = serve(sends(OK))
    load = start(server.port, seconds=30, rate=200)
    server.wait_for(20)
    server.close()
    again = None
    while again is None:  # the port is free again when the last connection is gone
        try:
            again = socket.create_server(("127.0.0.1", server.port))
        except OSError:
            time.sleep(0.01)
    again.settimeout(10)
    connection, _ = again.accept()
    connection.settimeout(10)
    assert connection.recv(4096).startswith(b"GET / ")
    connection.sendall(OK)
    connection.close()
    again.close()
    result = load.finish()
    assert result.answered >= 20
    assert result.intended == result.answered + result.failed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_was_done_so_far(
    serve: Callable[[Answer], Server], start: Callable[..., OpenLoop], number: signal.Signals
) -> None:
    server = serve(sends(OK))
    load = start(server.port, seconds=60)
    load.wait_started()
    server.wait_for(30)
    assert load.running()
    if number == signal.SIGINT:
        result = load.finish()
    else:
        os.kill(load.pid, number)
        result = load.result()
    assert not load.running()
    assert 30 <= result.intended == result.answered == len(server.requests) < 60 * RATE
    assert sum(part.answered for part in result.timeline) == result.answered


def test_the_caller_hears_of_a_proxy_that_died(
    serve: Callable[[Answer], Server], start: Callable[..., OpenLoop]
) -> None:
    def check() -> None:
        raise BenchError("the proxy died")

    load = start(serve(sends(OK)).port, seconds=60)
    with pytest.raises(BenchError, match="the proxy died"):
        load.result(check)
    assert not load.running()


def test_a_load_that_makes_no_sense_is_refused(start: Callable[..., OpenLoop]) -> None:
    with pytest.raises(BenchError, match=r"exit code 2:\nopenloop: 0; see"):
        start(1, rate=0).result()


def test_a_kernel_without_fine_time_outs(
    origin: int, run: Callable[..., OpenLoopResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(origin)  # is built, before everything is started with the stand-in
    source, library = tmp_path / "old.c", tmp_path / "old.so"
    source.write_text("#include <errno.h>\nint epoll_pwait2(void) { errno = ENOSYS; return -1; }\n")
    subprocess.run(["cc", "-w", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    result = run(origin)
    assert (result.intended, result.answered) == (100, 100)
