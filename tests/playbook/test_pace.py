"""Clients that are slow on purpose: waiting for them has an end, and who is only slow gets all of it.

Times are short here: a window is as long as ``idle``. A pace that nobody keeps is asked for where a client
must be given up however fast it trickles.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from fastmesh.model import Forward, Limits, Respond, Route, Timeouts
from support.stage import OK, End, Stage, get, post

SetStage = Callable[..., Stage]

IDLE_S = 0.2
TIMEOUTS = Timeouts(idle=IDLE_S)
NOBODY_KEEPS = Limits(min_rate=4_000_000_000)
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
BIG = bytes(range(256)) * (16 << 10)  # 4 MiB: more than the kernel takes for a client that does not read


def goes_on(stage: Stage, for_s: float, act: Callable[[], object]) -> None:
    """The worker runs for so long, and somebody acts every 3 ms or so meanwhile."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        act()
        stage.turn(2)
        time.sleep(0.003)


def give_up(stage: Stage, act: Callable[[], object] = lambda: None) -> float:
    """Seconds until the exchange is given up, and nothing waits for the client any more."""
    began = time.monotonic()
    while stage.worker.ledger()["busy"]:
        assert time.monotonic() - began < 5, "the client is waited for without end"
        goes_on(stage, 0.001, act)
    return time.monotonic() - began


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (POST, b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED, b"1;a=b\r\nx\r\n"),
        (CHUNKED + b"0\r\nX-Trailer: ", b"x"),
    ],
    ids=["length", "chunked", "extension", "trailer"],
)
def test_a_body_that_trickles(set_stage: SetStage, head: bytes, piece: bytes) -> None:
    """It is never silent, and is given up all the same."""
    stage = set_stage(timeouts=TIMEOUTS, limits=NOBODY_KEEPS)
    client = stage.client()
    client.send(head)
    upstream = stage.origins[0].accept()
    upstream.head()

    def trickle() -> None:
        client.send_what_fits(piece)
        upstream.look()

    took = give_up(stage, trickle)
    assert took >= IDLE_S * 0.9, "before a window was over"
    assert client.head().startswith(b"HTTP/1.1 408 ")
    assert upstream.end() == "eof", "a part of a request must not look whole"
    assert stage.worker.errors() == {"body_timeout": 1}


def test_a_body_that_keeps_pace(set_stage: SetStage) -> None:
    """100 bytes in a window, and so many come every few of its hundredths."""
    stage = set_stage(timeouts=TIMEOUTS, limits=Limits(min_rate=500))
    client = stage.client()
    client.send(POST)
    upstream = stage.origins[0].accept()
    upstream.head()
    sent = 0

    def send() -> None:
        nonlocal sent
        sent += client.send_what_fits(b"x" * 100)
        upstream.look()

    goes_on(stage, 4 * IDLE_S, send)
    while sent < 1_000_000:
        sent += client.send_what_fits(b"x" * min(1 << 16, 1_000_000 - sent))
        stage.turn(2)
        upstream.look()
    assert upstream.exactly(1_000_000)
    upstream.send(OK)
    assert client.until(b"ok").startswith(b"HTTP/1.1 200 ")


def test_a_body_that_came_fast_and_then_stops(set_stage: SetStage) -> None:
    """Windows that were full do not make silence longer: it has ``idle``, from the last byte."""
    stage = set_stage(timeouts=TIMEOUTS, limits=Limits(min_rate=500))
    client = stage.client()
    client.send(POST)
    upstream = stage.origins[0].accept()
    upstream.head()

    def send() -> None:
        client.send_what_fits(b"x" * 100)
        upstream.look()

    goes_on(stage, 1.5 * IDLE_S, send)
    took = give_up(stage)
    assert IDLE_S * 0.9 <= took < IDLE_S * 1.8
    assert stage.worker.errors() == {"body_timeout": 1}


