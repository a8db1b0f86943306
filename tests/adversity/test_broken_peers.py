"""Origins that break, endpoints that die, clients that leave: each harms only its own exchange."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.client import Client
from support.origin import Exchange, Origin
from support.ports import free_port
from support.rig import Rig, unique
from support.waiting import eventually
from support.wire import get, post, request

_GARBAGE = random.Random(7).randbytes(4000)


class Load:
    """Clients in threads that send GETs until told to stop, and remember whatever went wrong."""

    def __init__(self, rig: Rig, clients: int = 4) -> None:
        self.rig = rig
        self.problems: list[str] = []
        self.done = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def _run(self) -> None:
        client = self.rig.client()
        while not self._stop.is_set():
            path = unique("/load")
            try:
                response = client.request(get(path))
                if response.status != 200 or response.json()["target"] != path:
                    self.problems.append(
                        f"{path}: {response.status} {response.error_code} {response.body[:200]!r}"
                    )
                self.done += 1
            except AssertionError as error:
                self.problems.append(f"{path}: {error}")
                client.close()
                client = self.rig.client()
        client.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def go_on_for(self, count: int) -> None:
        """Until so many more requests are done."""
        target = self.done + count
        eventually(lambda: self.done >= target or self.problems, f"{count} more requests", within=20)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        assert not self.problems, f"{len(self.problems)} of {self.done} failed: {self.problems[:5]}"


def _garbage(exchange: Exchange) -> None:
    exchange.send(_GARBAGE)
    exchange.wait_peer_end()


def _half(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    exchange.reset()


def _silent(exchange: Exchange) -> None:
    exchange.wait_peer_end(10)


def _reset(exchange: Exchange) -> None:
    exchange.reset()


def _endless_head(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100_000):
        exchange.send(b"A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n" * 100)


def _endless_interim(exchange: Exchange) -> None:
    for _ in range(1_000_000):
        exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)


@pytest.mark.parametrize(
    "handler", [_garbage, _half, _silent, _reset, _endless_head], ids=lambda handler: handler.__name__
)
def test_broken_origin_harms_only_its_own_exchange(two_waits: Rig, handler) -> None:  # type: ignore[no-untyped-def]
    path = unique("/hasty/t")
    with two_waits.origin.answering(path, handler), Load(two_waits) as load:
        for _ in range(5):
            with two_waits.client() as client:
                response = client.request(request("POST", path, b"Content-Length: 0"))
                assert response.status in (502, 504) or response.truncated
        load.go_on_for(50)
    two_waits.sentinels()


def test_origin_that_sends_interim_responses_without_end(hasty: Rig) -> None:
    """The client, if it is told of them, or a limit, ends it: memory does not."""
    path = unique()
    before = hasty.proxy.resident_bytes()
    with hasty.origin.answering(path, _endless_interim), hasty.client() as client:
        client.send(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
        response = client.read_response()
        assert response.status in (502, 504)
    assert hasty.proxy.resident_bytes() - before < 4 << 20
    hasty.sentinels()


def test_endpoint_that_dies_fails_no_idempotent_request() -> None:
    rig = Rig(origins=2, service={"balance": "round_robin"}).start()
    port = rig.origins[1].address[1]
    assert isinstance(port, int)
    with Load(rig) as load:
        load.go_on_for(100)
        assert rig.origins[1].connections
        rig.origins[1].close()
        load.go_on_for(200)
    again = Origin(port=port, name="origin1")
    with Load(rig) as load:  # it is back: it is found again
        eventually(lambda: again.connections, "requests to the endpoint that came back", within=15)
        load.go_on_for(50)
    again.close()
    rig.stop()


def test_endpoint_whose_connections_are_reset_fails_no_idempotent_request(pair: Rig) -> None:
    with Load(pair) as load:
        for _ in range(10):
            load.go_on_for(30)
            pair.origins[0].end_connections(reset=True)
    pair.sentinels()


def test_endpoint_that_was_never_there_fails_no_request() -> None:
    """Nothing of a request was sent to it: even a POST goes to the other one."""
    rig = Rig(service={"balance": "round_robin"})
    rig.config["services"]["origin"]["endpoints"].append(f"127.0.0.1:{free_port()}")
    rig.proxy.write(rig.config)
    rig.start()
    with rig.client() as client:
        for _ in range(40):
            path = unique()
            assert client.request(get(path)).json()["target"] == path
            path = unique()
            assert client.request(post(path, b"hello")).json()["body"] == "hello"
            assert len(rig.origin.requests_for(path)) == 1
    rig.stop()


def test_service_whose_only_endpoint_refuses() -> None:
    """The last endpoint is never taken out: 502, again and again, and 200 as soon as it is there."""
    rig = Rig()
    port = free_port()
    rig.config["services"]["origin"]["endpoints"] = [f"127.0.0.1:{port}"]
    rig.proxy.write(rig.config)
    rig.start()
    with rig.client() as client:
        for _ in range(10):
            response = client.request(get("/"))
            assert (response.status, response.error_code) == (502, "connect_refused")
        origin = Origin(port=port)
        eventually(lambda: client.request(get("/")).status == 200, "the endpoint to be found", within=5)
    origin.close()
    rig.stop()


def test_service_without_endpoints() -> None:
    rig = Rig()
    rig.config["services"]["origin"]["endpoints"] = []
    rig.proxy.write(rig.config)
    rig.start()
    with rig.client() as client:
        for raw in (get("/"), post("/", b"hello"), get("/")):
            response = client.request(raw)
            assert (response.status, response.error_code) == (503, "no_endpoint")
    rig.stop()


def _descriptors(rig: Rig) -> int:
    return len(list(Path(f"/proc/{rig.proxy.pid}/fd").iterdir()))


def test_clients_that_leave_at_any_point(rig: Rig) -> None:
    """Nothing stays behind: descriptors and upstream connections return to what they were."""
    dice = random.Random(11)
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.reply(200, b"y" * 300_000)

    rig.sentinels()
    before = _descriptors(rig)
    raw = post(path, b"x" * 3000)
    with rig.origin.answering(path, handler):
        for _ in range(300):
            client = rig.client()
            client.send(raw[: dice.randrange(len(raw) + 1)])
            if dice.random() < 0.5:
                client.sock.settimeout(0.02)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    client.sock.recv(dice.randrange(1, 200_000))
            if dice.random() < 0.5:
                client.reset()
            else:
                client.close()
        rig.sentinels()
    eventually(
        lambda: _descriptors(rig) <= before + 17, "descriptors to be given back (a pool of 16 may stay)"
    )
    rig.sentinels()


def test_connections_without_a_byte(rig: Rig) -> None:
    before = _descriptors(rig)
    clients: list[Client] = [rig.client() for _ in range(500)]
    rig.sentinels()
    for client in clients:
        client.close()
    eventually(lambda: _descriptors(rig) <= before + 2, "descriptors to be given back")


@pytest.fixture
def bounded() -> Iterator[Rig]:
    rig = Rig(limits={"body": "10KiB", "connections": 20}).start()
    yield rig
    rig.stop()


def test_body_over_the_limit(bounded: Rig) -> None:
    assert bounded.forward(post(unique(), b"x" * 10_240)).request.body == b"x" * 10_240
    mark = bounded.origin.mark()
    for raw in (post("/", b"x" * 10_241), request("POST", "/", b"Content-Length: 1000000000")):
        with bounded.client() as client:
            response = client.request(raw)
            assert (response.status, response.error_code) == (413, "body_too_large")
            # A small rest may be read and dropped, so that the connection can be kept; a gigabyte may not.
            if response.says_close or b"1000000000" in raw:
                assert client.how_it_ended() == "eof"
            else:
                bounded.sentinel(client)
    bounded.sentinels()
    bounded.untouched(mark)
    path = unique()
    with bounded.client() as client:
        client.send(
            request("POST", path, b"Transfer-Encoding: chunked", body=b"1000\r\n" + b"x" * 4096 + b"\r\n")
        )
        bounded.origin.wait_request(path)
        client.send(b"4000\r\n" + b"x" * 16384 + b"\r\n0\r\n\r\n")
        response = client.read_response("POST")
        assert (response.status, response.error_code) == (413, "body_too_large")
    bounded.sentinels()
    assert not bounded.origin.requests_for(path)[0].complete


def test_connections_over_the_limit(bounded: Rig) -> None:
    """Those within the limit are served; one beyond is told so, closed, or waits; all is well when they are
    gone."""
    clients = [bounded.client() for _ in range(17)]
    for client in clients:
        bounded.sentinel(client)
    rest = [bounded.client() for _ in range(3)]
    with bounded.client(timeout=0.5) as one_more:
        one_more.send(get("/"))
        with contextlib.suppress(AssertionError):
            response = one_more.read_response()
            assert (response.status, response.error_code) == (503, "too_many_connections")
    for client in rest:
        client.close()
    eventually(lambda: bounded.proxy.api("overload")["level"] == 0, "connections to be kept again")
    for client in clients:
        bounded.sentinel(client)
        client.close()
    bounded.sentinels()
