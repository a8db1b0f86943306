"""Every real proxy, started as the benchmarks start it: from each, the same work reaches the origin."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from bench.contenders import (
    CONTENDERS,
    HTTP,
    PLAIN,
    RELOADABLE,
    TCP,
    Command,
    Contender,
    Job,
    Running,
    fastmesh_python,
    start,
)
from bench.harness.place import ROOT, BenchError
from bench.harness.process import Child, wait_until

CPU = max(os.sched_getaffinity(0))
ORIGIN = Path(__file__).with_name("recording_origin.py")
MEBIBYTE = bytes(range(256)) * 4096  # what the origin has at /1m
PROXIES = ("fastmesh", "nginx", "haproxy", "envoy", "traefik", "caddy")
RELOADED = ("fastmesh", "nginx", "haproxy", "envoy")


@dataclass(frozen=True)
class Origin:
    child: Child
    folder: Path
    ports: tuple[int, ...]

    def requests(self) -> list[dict[str, Any]]:
        """All so far, in the order in which they came."""
        record = self.folder / "requests"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    """With two ports."""
    folder = tmp_path / "origin"
    folder.mkdir()
    child = Child("origin", [sys.executable, str(ORIGIN), "2", str(folder)], log=tmp_path / "origin.log")
    try:
        wait_until((folder / "ports").exists, child, "listen")
        yield Origin(child, folder, tuple(map(int, (folder / "ports").read_text().split())))
    finally:
        child.stop()


@pytest.fixture
def serve(origin: Origin, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts a contender in front of the origin's first port, or of those that are named."""
    started: list[Running] = []

    def start_one(contender: str | Contender, variant: str = PLAIN, **options: Any) -> Running:
        chosen = CONTENDERS[contender] if isinstance(contender, str) else contender
        options = {"origin_ports": origin.ports[:1], "cpu": CPU, "folder": tmp_path, **options}
        started.append(start(chosen, variant, **options))
        return started[-1]

    yield start_one
    for running in started:
        running.stop()


class Client(http.client.HTTPConnection):
    """One connection to an HTTP listener; opened anew when the proxy has closed it."""

    def __init__(self, running: Running, listener: str = HTTP) -> None:
        super().__init__("127.0.0.1", running.port(listener), timeout=20)

    def ask(self, path: str = "/", body: Any = None, **headers: str) -> bytes:
        method = "GET" if body is None else "POST"
        chunked = hasattr(body, "__next__")
        self.request(method, path, body, {"Host": "a.example", **headers}, encode_chunked=chunked)
        answer = self.getresponse()
        assert answer.status == 200
        return answer.read()


def asked(running: Running, *paths: str) -> None:
    """Each path over a connection of its own."""
    for path in paths:
        with closing(Client(running)) as client:
            client.ask(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROXIES)
def test_the_same_headers_reach_the_origin(name: str, origin: Origin, serve: Callable[..., Running]) -> None:
    client = Client(serve(name))
    client.putrequest("GET", "/headers?q", skip_host=True, skip_accept_encoding=True)
    for field, value in {"Host": "a.example", "User-Agent": "tester", "Cookie": "a=1; b=2"}.items():
        client.putheader(field, value)
    client.endheaders()
    assert client.getresponse().status == 200
    client.close()
    seen = origin.requests()[-1]
    headers = seen["headers"]
    assert (seen["method"], seen["path"], headers["host"]) == ("GET", "/headers?q", "a.example")
    assert (headers["user-agent"], headers["cookie"]) == ("tester", "a=1; b=2")
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-host"] == "a.example"
    # Envoy takes a client on loopback for itself, and names an address of this machine in its place.
    assert ip_address(headers["x-forwarded-for"]).is_loopback or name == "envoy"
    assert ("x-request-id" in headers) == (name not in ("envoy", "traefik"))
    assert headers.get("connection", "keep-alive").lower() == "keep-alive"
    assert "accept-encoding" not in headers


@pytest.mark.slow
@pytest.mark.parametrize("name", PROXIES)
def test_connections_to_the_origin_are_kept(name: str, origin: Origin, serve: Callable[..., Running]) -> None:
    running = serve(name)
    client = Client(running)
    for _ in range(20):
        client.ask("/kept")
    client.close()
    asked(running, *["/kept"] * 20)
    used = {seen["connection"] for seen in origin.requests() if seen["path"] == "/kept"}
    assert len(used) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", PROXIES)