def test_without_a_least_pace_only_silence_counts(set_stage: SetStage) -> None:
    stage = set_stage(timeouts=TIMEOUTS, limits=Limits(min_rate=None))
    client = stage.client()
    client.send(POST)
    upstream = stage.origins[0].accept()
    upstream.head()

    def trickle() -> None:
        client.send_what_fits(b"x")
        upstream.look()

    goes_on(stage, 4 * IDLE_S, trickle)
    assert stage.worker.ledger()["busy"] == 1
    give_up(stage)
    assert stage.worker.errors() == {"body_timeout": 1}


def test_without_an_idle_time_nobody_is_judged(set_stage: SetStage) -> None:
    stage = set_stage(timeouts=Timeouts(idle=None), limits=NOBODY_KEEPS)
    client, reader = stage.client(), stage.client()
    client.send(POST)
    upstream = stage.origins[0].accept()
    upstream.head()
    assert [armed for kind, state, *_, armed in stage.worker.connections() if state == "exchange"] == [False]
    reader.send(get())
    other = stage.origins[0].accept()
    other.head()
    other.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG))
    pour(stage, other, BIG)
    assert stage.held() > 0
    goes_on(stage, 0.3, lambda: client.send_what_fits(b"x"))
    assert stage.worker.ledger()["busy"] == 2


def test_the_endpoint_s_time_is_not_the_client_s(set_stage: SetStage) -> None:
    """A window stands still while the endpoint takes nothing: here three times longer than the window is."""
    idle_s = 0.6
    stage = set_stage(timeouts=Timeouts(idle=idle_s), limits=NOBODY_KEEPS)
    client = stage.client()
    body = BIG[: 3 << 20]
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
    upstream = stage.origins[0].accept()
    upstream.head()
    sent = 0
    for _ in range(4):
        sent += pour(stage, client, body[sent : sent + (600 << 10)])
        assert stage.worker.ledger()["buffers"], "what came waits for the endpoint"
        goes_on(stage, idle_s * 0.7, lambda: None)  # less than the endpoint's own time
        goes_on(stage, idle_s * 0.07, upstream.look)  # now it is the client's turn
    while sent < len(body):
        sent += client.send_what_fits(body[sent:])
        stage.turn(2)
        upstream.look()
    assert upstream.exactly(len(body)) == body
    upstream.send(OK)
    assert client.until(b"ok").startswith(b"HTTP/1.1 200 ")


def test_once_an_answer_has_begun_both_may_be_slow(set_stage: SetStage) -> None:
    """A conversation: only silence counts, and the client is shown that it broke off."""
    stage = set_stage(timeouts=TIMEOUTS, limits=NOBODY_KEEPS)
    client = stage.client()
    client.send(CHUNKED)
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.head().startswith(b"HTTP/1.1 200 ")

    def converse() -> None:
        client.send_what_fits(b"1\r\nx\r\n")
        upstream.send_what_fits(b"1\r\ny\r\n")
        client.look()
        upstream.look()

    goes_on(stage, 4 * IDLE_S, converse)
    assert client.ended is None
    assert stage.worker.errors() == {}
    give_up(stage, lambda: upstream.send_what_fits(b"1\r\ny\r\n"))
    assert stage.worker.errors() == {"body_timeout": 1}
    assert not client.received.endswith(b"0\r\n\r\n")


def test_a_body_that_the_endpoint_takes_no_more_of(set_stage: SetStage) -> None:
    """It neither reads nor answers nor goes, and the client says nothing: somebody's time must run."""
    stage = set_stage(timeouts=TIMEOUTS)
    client = stage.client()
    client.send(POST + b"x")
    upstream = stage.origins[0].accept()
    upstream.until(b"\r\n\r\nx")
    upstream.sock.shutdown(socket.SHUT_RD)
    client.send(b"x" * 100)
    give_up(stage)
    assert client.head().startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("idle", [None, 60.0])
