"""More clients than places, descriptors or memory: what can be served is served, the rest is told so at once,
and the operator can always look."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.client import Client
from support.origin import Exchange
from support.rig import Rig, unique
from support.waiting import eventually
from support.wire import get


@pytest.fixture
def run() -> Iterator[Callable[..., Rig]]:
    """Starts rigs, which must end well."""
    rigs: list[Rig] = []

    def start(**settings: Any) -> Rig:
        rigs.append(Rig(**settings).start())
        return rigs[-1]

    yield start
    for rig in rigs:
        print(rig.proxy.new_stderr())
        rig.stop()


def few(descriptors: int) -> tuple[str, ...]:
    """A limit that the process cannot raise again."""
    return ("sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh")


def used(rig: Rig) -> Any:
    return rig.proxy.api("overload")


def level(rig: Rig, resource: str) -> int:
    found: int = used(rig)["resources"][resource]["level"]
    return found


@contextlib.contextmanager
def crowd(rig: Rig, count: int) -> Iterator[list[socket.socket]]:
    """So many that connect and say nothing."""
    socks: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            socks.append(sock)
            with contextlib.suppress(BlockingIOError):
                sock.connect(rig.address)
        yield socks
    finally:
        for sock in socks:
            sock.close()


def served(rig: Rig, client: Client) -> bool:
    """Whether a request of it gets the endpoint's answer."""
    path = unique()
    response = client.request(get(path))
    return response.status == 200 and bool(response.json()["target"] == path)


@pytest.mark.parametrize("workers", [1, 2])
def test_new_clients_have_the_places_of_idle_ones(run: Callable[..., Rig], workers: int) -> None:
    """Many more clients than places, each of which keeps its connection: nobody is refused."""
    rig = run(workers=workers, limits={"connections": 60})
    clients: list[Client] = []
    for wave in range(5):
        if wave:
            time.sleep(1.05)  # whoever was idle for less is left alone
        for _ in range(40):
            clients.append(rig.client())
            assert served(rig, clients[-1]), "a client was refused while others did nothing"
    assert rig.proxy.metric("fastmesh_errors_total", code="overloaded") == 0
    assert rig.proxy.metric("fastmesh_errors_total", code="too_many_connections") == 0
    assert rig.proxy.metric("fastmesh_overload_closed_total", side="client") > 0
    rig.proxy.wait_log("client connections: ")
    for client in clients:
        client.close()


def test_with_no_idle_place_a_client_is_refused_at_once(run: Callable[..., Rig]) -> None:
    rig = run(limits={"connections": 40})
    path = unique()
    go_on = threading.Event()

    def handler(exchange: Exchange) -> None:
        assert go_on.wait(20)
        exchange.reply(200, b"fine")

    with rig.origin.answering(path, handler):
        busy = [rig.client() for _ in range(39)]
        for client in busy:
            client.send(get(path))
        eventually(lambda: level(rig, "connections") == 2, "the level")
        with rig.client() as late:
            response = late.read_response()
            assert (response.status, response.error_code) == (503, "overloaded")
            assert response.get("retry-after") == b"1"
            assert response.says_close
            assert late.how_it_ended() == "eof"
        rig.proxy.wait_log("client connections: 39 of 40: used up")
        go_on.set()
        for client in busy:
            response = client.read_response()
            assert (response.status, response.body) == (200, b"fine"), "what was in progress was cut off"
            client.close()
    eventually(lambda: level(rig, "connections") == 0, "the end")
    rig.proxy.wait_log("enough again")
    rig.sentinels()


