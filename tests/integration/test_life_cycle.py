"""The life of a sidecar beside its application: ready when it knows enough, inbound ends before outbound, and
the end of the application is its own."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import Client
from support.names import with_files
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.tcp import TcpServer
from support.waiting import eventually
from support.wire import get

Start = Callable[..., Proxy]
Origins = Callable[..., Origin]


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def ask(port: int, path: str = "/") -> int:
    """The status of a request on a connection of its own."""
    with Client(("127.0.0.1", port), timeout=10) as client:
        return client.request(get(path)).status


class Beside:
    """An application with its sidecar: `inbound` and `outbound` are the proxy's ports."""

    def __init__(self, start: Start, origins: Origins, **settings: Any) -> None:
        self.app, self.orders = origins("app"), origins("orders")
        self.inbound, self.outbound = free_port(), free_port()
        self.sidecar = {
            "app": self.app.address[1],
            "inbound": f"127.0.0.1:{self.inbound}",
            "outbound": {"orders": {"to": self.orders.text, "listen": f"127.0.0.1:{self.outbound}"}},
            **settings,
        }
        self.start = start

    def run(self, **top: Any) -> Proxy:
        return self.start({"drain": {"timeout": "20s"}, "sidecar": self.sidecar, **top})


@pytest.fixture
def beside(start: Start, origins: Origins) -> Beside:
    return Beside(start, origins)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is only there, and gone when the test ends."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


# ---------------------------------------------------------------- ready


@pytest.fixture
def silent() -> Iterator[TcpServer]:
    """Takes connections and says nothing until its client goes."""

    def handler(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sock.recv(4096):
                pass

    with TcpServer(handler) as server:
        yield server


def test_serving_begins_before_slow_checks_end_and_readiness_waits_for_them(
    silent: TcpServer, start: Start, origins: Origins
) -> None:
    origin, port = origins(), free_port()
    check = {"path": "/", "timeout": "30s", "interval": "60s"}
    proxy = start(
        {
            "ready_timeout": "2s",
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/slow": "slow", "/": "good"}}},
            "services": {
                "good": {"endpoints": [origin.text]},
                "slow": {"endpoints": [silent.text], "health": check},
            },
        },
        ready=False,
    )
    began = time.monotonic()
    eventually(lambda: not refuses(port), "the listener is open", within=20)
    assert ask(port) == 200
    assert proxy.get("/readyz") == (503, b"no check of 1 endpoint of service slow has ended yet\n")
    assert proxy.api("process")["state"] == "waiting"
    assert ask(port, "/slow") == 503
    proxy.wait_ready()
    assert time.monotonic() - began < 10
    assert "ready after 2 s (ready_timeout) without first results:" in proxy.stderr
    assert "    no check of 1 endpoint of service slow has ended yet\n" in proxy.stderr
    assert proxy.api("process")["state"] == "serving"


def test_a_name_server_that_says_nothing(start: Start, origins: Origins, tmp_path: Path) -> None:
    """It holds nothing up but readiness, and that no longer than `ready_timeout`."""
    origin, port = origins(), free_port()
    resolv_conf, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.53.53.53", 53))
        resolv_conf.write_text("nameserver 127.53.53.53\n")
        hosts.write_text("127.0.0.1 localhost\n")
        proxy = Proxy(
            tmp_path,
            {
                "workers": 1,
                "ready_timeout": "3s",
                "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/slow": "slow", "/": "good"}}},
                "services": {
                    "good": {"endpoints": [origin.text]},
                    "slow": {"endpoints": ["slow.test:80"]},
                },
            },
            under=with_files(resolv_conf, hosts),
        )
        try:
            proxy.start(ready=False)
            eventually(lambda: not refuses(port), "the listener is open", within=20)
            assert ask(port) == 200
            assert ask(port, "/slow") == 503
            assert proxy.get("/readyz") == (503, b"no answer yet for the name slow.test\n")
            proxy.wait_ready()
            assert "ready after 3 s (ready_timeout) without first results:" in proxy.stderr
            proxy.signal(signal.SIGTERM)
            assert proxy.wait_exit(3) == 0, "a lookup holds up no end"
        finally:
            proxy.kill()


def test_two_services_that_wait_for_each_other_start(start: Start, origins: Origins) -> None:
    """Each is asked through its proxy by the other's, before its application is there: no is an answer."""
    ports = {"a": free_port(), "b": free_port()}
    apps = {"a": free_port(), "b": free_port()}
    proxies = [
        start(
            {
                "ready_timeout": "60s",
                "sidecar": {
                    "app": apps[me],
                    "inbound": f"127.0.0.1:{ports[me]}",
                    "outbound": {
                        other: {"to": f"127.0.0.1:{ports[other]}", "listen": f"127.0.0.1:{free_port()}"}
                    },
                },
                "services": {other: {"health": {"path": "/", "interval": "50ms", "healthy": 1}}},
            },
            ready=False,
        )
        for me, other in (("a", "b"), ("b", "a"))
    ]
    for proxy in proxies:
        proxy.wait_ready(within=15)
    made = [origins(name, port=port) for name, port in apps.items()]
    assert len(made) == 2
    for proxy in proxies:
        eventually(
            lambda proxy=proxy: proxy.metric("fastmesh_endpoint_healthy") == 1,
            "each sees the other",
            within=10,
        )


