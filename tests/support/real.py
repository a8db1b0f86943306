"""Real programs beside the proxy: nginx as an origin, curl and wrk as clients."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.harness.process import process_tree
from support.client import Client
from support.ports import free_port
from support.waiting import eventually


def environment() -> dict[str, str]:
    """This process's environment without what a sanitizer run preloads into Python."""
    return {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}


def program(name: str) -> str:
    """Path of a program; the test is skipped where it is not installed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class Nginx:
    """An nginx of its own: temporary configuration and folder, a free port, one worker, in the foreground."""

    def __init__(self, folder: Path, server: str, *, listen: str = "") -> None:
        self.folder = folder / "nginx"
        self.folder.mkdir()
        self.port = free_port()
        self.text = f"127.0.0.1:{self.port}"
        self.root = self.folder / "html"
        self.root.mkdir()
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        self.file = self.folder / "nginx.conf"
        self.file.write_text(
            f"{user}worker_processes 1;\ndaemon off;\npid {self.folder}/pid;\n"
            f"error_log {self.folder}/error.log;\n"
            "events { worker_connections 1024; }\n"
            f"http {{\naccess_log off;\nkeepalive_requests 1000000;\n{temporary}"
            f"server {{\nlisten {self.text} {listen};\nroot {self.root};\n{server}\n}}\n}}\n"
        )
        self.start()

    def start(self) -> None:
        """Also after `stop` or `kill`: on the same port."""
        self.process = subprocess.Popen(
            [
                program("nginx"),
                "-c",
                str(self.file),
                "-e",
                str(self.folder / "error.log"),
                "-p",
                str(self.folder),
            ],
            env=environment(),
        )
        eventually(self._answers, "nginx to listen", within=10)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "error.log").read_text()
        try:
            Client(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def kill(self) -> None:
        """SIGKILL to the master and its workers; returns when they are gone."""
        tree = process_tree(self.process.pid)
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        workers = [Path(f"/proc/{pid}/stat") for pid in tree[1:]]
        eventually(lambda: all(map(_is_gone, workers)), "nginx's workers to end", within=10)


def _is_gone(stat: Path) -> bool:
    """No longer there, or only waited for."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@dataclass
class Curled:
    """What a curl run printed. `status` is that of the last response; `head` all response heads."""

    code: int
    status: int
    head: str
    body: bytes
    stderr: str


def curl(*arguments: str, stdin: bytes | None = None, timeout: float = 30) -> Curled:
    """Run curl quietly; its exit code is for the caller to judge."""
    run = subprocess.run(
        [
            program("curl"),
            "-sS",
            "-g",
            "--max-time",
            str(timeout),
            "--dump-header",
            "/dev/stderr",
            *arguments,
        ],
        input=stdin,
        capture_output=True,
        timeout=timeout + 5,
        env=environment(),
        check=False,
    )
    stderr = run.stderr.decode("latin-1")
    statuses = re.findall(r"^HTTP/1\.[01] ([0-9]{3})", stderr, re.MULTILINE)
    return Curled(run.returncode, int(statuses[-1]) if statuses else 0, stderr, run.stdout, stderr)


@dataclass
class Measured:
    """What a wrk run counted."""

    requests: int
    socket_errors: int
    bad_statuses: int
    output: str


def wrk(
    url: str, *, connections: int, seconds: int, threads: int = 1, arguments: tuple[str, ...] = ()
) -> Measured:
    """Run wrk and read its report. Socket errors and responses other than 2xx and 3xx are counted."""
    run = subprocess.run(
        [
            program("wrk"),
            f"-c{connections}",
            f"-t{threads}",
            f"-d{seconds}s",
            "--timeout",
            "5s",
            *arguments,
            url,
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 20,
        env=environment(),
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    requests = re.search(r"([0-9]+) requests in", run.stdout)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", run.stdout)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", run.stdout)
    assert requests is not None, run.stdout
    return Measured(
        int(requests[1]),
        sum(int(number) for number in errors.groups()) if errors else 0,
        int(bad[1]) if bad else 0,
        run.stdout,
    )
