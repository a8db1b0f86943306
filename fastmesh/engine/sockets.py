"""Listening sockets. The supervisor's process owns them; workers only watch them.

The first socket of an address is bound without SO_REUSEPORT, so that a port in use is seen; then the option
is set and one more socket per worker joins it, each with a queue of its own. A Unix listener is one socket
that all workers watch. Sockets can also be handed in, by the process that served before or by systemd; then
a worker may own several of an address, or share one with all.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import stat
import struct
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from fastmesh.errors import StartError
from fastmesh.model import Bind, Given

BACKLOG = 4096  # the kernel caps it by net.core.somaxconn
# What the kernel takes for a client beyond what its window lets it send: half of it is enough to go on with
# until the worker gives more.
UNSENT_BYTES = 32 * 1024
# How long handshakes that have begun may take to end, once no new one begins.
HANDSHAKE_SECONDS = 0.1

SO_ATTACH_FILTER = 26  # socket(7)
# Classic BPF over a segment from its TCP header on: (code, jump if true, jump if false, operand).
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the flags
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone:
    (0x06, 0, 0, 0),  # dropped
    (0x06, 0, 0, 0xFFFFFFFF),  # all else passes
)

_identities = count(1)


class Listening:
    """The sockets of one bind: a queue of its own for each worker, or one for all (``shared``).

    ``given``: those of them that were handed in. ``ours``: no other process cares for them, and the file of a
    Unix socket is removed with them. ``silent`` ones begin to listen by `begin`.
    """

    def __init__(
        self,
        bind: Bind,
        sockets: list[socket.socket],
        shared: bool,
        given: Given | None = None,
        silent: Sequence[socket.socket] = (),
    ) -> None:
        self.bind = bind
        self.sockets = sockets
        self.shared = shared
        self.listener_index = -1  # the number of the listener that it serves
        self._identities = [next(_identities) for _ in sockets]
        self._given = given
        self._silent = silent
        self.ours = given is None or given.ours
        self._file_is_gone = False

    def begin(self) -> None:
        """Workers accept from now on. Raises StartError."""
        try:
            for sock in self._silent:
                sock.listen(BACKLOG)
        except OSError as error:
            raise StartError(_explain(self.bind, error)) from error
        self._silent = ()

    def watched_by(self, worker: int, workers: int) -> list[tuple[int, int]]:
        """(identity, descriptor) of each socket that the worker accepts from: none is left to nobody."""
        return [
            (identity, sock.fileno())
            for number, (identity, sock) in enumerate(zip(self._identities, self.sockets, strict=True))
            if self.shared or number % workers == worker
        ]

    def bound_text(self) -> str:
        """The address as really bound: a port 0 shows what the kernel chose."""
        if self.bind.family == "unix":
            return self.bind.text
        port = self.sockets[0].getsockname()[1]
        return Bind(self.bind.family, self.bind.host, port).text

    def refuse_new(self) -> None:
        """Nobody new joins the queues from now on, while who waits can be accepted: closing a socket resets
        who is in its queue. Handshakes that have begun may end for `HANDSHAKE_SECONDS`. A SYN is dropped, and
        sent again a second later meets a closed port. What another process holds stays as it is: nobody in
        its queue is reset by our closing."""
        if self.bind.family == "unix":
            self._remove_file()
            return
        program = b"".join(struct.pack("=HBBI", *step) for step in _DROP_SYN)
        held = ctypes.create_string_buffer(program)
        option = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(held))
        for sock in self.sockets:
            if self.ours or self._given is None or sock not in self._given.sockets:
                with contextlib.suppress(OSError):  # no filters here: a client may be reset, as ever
                    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, option)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        if self.bind.family == "unix":
            self._remove_file()

    def _remove_file(self) -> None:
        """Once: then another process may make it anew."""
        if self.ours and not self._file_is_gone:
            self._file_is_gone = True
            with contextlib.suppress(FileNotFoundError):
                Path(self.bind.path).unlink()

    def release(self) -> Given | None:
        """Closes what is ours alone, and gives the rest back for a listener that comes back: until then those
        who connect wait, since the other process does not accept."""
        if self._given is None or self.ours:
            self.close()
            return None
        for sock in self.sockets:
            if sock not in self._given.sockets:
                sock.close()
        return self._given

    def leave(self) -> None:
        """Closes the descriptors, but not what they stand for: another process holds it too."""
        self.ours = False
        self.close()


def open_listening(listener: str, bind: Bind, workers: int, given: Given | None = None) -> Listening:
    """Binds and listens, or serves from sockets of this address that were handed in (``given``, its own from
    then on). Raises StartError that says what is in the way and what to do."""
    try:
        if given is not None:
            return _adopt(bind, given, workers)
        if bind.family == "unix":
            return Listening(bind, [_open_unix(bind.path)], True)
        return Listening(bind, _open_tcp(bind, workers), False)
    except OSError as error:
        raise StartError(f"listener {listener}: {_explain(bind, error)}") from error


def _adopt(bind: Bind, given: Given, workers: int) -> Listening:
    """Each worker gets a queue of its own if others may join the address; else all share what there is.

    Those that join do not listen yet: a client would wait in such a queue for a worker that may never run,
    while the process that handed the others in still serves."""
    sockets = list(given.sockets)
    for sock in sockets:
        sock.setblocking(False)
        sock.set_inheritable(False)
    if bind.family == "unix":
        return Listening(bind, sockets, True, given)
    for sock in sockets:
        _set_for_clients(sock)
    if not all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in sockets):
        return Listening(bind, sockets, True, given)
    try:
        joined = _join(sockets[0], workers - len(sockets))
    except OSError:  # another user bound it, or a privilege was given up since
        return Listening(bind, sockets, True, given)
    return Listening(bind, sockets + joined, False, given, joined)


def _set_for_clients(listening: socket.socket) -> None:
    """What the sockets of clients inherit. Without a bound of its own the kernel's buffer holds up to
    `net.ipv4.tcp_wmem` (4 MiB) for a client that reads slowly."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def _join(first: socket.socket, count: int) -> list[socket.socket]:
    """So many more sockets of the same address, which do not listen yet."""
    joined: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket(first.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            joined.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _set_for_clients(sock)
            if first.family == socket.AF_INET6:
                v6only = first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
            sock.bind(first.getsockname())
    except OSError:
        for sock in joined:
            sock.close()
        raise
    return joined


def _open_tcp(bind: Bind, workers: int) -> list[socket.socket]:
    family = socket.AF_INET if bind.family == "inet" else socket.AF_INET6
    host = bind.host
    if bind.dual_stack and not _has_ipv6():
        family, host = socket.AF_INET, "0.0.0.0"
    first = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            first.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if bind.dual_stack else 1)
        _set_for_clients(first)
        first.bind((host, bind.port))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        others = _join(first, workers - 1)
    except OSError:
        first.close()
        raise
    try:
        for sock in (first, *others):
            sock.listen(BACKLOG)
    except OSError:
        for sock in (first, *others):
            sock.close()
        raise
    return [first, *others]


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _open_unix(path: str) -> socket.socket:
    """A socket file that nobody listens on any more is replaced; anything else in its place is left alone."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
            finally:
                probe.close()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(bind: Bind, error: OSError) -> str:
    where = bind.text
    if error.errno == errno.EADDRINUSE:
        if bind.family == "unix" and not Path(bind.path).is_socket():
            return f"{where}: something else than a socket is there; remove it, or choose another path"
        if bind.family == "unix":
            return f"{where} is in use: another process listens there; stop it, or choose another path"
        return (
            f"{where} is in use: another process listens there "
            f"(`ss -ltnp 'sport = :{bind.port}'` shows which); stop it, or choose another port"
        )
    if error.errno == errno.EACCES:
        if bind.family == "unix":
            return f"{where}: no permission to create it; choose a folder that this user may write to"
        return (
            f"{where}: ports below {_first_free_port()} need a privilege; choose a higher port, or give "
            "CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this machine does not have that address; `ip addr` lists those it has"
    if error.errno == errno.ENOENT:
        return f"{where}: the folder does not exist; create it, or choose another path"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{where}: no file descriptor left; raise the limit (`ulimit -n`)"
    return f"{where}: {error.strerror}"


def _first_free_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024
