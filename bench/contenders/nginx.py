"""nginx: its log, its stream module, reload by HUP, graceful stop by QUIT."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.contenders.contender import (
    HTTP,
    LOGGED,
    PLAIN,
    RELOADABLE,
    TCP,
    Command,
    Contender,
    Job,
    drain_by,
    endpoints,
    fill,
    output_of,
)
from bench.contenders.running import Running
from bench.harness.place import BenchError, find_tool
from bench.harness.process import wait_until

_POLICIES = {
    "round_robin": "# round robin is what it does when nothing is said",
    "random": "random;",
    "least_request": "least_conn;",
    "ring_hash": "hash $uri consistent;",
}


def _installed() -> str:
    return find_tool("nginx", "nginx")


def _load_stream(nginx: str) -> str | None:
    """What loads the stream module, empty if it is built in; None if this nginx has none."""
    built_with = output_of([nginx, "-V"]).split()
    if "--with-stream" in built_with:
        return ""
    if "--with-stream=dynamic" not in built_with:
        return None
    folders = [word.partition("=")[2] for word in built_with if word.startswith("--modules-path=")]
    folders += [f"{word.partition('=')[2]}/modules" for word in built_with if word.startswith("--prefix=")]
    modules = [Path(folder) / "ngx_stream_module.so" for folder in folders]
    found = next((module for module in modules if module.exists()), None)
    if found is None:
        raise BenchError("nginx has no stream module; install it: apt-get install libnginx-mod-stream")
    return f"load_module {found};"


def _configure(nginx: str, job: Job) -> Path:
    load_stream = _load_stream(nginx)
    stream = "# this nginx has no stream module"
    if load_stream is not None:
        servers = endpoints(job, "server 127.0.0.1:%(port)d;", "\n        ")
        stream = f"include {fill('nginx-stream.conf', job, ENDPOINTS=servers)};"
    # Buffered as one who wants speed would do; unbuffered, each line is a write of its own.
    log = f"{job.access_log} combined buffer=64k flush=1s" if job.variant == LOGGED else "off"
    return fill(
        "nginx.conf",
        job,
        LOAD_MODULE=load_stream or "# nothing to load",
        USER="user root;" if os.geteuid() == 0 else "# user: unprivileged",
        ACCESS_LOG=log,
        POLICY=_POLICIES[job.policy],
        ENDPOINTS=endpoints(job, "server 127.0.0.1:%(port)d;", "\n        "),
        STREAM=stream,
    )


def _command(program: Callable[[], str], job: Job) -> Command:
    nginx = program()
    config = _configure(nginx, job)
    return Command([nginx, "-p", str(job.folder), "-e", "stderr", "-c", str(config)])


def _version(program: Callable[[], str]) -> str:
    nginx = program()
    _load_stream(nginx)
    return output_of([nginx, "-v"]).splitlines()[-1].removeprefix("nginx version: ")


def _reload(running: Running, job: Job, step: int) -> None:
    """The master starts new workers when it has taken the file up; when it refuses it, it says `[emerg]`."""
    child = running.child
    workers, said = set(child.tree()), len(child.log.read_bytes())
    _configure(child.argv[0], job)
    child.signal(signal.SIGHUP)

    def taken_up() -> bool:
        refused = re.search(rb"\[emerg\].*", child.log.read_bytes()[said:])
        if refused:
            raise BenchError(refused[0].decode(errors="replace"))
        return not set(child.tree()) <= workers

    wait_until(taken_up, child, "start a new worker")


def _contender(program: Callable[[], str]) -> Contender:
    return Contender(
        "nginx",
        partial(_command, program),
        partial(_version, program),
        variants=frozenset({PLAIN, LOGGED, RELOADABLE}),
        policies=frozenset(_POLICIES),
        lacks={"maglev": "nginx has no Maglev"},
        drain=drain_by(signal.SIGQUIT),
        reload=_reload,
        rebuild=_of_another,
    )


def _of_another(path: str) -> Contender:
    contender = _contender(lambda: path)
    if _load_stream(path) is not None:
        return contender
    lacks = {**contender.lacks, TCP: f"{path} is built without the stream module"}
    return replace(contender, listeners=frozenset({HTTP}), lacks=lacks)


NGINX = _contender(_installed)