# ---------------------------------------------------------------- the order of a drain


def test_inbound_drains_while_outbound_goes_on(beside: Beside) -> None:
    """What clients have asked for is finished, with all that the application has to ask others for it."""
    release = threading.Event()

    def order(exchange: Exchange) -> None:
        assert release.wait(20)
        exchange.reply(200, b"%d" % ask(beside.outbound, "/order"))

    proxy = beside.run()
    with beside.app.answering("/order", order):
        clients = [Client(("127.0.0.1", beside.inbound), timeout=20) for _ in range(8)]
        for client in clients:
            client.send(get("/order"))
        beside.app.wait_request("/order", count=8)
        idle = Client(("127.0.0.1", beside.inbound), timeout=20)
        assert idle.request(get("/")).status == 200
        kept = Client(("127.0.0.1", beside.outbound), timeout=20)
        assert kept.request(get("/kept")).status == 200
        proxy.signal(signal.SIGTERM)
        eventually(lambda: refuses(beside.inbound), "no new clients")
        assert idle.how_it_ended() == "eof"
        idle.close()
        answer = kept.request(get("/kept"))
        assert (answer.status, answer.says_close) == (200, False)
        assert [ask(beside.outbound) for _ in range(20)] == [200] * 20
        release.set()
        for client in clients:
            answer = client.read_response()
            assert (answer.status, answer.body) == (200, b"200")
            assert answer.says_close
            client.close()
    proxy.wait_log(f"outbound goes on until nobody listens on 127.0.0.1:{beside.app.address[1]} any more")
    progress = proxy.api("drain")["process"]
    assert progress["waits_for"] == f"nobody listens on 127.0.0.1:{beside.app.address[1]} any more"
    assert proxy.get("/readyz") == (503, b"draining\n")
    assert kept.request(get("/kept")).status == 200, "the application writes its last words"
    assert ask(beside.outbound) == 200
    beside.app.close()
    assert proxy.wait_exit(5) == 0
    assert refuses(beside.outbound)


def test_outbound_loses_nothing_under_load(beside: Beside) -> None:
    """From before the drain until the application closes, each outbound request is answered."""
    proxy = beside.run()
    seen: Counter[int] = Counter()
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            seen[ask(beside.outbound)] += 1

    def load() -> None:
        with contextlib.suppress(ConnectionRefusedError, ConnectionResetError, AssertionError):
            while True:
                ask(beside.inbound)

    callers = [threading.Thread(target=call) for _ in range(4)]
    clients = [threading.Thread(target=load) for _ in range(4)]
    for thread in (*callers, *clients):
        thread.start()
    eventually(lambda: seen[200] > 100, "outbound is in use", within=20)
    proxy.signal(signal.SIGTERM)
    proxy.wait_log("outbound goes on until", within=10)
    for thread in clients:
        thread.join(10)
    before = seen[200]
    eventually(lambda: seen[200] > before + 100, "outbound goes on", within=20)
    done.set()
    for thread in callers:
        thread.join(10)
    assert set(seen) == {200}
    beside.app.close()
    assert proxy.wait_exit(5) == 0


def test_the_deadline_holds_for_outbound_too(beside: Beside) -> None:
    """An application that does not end is left alone, with 0: nothing was in progress."""
    proxy = beside.run(drain={"timeout": "1s"})
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit(8) == 0
    assert "outbound goes on" in proxy.stderr


def test_an_application_that_has_gone_already_is_not_waited_for(beside: Beside) -> None:
    proxy = beside.run()
    beside.app.close()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit(5) == 0


def test_an_application_at_a_unix_socket(start: Start, origins: Origins, tmp_path: Path) -> None:
    app = origins("app", path=tmp_path / "app.sock")
    outbound = free_port()
    proxy = start(
        {
            "drain": {"timeout": "20s"},
            "sidecar": {
                "app": app.text,
                "inbound": f"127.0.0.1:{free_port()}",
                "outbound": {"orders": {"to": "127.0.0.1:1", "listen": f"127.0.0.1:{outbound}"}},
            },
        }
    )
    proxy.signal(signal.SIGTERM)
    proxy.wait_log(f"until nobody listens on {app.text} any more")
    assert ask(outbound) == 502
    app.close()
    assert proxy.wait_exit(5) == 0


def test_a_listener_at_the_port_of_the_application_is_not_the_application(
    start: Start, origins: Origins
) -> None:
    """The same port at two addresses of the machine, the one for others, the other for the application."""
    app = origins("app")
    port = app.address[1]
    proxy = start(
        {
            "drain": {"timeout": "20s"},
            "sidecar": {
                "app": port,
                "inbound": f"127.0.0.2:{free_port()}",
                "outbound": {"orders": {"to": "127.0.0.1:1", "listen": f"127.0.0.3:{port}"}},
            },
        }
    )
    app.close()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit(5) == 0


