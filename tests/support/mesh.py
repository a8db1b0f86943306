"""Applications in containers of one network, and what makes a transparent sidecar of each: as docs/sidecar.md
and the example of compose start them, by `docker run` alone."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.containers import Container
from support.engine import Engine
from support.native_source import ROOT
from support.waiting import eventually

APP = ROOT / "examples" / "app.py"
ORIGIN = ROOT / "tests" / "support" / "container_origin.py"
# No write anywhere, no capability, none to be had.
LOCKED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
PRIVILEGES = ("--cap-drop=ALL", "--cap-add=NET_ADMIN", "--cap-add=NET_RAW")
FAMILIES = ("IPv4", "IPv6") if Path("/proc/sys/net/ipv6").exists() else ("IPv4",)
ADDRESS = {"IPv4": "IPAddress", "IPv6": "GlobalIPv6Address"}
FETCH = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen("http://127.0.0.1:9400/" + sys.argv[1], timeout=10)
except urllib.error.HTTPError as error:
    answer = error
except OSError as error:
    sys.exit(print(0, error))  # nobody listens
print(answer.status, answer.read().decode())
"""
# One connection for each request; what went wrong is an answer too.
ASK = """
import sys, urllib.error, urllib.request
for _ in range(int(sys.argv[2])):
    try:
        answer = urllib.request.urlopen(sys.argv[1], timeout=10)
        print(answer.status, *answer.read().decode().split())
    except urllib.error.HTTPError as error:
        print(error.code, *error.read().decode().split())
    except OSError as error:
        print(type(getattr(error, "reason", error)).__name__)
"""


@dataclass(frozen=True)
class Images:
    """Tags: the base of applications, the one with servers, fastmesh and its init image."""

    base: str
    servers: str
    fastmesh: str
    init: str


class Sidecar:
    """A proxy in the network of an application."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of the admin API; 0 and why not while nobody listens there."""
        status, _, body = self.container.exec("python3", "-c", FETCH, path).partition(" ")
        return int(status), body

    def is_ready(self) -> bool:
        assert self.container.state["Running"], self.container.logs()
        return self.get("readyz")[0] == 200

    def ready(self) -> None:
        eventually(self.is_ready, "the sidecar's readiness", within=30, every=0.1)

    def view(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.get(f"api/v1/{name}")[1])[name]
        return found

    def counters(self) -> Counters:
        return Counters(self.get("metrics")[1])


class Counters:
    """The counters of a sidecar at one moment."""

    def __init__(self, metrics: str) -> None:
        self._metrics = metrics

    def _sum(self, name: str, **labels: str) -> int:
        total = 0
        for inside, value in re.findall(rf"^{name}{{(.*)}} (\d+)$", self._metrics, re.MULTILINE):
            found = dict(re.findall(r'(\w+)="([^"]*)"', inside))
            total += int(value) if labels.items() <= found.items() else 0
        return total

    def requests(self, listener: str, service: str) -> int:
        return self._sum("fastmesh_requests_total", listener=listener, service=service)

    def connections(self, listener: str) -> int:
        return self._sum("fastmesh_connections_total", listener=listener)

    def errors(self, code: str) -> int:
        return self._sum("fastmesh_errors_total", code=code)


class Mesh:
    """One network of both families where the kernel has them."""

    def __init__(self, engine: Engine, images: Images, folder: Path) -> None:
        self.engine = engine
        self.images = images
        self._folder = folder
        self.network = engine.network(*(["--ipv6", "--subnet", ula()] if "IPv6" in FAMILIES else []))

    def application(self, name: str, *command: str, options: tuple[str, ...] = ()) -> Container:
        """A container of the base with this name in the network."""
        files = ("--volume", f"{APP}:/app.py:ro", "--volume", f"{ORIGIN}:/origin.py:ro")
        network = ("--network", self.network, "--network-alias", name)
        return self.engine.run("--init", *network, *files, *options, self.images.base, *command, name=name)

    def server(self, name: str, *command: str, options: tuple[str, ...] = ()) -> Container:
        """One of the image with servers."""
        network = ("--network", self.network, "--network-alias", name)
        return self.engine.run("--init", *network, *options, self.images.servers, *command, name=name)

    def sidecar(
        self, application: Container, text: str, *, redirect: bool = True, ready: bool = True
    ) -> Sidecar:
        """With `ready` it is waited for, and with `redirect` rules lead to it."""
        folder = self._folder / application.name
        folder.mkdir(mode=0o755)
        (folder / "fastmesh.yaml").write_text(text)
        container = self.engine.run(
            *("--network", f"container:{application.name}", *LOCKED),
            *("--volume", f"{folder}:/etc/fastmesh:ro"),
            *(self.images.fastmesh, "run", "fastmesh.yaml"),
            name=f"{application.name}-sidecar",
        )
        sidecar = Sidecar(container)
        if ready:
            sidecar.ready()
        if redirect:
            self.iptables(application, "--apply")
        return sidecar

    def iptables(self, application: Container, *arguments: str) -> str:
        """What the init image says in the application's network."""
        place = ("--network", f"container:{application.name}")
        return self.engine.docker(
            "run", "--rm", "--read-only", *PRIVILEGES, *place, self.images.init, *arguments, both=True
        )

    def saved(self, application: Container) -> list[str]:
        """The rules and the chains of their own of both families, all tables, as iptables-save has them."""
        place = ("--network", f"container:{application.name}", "--entrypoint", "sh")
        command = "iptables-save && echo IPv6 && ip6tables-save"
        text = self.engine.docker("run", "--rm", *PRIVILEGES, *place, self.images.init, "-c", command)
        return [
            line.partition(" [")[0]
            for line in text.splitlines()
            if line.startswith(("-A", "IPv6")) or (line.startswith(":") and line.split()[1] == "-")
        ]

    def address(self, container: Container, family: str) -> str:
        return str(container.inspect()["NetworkSettings"]["Networks"][self.network][ADDRESS[family]])


def ula() -> str:
    """A /64 of IPv6 that is nobody else's (RFC 4193)."""
    text = secrets.token_hex(7)
    return f"fd{text[:2]}:{text[2:6]}:{text[6:10]}:{text[10:14]}::/64"


def until_listening(container: Container, port: int = 8000, host: str = "127.0.0.1") -> None:
    """Within the container, where nothing of the loopback is redirected."""
    connect = f"import socket; socket.create_connection(('{host}', {port}), 5)"
    eventually(
        lambda: container.exec("sh", "-c", f'python3 -c "{connect}" 2>&1 || true') == "",
        f"somebody at port {port} of {container.name}",
        within=30,
        every=0.1,
    )


def ask(container: Container, url: str, times: int = 1) -> list[str]:
    """What an application in this container gets: `STATUS BODY`, or the name of the exception."""
    return container.exec("python3", "-c", ASK, url, str(times)).splitlines()


def url(host: str, port: int = 8000) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
