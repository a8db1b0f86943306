"""Drains of a real process under traffic: nobody is cut off, nothing is refused that could be served."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import Client
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import ROOT, Proxy
from support.real import Nginx, environment, wrk
from support.tcp import TcpServer, echo
from support.waiting import eventually
from support.wire import get

Start = Callable[..., Proxy]
Origins = Callable[..., Origin]

CLIENTS = 200
THINK_SECONDS = (0.01, 0.05, 0.2, 0.5, 2.5)
# A client that thinks for longer may meet the end of its idle connection; well before that none may.
SURE_SECONDS = 0.9
DOWNLOAD = 3 << 20
UPGRADE = get("/tunnel", b"Connection: Upgrade", b"Upgrade: websocket")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class Thinker(threading.Thread):
    """A client with one connection after another: asks, thinks, looks whether its connection is still there,
    asks again; until nobody listens any more. `seen` counts what it met."""

    def __init__(self, port: int, think: float) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.think = think
        self.seen: Counter[str] = Counter()
        self.start()

    def run(self) -> None:
        while True:
            try:
                sock = socket.create_connection(("127.0.0.1", self.port), 20)
            except ConnectionRefusedError:
                return
            with sock:
                try:
                    self.converse(sock)
                except ConnectionResetError:
                    self.seen["reset"] += 1

    def converse(self, sock: socket.socket) -> None:
        answered_at = time.monotonic()
        while True:
            sock.sendall(get("/"))
            idle = time.monotonic() - answered_at
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.endswith(b"ok"):
                part = sock.recv(4096)
                if not part:
                    assert not answer, answer
                    self.seen["unanswered" if idle < SURE_SECONDS else "crossed"] += 1
                    return
                answer += part
            answered_at = time.monotonic()
            self.seen["answered" if answer.startswith(b"HTTP/1.1 200 ") else "refused"] += 1
            if b"\r\nconnection: close\r\n" in answer.lower():
                assert sock.recv(1) == b""
                self.seen["told"] += 1
                return
            if select.select([sock], [], [], self.think)[0]:
                assert sock.recv(1) == b""
                self.seen["let go"] += 1
                return


class Site:
    """An origin with every kind of traffic, and the drain's clients."""

    def __init__(self, start: Start, origins: Origins, echo_server: TcpServer, timeout: str) -> None:
        self.origin = origins()
        self.port, self.tcp_port = free_port(), free_port()
        self.release = threading.Event()
        self.proxy = start(
            {
                "workers": 2,
                "drain": {"timeout": timeout},
                "listeners": {
                    "web": {"bind": f"127.0.0.1:{self.port}", "routes": {"/": "o"}},
                    "tcp": {"bind": f"127.0.0.1:{self.tcp_port}", "protocol": "tcp", "service": "echo"},
                },
                "services": {
                    "o": {"endpoints": [self.origin.text]},
                    "echo": {"endpoints": [echo_server.text]},
                },
            }
        )

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        with (
            self.origin.answering("/", lambda exchange: exchange.reply(200, b"ok")),
            self.origin.answering("/download", self.download),
            self.origin.answering("/tunnel", self.tunnel),
        ):
            yield
            self.release.set()

    def download(self, exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % DOWNLOAD)
        exchange.send(b"d" * 1000)
        assert self.release.wait(30)
        exchange.send(b"d" * (DOWNLOAD - 1000))

    def tunnel(self, exchange: Exchange) -> None:
        exchange.send(SWITCHED)
        while True:
            data = exchange.receive()
            if not data:
                return
            exchange.send(data)

    def client(self, request: bytes) -> Client:
        client = Client(("127.0.0.1", self.port), timeout=20)
        client.send(request)
        return client

    def tunnels(self, count: int) -> list[socket.socket]:
        """Half of them by an upgrade, half by the TCP listener; all have been used."""
        made = []
        for number in range(count):
            if number % 2:
                client = self.client(UPGRADE)
                assert client.read_exactly(len(SWITCHED)).startswith(b"HTTP/1.1 101 ")
                sock = client.sock.dup()
            else:
                sock = socket.create_connection(("127.0.0.1", self.tcp_port), 20)
            made.append(sock)
            assert ping(sock)
        return made


def ping(sock: socket.socket) -> bool:
    sock.settimeout(20)
    sock.sendall(b"ping")
    return sock.recv(4) == b"ping"


@pytest.fixture
def echo_server() -> Iterator[TcpServer]:
    def handler(sock: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):  # what a deadline cuts off
            echo(sock)

    with TcpServer(handler) as server:
        yield server


