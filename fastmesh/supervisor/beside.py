"""The application that a sidecar stands beside: whether it is there, and what follows when it has gone.

The process ends with what `sidecar.exit_with` names, and in a drain the listeners that the application itself
uses go on until it has gone.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator

import trio

from fastmesh.model import Address, Bind, Config
from fastmesh.model.config import ExitWith
from fastmesh.supervisor.drain import Shutdown
from fastmesh.supervisor.keeper import ConfigKeeper

log = logging.getLogger("fastmesh.sidecar")

LOOK_SECONDS = 0.2
# Who restarts may listen nowhere for a moment.
GONE_SECONDS = 1.0
APPEAR_SECONDS = 1.0
SAY_SECONDS = 30.0
CHANGE_SECONDS = 1.0
CONNECT_SECONDS = 1.0
LISTEN = "0A"
FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}


# ---------------------------------------------------------------- who listens


def listens(port: int, config: Config) -> bool:
    """Whether somebody listens at a TCP port of this network namespace, at an address that is none of
    ``config``'s own."""
    ours = {
        host
        for listener in config.listeners.values()
        for bind in listener.binds
        if bind.port == port and bind.family != "unix"
        for host in _as_listed(bind)
    }
    return any(found == port and host not in ours for host, found in _listeners())


def _listeners() -> Iterator[tuple[str, int]]:
    """(address as the kernel writes it, port) of each listening socket (proc_net(5)). They come before all
    others, so that a long table is not read to its end."""
    for name in ("tcp", "tcp6"):
        try:
            file = open(f"/proc/net/{name}")  # noqa: SIM115, PTH123
        except FileNotFoundError:
            continue  # a kernel without IPv6
        with file:
            next(file)
            for line in file:
                _, local, _, state, *_ = line.split()
                if state != LISTEN:
                    break
                host, _, port = local.partition(":")
                yield host, int(port, 16)


def _as_listed(bind: Bind) -> Iterator[str]:
    """An address as the kernel writes it: words of 32 bits in the machine's order, in hexadecimal."""
    for host in (bind.host,) if bind.host else ("0.0.0.0", "::"):
        packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        words = [int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4)]
        yield "".join(f"{word:08X}" for word in words)


def _in_this_namespace(address: Address) -> bool:
    return address.kind == "name" or address.host == "::1" or address.host.startswith("127.")


async def _is_reached(address: Address, config: Config) -> bool:
    """Whether somebody listens at ``address``. The kernel is asked where it can know; elsewhere only a
    connection tells."""
    if _in_this_namespace(address):
        return listens(address.port, config)
    where = address.path if address.kind == "unix" else (address.host, address.port)
    with trio.socket.socket(FAMILIES[address.kind], socket.SOCK_STREAM) as sock:
        with trio.move_on_after(CONNECT_SECONDS):
            try:
                await sock.connect(where)
            except OSError:
                return False
            return True
    return False


# ---------------------------------------------------------------- the end with it


async def end_with_application(keeper: ConfigKeeper, shutdown: Shutdown) -> None:
    """Ends the process when what `exit_with` names has gone. Follows changes of the configuration."""
    while True:
        wanted = _exit_with(keeper.config)
        async with trio.open_nursery() as nursery:
            if wanted is not None:
                nursery.start_soon(_end_with, wanted, keeper, shutdown)
            while _exit_with(keeper.config) == wanted:  # noqa: ASYNC110
                await trio.sleep(CHANGE_SECONDS)
            nursery.cancel_scope.cancel()


def _exit_with(config: Config) -> ExitWith | None:
    return config.sidecar.exit_with if config.sidecar is not None else None


async def _end_with(wanted: ExitWith, keeper: ConfigKeeper, shutdown: Shutdown) -> None:
    if wanted.kind == "pid":
        await _until_it_ends(wanted.number)
        shutdown.let_go(f"exit_with: process {wanted.number} has ended")
    else:
        await _until_nobody_listens(wanted.number, keeper)
        shutdown.let_go(f"exit_with: nobody listens on port {wanted.number} any more")


