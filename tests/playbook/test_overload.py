"""When places, descriptors or memory run out: who has to go, who is refused, and that nobody is cut off."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from fastmesh.model import Forward, Respond, Route
from support.stage import CLOSE_SOCKET, OK, End, Stage, get, post

SetStage = Callable[..., Stage]
PLENTY = 10_000
IDLE, OVERDUE = 1100, 2100  # ms: a client that is idle so long may go; a head that takes so long, too
FIXED = (Route(Respond(200, b"ok")),)
ROUTES = (Route(Respond(200, b"ok"), path="/fixed"), Route(Forward((("s", 1),))))


class MemoryText:
    """What the worker takes for /proc/self/statm, in bytes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "statm"
        self.set(0)
        self.fd = os.open(self._path, os.O_RDONLY)

    def set(self, resident: int) -> None:
        self._path.write_text(f"99999 {resident} 0 0 0 0 0\n")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[MemoryText]:
    text = MemoryText(tmp_path)
    yield text
    os.close(text.fd)


def with_memory(stage: Stage, memory: MemoryText) -> Stage:
    """1,000 bytes may be resident."""
    stage.worker.limit(memory=1000)
    stage.worker.watch_memory(memory.fd)
    return stage


def look(stage: Stage, after_ms: int = 200) -> tuple[int, int, int]:
    """The levels after a turn that looks at what is used, as if so long had passed since the last."""
    stage.worker.pass_time(after_ms)
    stage.turn()
    levels: tuple[int, int, int] = stage.worker.overload()[1]
    return levels


def idle_clients(stage: Stage, count: int) -> list[End]:
    """Clients that had a fixed answer each."""
    clients = [stage.client() for _ in range(count)]
    for client in clients:
        client.send(get())
    for client in clients:
        client.until(b"ok")
    return clients


def descriptors(stage: Stage) -> int:
    used: int = stage.worker.overload()[0][1]
    return used


def says_close(head: bytes) -> bool:
    return b"\r\nconnection: close\r\n" in head.lower()


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    with socket.socket() as lowest_free:
        number = lowest_free.fileno()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# ---------------------------------------------------------------- level 1