def test_the_whole_process_under_traffic(start: Start, origins: Origins, echo_server: TcpServer) -> None:
    site = Site(start, origins, echo_server, "20s")
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    with site.answering():
        thinkers = [Thinker(site.port, draw.choice(THINK_SECONDS)) for _ in range(CLIENTS)]
        downloads = [site.client(get("/download")) for _ in range(10)]
        tunnels = site.tunnels(10)
        site.origin.wait_request("/download", count=10)
        eventually(lambda: all(one.seen["answered"] for one in thinkers), "all clients served", within=20)
        site.proxy.signal(signal.SIGTERM)
        for thinker in thinkers:
            thinker.join(20)
            assert not thinker.is_alive()
        progress = site.proxy.api("drain")["process"]
        assert progress["state"] == "draining"
        assert (progress["in_progress"], progress["tunnels"], progress["timeout"]) == (20, 10, 20)
        assert all(ping(sock) for sock in tunnels), "a tunnel goes on"
        site.release.set()
        for download in downloads:
            answer = download.read_response()
            assert (len(answer.body), answer.truncated) == (DOWNLOAD, None)
            assert download.how_it_ended() == "eof"
        for sock in tunnels:
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
            sock.close()
    seen = sum((one.seen for one in thinkers), Counter())
    print(dict(seen))
    assert not seen["reset"] + seen["unanswered"] + seen["refused"], seen
    assert seen["told"] > 0 < seen["let go"], seen
    assert site.proxy.wait_exit() == 0
    assert "drained: nothing is in progress any more" in site.proxy.stderr


def test_idle_clients_hold_the_end_up_for_a_moment_only(
    start: Start, origins: Origins, echo_server: TcpServer
) -> None:
    site = Site(start, origins, echo_server, "30s")
    with site.answering():
        clients = [site.client(get("/")) for _ in range(20)]
        for client in clients:
            assert client.read_response().body == b"ok"
        began = time.monotonic()
        site.proxy.signal(signal.SIGTERM)
        for client in clients:
            assert client.how_it_ended() == "eof"
            client.close()
        assert site.proxy.wait_exit() == 0
        assert time.monotonic() - began < 5


def test_what_is_left_at_the_deadline_is_cut_off(
    start: Start, origins: Origins, echo_server: TcpServer
) -> None:
    site = Site(start, origins, echo_server, "1s")
    with site.answering():
        tunnels = site.tunnels(2)
        site.proxy.signal(signal.SIGTERM)
        assert site.proxy.wait_exit() == 4
        for sock in tunnels:
            sock.close()
    assert "2 in progress are cut off" in site.proxy.stderr


# ---------------------------------------------------------------- parts of it, under load


@contextlib.contextmanager
def load(port: int, seconds: int = 4) -> Iterator[None]:
    """wrk meanwhile, which must see nothing."""
    found: list[Any] = []
    url = f"http://127.0.0.1:{port}/small.txt"
    thread = threading.Thread(target=lambda: found.append(wrk(url, connections=16, seconds=seconds)))
    thread.start()
    try:
        yield
    finally:
        thread.join()
    (measured,) = found
    assert measured.socket_errors == measured.bad_statuses == 0, measured.output
    assert measured.requests > 200, measured.output


def post(proxy: Proxy, path: str, expected: int = 200) -> None:
    status, body = proxy.request("POST", f"/api/v1/{path}")
    assert status == expected, body


def states(proxy: Proxy, service: str = "s") -> dict[str, str]:
    view = next(one for one in proxy.api("services")["services"] if one["service"] == service)
    return {one["address"]: one["state"] for one in view["endpoints"]}


@pytest.fixture
def second_nginx(tmp_path: Path) -> Iterator[Nginx]:
    nginx = Nginx(tmp_path, "")
    (nginx.root / "small.txt").write_text("small\n")
    yield nginx
    nginx.stop()


def test_parts_drain_one_after_the_other_under_load(start: Start, nginx: Nginx, second_nginx: Nginx) -> None:
    """By the API and by the file, and nobody notices."""
    port = free_port()
    texts = [nginx.text, second_nginx.text]

    def config(drain: bool) -> dict[str, Any]:
        routes = {"/": {"blue": 1, "green": 1}}
        return {
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": routes}},
            "services": {
                "blue": {"endpoints": texts[:1]},
                "green": {"endpoints": [texts[0], {"address": texts[1], "drain": drain}]},
            },
        }

    proxy = start(config(False))
    with load(port):
        for _ in range(3):
            post(proxy, "drain?service=blue")
            eventually(lambda: proxy.api("drain")["drains"][0]["done"], "the service to have drained")
            post(proxy, "undrain?service=blue")
            post(proxy, f"drain?service=blue&endpoint={texts[0]}")
            eventually(lambda: proxy.api("drain")["drains"][0]["done"], "the endpoint to have drained")
            assert states(proxy, "blue") == {texts[0]: "draining"}
            post(proxy, f"undrain?service=blue&endpoint={texts[0]}")
        proxy.write(config(True))
        eventually(lambda: proxy.api("drain")["drains"], "the file's drain")
        (entry,) = proxy.api("drain")["drains"]
        assert (entry["kind"], entry["by"], entry["endpoint"]) == ("endpoint", "file", texts[1])
        post(proxy, f"undrain?service=green&endpoint={texts[1]}", 409)
        proxy.write(config(False))
        eventually(lambda: not proxy.api("drain")["drains"], "the end of the file's drain")
    assert "service blue drains no more" in proxy.stderr


