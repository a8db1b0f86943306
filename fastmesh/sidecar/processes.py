"""Processes of the proxy's own user that are not fastmesh, and a proxy that is not of that user. Connections
of the former would not be intercepted, those of the latter would come back to it: rules are refused while
there are any."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fastmesh.sidecar.ranges import contains
from fastmesh.sidecar.rules import Interception
from fastmesh.sidecar.sockets import ADVICE, listening

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One that can be seen, of this network namespace. `uid` and `gid` are the effective ones."""

    pid: int
    name: str
    uid: int
    gid: int
    is_fastmesh: bool


def visible(proc: Path = PROC) -> Iterator[Process]:
    """All but this one. In a container these are those of the container, whatever shares its network."""
    net = _network(proc / "self")
    for folder in proc.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            process = _read(folder)
            if process is not None and _network(folder) == net:
                yield process
        except (OSError, ValueError):  # it has ended, or is hidden
            continue


def _network(folder: Path) -> int:
    """Tells network namespaces apart: each has files of its own below `net`. Unlike the link `ns/net` they
    may be looked at without the capability SYS_PTRACE."""
    return (folder / "net/tcp").stat().st_ino


def _read(folder: Path) -> Process | None:
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    if fields["State"].split()[0] in "ZX":
        return None
    arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    uid, gid = (int(fields[name].split()[1]) for name in ("Uid", "Gid"))
    return Process(int(folder.name), fields["Name"].strip(), uid, gid, is_fastmesh(arguments))


def is_fastmesh(arguments: list[str]) -> bool:
    """Whether a command line is of fastmesh, or of a small init that starts it."""
    modules = [after for before, after in pairwise(arguments) if before == "-m"]
    return any(Path(word).name == "fastmesh" for word in arguments) or any(
        module.split(".")[0] == "fastmesh" for module in modules
    )


def other_user_refusal(wanted: Interception) -> str | None:
    """Why rules must not be put in force now: the proxy serves already, as a user whom they do not exempt."""
    if wanted.gids:  # which group it is of, no socket tells
        return None
    for item in listening():
        if item.port in (wanted.inbound_port, wanted.outbound_port) and item.uid not in wanted.uids:
            return (
                f"the proxy on port {item.port} runs as uid {item.uid}, which is not exempt: its own "
                "connections would come back to it without end; run it as the user that --proxy-uid names "
                f"({', '.join(map(str, wanted.uids))}), or name its user there"
            )
    return None


def own_user_refusal(wanted: Interception, proc: Path = PROC) -> str | None:
    """Why rules must not be put in force now: applications run as the user or group that they exempt. None if
    none is seen.

    Sockets tell of all processes of the network namespace, also of those in other containers; the processes
    themselves are seen within one's own.
    """
    processes = list(visible(proc))
    suspects = {
        one.pid: f"process {one.pid} ({one.name})"
        for one in processes
        if not one.is_fastmesh and (one.uid in wanted.uids or one.gid in wanted.gids)
    }
    ports = {
        item.inode: item.port
        for item in listening()
        if item.uid in wanted.uids and not contains(wanted.own_ports, item.port)
    }
    owners = _owners(ports.keys(), processes, proc)
    fastmesh = {one.pid for one in processes if one.is_fastmesh}
    unknown = sorted({port for inode, port in ports.items() if not owners.get(inode, set()) & fastmesh})
    if not suspects and not unknown:
        return None
    who = [*suspects.values(), *(f"who listens on port {port}" for port in unknown)]
    users = ", ".join([*(f"uid {uid}" for uid in wanted.uids), *(f"gid {gid}" for gid in wanted.gids)])
    return (
        f"an application runs as the proxy's own user ({users}), whose connections are not intercepted: "
        f"{', '.join(who)}. What it opens would go past the proxy; {ADVICE}, or name the user that only "
        "the proxy runs as by --proxy-uid. If it is a port of fastmesh itself, name that by "
        "--exclude-inbound-ports"
    )


def _owners(inodes: Collection[int], processes: list[Process], proc: Path) -> dict[int, set[int]]:
    """inode of a socket -> processes that hold it, as far as they may be looked at."""
    found: dict[int, set[int]] = {}
    for process in processes if inodes else ():
        try:
            for link in (proc / str(process.pid) / "fd").iterdir():
                target = str(link.readlink())
                inode = int(target[8:-1]) if target.startswith("socket:[") else None
                if inode is not None and inode in inodes:
                    found.setdefault(inode, set()).add(process.pid)
        except OSError:
            continue
    return found