def test_bodies_are_intact(name: str, origin: Origin, serve: Callable[..., Running]) -> None:
    client = Client(serve(name))
    assert client.ask("/1m") == MEBIBYTE
    assert client.ask("/length", MEBIBYTE) == MEBIBYTE
    assert client.ask("/chunked", iter([MEBIBYTE[:100], MEBIBYTE[:1024], MEBIBYTE])) == (
        MEBIBYTE[:100] + MEBIBYTE[:1024] + MEBIBYTE
    )
    client.close()
    length, chunked = origin.requests()[-2:]
    assert length["headers"]["content-length"] == str(len(MEBIBYTE))
    assert chunked["headers"]["transfer-encoding"] == "chunked"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROXIES if TCP in CONTENDERS[name].listeners])
def test_relayed_tcp(name: str, origin: Origin, serve: Callable[..., Running]) -> None:
    client = Client(serve(name), TCP)
    assert client.ask("/relayed", MEBIBYTE) == MEBIBYTE
    client.close()
    assert set(origin.requests()[-1]["headers"]) == {"host", "accept-encoding", "content-length"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROXIES)
def test_the_client_may_close(name: str, origin: Origin, serve: Callable[..., Running]) -> None:
    """The client's connection ends, that to the origin stays."""
    running = serve(name)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", running.port(HTTP)), timeout=10) as connection:
            connection.sendall(b"GET /closed HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer.lower()
    used = {seen["connection"] for seen in origin.requests() if seen["path"] == "/closed"}
    assert len(used) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PROXIES)
def test_nothing_is_logged(name: str, serve: Callable[..., Running]) -> None:
    running = serve(name)
    before = running.child.log.read_text()
    asked(running, *["/logged"] * 5)
    running.stop()
    assert "/logged" not in running.child.log.read_text().removeprefix(before)
    assert "a.example" not in running.child.log.read_text()
    assert [path for path in running.job.folder.rglob("*") if "access" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy"),
    [(name, policy) for name in PROXIES for policy in sorted(CONTENDERS[name].policies)],
)
def test_a_policy_spreads_requests(
    name: str, policy: str, origin: Origin, serve: Callable[..., Running]
) -> None:
    running = serve(name, origin_ports=origin.ports, policy=policy)
    paths = [f"/{number}" for number in range(30)]
    client = Client(running)
    for path in paths * 2:
        client.ask(path)
    client.close()
    seen = [(r["path"], r["port"]) for r in origin.requests() if r["path"] in paths]
    assert len(seen) == 60
    counts = Counter(port for _, port in seen)
    assert set(counts) == set(origin.ports)
    if policy == "round_robin":
        assert max(counts.values()) == 30
    if policy in ("ring_hash", "maglev"):
        assert len(set(seen)) == 30, "a path has gone to two endpoints"


@pytest.mark.slow
@pytest.mark.parametrize("name", RELOADED)
def test_a_dead_endpoint_fails_no_request(name: str, origin: Origin, serve: Callable[..., Running]) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        running = serve(name, origin_ports=(origin.ports[0], taken.getsockname()[1]))
        asked(running, *["/alive"] * 20)


def asked_of(running: Running, origin: Origin, path: str, judge: Callable[[set[int]], bool]) -> None:
    """Until the ports that ten requests for the path went to are right; each request must be answered."""

    def right() -> bool:
        asked(running, *[path] * 10)
        return judge({seen["port"] for seen in origin.requests()[-10:]})

    wait_until(right, running.child, "use the new endpoints")


@pytest.mark.slow
@pytest.mark.parametrize("name", RELOADED)
def test_a_reload_changes_the_endpoints(name: str, origin: Origin, serve: Callable[..., Running]) -> None:
    first, second = origin.ports
    running = serve(name, RELOADABLE)
    for ports in ((first, second), (second,), (first,), (first, second)):
        running.reload(origin_ports=ports)
        asked_of(running, origin, "/after", set(ports).__eq__)
    running.reload(origin_ports=(first, second), policy="ring_hash")
    asked_of(running, origin, "/hashed", lambda ports: len(ports) == 1)
    assert running.reloads == 5
    with pytest.raises(BenchError, match=f"change 6 of {name}: it changes nothing"):
        running.reload(origin_ports=(first, second))


