"""Upgrading without losing a request: a process takes over from the one that serves, or hands over to the
next.

Both meet at a Unix socket (``fastmesh run --takeover PATH``). The successor starts on the listening sockets
of its predecessor while that one still accepts; only when it says that it serves does the predecessor let go
of them and drain. Whatever goes wrong before, the predecessor serves on. No socket is closed in which a
client may wait, and none is bound again. What they say to each other is in `handover`.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
from msgspec import Struct

from fastmesh import __version__
from fastmesh.admin.control import DrainTarget
from fastmesh.admin.sockets import AdminListening
from fastmesh.discovery import KnownName
from fastmesh.errors import StartError
from fastmesh.model import Given
from fastmesh.model.told import Told
from fastmesh.supervisor import handover, successor
from fastmesh.supervisor.dataplane import DataPlane
from fastmesh.supervisor.estate import Estate
from fastmesh.supervisor.handover import Disagreement, Gone, Group, Hello, Left, Offer, Serving, Wire

log = logging.getLogger("fastmesh.takeover")

BACKLOG = 16
MODE = 0o600  # whoever may connect gets the sockets of every listener
PATIENCE = 30.0  # seconds from asking to serving
HELLO_SECONDS = 5.0
RETRY_SECONDS = 1.0
ATTEMPTS = 5


class Inheritance(Struct, frozen=True):
    """What came from the predecessor: sockets by the text of their bind, what it knew of endpoints and names,
    and what its API was asked to drain."""

    given: dict[str, Given]
    told: tuple[Told, ...] = ()
    drains: tuple[DrainTarget, ...] = ()
    names: tuple[KnownName, ...] = ()


class Succession:
    """This process's place in the row: whom it takes over from, and who may take over from it.

    ``path`` None: it was not started with ``--takeover``. ``predecessor`` and ``successor`` are pids, or 0.
    """

    def __init__(self, path: str | None) -> None:
        self.path = None if path is None else str(Path(path).absolute())
        self.predecessor = 0
        self.successor = 0
        self._listening: socket.socket | None = None
        self._ours = False
        self._wire: Wire | None = None
        self._groups: tuple[Group, ...] = ()
        self._asking = 0
        self._starting = False

    # ------------------------------------------------------------ taking over

    async def enter(self) -> Inheritance:
        """Asks the process that listens at the path for everything; without one, listens there itself. Raises
        StartError."""
        for _ in range(ATTEMPTS if self.path else 0):
            assert self.path is not None
            wire = await _connect(self.path)
            if wire is not None:
                self._wire = wire
                return await self._take(wire)
            try:
                self._listening = _listen(self.path)
            except FileExistsError:
                continue  # somebody was faster: that is the predecessor
            self._ours = True
            break
        return Inheritance({})

    async def _take(self, wire: Wire) -> Inheritance:
        try:
            with trio.fail_after(PATIENCE):
                offer = await self._ask(wire)
                sockets = await wire.receive_sockets(sum(group.sockets for group in offer.groups))
                given = self._sort(offer.groups, sockets)
                told = await wire.receive_endpoints(offer.endpoints)
        except trio.TooSlowError as error:
            raise self._error(f"what listens there does not answer within {PATIENCE:g} s") from error
        except (Disagreement, Gone) as error:
            raise self._error(str(error)) from error
        self.predecessor = offer.pid
        log.info(
            "taking over from pid %d (fastmesh %s): %d sockets, state of %d endpoints",
            offer.pid,
            offer.version,
            len(sockets),
            len(told),
        )
        return Inheritance(given, told, offer.drains, offer.names)

    async def _ask(self, wire: Wire) -> Offer:
        _, uid = handover.peer_of(wire.sock)
        if uid not in (0, os.geteuid()):
            raise self._error(f"what listens there belongs to user {uid}, whose sockets are not trusted")
        await wire.send(Hello(handover.PROTOCOL, __version__, os.getpid()))
        offer = await wire.receive(Offer)
        if offer.refused:
            raise self._error(f"the process that serves refuses: {offer.refused}")
        if offer.protocol != handover.PROTOCOL:
            raise self._error(
                f"the process that serves speaks protocol {offer.protocol}, this one {handover.PROTOCOL}; "
                "stop it and start this one"
            )
        return offer

    def _sort(self, groups: Sequence[Group], sockets: Sequence[socket.socket]) -> dict[str, Given]:
        """What listens for clients, by its bind. It is nobody's alone before the predecessor has let go."""
        given: dict[str, Given] = {}
        left = list(sockets)
        for group in groups:
            mine, left = tuple(left[: group.sockets]), left[group.sockets :]
            if group.kind == handover.TAKEOVER:
                self._listening = mine[0]
            elif group.kind in (handover.LISTENER, handover.ADMIN):
                given[group.bind] = Given(mine, ours=False)
            else:  # of a version that has more than this one
                _close(mine)
        kinds = (handover.LISTENER, handover.ADMIN, handover.TAKEOVER)
        self._groups = tuple(group for group in groups if group.kind in kinds)
        return given

    async def still_wanted(self) -> None:
        """To be asked before clients are accepted. Raises StartError if the predecessor has given up waiting,
        and would have to be left to them."""
        if self._wire is not None and self._wire.sock.is_readable():
            with suppress(Gone):  # it is dead, so this process is wanted all the more
                await self._until_left(self._wire)

    async def serving(self, data_plane: DataPlane, admin: AdminListening | None) -> None:
        """This process serves: the predecessor lets go, and this one has everything for its own. Raises
        StartError if it is too late for that. Does nothing without a predecessor."""
        if self._wire is None:
            return
        with self._wire as wire:
            ours = [one.bind for one in self._groups if one.ours and one.kind != handover.TAKEOVER]
            dropped = data_plane.release_given(ours)
            with suppress(Gone):  # if it gave this process up, it has said so before it closed
                await wire.send(self._say(dropped))
            try:
                await self._until_left(wire)
            except Gone:
                log.warning(
                    "pid %d ended without letting go; all of it is this process's now", self.predecessor
                )
        self._wire = None
        self._ours = True
        data_plane.own_listeners([bind for bind in ours if bind not in dropped])
        if admin is not None and admin.bind in ours:
            admin.ours = True

    def _say(self, dropped: Sequence[str]) -> Serving:
        def kept(kind: str) -> tuple[str, ...]:
            return tuple(one.bind for one in self._groups if one.kind == kind and one.bind not in dropped)

        return Serving(kept(handover.LISTENER), kept(handover.ADMIN), kept(handover.TAKEOVER))

    async def _until_left(self, wire: Wire) -> None:
        """However long that takes: the predecessor alone knows whether it goes on."""
        while True:
            with trio.move_on_after(PATIENCE):
                left = await wire.receive(Left)
                if left.refused:
                    raise self._error(f"the process that serves goes on: {left.refused}")
                return
            log.warning("pid %d does not say that it has let go; is it stopped?", self.predecessor)

    # ------------------------------------------------------------ handing over

    async def serve(self, estate: Estate) -> None:
        """Hands ``estate`` over to whoever asks and may; returns when that is done."""
        if self._listening is None:
            return
        door = trio.socket.from_stdlib_socket(self._listening.dup())
        with door:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        sock, _ = await door.accept()
                    except OSError as error:
                        log.error("nobody can take over just now: %s", error)
                        await trio.sleep(RETRY_SECONDS)
                        continue
                    nursery.start_soon(self._meet, sock, estate, nursery.cancel_scope)

    async def _meet(self, sock: trio.socket.SocketType, estate: Estate, door: trio.CancelScope) -> None:
        with Wire(sock) as wire:
            pid, uid = handover.peer_of(sock)
            refused, hello = f"user {uid} may not take over", Hello(handover.PROTOCOL)
            try:
                if uid in (0, os.geteuid()):
                    with trio.fail_after(HELLO_SECONDS):
                        hello = await wire.receive(Hello)
                    refused = self._refusal(hello, estate)
            except (Disagreement, Gone, trio.TooSlowError) as error:
                refused = str(error) or "it says nothing"
            pid = pid or hello.pid  # 0: of a namespace that is not visible here
            if refused:
                log.warning("pid %d wants to take over and may not: %s", pid, refused)
                with suppress(Gone):
                    await wire.send(Offer(handover.PROTOCOL, refused, __version__, os.getpid()))
                return
            self._asking = pid
            try:
                if await self._hand_over(wire, estate, pid):
                    # Before it is told: a service manager listens to it from then on.
                    estate.handed_over(pid, hello.version)
                    with suppress(Gone):
                        await wire.send(Left())
                    door.cancel()
            finally:
                self._asking = 0

    def _refusal(self, hello: Hello, estate: Estate) -> str:
        """Why this one cannot take over; empty: it can."""
        if hello.protocol != handover.PROTOCOL:
            return (
                f"it speaks protocol {hello.protocol} of taking over, fastmesh {__version__} speaks "
                f"{handover.PROTOCOL}; stop this process (pid {os.getpid()}) and start the other"
            )
        if self._asking:
            return f"pid {self._asking} is taking over just now"
        if estate.leaving():
            return f"pid {os.getpid()} is draining already; start when it has ended"
        return ""

    async def _hand_over(self, wire: Wire, estate: Estate, pid: int) -> bool:
        """False: it came to nothing, and this process goes on."""
        try:
            with trio.fail_after(PATIENCE) as patience, estate.hastening(patience):
                async with estate.unchanging():
                    await self._offer(wire, estate)
                    serving = await wire.receive(Serving)
                    with trio.CancelScope(shield=True):
                        await estate.leave(serving)
                        self._leave()
        except trio.TooSlowError:
            in_time = "before this one was to stop" if estate.leaving() else f"within {PATIENCE:g} s"
            why = f"it did not serve {in_time}"
        except Gone:
            why = "it ended before it served"
        except Disagreement as error:
            why = str(error)
        except Exception as error:  # whatever it is, the other one must not believe that this one is dead
            log.exception("handing over failed")
            why = f"{type(error).__name__}: {error}"
        except BaseException:  # this control plane ends: if not the process does, another one goes on here
            if not estate.leaving():
                wire.say_last(Left(refused="its control plane failed"))
            raise
        else:
            self.successor = pid
            return True
        log.error("pid %d did not take over: %s; this process goes on", pid, why)
        with suppress(Gone), trio.move_on_after(HELLO_SECONDS):
            await wire.send(Left(refused=why))
        return False

    async def _offer(self, wire: Wire, estate: Estate) -> None:
        assert self.path is not None
        assert self._listening is not None
        held = [*estate.held(), (Group(handover.TAKEOVER, self.path, 1), (self._listening,))]
        told = await estate.tell()
        groups = tuple(group for group, _ in held)
        await wire.send(
            Offer(
                handover.PROTOCOL,
                version=__version__,
                pid=os.getpid(),
                groups=groups,
                drains=estate.drains(),
                endpoints=len(told),
                names=estate.names(),
            )
        )
        await wire.send_sockets([sock for _, sockets in held for sock in sockets])
        await wire.send_endpoints(told)

    def _leave(self) -> None:
        if self._listening is not None:
            self._listening.close()
        self._listening, self._ours = None, False

    # ------------------------------------------------------------ SIGUSR2

    async def start_successor(self) -> None:
        """Starts the same command again, as it is installed by now; it takes over from this process."""
        if self.path is None:
            log.error(
                "USR2 starts a successor if this process was started with `fastmesh run --takeover PATH`"
            )
            return
        if self._listening is None or self._wire is not None or self._starting:
            what = "one is starting" if self._starting else "this process does not serve alone"
            log.warning("USR2: no successor is started: %s", what)
            return
        self._starting = True
        try:
            child = await successor.start()
            if child.pid:
                log.info("USR2: pid %d is started and takes over", child.pid)
            await child.ended()
            if not child.pid:
                log.error("USR2: what was started ended at once; this process goes on")
            elif self.successor != child.pid:
                log.error("pid %d ended before it took over; this process goes on", child.pid)
        except OSError as error:
            log.error("USR2: %s cannot be started: %s; this process goes on", sys.executable, error.strerror)
        finally:
            self._starting = False

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """What is not another process's by now ends with this one."""
        if self._wire is not None:
            self._wire.close()  # the predecessor sees that it has to go on
        if self._listening is not None:
            self._listening.close()
        if self._ours and self.path is not None:
            with suppress(OSError):
                Path(self.path).unlink()

    def view(self) -> dict[str, Any] | None:
        """For the admin API."""
        if self.path is None:
            return None
        return {
            "path": self.path,
            "took_over_from": self.predecessor or None,
            "handed_over_to": self.successor or None,
        }

    def _error(self, text: str) -> StartError:
        return StartError(f"--takeover {self.path}: {text}")


async def _connect(path: str) -> Wire | None:
    """None: nobody listens there."""
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise StartError(f"--takeover {path}: {error.strerror or error}; choose another path") from error
    return Wire(sock)


def _listen(path: str) -> socket.socket:
    """A socket that a dead process left there is replaced. Raises FileExistsError if somebody begins to
    listen meanwhile, and StartError."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise StartError(f"--takeover {path}: there is something else than a socket; choose another path")
        Path(path).unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StartError(f"--takeover {path}: {error.strerror}; choose another path") from error
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o777 & ~MODE)
    try:
        listening.bind(path)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise FileExistsError(path) from error
        raise StartError(
            f"--takeover {path}: {error.strerror or error}; choose a folder that this user may write to"
        ) from error
    finally:
        os.umask(before)
    return listening


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
