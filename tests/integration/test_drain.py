"""Signals and exit codes: TERM and INT drain, a second one forces, a deadline ends it; what cannot start
says why."""

from __future__ import annotations

import array
import fcntl
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.client import Client
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import ROOT, Proxy
from support.real import environment
from support.waiting import eventually
from support.wire import get, post

Start = Callable[..., Proxy]
Origins = Callable[..., Origin]


def one_service(origin: Origin, port: int, **top: Any) -> dict[str, Any]:
    listener = {"bind": f"127.0.0.1:{port}", "routes": {"/": "o"}}
    return {"listeners": {"web": listener}, "services": {"o": {"endpoints": [origin.text]}}, **top}


class Held:
    """A handler that answers when it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.read_body()
        assert self.release.wait(20)
        exchange.reply_echo()


def unread_bytes(client: Client) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(client.sock.fileno(), termios.FIONREAD, count)
    return count[0]


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_requests_in_flight_finish(start: Start, origins: Origins, number: signal.Signals) -> None:
    origin, port, held = origins(), free_port(), Held()
    proxy = start(one_service(origin, port, drain={"timeout": "10s"}))
    with (
        origin.answering("/held", held),
        Client(("127.0.0.1", port)) as busy,
        Client(("127.0.0.1", port)) as idle,
    ):
        busy.send(post("/held", b"hello"))
        origin.wait_request("/held")
        assert idle.request(get("/")).status == 200
        proxy.signal(number)
        proxy.wait_log("listeners are closed")
        late = idle.request(get("/late"))  # a client that thinks for less than a second is served
        assert late.status == 200
        assert late.says_close
        assert refuses(port)
        assert proxy.get("/readyz")[0] == 503
        assert proxy.get("/healthz")[0] == 200
        held.release.set()
        response = busy.read_response("POST")
        assert response.json()["body"] == "hello"
        assert response.says_close
        assert busy.how_it_ended() == "eof"
    assert proxy.wait_exit() == 0
    proxy.check_output()


def test_idle_connections_are_let_go(start: Start, origins: Origins) -> None:
    origin, port = origins(), free_port()
    proxy = start(one_service(origin, port, drain={"timeout": "10s"}))
    with Client(("127.0.0.1", port)) as idle:
        assert idle.request(get("/")).status == 200
        proxy.signal(signal.SIGTERM)
        assert idle.read_to_end() == b""
    assert proxy.wait_exit() == 0


def test_answer_that_a_slow_client_has_not_taken_yet_is_not_cut(
    start: Start, origins: Origins, tmp_path: Path
) -> None:
    """Its exchange has ended for the origin; the rest of it waits in the proxy for the client to read."""
    origin, path = origins(), str(tmp_path / "web.sock")
    config = one_service(origin, 0, drain={"timeout": "10s"})
    config["listeners"]["web"]["bind"] = f"unix:{path}"
    proxy = start(config)

    def send(exchange: Exchange) -> None:
        size = int(exchange.request.target[3:])
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        exchange.send(b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n")

    def waiting(client: Client) -> int:
        """How much of an answer waits in the client's socket once no more of it comes."""
        last, since = -1, time.monotonic()
        while time.monotonic() - since < 0.15:
            now = unread_bytes(client)
            if now != last:
                last, since = now, time.monotonic()
        return last

    with origin.answering(None, send), Client(path) as probe, Client(path) as slow:
        probe.send(get("/?n2000000"))
        fits = waiting(probe)
        probe.close()
        slow.send(get(f"/?n{fits + 20_000}"))
        assert waiting(slow) < fits + 20_000
        eventually(lambda: origin.open_connections() <= 1, "the large answer's connection to close")
        proxy.signal(signal.SIGTERM)
        proxy.wait_log("draining: listeners are closed")
        assert waiting(slow) > 0  # long enough for a proxy that thinks nothing is in progress
        response = slow.read_response()
        assert response.truncated is None
        assert len(response.body) == fits + 20_000
        assert slow.how_it_ended() == "eof"
    assert proxy.wait_exit() == 0
    proxy.check_output()


