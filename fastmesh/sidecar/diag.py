"""Listening TCP sockets of this network namespace by sock_diag(7), which looks at those alone. Each reading
of `/proc/net/tcp` walks the table of all connections of the machine, and so takes milliseconds."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TCPF_LISTEN = 1 << 10
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBxI48x")  # family, protocol, extensions, states, no socket in particular
_ANSWER = struct.Struct("=4x2s2x16s16x12x12xII")  # port, address; uid, inode
_READ_BYTES = 64 * 1024
_SECONDS = 5.0


class Listening(NamedTuple):
    """One listening socket. `uid` is who opened it, `inode` what `/proc/PID/fd` calls it."""

    uid: int
    host: str
    port: int
    inode: int


def listening() -> list[Listening]:
    """IPv4 first. Raises OSError where the kernel does not offer this."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asked:
        asked.settimeout(_SECONDS)
        return [one for family in (socket.AF_INET, socket.AF_INET6) for one in _dump(asked, family)]


def _dump(asked: socket.socket, family: socket.AddressFamily) -> Iterator[Listening]:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _TCPF_LISTEN)
    flags = _NLM_F_REQUEST | _NLM_F_DUMP
    asked.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, flags, family, 0) + request)
    while True:
        data = asked.recv(_READ_BYTES)
        while data:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                (code,) = struct.unpack_from("=i", data, _HEADER.size)
                if code:
                    raise OSError(-code, "sock_diag")
                return
            port, address, uid, inode = _ANSWER.unpack_from(data, _HEADER.size)
            host = socket.inet_ntop(family, address[:4] if family == socket.AF_INET else address)
            yield Listening(uid, host, int.from_bytes(port, "big"), inode)
            data = data[(length + 3) & ~3 :]