def test_a_listener_drains_while_its_clients_are_served(start: Start, origins: Origins) -> None:
    origin, ports = origins(), (free_port(), free_port())
    listeners = {
        name: {"bind": f"127.0.0.1:{port}", "routes": {"/": "o"}}
        for name, port in zip(("web", "other"), ports, strict=True)
    }
    proxy = start({"listeners": listeners, "services": {"o": {"endpoints": [origin.text]}}})
    with origin.answering("/", lambda exchange: exchange.reply(200, b"ok")):
        thinkers = [Thinker(ports[0], think) for think in (0.01, 0.05, 0.2, 0.5) for _ in range(5)]
        eventually(lambda: all(one.seen["answered"] for one in thinkers), "all clients served")
        post(proxy, "drain?listener=web")
        for thinker in thinkers:
            thinker.join(10)
            assert not thinker.is_alive()
        seen = sum((one.seen for one in thinkers), Counter())
        assert not seen["reset"] + seen["unanswered"] + seen["refused"], seen
        eventually(lambda: proxy.api("drain")["drains"][0]["done"], "the listener to have drained")
        with Client(("127.0.0.1", ports[1])) as client:
            assert client.request(get("/")).status == 200
        with socket.create_server(("127.0.0.1", ports[0])):
            status, body = proxy.request("POST", "/api/v1/undrain?listener=web")
            assert status == 409
            assert b"in use" in body
        post(proxy, "undrain?listener=web")
        with Client(("127.0.0.1", ports[0])) as client:
            assert not client.request(get("/")).says_close


# ---------------------------------------------------------------- the command


def fastmesh(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fastmesh", *arguments],
        env={**environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(("timeout", "code"), [("20s", 0), ("2s", 4)])
def test_the_command_shows_the_progress_and_how_it_ended(
    start: Start, origins: Origins, echo_server: TcpServer, timeout: str, code: int
) -> None:
    site = Site(start, origins, echo_server, timeout)
    admin = f"127.0.0.1:{site.proxy.admin_port}"
    with site.answering():
        tunnels = site.tunnels(2)
        with fastmesh("drain", "--wait", "--admin", admin) as command:
            assert command.stdout is not None
            assert command.stdout.readline() == "draining\n"
            line = command.stdout.readline()
            while "listeners still open" in line:
                line = command.stdout.readline()
            assert line.startswith("draining: 2 in progress (2 tunnels or TCP), 2 connections, ")
            assert line.endswith(f" s of {timeout.removesuffix('s')} s\n")
            if code == 0:
                for sock in tunnels:
                    sock.close()
            rest = command.stdout.read().splitlines()
            assert command.wait(20) == code
        assert rest[-1] == (
            "ended" if code == 0 else "ended by the drain's deadline: 2 in progress were cut off"
        )
        for sock in tunnels:
            sock.close()
    assert site.proxy.wait_exit() == code


def test_the_command_on_a_terminal(start: Start, origins: Origins, echo_server: TcpServer) -> None:
    site = Site(start, origins, echo_server, "20s")
    arguments = ["drain", "--service", "echo", "--wait", "--admin", f"127.0.0.1:{site.proxy.admin_port}"]
    (tunnel,) = site.tunnels(1)
    terminal, end = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "fastmesh", *arguments],
        env={**environment(), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=end,
    )
    os.close(end)
    shown = ""
    while "1 in flight, 1 connections" not in shown:
        shown += os.read(terminal, 4096).decode()
    assert shown.startswith("service echo drains\r\n\rservice echo drains: 1 in flight")
    with (  # it may be gone before the connecting has ended
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", site.tcp_port), 5) as late,
    ):
        assert late.recv(1) == b""
    assert ping(tunnel)
    tunnel.close()
    with contextlib.suppress(OSError):  # the other end of a terminal is gone
        while True:
            shown += os.read(terminal, 4096).decode()
    os.close(terminal)
    assert command.wait(20) == 0
    assert shown.endswith("\x1b[K\r\nservice echo has drained\r\n")
