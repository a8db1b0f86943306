"""Socket activation by systemd: listening sockets that it opened and keeps, by sd_listen_fds(3).

They are known by their address: a listener, or the admin API, that binds the same address is served from
them. systemd goes on holding them, so that clients wait in their queues while no fastmesh runs.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from pathlib import Path

from fastmesh.admin.sockets import admin_addresses
from fastmesh.errors import StartError
from fastmesh.model import Bind, Config, Given

log = logging.getLogger("fastmesh.activation")

FIRST_DESCRIPTOR = 3
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
# There only if the kernel has IPv6. Without it `:80` is 0.0.0.0:80, for systemd and for fastmesh.
IPV6_ADDRESSES = Path("/proc/net/if_inet6")


def take_sockets(first: int = FIRST_DESCRIPTOR) -> dict[str, Given]:
    """The sockets that systemd handed to this process, by the text of their address; empty without any.

    They are not passed on to other programs, and neither are the variables. A descriptor that cannot be
    served is closed, with a warning. Raises StartError if the variables make no sense.
    """
    for_whom, count, names = (os.environ.pop(name, "") for name in VARIABLES)
    if for_whom != str(os.getpid()):
        return {}
    if not count.isdecimal():
        raise StartError(f"LISTEN_FDS is `{count}`, which is no number; start it by systemd or without")
    named = names.split(":") if names else []
    found: dict[str, list[socket.socket]] = {}
    for number in range(int(count)):
        name = named[number] if number < len(named) else "unknown"
        listening = _listening_socket(first + number, name)
        if listening is not None:
            found.setdefault(address_text(listening), []).append(listening)
    if found:
        log.info("systemd handed in %s", ", ".join(found))
    return {text: Given(tuple(sockets), ours=False) for text, sockets in found.items()}


def _listening_socket(descriptor: int, name: str) -> socket.socket | None:
    """The socket behind the descriptor, close-on-exec; None for anything but a TCP or Unix socket that
    listens."""
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise StartError(
                f"descriptor {descriptor} ({name}), which LISTEN_FDS announces, is not open; whatever starts "
                "fastmesh must leave the descriptors alone"
            ) from error
        os.close(descriptor)
    else:
        served = sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        if served and sock.type == socket.SOCK_STREAM and _listens(sock):
            return sock
        sock.close()
    log.warning(
        "descriptor %d (%s) from systemd is no listening TCP or Unix stream socket and is not used; the "
        ".socket unit may have ListenStream= alone, and Accept=no",
        descriptor,
        name,
    )
    return None


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def address_text(sock: socket.socket) -> str:
    """The address as the text of a `Bind` that would bind it. An abstract Unix address, which none has, is
    shown with ``@``."""
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = os.fsdecode(address)
        return "unix:" + (f"@{path[1:]}" if path.startswith("\0") else path)
    host, port = address[:2]
    if sock.family == socket.AF_INET:
        return Bind("inet", host, port).text
    every = host == "::" and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return Bind("inet6", "" if every else host, port).text


def share_out(given: dict[str, Given], config: Config, *, warn: bool = True) -> dict[str, Given]:
    """Takes the sockets of the admin API out of ``given``, names those that stay as the listeners of
    ``config`` do, and warns of those that none of them binds: who connects there waits in vain. They are
    kept, for a listener that a later change brings."""
    bound = admin_addresses(config.admin.bind) if config.admin.bind is not None else []
    for_admin = {text: given.pop(text) for text in bound if text in given}
    binds = {bind.text: bind for listener in config.listeners.values() for bind in listener.binds}
    for text, bind in binds.items():
        for other in _same_place(bind):
            if text not in given and other in given and other not in binds:
                given[text] = given.pop(other)
    for text in sorted(text for text in given.keys() - binds.keys() if not given[text].ours):
        if warn:
            log.warning("%s", _nobody_binds(text, binds))
    return for_admin


def _same_place(bind: Bind) -> list[str]:
    """Other texts of what a socket of this bind may say of itself."""
    if bind.family == "unix":  # /var/run is /run
        return [f"unix:{Path(bind.path).parent.resolve() / Path(bind.path).name}"]
    if bind.dual_stack and not IPV6_ADDRESSES.exists():
        return [Bind("inet", "0.0.0.0", bind.port).text]
    return []


def _nobody_binds(text: str, binds: dict[str, Bind]) -> str:
    """The warning, with what is probably meant when only the family differs."""
    port = text.rpartition(":")[2]
    both, only_6, only_4 = f":{port}", f"[::]:{port}", f"0.0.0.0:{port}"
    if text == both and only_6 in binds:
        advice = f"`{only_6}` is IPv6 alone: write BindIPv6Only=ipv6-only in the .socket unit"
    elif text in (only_6, only_4) and both in binds:
        advice = f"`{both}` is both families: write ListenStream={port} and BindIPv6Only=both there"
    else:
        advice = f"give a listener `bind: {text}`, or take it out of the .socket unit"
        if text.startswith("unix:@"):
            advice = "fastmesh listens at paths only: write a path in the .socket unit"
    return f"systemd handed in {text}, which no listener binds, so who connects there waits in vain; {advice}"
