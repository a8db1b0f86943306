"""A network of the test's own: a namespace with a loopback interface and iptables, entered by this thread and
by every thread and process that it starts meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_SO_MARK = 36
_libc = ctypes.CDLL(None, use_errno=True)

# What carries this mark is redirected, so that the proxy in the same process is not.
MARK = 7


@contextlib.contextmanager
def own_network(*addresses: str) -> Iterator[None]:
    """The loopback interface has the ``addresses``, of either family, beside its own. Needs root."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.unshare(_CLONE_NEWNET))
        try:
            run("ip", "link", "set", "lo", "up")
            for address in addresses:
                run("ip", "address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
            yield
        finally:
            _checked(_libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)


def called_in(network: str, do: Callable[[], T], uid: int = 0) -> T:
    """What ``do`` returns, called by a thread in the namespace of the file ``network``, as that user; its
    sockets stay there."""
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with Path(network).open() as namespace:
                _checked(_libc.setns(namespace.fileno(), _CLONE_NEWNET))
            _libc.setfsgid(uid)
            _libc.setfsuid(uid)  # of this thread alone
            results.append(do())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def run(*argv: str) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(argv)}: {result.stderr}"
    return result.stdout


def redirect(to_port: int, *match: str, family: int = 4) -> None:
    """From now on marked connections that the rule matches go to a port of this machine."""
    tool = "iptables" if family == 4 else "ip6tables"
    rule = ("-p", "tcp", *match, "-m", "mark", "--mark", str(MARK), "-j", "REDIRECT", "--to-ports")
    run(tool, "-w", "-t", "nat", "-A", "OUTPUT", *rule, str(to_port))


def connect(host: str, port: int, *, mark: int = MARK, seconds: float = 10.0) -> socket.socket:
    """As an application whose connections are intercepted."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.settimeout(seconds)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock
