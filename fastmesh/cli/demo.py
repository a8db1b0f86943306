"""``fastmesh demo``: three origins as child processes, a commented file, and then exactly what ``run``
does."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastmesh.cli import demo_file
from fastmesh.cli.demo_file import DemoFile, Places
from fastmesh.errors import StartError

SLOW_SECONDS = 0.2
# name -> seconds that each answer takes
ORIGINS = {"origin-1": 0.0, "origin-2": 0.0, "origin-3": SLOW_SECONDS}


@dataclass(frozen=True, slots=True)
class RunningOrigin:
    name: str
    address: str
    process: subprocess.Popen[bytes]


def run_demo(places: Places) -> int:
    """Runs the demo until it is stopped; the exit code is that of ``run``."""
    try:
        found = demo_file.find_or_write(Path.cwd(), places, tuple(ORIGINS))
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    for line in found.remarks:
        print(line)
    with running_origins(found.file, found.sockets) as origins:
        print(what_to_try(found.file, origins), flush=True)
        from fastmesh.supervisor.main import run

        return int(run(str(found.file.path)))


@contextmanager
def running_origins(file: DemoFile, sockets: list[socket.socket]) -> Iterator[list[RunningOrigin]]:
    """Starts an origin on each socket and ends them all at the end; one that ends before is reaped at
    once."""
    origins: list[RunningOrigin] = []
    ending = threading.Event()
    # No thread of the data plane runs yet, so starting processes is safe here and only here.
    try:
        for (name, address), listening in zip(file.origins.items(), sockets, strict=True):
            origins.append(RunningOrigin(name, address, _start(name, listening)))
            listening.close()
        for origin in origins:
            threading.Thread(target=_reap, args=(origin, ending), daemon=True).start()
        yield origins
    finally:
        ending.set()
        for origin in origins:
            _stop(origin.process)


def _start(name: str, listening: socket.socket) -> subprocess.Popen[bytes]:
    descriptor = listening.fileno()
    delay = str(ORIGINS.get(name, 0.0))
    environment = dict(os.environ)
    # The child finds the same fastmesh, wherever this one was imported from.
    package_root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, environment.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "fastmesh.cli.demo_origin", name, str(descriptor), delay],
        stdin=subprocess.PIPE,  # never written: its end tells the origin that the demo is gone
        pass_fds=(descriptor,),
        start_new_session=True,  # Ctrl-C is for the proxy: the origins serve until it has drained
        env=environment,
    )


def _reap(origin: RunningOrigin, ending: threading.Event) -> None:
    """Waits for the end of an origin, so that a killed one does not stay a zombie, and says so."""
    code = origin.process.wait()
    if ending.is_set():
        return
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    print(f"{origin.name} (pid {origin.process.pid}) has ended: {how}", file=sys.stderr, flush=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _reachable(address: str) -> str:
    """``address`` as this machine reaches it: a wildcard is no place to connect to."""
    host, _, port = address.rpartition(":")
    return {"0.0.0.0": f"127.0.0.1:{port}", "[::]": f"[::1]:{port}", "": f"127.0.0.1:{port}"}.get(
        host, address
    )


def _in_a_container() -> bool:
    """Whether another terminal is probably not where we are. Docker and Podman each leave a file."""
    return os.getpid() == 1 or any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv")))


def what_to_try(file: DemoFile, origins: list[RunningOrigin]) -> str:
    """The text that the demo prints: what runs where, and commands to copy."""
    proxy, admin = f"http://{_reachable(file.listen)}", f"http://{_reachable(file.admin)}"
    path = shlex.quote(str(file.path))
    victim = origins[1]
    lines = [
        f"configuration   {file.path}",
        f"proxy           {proxy}/",
        f"admin           {admin}/",
    ]
    for origin in origins:
        slow = f", slow: {SLOW_SECONDS * 1000:.0f} ms" if ORIGINS.get(origin.name) else ""
        lines.append(f"{origin.name:<15} {origin.address} (pid {origin.process.pid}{slow})")
    edit = f"sed -i '/{origins[0].address}/s/weight: 1/weight: 8/' {path}"
    kill = f"kill -9 {victim.process.pid}"
    if _in_a_container():
        # The terminal is outside, where the file is not, and where the pid may be somebody else's.
        inside = f"docker exec {socket.gethostname()}"
        edit, kill = f"{inside} {edit}", f"{inside} sh -c '{kill}'"
    lines += [
        "",
        "Try, in another terminal:",
        f"  curl {proxy}/                            three origins answer in turn",
        f"  curl -i {proxy}/ping                     the proxy itself answers",
        f"  curl {admin}/metrics                     counters and latency for Prometheus",
        f"  curl {admin}/api/v1/services             endpoints and their states",
        f"  curl {admin}/api/v1/latency              percentiles",
        "Change the split: make a weight 8 in the file; it is in effect within a second:",
        f"  {edit}",
        "Kill an origin; no request fails:",
        f"  {kill}",
        f"  for i in 1 2 3 4 5 6; do curl -s {proxy}/ | head -1; done",
        "Ctrl-C drains and ends.",
        "",
    ]
    return "\n".join(lines)
