"""Children that are pinned to a CPU, die with us, and are ended by their own pid."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.harness.place import BenchError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants that are alive, itself first."""
    found = [pid]
    for parent in found:
        tasks = Path(f"/proc/{parent}/task")
        try:
            for task in tasks.iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _in_child(cpu: int | None) -> Callable[[], None]:
    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})

    return prepare


class Child:
    """One started program; its output goes to a file."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        cpu: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.argv = list(argv)
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else {**os.environ, **env},
                cwd=cwd,
                preexec_fn=_in_child(cpu),  # safe: this program has one thread
            )
        self.pid = self._popen.pid
        self._seen: dict[int, str] = {}  # pid -> when it was started

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def tree(self) -> list[int]:
        """Itself and all that it started and that is alive. What was seen here once is ended by `stop`, even
        when its parent was killed and it is nobody's child any more."""
        tree = process_tree(self.pid)
        self._seen.update({pid: _started_at(pid) for pid in tree if pid not in self._seen})
        return tree

    def log_tail(self, lines: int = 12) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def check_alive(self) -> None:
        code = self.exit_code()
        if code is not None:
            raise BenchError(f"{self.name} ended with exit code {code}:\n{self.log_tail()}")

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, timeout: float) -> int | None:
        """Exit code, or None when it still runs after `timeout` seconds.

        Sleeps until then; Popen.wait looks every few ms, on the core that the load runs on.
        """
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:  # ended and waited for, or a kernel that has no pidfd
            return self._wait_looking(timeout)
        try:
            select.select([handle], [], [], timeout)
        finally:
            os.close(handle)
        return self.exit_code()

    def _wait_looking(self, timeout: float) -> int | None:
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, grace: float = 1.0) -> None:
        """TERM, then after `grace` seconds KILL, to it and what it started."""
        self.tree()
        if self.exit_code() is None:
            self._popen.terminate()
            self.wait(grace)
        for pid, started_at in reversed(self._seen.items()):
            if pid != self.pid and started_at and _started_at(pid) == started_at:
                _kill(pid)
        if self.exit_code() is None:
            self._popen.kill()
            self._popen.wait()


def _started_at(pid: int) -> str:
    """In clock ticks since boot (proc(5), starttime): tells it from a later one with its pid; empty: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wait_for_port(child: Child, port: int, timeout: float = 10.0) -> None:
    """Returns when something accepts on 127.0.0.1:port; the child ending meanwhile is an error."""
    wait_until(lambda: _accepts(port), child, f"listen on port {port}", timeout)


def wait_until(condition: Callable[[], bool], child: Child, what: str, timeout: float = 10.0) -> None:
    """Polls until the condition holds; says what did not happen, with the child's last output."""
    deadline = time.monotonic() + timeout
    while not condition():
        child.check_alive()
        if time.monotonic() > deadline:
            raise BenchError(f"{child.name} did not {what} within {timeout:g} s:\n{child.log_tail()}")
        time.sleep(0.01)


def catches(pid: int, number: int) -> bool:
    """Whether the process has installed a handler for the signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return bool(int(mask, 16) >> (number - 1) & 1)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
