"""Asks our own C programs by datagrams to their control sockets."""

from __future__ import annotations

import socket
from pathlib import Path

ANSWER_SECONDS = 5.0


def connect_control(path: Path) -> socket.socket:
    """OSError if nobody reads there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(ANSWER_SECONDS)
        connection.bind("")  # an address of the kernel's choice, where the answer goes
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def is_heard(path: Path) -> bool:
    try:
        with connect_control(path):
            return True
    except OSError:
        return False


def ask_control(path: Path, command: str) -> str:
    """The answer, or what the program complains of without its `error: `; OSError if none comes."""
    with connect_control(path) as connection:
        connection.send(command.encode())
        return connection.recv(512).decode().rstrip("\n").removeprefix("error: ")
