"""A transparent sidecar whole: rules, the proxy as its own user, nginx, curl, servers that speak first."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.harness.place import find_tool
from support.native_source import ROOT
from support.netns import APP, PEER, POD, PROXY, Namespace, Voices, pod_and_peer
from support.waiting import eventually

pytestmark = [
    pytest.mark.no_sanitizer,  # the processes start through programs without what a sanitizer preloads
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

ORDERS, UNNAMED, GREETING, EITHER, APPLICATION = 7000, 7001, 7002, 7003, 8000
FAMILIES = ("IPv4", "IPv6")


def both(port: int) -> str:
    return f'["{PEER["IPv4"]}:{port}", "[{PEER["IPv6"]}]:{port}"]'


FILE = f"""\
workers: 1
access_log: {{to: stdout}}
sidecar:
  mode: transparent
  app: {APPLICATION}
  outbound:
    orders: {both(ORDERS)}
    greeting: {{to: {both(GREETING)}, protocol: auto}}
    either: {{to: {both(EITHER)}, protocol: auto}}
"""
NGINX = """\
daemon off; master_process off; pid {folder}/{name}.pid; error_log {folder}/{name}.err;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}/{name}-body;
    proxy_temp_path {folder}/x1; fastcgi_temp_path {folder}/x2;
    uwsgi_temp_path {folder}/x3; scgi_temp_path {folder}/x4;
    server {{
        {listens}
        location / {{ return 200 "{name} $server_port\\n"; }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(place: Namespace, folder: Path, name: str, *ports: int) -> Iterator[None]:
    listens = " ".join(f"listen {port}; listen [::]:{port};" for port in ports)
    config = folder / f"{name}.conf"
    config.write_text(NGINX.format(folder=folder, name=name, listens=listens))
    command = ("ip", "netns", "exec", place.name, find_tool("nginx", "nginx"))
    process = subprocess.Popen([*command, "-c", str(config), "-e", str(folder / f"{name}.err")])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


class Sidecar:
    """`fastmesh run` in the pod as the proxy's user."""

    def __init__(self, pod: Namespace, peer: Namespace, folder: Path) -> None:
        self.pod, self.peer = pod, peer
        (folder / "fastmesh.yaml").write_text(FILE)
        self.lines = folder / "access.log"
        # Its interpreter may lie where only root looks
        reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        user = ("setpriv", f"--reuid={PROXY}", f"--regid={PROXY}", "--clear-groups", *reading)
        command = (*user, sys.executable, "-m", "fastmesh", "run", str(folder / "fastmesh.yaml"))
        with self.lines.open("wb") as out:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", pod.name, *command],
                stdout=out,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
                cwd=folder,
            )

    def admin(self, path: str) -> Any:
        def get() -> Any:
            with urllib.request.urlopen(f"http://127.0.0.1:9400{path}", timeout=5) as answer:
                return json.loads(answer.read())

        return self.pod.call(get)

    def is_ready(self) -> bool:
        def ask() -> bool:
            try:
                with urllib.request.urlopen("http://127.0.0.1:9400/readyz", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        return self.pod.call(ask)

    def totals(self) -> dict[str, int]:
        return {one["listener"]: one["connections_total"] for one in self.listeners()}

    def listeners(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.admin("/api/v1/listeners")["listeners"]
        return found

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.read_text().splitlines()]


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    folder = Path(tempfile.mkdtemp(prefix="fastmesh-sidecar-"))
    folder.chmod(0o755)
    voices = Voices()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        pod, peer = stack.enter_context(pod_and_peer())
        for host in ("0.0.0.0", "::"):
            voices.add("unnamed", peer.listen(host, UNNAMED))
            voices.add("greeting", peer.listen(host, GREETING))
        voices.start()
        stack.callback(voices.close)
        stack.enter_context(nginx(peer, folder, "orders", ORDERS, EITHER))
        made = Sidecar(pod, peer, folder)
        stack.callback(made.process.wait, 20)
        stack.callback(made.process.terminate)
        stack.enter_context(nginx(pod, folder, "app", APPLICATION))  # it ends before its sidecar does
        eventually(made.is_ready, "the sidecar to be ready", within=20)
        pod.done("--apply")
        yield made


def curl(place: Namespace, host: str, port: int, uid: int = APP) -> str:
    """Head and body of the answer."""
    user = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    bracketed = f"[{host}]" if ":" in host else host
    return place.run(*user, find_tool("curl", "curl"), "-sS", "-i", "-m", "10", f"http://{bracketed}:{port}/")


def test_both_directions_and_whoever_speaks_first(sidecar: Sidecar) -> None:
    for family in FAMILIES:
        assert "orders 7000" in curl(sidecar.pod, PEER[family], ORDERS)
        assert "orders 7003" in curl(sidecar.pod, PEER[family], EITHER)
        assert sidecar.pod.ask(PEER[family], GREETING) == "greeting"
        assert sidecar.pod.ask(PEER[family], UNNAMED) == "unnamed"
        assert "app 8000" in curl(sidecar.peer, POD[family], APPLICATION)
    assert sidecar.totals() == {
        "inbound": 0,
        "inbound/app": 2,
        "outbound": 2,
        "outbound/orders": 2,
        "outbound/greeting": 2,
        "outbound/either": 2,
    }
    eventually(lambda: len(sidecar.logged()) == 10, "all lines")
    told = {(one["listener"], one["protocol"], one["status"]) for one in sidecar.logged()}
    assert told == {
        ("inbound/app", "HTTP/1.1", 200),
        ("outbound", "TCP", 200),
        ("outbound/orders", "HTTP/1.1", 200),
        ("outbound/greeting", "TCP", 200),
        ("outbound/either", "HTTP/1.1", 200),
    }
    passed = {one["endpoint"] for one in sidecar.logged() if one["listener"] == "outbound"}
    assert passed == {f"{PEER['IPv4']}:{UNNAMED}", f"[{PEER['IPv6']}]:{UNNAMED}"}


def test_the_proxys_own_ports_lead_nowhere(sidecar: Sidecar) -> None:
    """Called by the peer directly, redirected from elsewhere, and by the application."""
    for family in FAMILIES:
        for place, uid in ((sidecar.peer, APP), (sidecar.pod, PROXY)):
            for port in (15006, 15001):
                with place.socket(POD[family], uid=uid) as client, contextlib.suppress(OSError):
                    client.connect((POD[family], port))
                    client.send(b"x")
                    assert client.recv(10) == b""
    eventually(
        lambda: sum(one["connections_active"] for one in sidecar.listeners()) == 0, "nothing to go round"
    )
