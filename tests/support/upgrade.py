"""Processes of fastmesh one after another on one file: each takes over from the one before."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from support.client import Address
from support.proxy import Proxy
from support.waiting import eventually


def successor(before: Proxy, config: dict[str, Any] | str | None = None, *, apart: bool = False) -> Proxy:
    """Not started yet. Its file is the other's, rewritten with ``config``, which that one then sees too; or
    one of its own (``apart``). Logs are its own."""
    proxy = Proxy(before.folder, "", arguments=before.arguments, environment=before.environment)
    proxy.admin_port = before.admin_port
    if not apart:
        proxy.file.unlink()
        proxy.file = before.file
    if config is not None:
        proxy.write(config)
    return proxy


def wait_serving(proxy: Proxy) -> Proxy:
    """It has taken over and says so. (The admin API may be answered by either until then.)"""

    def serves() -> bool:
        assert proxy.is_alive(), f"it ended with {proxy.process and proxy.process.poll()}:\n{proxy.stderr}"
        return "fastmesh: fastmesh " in proxy.stderr

    eventually(serves, "the line that says that it serves", within=20)
    return proxy


def upgrade(before: Proxy, config: dict[str, Any] | str | None = None, *, apart: bool = False) -> Proxy:
    """Starts a successor; it serves when this returns, and the one before drains."""
    after = successor(before, config, apart=apart).start(ready=False)
    try:
        return wait_serving(after)
    except BaseException:
        after.kill()
        raise


def process_of(proxy: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = proxy.api("process")
    return found


def is_running(pid: int) -> bool:
    """Also of a process that is not our child; a zombie does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def end(pid: int) -> None:
    """A process that is not our child drains and ends."""
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not is_running(pid), f"the end of pid {pid}", within=15)


class NewConnections:
    """Threads that open a connection for each request, until the end of the block. `failures` says what was
    not a whole answer of 200."""

    def __init__(self, address: Address, threads: int = 4, pause: float = 0.002) -> None:
        self.answered = 0
        self.failures: Counter[str] = Counter()
        self._address = address
        self._pause = pause
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> NewConnections:
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.answered > 20, "answers", within=10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _run(self) -> None:
        while not self._over.is_set():
            what = self._once()
            with self._lock:
                self.answered += what == ""
                if what:
                    self.failures[what] += 1
            time.sleep(self._pause)

    def _once(self) -> str:
        """Empty if it went well."""
        family = socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            received = b""
            try:
                sock.connect(self._address)
                sock.sendall(b"GET /new HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                while more := sock.recv(65536):
                    received += more
            except OSError as error:
                return f"{type(error).__name__} after {len(received)} bytes"
        head, blank, _ = received.partition(b"\r\n\r\n")
        if not blank:
            return f"ended after {received!r}"
        return "" if head.startswith(b"HTTP/1.1 200") else head.split(b"\r\n")[0].decode()