def test_what_comes_does_not_put_off_the_end_of_total(set_stage: SetStage, idle: float | None) -> None:
    """Bytes in every turn, so that something happens between any two looks at the clock."""
    stage = set_stage(timeouts=Timeouts(total=0.1, idle=idle))
    client = stage.client()
    client.send(POST)
    upstream = stage.origins[0].accept()
    upstream.head()
    began = time.monotonic()
    while not stage.worker.errors():
        assert time.monotonic() - began < 1, "each byte put it off"
        client.send_what_fits(b"x")
        stage.turn()
        upstream.look()
    assert client.head().startswith(b"HTTP/1.1 504 ")


# ---------------------------------------------------------------- reading


def pour(stage: Stage, source: End, data: bytes) -> int:
    """How much can be sent until nobody takes any more."""
    sent = 0
    while sent < len(data):
        taken = source.send_what_fits(data[sent : sent + (1 << 16)])
        sent += taken
        stage.turn(2)
        if not taken:
            stage.settle()
            taken = source.send_what_fits(data[sent : sent + 1])
            sent += taken
            if not taken:
                break
    return sent


def reader_of(stage: Stage, *, request: bytes = b"") -> End:
    """A client whose own kernel holds little for it. What it asked for has begun to come."""
    sock = socket.socket(stage.front.sock.family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(stage.front.sock.getsockname())
    client = End(stage, sock)
    client.send(request or get())
    return client


def download(stage: Stage) -> tuple[End, End, int]:
    """A client that has not read yet, its endpoint, and how much of `BIG` that could send."""
    client = reader_of(stage)
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG))
    sent = pour(stage, upstream, BIG)
    assert stage.held() > 0
    assert sent < len(BIG)
    return client, upstream, sent


def read_on(stage: Stage, client: End, upstream: End, sent: int) -> bytes:
    """The rest, as fast as it comes: the head of the answer, whose body is whole."""
    deadline = time.monotonic() + 5
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    while sent < len(BIG):
        sent += upstream.send_what_fits(BIG[sent : sent + (1 << 18)])
        stage.turn(2)
        client.look()
        assert time.monotonic() < deadline
    head: bytes = client.head()
    assert client.exactly(len(BIG)) == BIG
    return head


def take(client: End, size: int) -> None:
    try:
        client.received += client.sock.recv(size)
    except BlockingIOError:
        pass


def test_a_reader_that_is_slow_but_reads(set_stage: SetStage) -> None:
    """Its kernel buffer is so large that the poller says nothing for several times ``idle``."""
    stage = set_stage(timeouts=TIMEOUTS, tcp=True)
    client, upstream, sent = download(stage)
    held = stage.held()
    goes_on(stage, 3 * IDLE_S, lambda: take(client, 2000))
    assert stage.held() == held, "the reader was not slow: the poller has seen it read"
    assert read_on(stage, client, upstream, sent).startswith(b"HTTP/1.1 200 ")
    stage.exchange(client, upstream)


def test_a_slow_reader_on_a_unix_socket(set_stage: SetStage) -> None:
    """The kernel shows in pieces of up to 36 KiB what it takes; the poller speaks after three quarters."""
    idle_s = 0.5
    stage = set_stage(timeouts=Timeouts(idle=idle_s))
    client, upstream, sent = download(stage)
    held = stage.held()
    for _ in range(3):
        goes_on(stage, 0.7 * idle_s, lambda: None)
        take(client, 37_000)
    assert stage.held() == held, "the reader was not slow: the poller has seen it read"
    assert read_on(stage, client, upstream, sent).startswith(b"HTTP/1.1 200 ")
    stage.exchange(client, upstream)


@pytest.mark.parametrize("tcp", [False, True])
def test_a_reader_that_trickles(set_stage: SetStage, tcp: bool) -> None:
    stage = set_stage(timeouts=TIMEOUTS, limits=NOBODY_KEEPS, tcp=tcp)
    client, upstream, _ = download(stage)
    took = give_up(stage, lambda: take(client, 2000))
    assert took >= IDLE_S * 0.9
    assert upstream.end() in ("eof", "reset")
    client.look()
    assert client.ended == ("reset" if tcp else "eof"), "a part of an answer must not look whole"
    assert stage.worker.errors() == {"client_aborted": 1}