# ---------------------------------------------------------------- the end with the application


def test_it_ends_when_nobody_listens_on_the_port_any_more(beside: Beside) -> None:
    beside.sidecar["exit_with"] = f"port:{beside.app.address[1]}"
    proxy = beside.run(drain={"timeout": "20s", "delay": "20s"})
    proxy.wait_log("exit_with: fastmesh ends when nobody listens on port")
    assert ask(beside.inbound) == 200
    beside.app.close()
    assert proxy.wait_exit(8) == 0
    assert f"exit_with: nobody listens on port {beside.app.address[1]} any more: draining" in proxy.stderr


def test_a_short_pause_of_the_application_is_not_its_end(beside: Beside, origins: Origins) -> None:
    port = beside.app.address[1]
    beside.sidecar["exit_with"] = f"port:{port}"
    proxy = beside.run()
    proxy.wait_log("exit_with: fastmesh ends when nobody listens on port")
    beside.app.close()
    again = origins("app", port=port)
    time.sleep(1.5)  # what is to be seen is that nothing happens
    assert ask(beside.inbound) == 200
    assert proxy.is_alive()
    again.close()
    assert proxy.wait_exit(8) == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_a_process(
    beside: Beside, sleeper: subprocess.Popen[bytes], how: signal.Signals
) -> None:
    """Also in a drain that has come as far as that."""
    beside.sidecar["exit_with"] = f"pid:{sleeper.pid}"
    proxy = beside.run()
    proxy.wait_log(f"exit_with: fastmesh ends with process {sleeper.pid}")
    proxy.signal(signal.SIGTERM)
    proxy.wait_log(f"outbound goes on until process {sleeper.pid} has ended")
    beside.app.close()
    assert ask(beside.outbound) == 200, "the process counts, not its port"
    sleeper.send_signal(how)
    assert proxy.wait_exit(8) == 0


def test_a_process_that_is_not_there(beside: Beside) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    beside.sidecar["exit_with"] = f"pid:{gone.pid}"
    proxy = beside.run()
    proxy.wait_log(f"exit_with: process {gone.pid} is not there.")
    assert "pid namespace" in proxy.stderr
    assert ask(beside.inbound) == 200


def test_what_to_end_with_may_change(beside: Beside, sleeper: subprocess.Popen[bytes]) -> None:
    proxy = beside.run()
    beside.sidecar["exit_with"] = f"pid:{sleeper.pid}"
    proxy.write({"workers": 1, "drain": {"timeout": "20s"}, "sidecar": beside.sidecar})
    proxy.wait_log(f"exit_with: fastmesh ends with process {sleeper.pid}")
    sleeper.kill()
    assert proxy.wait_exit(8) == 0


# ---------------------------------------------------------------- quit


def test_quit_does_not_wait_for_the_application(beside: Beside) -> None:
    release = threading.Event()

    def slow(exchange: Exchange) -> None:
        assert release.wait(20)
        exchange.reply(200, b"%d" % ask(beside.outbound))

    proxy = beside.run(drain={"timeout": "20s", "delay": "20s"})
    with beside.app.answering("/slow", slow), Client(("127.0.0.1", beside.inbound), timeout=20) as client:
        client.send(get("/slow"))
        beside.app.wait_request("/slow")
        status, body = proxy.request("POST", "/api/v1/quit")
        assert (status, json.loads(body)) == (202, {"result": "draining"})
        eventually(lambda: refuses(beside.inbound), "no new clients")
        assert ask(beside.outbound) == 200
        release.set()
        assert client.read_response().body == b"200"
    assert proxy.wait_exit(5) == 0
    assert "quit asked for: draining" in proxy.stderr


def test_quit_ends_the_waiting_for_an_application(beside: Beside) -> None:
    proxy = beside.run()
    proxy.signal(signal.SIGTERM)
    proxy.wait_log("outbound goes on until")
    assert proxy.request("POST", "/api/v1/quit")[0] == 202
    assert proxy.wait_exit(5) == 0


def test_who_stops_both_after_quit_forces_nothing(beside: Beside) -> None:
    release = threading.Event()

    def slow(exchange: Exchange) -> None:
        assert release.wait(20)
        exchange.reply(200, b"done")

    proxy = beside.run()
    with beside.app.answering("/slow", slow), Client(("127.0.0.1", beside.inbound), timeout=20) as client:
        client.send(get("/slow"))
        beside.app.wait_request("/slow")
        assert proxy.request("POST", "/api/v1/quit")[0] == 202
        proxy.signal(signal.SIGTERM)
        eventually(lambda: refuses(beside.inbound), "no new clients")
        release.set()
        assert client.read_response().body == b"done"
    assert proxy.wait_exit(5) == 0