def test_delay_keeps_accepting(start: Start, origins: Origins) -> None:
    """Readiness fails at once, so that balancers in front look elsewhere; until the delay is over all is
    served."""
    origin, port = origins(), free_port()
    proxy = start(one_service(origin, port, drain={"delay": "1s", "timeout": "5s"}))
    proxy.signal(signal.SIGTERM)
    eventually(lambda: proxy.get("/readyz")[0] == 503, "readiness to fail")
    with Client(("127.0.0.1", port)) as client:
        assert client.request(get("/")).status == 200
    assert proxy.wait_exit() == 0


def test_drain_by_the_admin_api(start: Start, origins: Origins) -> None:
    origin, port = origins(), free_port()
    proxy = start(one_service(origin, port))
    assert proxy.request("POST", "/api/v1/drain")[0] in (200, 202)
    assert proxy.wait_exit() == 0


def test_second_signal_forces(start: Start, origins: Origins) -> None:
    origin, port, held = origins(), free_port(), Held()
    proxy = start(one_service(origin, port, drain={"timeout": "1m"}))
    with origin.answering("/held", held), Client(("127.0.0.1", port)) as client:
        client.send(get("/held"))
        origin.wait_request("/held")
        proxy.signal(signal.SIGTERM)
        eventually(lambda: refuses(port), "the listener to be closed")
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_exit(5) == 3
        held.release.set()
    proxy.check_output()


def test_deadline(start: Start, origins: Origins) -> None:
    origin, port, held = origins(), free_port(), Held()
    proxy = start(one_service(origin, port, drain={"timeout": "300ms"}))
    with origin.answering("/held", held), Client(("127.0.0.1", port)) as client:
        client.send(get("/held"))
        origin.wait_request("/held")
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_exit(5) == 4
        held.release.set()
    proxy.check_output()


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    settings = {**environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "fastmesh", *arguments],
        cwd=folder,
        env=settings,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_invalid_configuration_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("listeners:\n  web: {bind: 127.0.0.1:1, routes: {/: nowhere}}\nservices: {}\n")
    done = run("run", str(file), folder=tmp_path)
    assert done.returncode == 1
    assert "bad.yaml:2" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_missing_file(tmp_path: Path) -> None:
    done = run("run", str(tmp_path / "none.yaml"), folder=tmp_path)
    assert done.returncode in (1, 2)
    assert "none.yaml" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_usage(tmp_path: Path) -> None:
    assert run("run", folder=tmp_path).returncode == 2
    assert run("no-such-command", folder=tmp_path).returncode == 2


@pytest.mark.parametrize("what", ["listener", "admin"])
def test_port_in_use(tmp_path: Path, what: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"listener": free_port(), "admin": free_port(), what: port}
        file = tmp_path / "c.yaml"
        file.write_text(
            f"admin: 127.0.0.1:{ports['admin']}\n"
            f"listeners: {{web: {{bind: '127.0.0.1:{ports['listener']}', routes: {{/: s}}}}}}\n"
            "services: {s: {endpoints: ['127.0.0.1:1']}}\n"
        )
        done = run("run", str(file), folder=tmp_path)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_process_on_the_same_configuration(start: Start, origins: Origins) -> None:
    """Two of them may not share the port by SO_REUSEPORT."""
    origin, port = origins(), free_port()
    proxy = start(one_service(origin, port))
    other = proxy.folder / "other.yaml"
    other.write_text(proxy.file.read_text().replace(f":{proxy.admin_port}", f":{free_port()}"))
    done = run("run", str(other), folder=proxy.folder)
    assert done.returncode == 1
    assert str(port) in done.stderr
    with Client(("127.0.0.1", port)) as client:
        assert client.request(get("/")).status == 200
