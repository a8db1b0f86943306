"""A TCP server for tests whose connections are handled by a function in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path


class TcpServer:
    """`handler(sock)` runs for each connection; the socket is closed behind it. Failures are kept for the
    test."""

    def __init__(
        self, handler: Callable[[socket.socket], None], *, path: Path | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.handler = handler
        self.failures: list[BaseException] = []
        self.accepted = 0
        self._threads: list[threading.Thread] = []
        if path is not None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self.text = f"unix:{path}"
        else:
            self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self._listener.bind((host, 0))
            self.port = self._listener.getsockname()[1]
            self.text = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(20)
            self.handler(sock)
        except Exception as error:
            self.failures.append(error)
        finally:
            sock.close()

    def __enter__(self) -> TcpServer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
        if kind is None and self.failures:
            raise self.failures[0]


def receive_all(sock: socket.socket) -> bytes:
    """Everything up to the peer's FIN."""
    parts = []
    while data := sock.recv(1 << 18):
        parts.append(data)
    return b"".join(parts)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        data = sock.recv(min(size, 1 << 18))
        assert data, f"ended {size} bytes short"
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def echo(sock: socket.socket) -> None:
    """Send back what comes; FIN for FIN."""
    while data := sock.recv(1 << 18):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
