"""What two fastmesh say to each other when one takes over from the other: lines of JSON over a Unix socket.

    successor                                    predecessor
    Hello(protocol, version, pid)       ->
                                        <-       Offer(protocol, version, pid, groups, …), or refused
                                        <-       Descriptors(count), with so many sockets; several times
                                        <-       Endpoints(endpoints); several times
    Serving(listeners, admin, takeover) ->
                                        <-       Left(), or refused

Sockets travel beside the bytes of a line (SCM_RIGHTS, unix(7)), in the order of the groups. Fields that one
side does not know are ignored, so that versions can differ; `PROTOCOL` grows when that does not suffice. The
fields `protocol` and `refused` are there in each protocol.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Annotated, TypeVar

import msgspec
import trio
from msgspec import Meta, Struct

from fastmesh.admin.control import DrainTarget
from fastmesh.discovery import KnownName
from fastmesh.errors import FastmeshError
from fastmesh.model.told import Told

PROTOCOL = 1
MOST_DESCRIPTORS = 253  # of one message: SCM_MAX_FD of the kernel
ENDPOINTS_A_LINE = 500
LINE_BYTES = 4 * 1024 * 1024
READ_BYTES = 64 * 1024

LISTENER, ADMIN, TAKEOVER = "listener", "admin", "takeover"


class Hello(Struct, frozen=True):
    """The successor has a valid configuration and asks for everything."""

    protocol: int
    version: str = ""
    pid: int = 0


class Group(Struct, frozen=True):
    """The sockets of one address, `kind` says what for. `ours`: whoever serves them removes the file of a
    Unix socket; otherwise somebody else, such as systemd, holds them too."""

    kind: str
    bind: str
    sockets: Annotated[int, Meta(ge=1)]
    ours: bool = True


class Offer(Struct, frozen=True):
    """All that is handed over; so many `endpoints` follow. `names` are what is known of names. With
    `refused`, nothing is, and it says why."""

    protocol: int
    refused: str = ""
    version: str = ""
    pid: int = 0
    groups: tuple[Group, ...] = ()
    drains: tuple[DrainTarget, ...] = ()  # what the API asked for
    endpoints: int = 0
    names: tuple[KnownName, ...] = ()


class Descriptors(Struct, frozen=True):
    """So many sockets come with this line."""

    descriptors: int


class Endpoints(Struct, frozen=True):
    endpoints: tuple[Told, ...]


class Serving(Struct, frozen=True):
    """The successor serves, and from the sockets of these binds. The predecessor keeps those that it does not
    name, and takes what waits there before it closes them."""

    listeners: tuple[str, ...]
    admin: tuple[str, ...]
    takeover: tuple[str, ...]


class Left(Struct, frozen=True):
    """The predecessor has let go, or with `refused` it has not and goes on. (That can come in place of an
    `Offer` too.)"""

    refused: str = ""
    protocol: int = PROTOCOL


class Disagreement(FastmeshError):
    """The other side said what makes no sense, or cannot be understood."""


class Gone(FastmeshError):
    """The other side closed the connection, or died."""


Message = TypeVar("Message", bound=Struct)


def peer_of(sock: trio.socket.SocketType) -> tuple[int, int]:
    """(pid, uid) of the process at the other end when it connected, or began to listen: SO_PEERCRED."""
    size = struct.calcsize("=iII")
    pid, uid, _ = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


class Wire:
    """One connection. Descriptors that came and were not taken are closed with it."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self._received = bytearray()
        self._descriptors: deque[int] = deque()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())
        if self.sock.fileno() != -1:
            os.close(self.sock.detach())  # also when trio does not run any more

    def say_last(self, message: Struct) -> None:
        """As `send`, for one who cannot wait: if it does not go at once, it is not said."""
        with suppress(OSError):
            os.write(self.sock.fileno(), msgspec.json.encode(message) + b"\n")

    async def send(self, message: Struct, descriptors: Sequence[int] = ()) -> None:
        """Raises Gone."""
        data = memoryview(msgspec.json.encode(message) + b"\n")
        beside = []
        if descriptors:
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            while data:
                sent = await self.sock.sendmsg([data], beside)
                data, beside = data[sent:], []
        except OSError as error:
            raise Gone("the other process closed the connection") from error

    async def receive(self, kind: type[Message]) -> Message:
        """The next line, which must be such a message. Raises Disagreement and Gone."""
        end = self._received.find(b"\n")
        while end < 0:
            if len(self._received) > LINE_BYTES:
                raise Disagreement(f"a line of more than {LINE_BYTES} bytes")
            looked = len(self._received)
            await self._read()
            end = self._received.find(b"\n", looked)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            return msgspec.json.decode(line, type=kind)
        except msgspec.MsgspecError as error:
            raise Disagreement(f"`{line[:80]!r}` is no {kind.__name__}: {error}") from error

    async def _read(self) -> None:
        room = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, beside, flags, _ = await self.sock.recvmsg(READ_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise Gone("the other process closed the connection") from error
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                self._descriptors.extend(found)
        if flags & socket.MSG_CTRUNC:
            raise Disagreement("not all sockets arrived: raise the limit of file descriptors (ulimit -n)")
        if not data:
            raise Gone("the other process closed the connection")
        self._received += data

    async def send_sockets(self, sockets: Sequence[socket.socket]) -> None:
        for first in range(0, len(sockets), MOST_DESCRIPTORS):
            part = [sock.fileno() for sock in sockets[first : first + MOST_DESCRIPTORS]]
            await self.send(Descriptors(len(part)), part)

    async def receive_sockets(self, count: int) -> list[socket.socket]:
        """So many, not blocking and close-on-exec; none stays open when it raises."""
        sockets: list[socket.socket] = []
        try:
            while len(sockets) < count:
                told = (await self.receive(Descriptors)).descriptors
                if told != len(self._descriptors) or not 0 < told <= count - len(sockets):
                    raise Disagreement(f"{len(self._descriptors)} sockets came where {told} were announced")
                while self._descriptors:
                    sockets.append(_as_socket(self._descriptors.popleft()))
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    async def send_endpoints(self, told: Sequence[Told]) -> None:
        for first in range(0, len(told), ENDPOINTS_A_LINE):
            await self.send(Endpoints(tuple(told[first : first + ENDPOINTS_A_LINE])))

    async def receive_endpoints(self, count: int) -> tuple[Told, ...]:
        told: list[Told] = []
        while len(told) < count:
            more = (await self.receive(Endpoints)).endpoints
            if not 0 < len(more) <= count - len(told):
                raise Disagreement(f"{len(more)} endpoints where {count - len(told)} were to come")
            told += more
        return tuple(told)


def _as_socket(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        os.close(descriptor)
        raise Disagreement("a descriptor came that is no socket") from error
    sock.setblocking(False)
    return sock