def test_few_descriptors_and_thousands_of_clients(run: Callable[..., Rig]) -> None:
    """The control plane has descriptors of its own; the workers neither spin nor take them."""
    rig = run(under=few(256))
    assert used(rig)["resources"]["descriptors"]["limit"] == 256 - 64 - 1
    with crowd(rig, 3000):
        eventually(lambda: level(rig, "connections") == 2, "the places to be taken")
        for _ in range(50):
            assert rig.proxy.get("/readyz")[0] == 200
            assert rig.proxy.get("/metrics")[0] == 200
        held = [socket.create_connection(("127.0.0.1", rig.proxy.admin_port)) for _ in range(15)]
        assert rig.proxy.get("/readyz")[0] == 200
        for sock in held:
            sock.close()
        assert used(rig)["resources"]["descriptors"]["share"] <= 1
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(eventually(lambda: _admitted(rig), "a place", within=10))
        assert served(rig, client)
    assert "Too many open files" not in rig.proxy.stderr


def _admitted(rig: Rig) -> Client | None:
    client = rig.client()
    if client.request(get(unique())).status == 200:
        return client
    client.close()
    return None


def test_a_stalled_second_costs_nothing(run: Callable[..., Rig]) -> None:
    """No descriptor is left for hundreds that wait in the queue: the workers sleep."""
    rig = run(under=few(200), limits={"connections": 1000}, workers=2)
    with crowd(rig, 600):
        eventually(lambda: used(rig)["resources"]["descriptors"]["level"] == 2, "descriptors to be used up")
        before, began = rig.proxy.cpu_seconds(), time.monotonic()
        time.sleep(2)
        share = (rig.proxy.cpu_seconds() - before) / (time.monotonic() - began)
        assert share < 0.2, f"{share:.0%} of a CPU for doing nothing"


def test_without_memory_requests_are_refused_and_the_operator_is_answered(run: Callable[..., Rig]) -> None:
    """A limit that the process alone exceeds, and a change of it that ends that."""
    rig = run(limits={"memory": "16MiB"})
    rig.proxy.wait_log("limits.memory is 16MiB, of which")
    mark = rig.origin.mark()
    with rig.client() as client:
        response = client.request(get(unique()))
        assert (response.status, response.error_code) == (503, "overloaded")
        assert response.get("retry-after") == b"1"
        assert response.says_close
    assert rig.origin.since(mark).requests == []
    for _ in range(20):
        assert rig.proxy.get("/readyz")[0] == 200
    assert level(rig, "memory") == 2
    assert rig.proxy.metric("fastmesh_overload_level", resource="memory") == 2
    assert rig.proxy.metric("fastmesh_memory_limit_bytes") == 16 << 20
    rig.proxy.wait_log("of 16MiB: used up")
    rig.proxy.write({**rig.config, "limits": {"memory": "8GiB"}})
    rig.proxy.wait_log("limits.memory 16MiB -> 8GiB")
    rig.proxy.wait_log("memory: ")
    eventually(lambda: level(rig, "memory") == 0, "the change to be in force")
    rig.sentinels()


def test_memory_that_was_used_is_given_back(run: Callable[..., Rig]) -> None:
    """What stalled clients held goes back to the system when they have gone, so that the shortage ends."""
    rig = run(timeouts={"idle": "30s", "header": "30s"}, limits={"header_bytes": "64KiB"})
    before = rig.proxy.resident_bytes()
    clients = [rig.client(unix=True) for _ in range(800)]
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"v" * 900) for n in range(60))
    for client in clients:
        client.send_pieces([head])
    grown = rig.proxy.resident_bytes()
    if grown == 0:
        pytest.skip("memory cannot be told from quarantine under AddressSanitizer")
    assert grown - before > 30 << 20
    limit = (before + (grown - before) // 2) >> 20
    rig.proxy.write({**rig.config, "limits": {"header_bytes": "64KiB", "memory": f"{limit}MiB"}})
    eventually(lambda: level(rig, "memory") == 2, "the level")
    with rig.client() as late:
        assert late.request(get(unique())).status == 503
    for client in clients:
        client.close()
    eventually(lambda: level(rig, "memory") == 0, "memory to be given back", within=10)
    rig.sentinels()
