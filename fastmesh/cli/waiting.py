"""``fastmesh wait``: until the proxy is ready, then the application in this process's place.

It stands between a container's start and its application, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from fastmesh.cli import admin_client
from fastmesh.cli.admin_client import AdminUnreachable

# As timeout(1) and env(1) have them, so that they are not taken for the application's.
NOT_READY, REFUSED, CANNOT_RUN, NOT_FOUND = 124, 125, 126, 127

DEFAULT_SECONDS = 60.0
LOOK_SECONDS = 0.02
LONGEST_LOOK_SECONDS = 0.25


def wait(admin: str, seconds: float, command: list[str]) -> int:
    """Waits for the proxy at ``admin``, for ``seconds`` at most, and becomes ``command``. Returns only
    without one, or with the exit code of what went wrong."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)  # who has pid 1 is not ended by a signal that nobody handles
    last = _until_ready(admin, seconds)
    if last is not None:
        print(f"fastmesh wait: not ready within {seconds:g} s: {last}", file=sys.stderr)
        return NOT_READY
    if not command:
        return 0
    refused = _refusal(admin)
    if refused is not None:
        print(f"fastmesh wait: {refused}", file=sys.stderr)
        return REFUSED
    return _become(command)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _until_ready(admin: str, seconds: float) -> str | None:
    """None: it is ready. Else what it said last."""
    deadline = time.monotonic() + seconds
    pause = LOOK_SECONDS
    while True:
        left = deadline - time.monotonic()
        try:
            answer = admin_client.request("GET", "/readyz", admin, seconds=max(left, LONGEST_LOOK_SECONDS))
            if answer.status == 200:
                return None
            last = f"{admin} says {answer.status}: {'; '.join(answer.body.splitlines())}"
        except AdminUnreachable as error:
            last = str(error)
        left = deadline - time.monotonic()
        if left <= 0:
            return last
        time.sleep(min(pause, left))
        pause = min(pause * 1.1, LONGEST_LOOK_SECONDS)


def _refusal(admin: str) -> str | None:
    """Why the application must not be started as this user; None if it may be."""
    try:
        process = admin_client.request("GET", "/api/v1/process", admin).json()
        transparent, uid = process.get("transparent"), process.get("uid")
    except (AdminUnreachable, ValueError, AttributeError) as error:
        return f"the proxy is ready, but does not say what it is: {error}"
    if not transparent or uid != os.geteuid():
        return None
    return (
        f"the proxy intercepts connections, and those of its own user (uid {uid}) are exempt: an application "
        "of the same user would go past it; run the application, or the proxy, as another user"
    )


def _become(command: list[str]) -> int:
    """Puts ``command`` in the place of this process, which never returns; else says what is in the way."""
    # Python ignores these two from its start on, and what is ignored stays so for who comes after.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(command[0], command, _environment())
    except FileNotFoundError:
        # Also of a script whose interpreter is not there.
        print(f"fastmesh wait: {command[0]}: there is no such program", file=sys.stderr)
        return NOT_FOUND
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"fastmesh wait: {command[0]} cannot be started: {reason}", file=sys.stderr)
        return CANNOT_RUN


def _environment() -> dict[bytes, bytes]:
    """What this process was given, without the LC_CTYPE that Python adds where there is no locale
    (PEP 538)."""
    environment = dict(os.environb)
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 (pathlib takes a while to import)
            given = file.read().split(b"\0")
    except OSError:
        return environment
    if not any(one.startswith(b"LC_CTYPE=") for one in given):
        environment.pop(b"LC_CTYPE", None)
    return environment
