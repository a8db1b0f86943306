"""The file of ``fastmesh demo``: where it goes, what is in it, and how to recognise it again.

A file that somebody else wrote is never touched. One that the demo wrote is used again as it is, edits
included: its first lines say which addresses the origins have. If those are taken (another demo runs),
another name is tried.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastmesh.errors import StartError

MARK = "# Written by `fastmesh demo`"
SHARED_MEMORY = Path("/dev/shm")
FIRST_NAME = "fastmesh.yaml"
NAMES = (FIRST_NAME, "fastmesh-demo.yaml", *(f"fastmesh-demo-{number}.yaml" for number in range(2, 10)))
BACKLOG = 256
# How many ports above a taken one are tried before any free one is taken.
NEIGHBOURS = 20

_FACT = re.compile(r"^# (listen|admin|origin [\w-]+): (\S+)$", re.MULTILINE)

TEMPLATE = """\
{mark}. Edit it while the demo runs: a change is in effect within a second.
# A second `fastmesh demo` in this folder uses it again; delete it to start afresh.
# listen: {listen}
# admin: {admin}
{origin_facts}

admin: {admin}          # /metrics, /healthz, /readyz, /api/v1/...
workers: 1                     # one worker, so that the turn is easy to see; `auto` takes one for each CPU

listeners:
  web:
    bind: {listen}
    routes:                    # the first match wins
      - path: /ping            # answered by the proxy itself
        respond: {{status: 200, body: "pong\\n"}}
      - path: /                # everything else
        service: hello

services:
  hello:
    balance: round_robin       # in turn; also least_request (the default), random, ring_hash, maglev
    endpoints:                 # try: make a weight 8, or remove a line
{endpoints}
"""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the demo would like to listen; a taken port is replaced by a free one. Origins are on the
    loopback, on ``origin_port`` and those after it."""

    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int = 9400
    origin_port: int = 9001


@dataclass(frozen=True, slots=True)
class DemoFile:
    """A file and the addresses that it was written for."""

    path: Path
    listen: str
    admin: str
    origins: dict[str, str]

    def text(self) -> str:
        facts = "\n".join(f"# origin {name}: {address}" for name, address in self.origins.items())
        endpoints = "\n".join(
            f"      - {{address: {address}, weight: 1}}" for address in self.origins.values()
        )
        return TEMPLATE.format(
            mark=MARK, listen=self.listen, admin=self.admin, origin_facts=facts, endpoints=endpoints
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The file to run with, the bound sockets of its origins, and what to tell the user."""

    file: DemoFile
    sockets: list[socket.socket]
    remarks: list[str] = field(default_factory=list)


def find_or_write(folder: Path, places: Places, names: tuple[str, ...]) -> Found:
    """Uses the demo's file in ``folder`` again or writes one, there or in shared memory. Raises
    StartError."""
    remarks: list[str] = []
    for path in _candidates(folder, remarks):
        if path.exists() or path.is_symlink():
            known = read(path)
            if known is None:
                remarks.append(f"{path} is not the demo's: it stays as it is.")
                continue
            sockets = _bind_all(known)
            if sockets is None:
                remarks.append(f"{path} is of an earlier demo whose ports are taken now: it stays as it is.")
                continue
            remarks.append(
                f"Using {path} of an earlier demo again, with your edits; delete it to start afresh."
            )
            return Found(known, sockets, remarks)
        found = _write(path, places, names)
        if found is not None:
            remarks.append(f"Wrote {path}.")
            return Found(found.file, found.sockets, remarks)
    raise StartError("the demo found no place for its file; run it in a folder that you can write to")


def _candidates(folder: Path, remarks: list[str]) -> Iterator[Path]:
    if os.access(folder, os.W_OK | os.X_OK):
        yield from (folder / name for name in NAMES)
    else:
        remarks.append(f"{folder} cannot be written to: the file goes to shared memory.")
    # A folder of our own: names in /dev/shm are open to everybody.
    own = SHARED_MEMORY / f"fastmesh-demo-{os.geteuid()}"
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        status = own.lstat()
    except OSError:
        return
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
        yield from (own / name for name in NAMES)


def read(path: Path) -> DemoFile | None:
    """What the first lines of ``path`` say; None if the demo did not write it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if not text.startswith(MARK):
        return None
    facts = dict(_FACT.findall(text))
    origins = {
        name.removeprefix("origin "): value for name, value in facts.items() if name.startswith("origin ")
    }
    if "listen" not in facts or "admin" not in facts or not origins:
        return None
    return DemoFile(path, facts["listen"], facts["admin"], origins)


def _write(path: Path, places: Places, names: tuple[str, ...]) -> Found | None:
    """Writes a new file with free ports; None when the place cannot be written or is taken meanwhile."""
    host = f"[{places.host}]" if ":" in places.host else places.host
    listen = f"{host}:{_free_port(places.host, places.port)}"
    admin = f"{host}:{_free_port(places.host, places.admin_port)}"
    sockets = [_bind("127.0.0.1", places.origin_port + number) for number in range(len(names))]
    origins = {name: _text(item) for name, item in zip(names, sockets, strict=True)}
    file = DemoFile(path, listen, admin, origins)
    try:
        with path.open("x", encoding="utf-8") as opened:
            opened.write(file.text())
    except OSError:
        for item in sockets:
            item.close()
        return None
    return Found(file, sockets)


def _text(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket on exactly this address. Raises OSError."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket on ``port``, on one a little above it, or on any that is free."""
    refusal = OSError()
    for candidate in (*range(port, min(port + NEIGHBOURS, 65536)), 0):
        try:
            return _listen(host, candidate)
        except OSError as error:
            refusal = error
    raise StartError(f"the demo cannot listen on {host}: {refusal.strerror}; name an address of this machine")


def _bind_all(file: DemoFile) -> list[socket.socket] | None:
    """Listening sockets on exactly the origins' addresses; None if one of them, or the proxy's own, is
    taken."""
    bound: list[socket.socket] = []
    try:
        for address in (file.listen, file.admin, *file.origins.values()):
            host, _, port = address.rpartition(":")
            bound.append(_listen(host.strip("[]"), int(port)))
    except (OSError, ValueError, OverflowError):
        for item in bound:
            item.close()
        return None
    for item in bound[:2]:
        item.close()  # fastmesh itself binds these
    return bound[2:]


def _free_port(host: str, port: int) -> int:
    with _bind(host, port) as probe:
        return int(probe.getsockname()[1])
