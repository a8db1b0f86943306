"""Listening sockets that this process did not open."""

from __future__ import annotations

import socket

from msgspec import Struct


class Given(Struct, frozen=True):
    """The sockets of one address, handed in by systemd or by the process that served before.

    `ours`: this process cares for them from now on, so the file of a Unix socket goes with them. Otherwise
    another process holds them too, and goes on when this one ends.
    """

    sockets: tuple[socket.socket, ...]
    ours: bool