async def _until_it_ends(pid: int) -> None:
    said = False
    while isinstance(descriptor := _open_process(pid), str):
        if not said:
            log.warning(
                "exit_with: process %d %s. That of another container can only be seen in a common pid "
                'namespace (`pid: "service:app"` for compose, `shareProcessNamespace: true` for a pod). '
                "fastmesh looks for it once a second, and ends with it when it has been there",
                pid,
                descriptor,
            )
            said = True
        await trio.sleep(APPEAR_SECONDS)
    log.info("exit_with: fastmesh ends with process %d", pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def _open_process(pid: int) -> int | str:
    """A descriptor that is readable when the process has ended, pidfd_open(2); else why there is none."""
    if pid == os.getpid():
        return "is fastmesh itself"
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        # The number of a thread is refused in other ways than that of nobody.
        missing = error.errno in (errno.ESRCH, errno.ENOENT, errno.EINVAL)
        return "is not there" if missing else f"cannot be watched ({error.strerror})"


async def _until_nobody_listens(port: int, keeper: ConfigKeeper) -> None:
    say_at = trio.current_time() + SAY_SECONDS
    while not listens(port, keeper.config):
        if trio.current_time() >= say_at:
            log.warning(
                "exit_with: nobody has listened on port %d of this network namespace yet; fastmesh ends when "
                "somebody did and has stopped",
                port,
            )
            say_at = float("inf")
        await trio.sleep(LOOK_SECONDS)
    log.info("exit_with: fastmesh ends when nobody listens on port %d any more", port)
    seen = trio.current_time()
    while trio.current_time() < seen + GONE_SECONDS:
        await trio.sleep(LOOK_SECONDS)
        if listens(port, keeper.config):
            seen = trio.current_time()


# ---------------------------------------------------------------- in a drain


class Outbound:
    """The listeners that the application uses, which go on while the others drain
    (`fastmesh.supervisor.drain.Remaining`)."""

    def __init__(self, keeper: ConfigKeeper) -> None:
        self._keeper = keeper

    def waits_for(self) -> str:
        sidecar = self._keeper.config.sidecar
        if sidecar is not None and sidecar.exit_with is not None:
            number = sidecar.exit_with.number
            is_pid = sidecar.exit_with.kind == "pid"
            return f"process {number} has ended" if is_pid else f"nobody listens on port {number} any more"
        if sidecar is not None and sidecar.app:
            return f"nobody listens on {' or '.join(one.text for one in sidecar.app)} any more"
        return "the deadline: `sidecar` has no `app` and no `exit_with`"

    async def end_inbound(self) -> None:
        await self._keeper.end_inbound()

    async def application_gone(self) -> None:
        """Returns when nobody listens where the application did. Whoever is to end with a process that is
        there is told by `end_with_application`."""
        config = self._keeper.config
        exit_with = _exit_with(config)
        if exit_with is not None and exit_with.kind == "pid":
            descriptor = _open_process(exit_with.number)
            if isinstance(descriptor, int):
                os.close(descriptor)
                await trio.sleep_forever()
        while await self._anybody(config):  # noqa: ASYNC110
            await trio.sleep(LOOK_SECONDS)

    async def _anybody(self, config: Config) -> bool:
        exit_with, app = _exit_with(config), config.sidecar.app if config.sidecar is not None else ()
        if exit_with is not None and exit_with.kind == "port" and listens(exit_with.number, config):
            return True
        if not app and (exit_with is None or exit_with.kind == "pid"):
            await trio.sleep_forever()
        for address in app:
            if await _is_reached(address, config):
                return True
        return False

    async def end(self) -> None:
        await self._keeper.close("fastmesh is draining")


def outbound_of(keeper: ConfigKeeper, shutdown: Shutdown) -> Outbound | None:
    """None: nothing goes on by itself when the process drains. What another process has taken over, that one
    serves."""
    listeners = keeper.config.listeners.values()
    if shutdown.successor or not any(one.direction == "outbound" and one.binds for one in listeners):
        return None
    return Outbound(keeper)
