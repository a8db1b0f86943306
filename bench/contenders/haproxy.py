"""HAProxy: alone, or under a master that starts it anew by USR2; graceful stop by USR1."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.contenders.contender import (
    LOGGED,
    PLAIN,
    RELOADABLE,
    Command,
    Contender,
    Job,
    endpoints,
    fill,
    output_of,
)
from bench.contenders.running import Running
from bench.harness.place import BenchError, find_tool
from bench.harness.process import catches, wait_until

_POLICIES = {
    "round_robin": "balance roundrobin",
    "random": "balance random(1)",
    "least_request": "balance leastconn",
    "ring_hash": "balance uri\n    hash-type consistent",
}


def _installed() -> str:
    return find_tool("haproxy", "haproxy")


def _configure(job: Job) -> Path:
    servers = endpoints(job, "server origin%(number)d 127.0.0.1:%(port)d", "\n    ")
    return fill("haproxy.cfg", job, POLICY=_POLICIES[job.policy], ENDPOINTS=servers)


def _command(program: Callable[[], str], job: Job) -> Command:
    mode = "-W" if job.variant == RELOADABLE else "-db"
    return Command([program(), mode, "-f", str(_configure(job))])


def _version(program: Callable[[], str]) -> str:
    return " ".join(output_of([program(), "-v"]).split()[:3])


def _wait_for_master(running: Running) -> None:
    """Ports are open, and a new file is loaded, before the master listens to signals: they would be lost."""
    child = running.child
    wait_until(lambda: catches(child.pid, signal.SIGUSR2), child, "come up as a master")


def _drain(running: Running) -> None:
    if running.job.variant == RELOADABLE:
        _wait_for_master(running)
    running.child.signal(signal.SIGUSR1)


def _reload(running: Running, job: Job, step: int) -> None:
    """The master runs itself again with the new file, and says how the loading went."""
    child = running.child
    _wait_for_master(running)
    said = len(child.log.read_bytes())
    _configure(job)
    child.signal(signal.SIGUSR2)

    def taken_up() -> bool:
        text = child.log.read_bytes()[said:].decode(errors="replace")
        if "Loading failure" in text:
            raise BenchError(" ".join(re.findall(r"\[ALERT\].*", text)[:1]))
        return "Loading success" in text

    wait_until(taken_up, child, "load the new file")


def _contender(program: Callable[[], str]) -> Contender:
    return Contender(
        "haproxy",
        partial(_command, program),
        partial(_version, program),
        variants=frozenset({PLAIN, RELOADABLE}),
        policies=frozenset(_POLICIES),
        lacks={
            LOGGED: "HAProxy logs to a syslog server, and the work would be that one's too",
            "maglev": "HAProxy has no Maglev",
        },
        drain=_drain,
        reload=_reload,
        rebuild=lambda path: _contender(lambda: path),
    )


HAPROXY = _contender(_installed)