@pytest.mark.parametrize("tcp", [False, True])
def test_a_reader_that_stops(set_stage: SetStage, tcp: bool) -> None:
    """It has all of ``idle`` from the look, one every quarter of it, that last saw it take something."""
    stage = set_stage(timeouts=TIMEOUTS, limits=Limits(min_rate=None), tcp=tcp)
    client, _, _ = download(stage)
    goes_on(stage, IDLE_S, lambda: take(client, 2000))
    took = give_up(stage)
    # A Unix socket's kernel shows in steps of 36 KiB what was taken
    assert IDLE_S * (0.7 if tcp else 0.3) <= took < IDLE_S * 2
    assert stage.worker.errors() == {"client_aborted": 1}


FIXED = BIG[:120_000]
FIXED_ROUTES = (Route(Respond(200, FIXED), path="/fixed"), Route(Forward((("s", 1),))))


def answered(set_stage: SetStage, request: bytes, **settings: object) -> tuple[Stage, End]:
    """A client that has not read yet: the exchange is over, and the kernel has not taken all of it."""
    stage = set_stage(timeouts=TIMEOUTS, tcp=True, routes=FIXED_ROUTES, **settings)
    stage.front.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)  # of whom it accepts
    client = reader_of(stage, request=request)
    stage.until(lambda: stage.held() > 10_000, "the answer")
    assert stage.worker.ledger()["exchanges"] == 0
    return stage, client


@pytest.mark.parametrize("state", ["head", "linger"])
def test_the_end_of_an_answer_that_is_taken_slowly(set_stage: SetStage, state: str) -> None:
    fields = (b"Connection: close",) if state == "linger" else ()
    stage, client = answered(set_stage, get("/fixed", *fields))
    assert stage.of_kind("client") == [state]
    goes_on(stage, 3 * IDLE_S, lambda: take(client, 100))
    assert stage.held() > 10_000, "the reader was not slow"
    assert stage.worker.ledger()["busy"] == 1, "a drain waits for it"
    client.head()
    assert client.exactly(len(FIXED)) == FIXED
    if state == "linger":
        assert client.end() == "eof"
    else:
        stage.exchange(client)


@pytest.mark.parametrize("state", ["head", "linger"])
def test_the_end_of_an_answer_that_is_not_taken(set_stage: SetStage, state: str) -> None:
    request = get("/fixed") + get("/next") if state == "head" else get("/fixed", b"Connection: close")
    stage, client = answered(set_stage, request, limits=NOBODY_KEEPS)
    assert stage.of_kind("client") == [state]
    give_up(stage, lambda: take(client, 100))
    assert stage.of_kind("client") == []
    client.look()
    assert client.ended == "reset"


def test_after_a_slow_answer_the_idle_time_begins(set_stage: SetStage) -> None:
    """When the last of an answer has been taken, the client has as long for its next request as any other."""
    stage, client = answered(set_stage, get("/fixed"))
    goes_on(stage, 0.7 * IDLE_S, lambda: None)
    client.head()
    assert client.exactly(len(FIXED)) == FIXED
    goes_on(stage, 0.7 * IDLE_S, lambda: None)
    stage.exchange(client)
    goes_on(stage, 1.5 * IDLE_S, lambda: None)
    assert stage.of_kind("client") == []


# ---------------------------------------------------------------- what the kernel holds


def parted(set_stage: SetStage) -> tuple[Stage, End]:
    """A client that has said FIN behind its request, and reads a large answer until the worker has given all
    of it to the kernel."""
    stage = set_stage(timeouts=TIMEOUTS, tcp=True)
    client, upstream, sent = download(stage)
    client.finish()
    while sent < len(BIG):
        sent += upstream.send_what_fits(BIG[sent : sent + (1 << 16)])
        take(client, 1 << 16)
        stage.turn(2)
    while stage.held():
        take(client, 1 << 12)
        stage.turn(2)
    stage.settle()
    assert stage.worker.ledger()["exchanges"] == 0
    assert stage.of_kind("client") == ["linger"], "left to the kernel, where nobody counts it"
    return stage, client


