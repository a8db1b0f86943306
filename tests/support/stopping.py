"""Stopping one thread of another process for a while, by ptrace(2), while its other threads run on.

The thread of the test that stops it is the one that must let it go.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from support.waiting import eventually

_SEIZE, _INTERRUPT, _DETACH, _SYSCALL = 0x4206, 0x4207, 17, 24
_TRACE_SYSCALLS = 1  # PTRACE_O_TRACESYSGOOD
_ALL_THREADS = 0x40000000  # __WALL
_POLLING = {"x86_64": (232, 281), "aarch64": (22,)}[os.uname().machine]  # epoll_wait and epoll_pwait

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long] * 4
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, tid: int, data: int = 0) -> None:
    if _libc.ptrace(request, tid, 0, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace of thread {tid}: {os.strerror(number)}")


def thread_named(pid: int, name: str) -> int:
    """The id of the thread that the kernel knows by this name."""
    found = [
        int(task.name)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if (task / "comm").read_text().strip() == name
    ]
    assert len(found) == 1, f"{len(found)} threads of {pid} are called {name}"
    return found[0]


@contextlib.contextmanager
def stopped(tid: int) -> Iterator[None]:
    """The thread stands still, wherever it is, until the end of the block."""
    _ptrace(_SEIZE, tid)
    try:
        _ptrace(_INTERRUPT, tid)
        os.waitpid(tid, _ALL_THREADS)
        yield
    finally:
        _ptrace(_DETACH, tid)


@contextlib.contextmanager
def stopped_at_work(tid: int) -> Iterator[None]:
    """Like `stopped`, but at a system call other than waiting for events: a worker is then within a turn.
    Something must give it work."""
    _ptrace(_SEIZE, tid, _TRACE_SYSCALLS)
    try:
        _ptrace(_INTERRUPT, tid)
        os.waitpid(tid, _ALL_THREADS)
        eventually(lambda: _at_work(tid), "a system call of a turn", within=20, every=0)
        yield
    finally:
        _ptrace(_DETACH, tid)


def _at_work(tid: int) -> bool:
    _ptrace(_SYSCALL, tid)
    os.waitpid(tid, _ALL_THREADS)
    number = Path(f"/proc/{tid}/syscall").read_text().split()[0]
    return number.isdecimal() and int(number) not in _POLLING
