"""A service manager's end of sd_notify(3): a datagram socket that keeps what it is told."""

from __future__ import annotations

import socket
from pathlib import Path

from support.waiting import eventually

Message = dict[str, str]


class Manager:
    """Listens at ``address``: a path, or ``@name`` for an abstract one. `told` are all messages so far."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.told: list[Message] = []
        self.lines: list[list[str]] = []  # the same, as they were written
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)

    def hear(self) -> list[Message]:
        """All messages so far; each is a mapping, and none may say the same thing twice."""
        while True:
            try:
                lines = self._sock.recv(1 << 16).decode().split("\n")
            except BlockingIOError:
                return self.told
            message = dict(line.split("=", 1) for line in lines)
            assert len(message) == len(lines), lines
            self.lines.append(lines)
            self.told.append(message)

    def wait_for(self, key: str, times: int = 1, *, within: float = 10.0) -> Message:
        """The message that says ``key`` for the ``times``-th time."""

        def found() -> list[Message] | None:
            those = [message for message in self.hear() if key in message]
            return those if len(those) >= times else None

        try:
            return eventually(found, f"{key}, {times} times", within=within)[times - 1]  # type: ignore[index]
        except AssertionError as error:
            raise AssertionError(f"{error}; it was told {self.lines}") from None

    def states(self) -> list[str]:
        """What the messages are about, in order: the first key of each that is not only a status."""
        return [next(iter(message)) for message in self.hear() if next(iter(message)) != "STATUS"]

    def close(self) -> None:
        self._sock.close()
        if not self.address.startswith("@"):
            Path(self.address).unlink(missing_ok=True)
