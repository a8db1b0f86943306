"""One active check of one endpoint: a connection, and what comes over it."""

from __future__ import annotations

import errno
import socket

import trio
from msgspec import Struct, structs

from fastmesh.model import Address, Health
from fastmesh.units import format_duration

READ_BYTES = 4096

# What went wrong on this side says nothing about the endpoint.
_OWN_TROUBLE = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EAGAIN}
)
_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "the connection was reset",
    errno.EPIPE: "the connection was reset",
    errno.ENOENT: "the socket's file does not exist",
    errno.ENOTCONN: "its queue of connections is full",
}


class Result(Struct, frozen=True, gc=False):
    """What a check found. ``passed`` None: fastmesh itself could not check, so nothing is known. ``text`` is
    a sentence part for people: `answered 500, expected 200-399`."""

    passed: bool | None
    text: str


def passed(text: str) -> Result:
    return Result(True, text)


def failed(text: str) -> Result:
    return Result(False, text)


def asked_address(address: Address, health: Health) -> Address:
    """Where the check connects to: the endpoint, at another port if ``health`` names one."""
    if health.port is None:
        return address
    return structs.replace(address, port=health.port)


async def run_check(address: Address, health: Health) -> Result:
    """Checks ``address`` (not a host name) once, within ``health.timeout`` seconds in all."""
    waits_for = "no connection"
    with trio.move_on_after(health.timeout):
        try:
            stream = await _connect(asked_address(address, health))
        except OSError as error:
            return _explain(error)
        try:
            if health.type == "tcp":
                return passed("connected")
            from fastmesh.health.http import Conversation  # h11 is loaded for those who need it

            conversation = Conversation(asked_address(address, health), health)
            waits_for = "no answer"
            await stream.send_all(conversation.request)
            while True:
                result = conversation.receive(await stream.receive_some(READ_BYTES))
                if result is not None:
                    return result
                if conversation.in_body:
                    waits_for = "no whole answer"
        except trio.BrokenResourceError as error:
            return _explain(error.__cause__)
        finally:
            stream.socket.close()
    return failed(f"{waits_for} within {_spaced(health.timeout)}")


async def _connect(address: Address) -> trio.SocketStream:
    """Raises OSError."""
    where: str | tuple[str, int]
    if address.kind == "unix":
        family, where = socket.AF_UNIX, address.path
    else:
        family = socket.AF_INET6 if address.kind == "inet6" else socket.AF_INET
        where = (address.host, address.port)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect(where)
        # A Unix socket whose queue is full says "again" to connect(2), which looks like success here.
        sock.getpeername()
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def _explain(error: BaseException | None) -> Result:
    if not isinstance(error, OSError) or error.errno is None:
        return failed(str(error) if error is not None else "the connection broke")
    words = _WORDS.get(error.errno) or (error.strerror or str(error)).lower()
    return Result(None, words) if error.errno in _OWN_TROUBLE else failed(words)


def _spaced(seconds: float) -> str:
    """`1 s`, `250 ms`."""
    text = format_duration(seconds)
    number = text.rstrip("msdh")
    return f"{number} {text[len(number) :]}"
