"""What a service manager is told, by the protocol of sd_notify(3): when fastmesh serves, reads its
configuration, drains or cannot start, and that its control plane still works.

Without a service manager, which is without ``NOTIFY_SOCKET`` in the environment, all of it does nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable

import trio

from fastmesh.errors import ConfigError

log = logging.getLogger("fastmesh.notify")

PROGRESS_SECONDS = 2.0
# While a drain goes on, the time-out of the service manager is moved on to this long from now.
PATIENCE_SECONDS = 30


def notify(*lines: str) -> None:
    """Sends assignments such as ``READY=1`` as one message. Never waits and never fails: what goes wrong is
    logged."""
    where = os.environ.get("NOTIFY_SOCKET")
    if not where:
        return
    # A text of ours must not become an assignment of its own.
    message = "\n".join(" ".join(line.split()) for line in lines).encode(errors="surrogateescape")
    try:
        if where[0] not in "/@":
            raise OSError("it is neither a path nor the name of an abstract socket")
        address = "\0" + where[1:] if where[0] == "@" else where
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(message, address)
    except OSError as error:
        log.warning("the service manager at %s, of NOTIFY_SOCKET, is not told %s: %s", where, lines[0], error)


def ready(status: str) -> None:
    """Everything is served: after the start, and again after each `reloading`."""
    notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    """The configuration is read; `ready` follows."""
    # The time tells an answer to the last signal from one to the signal before (Type=notify-reload).
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reads the configuration")


def failed(error: Exception) -> None:
    """Nothing is served, because of ``error``."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    lines = [f"STATUS=cannot start: {error}"]
    if isinstance(error, ConfigError):
        lines.append(f"ERRNO={errno.EINVAL}")
    elif isinstance(cause, OSError) and cause.errno:
        lines.append(f"ERRNO={cause.errno}")
    notify(*lines)


def hand_over(pid: int) -> None:
    """The process ``pid`` is the service from now on. This one says no more: its end is not the service's."""
    notify(f"MAINPID={pid}")
    os.environ.pop("NOTIFY_SOCKET", None)


async def tell_drain(reason: str, busy: Callable[[], int]) -> None:
    """Says that the service stops, then how many are in progress, until cancelled. The service manager kills
    what does not speak for `PATIENCE_SECONDS` after its time-out."""
    stopping = ["STOPPING=1"]
    while True:
        notify(
            *stopping,
            f"STATUS=drains ({reason}), {busy()} in progress",
            f"EXTEND_TIMEOUT_USEC={PATIENCE_SECONDS * 1_000_000}",
        )
        stopping.clear()
        await trio.sleep(PROGRESS_SECONDS)


async def feed_watchdog() -> None:
    """Tells twice in the time that the service manager allows that the control plane takes its turns, until
    cancelled; returns when nobody wants to know."""
    allowed = watchdog_seconds()
    while allowed is not None:
        notify("WATCHDOG=1")
        await trio.sleep(allowed / 2)


def watchdog_seconds() -> float | None:
    """How often the service manager wants a sign of life, by sd_watchdog_enabled(3); None: not at all."""
    for_whom, text = os.environ.get("WATCHDOG_PID"), os.environ.get("WATCHDOG_USEC")
    if text is None or for_whom not in (None, str(os.getpid())):
        return None
    if not text.isdecimal() or int(text) == 0:
        log.warning("WATCHDOG_USEC is `%s`, which is no time in microseconds; the watchdog is not fed", text)
        return None
    # A successor is watched as this process is.
    os.environ.pop("WATCHDOG_PID", None)
    return int(text) / 1e6