def test_from_92_percent_on_answers_close(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    clients = idle_clients(stage, 92)
    stage.worker.limit(connections=101)
    assert look(stage) == (0, 0, 0)
    clients[0].send(get())
    assert not says_close(clients[0].head())
    stage.worker.limit(connections=100)
    assert look(stage) == (1, 0, 0)
    clients[1].send(get())
    head = clients[1].head()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert says_close(head)
    clients[1].until(b"ok")
    assert clients[1].end() == "eof"
    assert stage.worker.errors() == {}


def test_an_endpoints_answer_says_so_too(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY)
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    stage.worker.limit(connections=1)
    look(stage)
    upstream.send(OK)
    assert says_close(client.head())
    assert client.until(b"ok")
    assert stage.worker.endpoint(0)["idle"] == 1, "connections to endpoints are not what is short"


def test_it_ends_two_percent_below(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    clients = idle_clients(stage, 92)
    stage.worker.limit(connections=100)
    assert look(stage) == (1, 0, 0)
    for client, expected in zip(clients, [1, 1, 0], strict=False):
        client.close()
        stage.settle()
        assert look(stage) == (expected, 0, 0)
    clients[10].send(get())
    assert not says_close(clients[10].head())


def test_idle_clients_are_closed_and_busy_ones_are_not(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=ROUTES)
    clients = [stage.client() for _ in range(90)]
    for client in clients:
        client.send(get("/fixed"))
        client.until(b"ok")
    busy, new = stage.client(), stage.client()
    busy.send(post(b"half")[:-2])
    upstream = stage.origins[0].accept()
    stage.worker.limit(connections=100)
    assert look(stage, IDLE) == (1, 0, 0)
    assert stage.worker.overload()[2] == (4, 0), "no more than it takes"
    assert stage.worker.overload()[0][0] == 88
    stage.worker.limit(connections=1)
    look(stage)
    assert [client.end() for client in clients] == ["eof"] * 90
    assert stage.worker.overload()[2] == (90, 0)
    assert busy.is_open()
    assert new.is_open(), "it had no time to ask yet"
    stage.worker.limit(connections=100)
    look(stage)
    busy.send(b"lf")
    assert upstream.until(b"half")
    upstream.send(OK)
    assert busy.until(b"ok")
    assert stage.worker.errors() == {}


def test_those_that_were_idle_for_a_moment_stay(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    clients = idle_clients(stage, 95)
    stage.worker.limit(connections=100)
    assert look(stage, 200) == (1, 0, 0)
    assert all(client.is_open() for client in clients)


def test_without_pressure_nobody_is_closed(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    clients = idle_clients(stage, 91)
    stage.worker.limit(connections=100)
    assert look(stage, OVERDUE) == (0, 0, 0)
    assert all(client.is_open() for client in clients)
    assert stage.worker.overload()[2] == (0, 0)


def test_a_client_whose_request_has_come_is_not_idle(set_stage: SetStage) -> None:
    """More clients ask at once than one turn is told of: of the rest only the kernel knows."""
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    clients = idle_clients(stage, 540)
    stage.worker.limit(connections=560)
    stage.worker.pass_time(IDLE)
    for client in clients:
        client.send(get())
    stage.turn()
    assert stage.worker.overload()[1] == (1, 0, 0)
    assert stage.worker.overload()[2] == (0, 0)
    for client in clients:
        assert client.head().startswith(b"HTTP/1.1 200 ")


def test_a_client_that_reads_its_last_answer_is_not_idle(set_stage: SetStage) -> None:
    """The kernel has all of it. If its connection were closed, what it sends meanwhile would cut that off."""
    stage = set_stage(connection_limit=PLENTY)
    clients = [stage.client(), stage.client()]
    body = b"x" * 50_000
    for client in clients:
        client.send(get())
        upstream = stage.origins[0].accept()
        upstream.head()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\nConnection: close\r\n\r\n" + body)
        stage.settle()
        stage.worker.limit(connections=2)
        look(stage)
    assert sorted(stage.of_kind("client")) == ["head", "linger"], "the second one's answer was its last"
    stage.worker.limit(connections=1)
    assert look(stage, IDLE) == (2, 0, 0)
    assert stage.worker.overload()[2] == (0, 0)
    for client in clients:
        client.send(get())
        stage.settle()
        assert client.response() == (200, "", body)


def test_heads_that_take_long_are_timed_out_early(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    (client,) = idle_clients(stage, 1)
    later = stage.client()
    begun, silent = stage.client(), stage.client()
    begun.send(b"GET / HTTP/1.1\r\nHo")
    stage.settle()
    stage.worker.limit(connections=4)
    stage.worker.pass_time(IDLE)
    later.send(b"GET /later")
    stage.settle()
    assert client.end() == "eof"
    assert begun.is_open()
    assert silent.is_open()
    stage.worker.limit(connections=1)
    look(stage, OVERDUE - IDLE)
    for end in (begun, later):
        assert end.head().startswith(b"HTTP/1.1 408 ")
        end.until(b"\n")
        assert end.end() == "eof"
    assert silent.end() == "eof"
    assert silent.received == b"", "who has asked nothing is answered nothing"
    assert stage.worker.errors() == {"header_timeout": 2}


def test_a_head_of_a_later_request_has_its_own_time(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    (client,) = idle_clients(stage, 1)
    stage.worker.pass_time(OVERDUE)
    client.send(b"GET / HTTP/1.1\r\nHo")
    stage.settle()
    stage.worker.limit(connections=1)
    look(stage, IDLE)
    assert client.is_open(), "it was idle for longer, but its head is young"
    look(stage, IDLE)
    assert client.head().startswith(b"HTTP/1.1 408 ")


def test_who_does_not_close_after_its_last_answer_has_no_place(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=2, routes=FIXED)
    client = stage.client()
    client.send(get("/", b"Connection: close") + b"x")
    assert says_close(client.head())
    stage.settle()
    assert stage.of_kind("client") == ["linger"]
    assert stage.worker.overload()[0][0] == 0
    stage.worker.limit(descriptors=2)
    look(stage, 900)
    assert stage.of_kind("client") == ["linger"], "it has a moment to read"
    look(stage, 200)
    assert stage.of_kind("client") == []


def test_new_clients_come_at_a_pace(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    idle_clients(stage, 185)
    stage.worker.limit(connections=200)
    assert look(stage) == (1, 0, 0)
    ends = [End(stage, stage.front.connect()) for _ in range(40)]
    steps, started = [185], time.monotonic()

    def accepted() -> int:
        if stage.worker.listener(0)[1] != steps[-1]:
            steps.append(stage.worker.listener(0)[1])
        return steps[-1]

    stage.wait(lambda: accepted() == 185 + len(ends), "all to be accepted")
    assert max(after - before for before, after in pairwise(steps)) <= 16
    assert time.monotonic() - started >= 0.04, "each batch but the first waits"


def test_the_last_clients_of_a_socket_need_not_wait(set_stage: SetStage) -> None:
    """They stand in its queue, and would be reset with it."""
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    idle_clients(stage, 930)
    stage.worker.limit(connections=1010)
    assert look(stage) == (1, 0, 0)
    late = [End(stage, stage.front.connect()) for _ in range(40)]
    stage.worker.post(CLOSE_SOCKET, -1, 0, 1)
    stage.turn()
    assert stage.worker.listener(0)[1] == 970
    assert all(end.is_open() for end in late)


# ---------------------------------------------------------------- level 2: places


def test_from_97_percent_on_new_clients_are_refused(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    clients = idle_clients(stage, 97)
    stage.worker.limit(connections=100)
    late = stage.client()
    head = late.head().lower()
    assert head.startswith(b"http/1.1 503 ")
    assert b"\r\nx-fastmesh-error: overloaded\r\n" in head
    assert b"\r\nretry-after: 1\r\n" in head
    assert says_close(head)
    assert stage.worker.overload()[0][0] == 97, "it takes no place while it reads why"
    late.until(b"\n")
    assert late.end() == "eof"
    assert stage.worker.errors() == {"overloaded": 1}
    clients[0].send(get())
    assert clients[0].head().startswith(b"HTTP/1.1 200 "), "who is there is served"
    assert all(client.is_open() for client in clients[1:])


def test_an_idle_client_makes_room_for_a_new_one(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, routes=FIXED)
    clients = idle_clients(stage, 97)
    look(stage)  # no other look comes before the client
    stage.worker.limit(connections=100)
    stage.worker.age(IDLE)
    late = stage.client()
    late.send(get())
    assert late.head().startswith(b"HTTP/1.1 200 ")
    assert stage.worker.errors() == {}
    for client in clients:
        client.look()
    assert any(client.ended for client in clients)


def test_the_limit_itself_is_never_passed(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=2, routes=FIXED)
    clients = [*idle_clients(stage, 1), stage.client()]
    assert stage.client().response()[:2] == (503, "too_many_connections")
    assert all(client.is_open() for client in clients)
    stage.worker.age(IDLE)
    late = stage.client()
    assert late.is_open(), "it has the place of the idle one"
    assert clients[0].end() == "eof"


def test_a_relay_is_refused_by_closing(set_stage: SetStage) -> None:
    stage = set_stage(connection_limit=PLENTY, protocol="tcp")
    stage.origins[0].sock.listen(128)
    relays = [stage.client() for _ in range(97)]
    ends = [stage.origins[0].accept() for _ in relays]
    stage.worker.limit(connections=100)
    assert stage.client().end() in ("eof", "reset")
    assert stage.worker.errors() == {"overloaded": 1}
    look(stage, OVERDUE)
    relays[0].send(b"hello")
    assert any(end.exactly(5) == b"hello" for end in ends[:1]), "who is there stays"


# ---------------------------------------------------------------- descriptors


def test_both_sides_count(set_stage: SetStage) -> None:
    stage = set_stage()
    before = descriptors(stage)
    client = stage.client()
    upstream = stage.exchange(client)
    assert descriptors(stage) == before + 2
    upstream.close()
    client.close()
    stage.settle()
    assert descriptors(stage) == before


def test_idle_connections_to_endpoints_go(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    kept = stage.exchange(client)
    stage.worker.limit(descriptors=descriptors(stage))
    assert look(stage) == (0, 2, 0)
    assert kept.end() == "eof"
    assert stage.worker.overload()[2] == (0, 1)


def test_no_descriptor_for_an_endpoint_is_no_fault_of_it(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    stage.worker.limit(descriptors=descriptors(stage))
    client.send(get())
    assert client.response()[:2] == (503, "overloaded")
    assert stage.nobody_is_asked()
    assert stage.worker.endpoint(0)["ejections"] == 0


def test_clients_wait_in_the_queue_while_none_is_left(set_stage: SetStage) -> None:
    """The rest belongs to the control plane. To refuse a client would take one of it."""
    stage = set_stage()
    first = stage.client()
    stage.worker.limit(descriptors=descriptors(stage))
    late = End(stage, stage.front.connect())
    stage.settle()
    assert stage.of_kind("client") == ["head"]
    assert set(stage.worker.errors()) == {"too_many_connections"}
    first.close()
    late.send(get())
    stage.wait(lambda: stage.worker.listener(0)[1] == 2, "the place of the first")
    stage.worker.limit(descriptors=0)
    assert late.is_open() or late.received


@pytest.mark.parametrize("spare", [0, 1], ids=["out", "nearly out"])
def test_idle_connections_make_room_for_a_client(set_stage: SetStage, spare: int) -> None:
    stage = set_stage()
    clients = [stage.client() for _ in range(10)]
    for client in clients:
        client.send(get())
    kept = [stage.origins[0].accept() for _ in clients]
    for upstream in kept:
        upstream.head()
        upstream.send(OK)
    stage.until(lambda: stage.worker.endpoint(0)["idle"] == 10, "all answers")
    stage.worker.limit(descriptors=descriptors(stage) + spare)
    late = stage.client()
    assert late.is_open()
    assert [upstream.end() for upstream in kept] == ["eof"] * 10
    assert stage.worker.errors() == {}
    assert all(client.until(b"ok") and client.is_open() for client in clients)
    if spare:
        return
    stage.worker.limit(descriptors=0)
    late.send(get())
    upstream = stage.origins[0].accept()
    upstream.send(OK)
    assert says_close(late.head())
    assert upstream.end() == "eof", "for a while nothing is kept"


def test_when_the_system_gives_none_idle_connections_go(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    kept = stage.exchange(client)
    late = socket.socket(socket.AF_UNIX)
    with no_descriptor_left():
        late.connect(str(stage.front.path))
        stage.settle()
        assert len(stage.of_kind("client")) == 2
    assert kept.end() == "eof"
    assert End(stage, late).is_open()


def test_when_the_system_gives_none_another_endpoint_gives_one(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    number, kept = 0, stage.exchange(client)
    with no_descriptor_left():
        client.send(get())
        stage.settle()
    assert kept.end() == "eof"
    upstream = stage.origins[1 - number].accept()
    upstream.head()
    upstream.send(OK)
    assert client.head().startswith(b"HTTP/1.1 200 ")


# ---------------------------------------------------------------- memory


def test_without_memory_requests_are_refused_before_anything_is_done(
    set_stage: SetStage, memory: MemoryText
) -> None:
    stage = with_memory(set_stage(), memory)
    idle, running = stage.client(), stage.client()
    running.send(get("/long"))
    upstream = stage.origins[0].accept()
    memory.set(980)
    assert look(stage) == (0, 0, 2)
    assert stage.worker.overload()[0] == (2, 5, 980, 0)
    idle.send(get())
    head = idle.head().lower()
    assert head.startswith(b"http/1.1 503 ")
    assert b"\r\nx-fastmesh-error: overloaded\r\n" in head
    assert b"\r\nretry-after: 1\r\n" in head
    assert says_close(head)
    idle.until(b"\n")
    assert idle.end() == "eof"
    assert stage.origins[0].waiting() is None
    upstream.send(OK)
    assert running.head().startswith(b"HTTP/1.1 200 "), "what has begun is not cut off"
    running.until(b"ok")
    new = stage.client()
    new.send(get())
    assert new.response()[:2] == (503, "overloaded"), "it may come, and is told so"
    assert stage.worker.errors() == {"overloaded": 2}
    assert stage.worker.pair(0) == {503: 2}


def test_the_answer_to_head_has_no_body(set_stage: SetStage, memory: MemoryText) -> None:
    stage = with_memory(set_stage(), memory)
    client = stage.client()
    memory.set(1000)
    look(stage)
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.head().startswith(b"HTTP/1.1 503 ")
    assert client.end() == "eof"
    assert client.received == b""


@pytest.mark.parametrize(("resident", "level"), [(919, 0), (920, 1), (969, 1), (970, 2), (5000, 2)])
def test_the_shares_of_memory(set_stage: SetStage, memory: MemoryText, resident: int, level: int) -> None:
    stage = with_memory(set_stage(), memory)
    memory.set(resident)
    assert look(stage) == (0, 0, level)
    memory.set(899)
    assert look(stage) == (0, 0, 0)
    stage.exchange(stage.client())


def test_when_memory_is_short_nothing_is_kept(set_stage: SetStage, memory: MemoryText) -> None:
    stage = with_memory(set_stage(), memory)
    client = stage.client()
    kept = stage.exchange(client)
    memory.set(930)
    assert look(stage) == (0, 0, 1)
    assert kept.end() == "eof"
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(OK)
    assert says_close(client.head())
    assert upstream.end() == "eof"


def test_the_control_group_counts_beside_the_process(
    set_stage: SetStage, memory: MemoryText, tmp_path: Path
) -> None:
    (tmp_path / "current").write_text("5000\n")
    (tmp_path / "stat").write_text("anon 1\ninactive_file 3000\nactive_file 1100\n")
    with (tmp_path / "current").open() as used, (tmp_path / "stat").open() as kinds:
        stage = set_stage()
        stage.worker.limit(memory=1000, group=1000)
        stage.worker.watch_memory(memory.fd, used.fileno(), kinds.fileno())
        assert look(stage) == (0, 0, 0), "the page cache is no use of memory"
        assert stage.worker.overload()[0][2:] == (0, 900)
        (tmp_path / "current").write_text("5080\n")
        assert look(stage) == (0, 0, 2)
        (tmp_path / "current").write_text("0\n")
        assert look(stage) == (0, 0, 0)


def test_a_relay_without_memory_is_refused(set_stage: SetStage, memory: MemoryText) -> None:
    stage = with_memory(set_stage(protocol="tcp"), memory)
    memory.set(980)
    look(stage)
    assert stage.client().end() in ("eof", "reset")
    assert stage.worker.errors() == {"overloaded": 1}
    assert stage.nobody_is_asked()


def test_a_worker_without_clients_sees_the_end_of_it(set_stage: SetStage, memory: MemoryText) -> None:
    """It wakes by itself as long as there is pressure."""
    stage = with_memory(set_stage(), memory)
    memory.set(980)
    look(stage)
    memory.set(100)
    stage.wait(lambda: stage.worker.overload()[1] == (0, 0, 0), "the end of the shortage")


def test_buffers_that_were_kept_for_later_are_given_back(set_stage: SetStage, memory: MemoryText) -> None:
    stage = with_memory(set_stage(), memory)
    client = stage.client()
    client.send(get()[:-2])
    stage.settle()
    client.send(b"\r\n")
    upstream = stage.origins[0].accept()
    upstream.send(OK)
    client.until(b"ok")
    assert stage.worker.kept_buffers() > 0
    memory.set(930)
    look(stage)
    assert stage.worker.kept_buffers() == 0
