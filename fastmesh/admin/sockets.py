"""Binding the admin address, by plain sockets so that it happens before anything else starts."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastmesh.admin.rules import split_host
from fastmesh.errors import StartError
from fastmesh.model import Bind, Given

_Found = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]

BACKLOG = 128
UNIX_MODE = 0o600  # POST is open to whoever may connect, so only the owner (and root) may


class AdminListening:
    """The listening sockets of one ``bind``. ``ours``: no other process cares for them, and the file of a
    Unix socket is removed with them."""

    def __init__(self, bind: str, sockets: list[socket.socket], ours: bool = True) -> None:
        self.bind = bind
        self.sockets = sockets
        self.ours = ours

    def close(self) -> None:
        if self.ours:
            close_admin_sockets(self.sockets)
        else:
            self.leave()

    def leave(self) -> None:
        """Closes the descriptors, but not what they stand for: another process holds it too."""
        self.ours = False
        for listening in self.sockets:
            listening.close()


def open_admin(bind: str, given: Mapping[str, Given] | None = None) -> AdminListening:
    """As `open_admin_sockets`; who cares for a socket that was handed in cares on."""
    handed_in = {} if given is None else given
    used = [handed_in[text] for text in admin_addresses(bind) if text in handed_in]
    sockets = open_admin_sockets(bind, handed_in)
    return AdminListening(bind, sockets, ours=all(item.ours for item in used))


def admin_addresses(bind: str) -> list[str]:
    """``bind`` itself, and the addresses that it stands for, as texts that sockets are known by."""
    with suppress(StartError):
        return [bind, *(_text(address) for _, _, _, _, address in _resolve(bind))]
    return [bind]


def open_admin_sockets(bind: str, given: Mapping[str, Given] | None = None) -> list[socket.socket]:
    """Listening sockets for ``host:port``, ``:port`` (every address) or ``unix:/path``; those that ``given``
    has for an address, by its text, are used. Raises StartError, which says what to do."""
    handed_in = {} if given is None else given
    if bind in handed_in:
        return list(handed_in[bind].sockets)
    if bind.startswith("unix:"):
        return [_open_unix(bind.removeprefix("unix:"))]
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in _resolve(bind):
            if _text(address) in handed_in:
                sockets += handed_in[_text(address)].sockets
            else:
                sockets.append(_open_inet(family, kind, protocol, address))
    except OSError as error:
        for item in sockets:
            item.close()
        raise StartError(f"admin: {_explain(bind, error)}") from error
    return sockets


def _resolve(bind: str) -> Sequence[_Found]:
    """What getaddrinfo(3) makes of it; nothing for a Unix socket."""
    if bind.startswith("unix:"):
        return []
    host, port = split_host(bind)
    try:
        return socket.getaddrinfo(
            host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except (OSError, ValueError) as error:
        raise StartError(
            f"admin: cannot listen on {bind}: {error}; write an address such as 127.0.0.1:9400"
        ) from error


def _text(address: tuple[object, ...]) -> str:
    """Of an IP address the text is the same for both families."""
    return Bind("inet6", str(address[0]), int(str(address[1]))).text


def _open_inet(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _open_unix(path: str) -> socket.socket:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Made with no rights for others from its first moment on.
    before = os.umask(0o777 & ~UNIX_MODE)
    try:
        listening.bind(path)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise StartError(f"admin: {_explain(f'unix:{path}', error)}") from error
    finally:
        os.umask(before)
    return listening


def _remove_stale(path: str) -> None:
    """Removes the socket file of a process that is gone; one that is served raises StartError."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise StartError(f"admin: {path} exists and is not a socket; remove it or choose another path")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"admin: {_explain(f'unix:{path}', error)}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(OSError):
                Path(path).unlink()
            return
        except OSError:
            return  # bind will say what is wrong
    raise StartError(
        f"admin: unix:{path} is in use, probably by another fastmesh; stop it, or choose another `admin`"
    )


def _explain(bind: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"{bind} is in use, probably by another fastmesh; stop what listens there "
            f"(`ss -ltnp` shows it), or set `admin` to another address or to off"
        )
    if error.errno == errno.EACCES:
        return f"no permission to listen on {bind}; choose a port above 1023 or another path"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{bind} is not an address of this machine; `ip addr` lists them"
    return f"cannot listen on {bind}: {error.strerror}"


def close_admin_sockets(sockets: list[socket.socket]) -> None:
    """Closes them and removes the file of a Unix socket."""
    for listening in sockets:
        path = ""
        if listening.family == socket.AF_UNIX and listening.fileno() != -1:
            path = listening.getsockname()
        listening.close()
        if path:
            with suppress(OSError):
                Path(path).unlink()


def admin_url(listening: socket.socket) -> str:
    """Where a user finds the API that ``listening`` serves."""
    address = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{address}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}/"