@pytest.mark.slow
@pytest.mark.parametrize("name", RELOADED)
def test_a_refused_reload_is_an_error_and_changes_nothing(
    name: str, origin: Origin, serve: Callable[..., Running]
) -> None:
    running = serve(name, RELOADABLE)
    with pytest.raises(BenchError, match=rf"(?s)change 7 of {name} was not applied: .*[pP]ort"):
        running.reload(origin_ports=(70_000,), step=7)
    asked(running, "/still")
    assert running.job.origin_ports == origin.ports[:1]
    running.reload(origin_ports=origin.ports)
    asked_of(running, origin, "/after", set(origin.ports).__eq__)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["traefik", "caddy"])
def test_what_is_not_set_up_to_be_reloaded(name: str, serve: Callable[..., Running]) -> None:
    with pytest.raises(BenchError, match="changes are measured with"):
        serve(name).reload(origin_ports=(1,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant"),
    [(name, PLAIN) for name in PROXIES] + [(name, RELOADABLE) for name in RELOADED],
)
def test_a_drain_answers_what_was_asked_and_ends(
    name: str, variant: str, origin: Origin, serve: Callable[..., Running]
) -> None:
    running = serve(name, variant)
    client = Client(running)
    client.request("GET", "/hold")
    wait_until(lambda: any(r["path"] == "/hold" for r in origin.requests()), origin.child, "get the request")
    running.drain()
    assert running.child.exit_code() is None
    origin.child.signal(signal.SIGUSR1)
    assert client.getresponse().status == 200
    client.close()
    assert running.child.wait(20) == 0
    assert running.tree() in ([], [running.child.pid])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROXIES if name != "fastmesh"])
def test_another_program_of_the_same_kind(name: str, origin: Origin, serve: Callable[..., Running]) -> None:
    """The usual one, named as a peer: its process and its version are those of that path."""
    usual = CONTENDERS[name].command(job_in(origin.folder)).argv[0]
    other = CONTENDERS[name].with_binary(usual, "other")
    assert (other.name, other.version()) == (f"{name}@other", CONTENDERS[name].version())
    running = serve(other)
    asked(running, "/other")
    assert Path(f"/proc/{running.child.pid}/exe").resolve() == Path(usual).resolve()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fastmesh", "python"])
def test_another_fastmesh(kind: str, tmp_path: Path, serve: Callable[..., Running]) -> None:
    """Its command, or a Python that has it; what says so is the program itself, not this checkout."""
    command = tmp_path / kind
    module = "-m fastmesh " if kind == "fastmesh" else ""
    python = f'PYTHONPATH={ROOT} exec {fastmesh_python()} {module}"$@"'
    command.write_text(f'#!/bin/sh\n[ -z "$PYTHONPATH" ] && echo $0 >> {tmp_path}/used && {python}\n')
    command.chmod(0o755)
    other = CONTENDERS["fastmesh"].with_binary(str(command), "other")
    assert other.version().startswith("fastmesh ")
    asked(serve(other), "/other")
    assert (tmp_path / "used").read_text().splitlines() == [str(command)] * 2


def job_in(folder: Path) -> Job:
    return Job(folder, (1001,), PLAIN, http_port=1002, tcp_port=1003, admin_port=1004, cpu=0)


def test_no_proxy_at_all(origin: Origin, serve: Callable[..., Running]) -> None:
    running = serve("direct")
    asked(running, "/direct")
    assert (running.tree(), running.port(TCP)) == ([], origin.ports[0])
    running.check_alive()
    with pytest.raises(BenchError, match="no graceful stop"):
        running.drain()
    with pytest.raises(BenchError, match="no process"):
        running.child.check_alive()


SLOW_TO_KNOW = """
import http.server, itertools, sys
statuses = itertools.chain([404, 503, 503], itertools.repeat(200))

class Proxy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = next(statuses)
        print(status, flush=True)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Proxy).serve_forever()
"""


def test_one_that_listens_before_it_knows_its_origin_is_waited_for(serve: Callable[..., Running]) -> None:
    def command(job: Job) -> Command:
        return Command([sys.executable, "-c", SLOW_TO_KNOW, str(job.http_port)])

    running = serve(Contender("slow", command, lambda: "slow", listeners=frozenset({HTTP})))
    statuses = [line for line in running.child.log.read_text().splitlines() if line.isdigit()]
    assert statuses == ["404", "503", "503", "200"]


def test_one_that_ends_at_its_start_is_told_with_what_it_said(serve: Callable[..., Running]) -> None:
    def command(job: Job) -> Command:
        return Command([sys.executable, "-c", "print('no such option'); raise SystemExit(3)"])

    with pytest.raises(BenchError, match=r"broken ended with exit code 3:\nno such option"):
        serve(Contender("broken", command, lambda: "broken"))