def test_what_the_kernel_holds_is_waited_for(set_stage: SetStage) -> None:
    stage, client = parted(set_stage)
    goes_on(stage, 3 * IDLE_S, lambda: take(client, 2000))
    assert stage.of_kind("client") == ["linger"]
    assert client.end() == "eof"
    client.head()
    assert client.received == BIG
    stage.until(lambda: not stage.of_kind("client"), "the connection to go, for all was taken")


@pytest.mark.parametrize("limits", [NOBODY_KEEPS, Limits()], ids=["trickles", "stops"])
def test_what_the_kernel_holds_is_not_held_for_ever(set_stage: SetStage, limits: Limits) -> None:
    stage, client = parted(set_stage)
    stage.limits = limits
    stage.publish(stage.listener, {"s": stage.service})
    began = time.monotonic()
    while stage.of_kind("client"):
        assert time.monotonic() - began < 5
        goes_on(stage, 0.01, lambda: take(client, 500) if limits is NOBODY_KEEPS else None)
    client.look()
    assert client.ended == "reset"


def test_a_staged_close_waits_for_what_the_kernel_holds(set_stage: SetStage) -> None:
    """The time of a staged close is over, and the peer has said no FIN: it has not read to its end yet."""
    stage = set_stage(timeouts=TIMEOUTS, tcp=True)
    client = reader_of(stage, request=get("/", b"Connection: close"))
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG))
    sent = 0
    while sent < len(BIG) or stage.held():
        sent += upstream.send_what_fits(BIG[sent : sent + (1 << 16)])
        take(client, 1 << 12)
        stage.turn(2)
    goes_on(stage, 2.5, lambda: take(client, 2000))
    assert stage.of_kind("client") == ["linger"]
    assert client.end() == "eof"
    client.head()
    assert client.received == BIG
    client.close()
    stage.until(lambda: not stage.of_kind("client"), "the connection to go")


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(("length", "most"), [(100, 1024), (1000, 1024), (5000, 8192), (20_000, 36_864)])
def test_a_head_in_pieces_takes_a_buffer_of_its_size(set_stage: SetStage, length: int, most: int) -> None:
    stage = set_stage()
    client = stage.client()
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "
    head += b"x" * (length - len(head))
    for at in range(0, length, 50):
        client.send(head[at : at + 50])
        stage.turn()
    assert stage.worker.buffered() == (length, most)
    client.send(b"\r\n\r\n")
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(OK)
    client.until(b"ok")
    assert stage.worker.ledger()["buffers"] == 0


def test_a_body_in_pieces_takes_no_buffer(set_stage: SetStage) -> None:
    """What has gone to the endpoint, and will not be sent again, is not kept."""
    stage = set_stage()
    client = stage.client()
    client.send(POST)
    upstream = stage.origins[0].accept()
    for _ in range(20):
        client.send(b"x" * 10)
        stage.turn(2)
    upstream.head()
    assert stage.worker.ledger()["buffers"] == 0


def test_what_follows_an_answer_that_closes_is_not_kept(set_stage: SetStage) -> None:
    """Pipelined behind a request after which the connection closes, while the end of its answer waits."""
    stage, _ = answered(set_stage, get("/fixed", b"Connection: close") + get("/never") * 100)
    assert stage.of_kind("client") == ["linger"]
    assert [unparsed for kind, _, _, unparsed, *_ in stage.worker.connections() if kind == "client"] == [0]


def test_an_idle_client_behind_a_proxy_header_holds_no_buffer(set_stage: SetStage) -> None:
    stage = set_stage(tcp=True, accept_proxy=True, trusted=("127.0.0.0/8",))
    client = stage.client()
    client.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n")
    stage.settle()
    assert stage.of_kind("client") == ["head"]
    assert stage.worker.ledger()["buffers"] == 0
    client.send(post(b"x"))
    upstream = stage.origins[0].accept()
    assert b"192.0.2.1" in upstream.head()
    upstream.send(OK)
    client.until(b"ok")
