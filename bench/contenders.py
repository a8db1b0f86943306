"""What is measured: each proxy's configuration, command, version.

A contender runs in one of two variants: `plain` (logs off; an HTTP and, where it has one, a TCP listener) and
`logged` (the same with an access log in the combined format). All forward to the same origin on 127.0.0.1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.native import built
from bench.harness.place import BENCH, ROOT, BenchError, find_tool, free_ports, raise_descriptor_limit
from bench.harness.process import Child, wait_for_port

HTTP, TCP = "http", "tcp"
PLAIN, LOGGED = "plain", "logged"


@dataclass(frozen=True)
class Job:
    """What a contender is asked to run: where to put its files, whom to forward to, how."""

    folder: Path
    origin_port: int
    variant: str
    http_port: int
    tcp_port: int
    admin_port: int
    cpu: int

    @property
    def access_log(self) -> Path:
        return self.folder / "access.log"


@dataclass(frozen=True)
class Command:
    argv: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


@dataclass(frozen=True)
class Contender:
    """`command` writes its configuration into the job's folder; `version` raises if it is not installed."""

    name: str
    command: Callable[[Job], Command]
    version: Callable[[], str]
    listeners: frozenset[str] = frozenset({HTTP, TCP})
    variants: frozenset[str] = frozenset({PLAIN, LOGGED})
    has_admin: bool = False


class Running:
    """A contender that serves."""

    def __init__(self, contender: Contender, job: Job) -> None:
        command = contender.command(job)
        self.contender = contender
        self.job = job
        self.child = Child(
            contender.name,
            command.argv,
            log=job.folder / "output.log",
            cpu=job.cpu,
            env=command.env,
            cwd=command.cwd,
        )
        try:
            for port in self._ports():
                wait_for_port(self.child, port, timeout=30)
        except BaseException:
            self.stop()
            raise

    def _ports(self) -> list[int]:
        ports = [self.job.http_port]
        if TCP in self.contender.listeners:
            ports.append(self.job.tcp_port)
        if self.contender.has_admin:
            ports.append(self.job.admin_port)
        return ports

    def port(self, listener: str) -> int:
        return self.job.http_port if listener == HTTP else self.job.tcp_port

    def trim_log(self) -> None:
        """Empties the access log, so that a long run does not fill the disk. Writers append."""
        if self.job.access_log.exists():
            os.truncate(self.job.access_log, 0)

    def stop(self) -> None:
        self.child.stop(grace=2.0)


def start(contender: Contender, variant: str, *, origin_port: int, cpu: int, folder: Path) -> Running:
    """Starts it on free ports, its files in a new folder under `folder`; returns when it accepts."""
    own = folder / f"{contender.name}-{variant}-{len(list(folder.iterdir()))}"
    own.mkdir()
    http_port, tcp_port, admin_port = free_ports(3)
    return Running(contender, Job(own, origin_port, variant, http_port, tcp_port, admin_port, cpu))


def _fill(template: str, job: Job, **values: object) -> Path:
    """Writes `bench/peers/<template>` with each @NAME@ replaced; an unknown name is an error."""
    known = {
        "FOLDER": job.folder,
        "HTTP": job.http_port,
        "TCP": job.tcp_port,
        "ADMIN": job.admin_port,
        "ORIGIN": job.origin_port,
        "CONNECTIONS": connection_limit(),
        "DESCRIPTORS": raise_descriptor_limit(),
        **values,
    }
    text = (BENCH / "peers" / template).read_text().replace("@NAME@", "a name between at signs")
    path = job.folder / template
    path.write_text(re.sub(r"@([A-Z_]+)@", lambda match: str(known[match[1]]), text))
    return path


def connection_limit() -> int:
    """Client connections that each proxy is set up for, with descriptors left for its side of the origin."""
    return min(12_000, raise_descriptor_limit() - 1_500)


def _first_line(argv: Sequence[str]) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).strip().splitlines()
    if result.returncode or not lines:
        raise BenchError(f"{' '.join(argv)} failed: {' '.join(lines[-1:])}")
    return lines[0]


def _floor_command(job: Job) -> Command:
    return Command([str(built("relay_floor")), str(job.http_port), str(job.origin_port)])


def _floor_version() -> str:
    built("relay_floor")
    return "bench/relay_floor.c"


def _nginx_command(job: Job) -> Command:
    # Buffered as one who wants speed would do; unbuffered, each line is a write of its own.
    log = f"{job.access_log} combined buffer=64k flush=1s" if job.variant == LOGGED else "off"
    user = "user root;" if os.geteuid() == 0 else "# user: unprivileged"
    config = _fill("nginx.conf", job, ACCESS_LOG=log, USER=user)
    return Command([find_tool("nginx", "nginx"), "-p", str(job.folder), "-e", "stderr", "-c", str(config)])


def _nginx_version() -> str:
    return _first_line([find_tool("nginx", "nginx"), "-v"]).removeprefix("nginx version: ")


def _haproxy_command(job: Job) -> Command:
    return Command([find_tool("haproxy", "haproxy"), "-db", "-f", str(_fill("haproxy.cfg", job))])


def _haproxy_version() -> str:
    return " ".join(_first_line([find_tool("haproxy", "haproxy"), "-v"]).split()[:3])


def fastmesh_python() -> str:
    """The interpreter that can run fastmesh: $FASTMESH_PYTHON, this one, or the checkout's `.venv`."""
    venv = ROOT / ".venv/bin/python"
    for python in (os.environ.get("FASTMESH_PYTHON"), sys.executable, str(venv) if venv.exists() else None):
        if python and shutil.which(python):
            probe = [python, "-c", "import fastmesh.engine, fastmesh.cli"]
            if subprocess.run(probe, capture_output=True, cwd=ROOT, check=False).returncode == 0:
                return python
    raise BenchError("fastmesh is not built for any Python found; run `make build`, or set FASTMESH_PYTHON")


def _fastmesh_command(job: Job) -> Command:
    log = f"access_log: {{to: {job.access_log}, format: combined}}"
    config = _fill("fastmesh.yaml", job, ACCESS_LOG=log if job.variant == LOGGED else "")
    return Command(
        [fastmesh_python(), "-m", "fastmesh", "run", str(config)],
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=job.folder,
    )


def _fastmesh_version() -> str:
    python = fastmesh_python()
    script = "import fastmesh, sys; print('fastmesh', fastmesh.__version__, 'Python', sys.version.split()[0])"
    result = subprocess.run([python, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return result.stdout.strip()


FLOOR = Contender("floor", _floor_command, _floor_version, frozenset({HTTP}), frozenset({PLAIN}))
FASTMESH = Contender("fastmesh", _fastmesh_command, _fastmesh_version, has_admin=True)
NGINX = Contender("nginx", _nginx_command, _nginx_version, frozenset({HTTP}))
HAPROXY = Contender("haproxy", _haproxy_command, _haproxy_version, variants=frozenset({PLAIN}))

CONTENDERS: dict[str, Contender] = {c.name: c for c in (FLOOR, FASTMESH, NGINX, HAPROXY)}


def start_origin(ports: Sequence[int], *, cpu: int, folder: Path) -> Child:
    """The origin on these ports; several ports are several endpoints of one process."""
    argv = [str(built("origin")), *map(str, ports)]
    origin = Child("origin", argv, log=folder / "origin.log", cpu=cpu)
    for port in ports:
        wait_for_port(origin, port)
    return origin
