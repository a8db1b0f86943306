"""fastmesh: the Python that has it, its configuration, and how it takes up another one."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
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
    drain_by,
    endpoints,
    filled,
    output_of,
    put,
)
from bench.contenders.running import Running
from bench.harness.admin import Admin
from bench.harness.place import ROOT, BenchError

_VERSION = "import fastmesh, sys; print('fastmesh', fastmesh.__version__, 'Python', sys.version.split()[0])"
# How to start it, and what to add to the environment.
_Program = tuple[list[str], Mapping[str, str]]


def fastmesh_python() -> str:
    """The interpreter that can run fastmesh: $FASTMESH_PYTHON, this one, or the checkout's `.venv`."""
    venv = ROOT / ".venv/bin/python"
    for python in (os.environ.get("FASTMESH_PYTHON"), sys.executable, str(venv) if venv.exists() else None):
        if python and shutil.which(python):
            probe = [python, "-c", "import fastmesh.engine, fastmesh.cli"]
            if subprocess.run(probe, capture_output=True, cwd=ROOT, check=False).returncode == 0:
                return python
    raise BenchError("fastmesh is not built for any Python found; run `make build`, or set FASTMESH_PYTHON")


def _of_this_checkout() -> _Program:
    return [fastmesh_python(), "-m", "fastmesh"], {"PYTHONPATH": str(ROOT)}


def _of_another(path: str) -> _Program:
    """A Python that has fastmesh, or its `fastmesh` command. PYTHONPATH must not give it this checkout's."""
    is_python = Path(path).name.startswith("python")
    return [path, "-m", "fastmesh"] if is_python else [path], {"PYTHONPATH": ""}


def _text(job: Job) -> str:
    log = f"access_log: {{to: {job.access_log}, format: combined}}"
    hashes = job.policy in ("ring_hash", "maglev")
    return filled(
        "fastmesh.yaml",
        job,
        ACCESS_LOG=log if job.variant == LOGGED else "",
        POLICY=f"{{policy: {job.policy}, key: path}}" if hashes else job.policy,
        ENDPOINTS=endpoints(job, "127.0.0.1:%(port)d", ", "),
    )


def _config(job: Job) -> Path:
    return job.folder / "fastmesh.yaml"


def _command(program: Callable[[], _Program], job: Job) -> Command:
    put(_config(job), _text(job))
    argv, environment = program()
    return Command(
        [*argv, "run", str(_config(job))],
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=job.folder,
    )


def _version(program: Callable[[], _Program]) -> str:
    argv, environment = program()
    asked = [argv[0], "-P", "-c", _VERSION] if "-m" in argv else [argv[0], "--version"]
    return output_of(asked, **environment).splitlines()[0]


def replace_and_reload(admin: Admin, path: Path, text: str) -> None:
    """Puts `text` in the place of the configuration and has it loaded; BenchError unless it was applied."""
    try:
        before = admin.reloads("applied")
        put(path, text)
        result, answer = admin.reload()
        # `unchanged`: the watcher of the file was faster, and has applied it.
        if result == "unchanged" and admin.reloads("applied") > before:
            return
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BenchError(f"the admin API failed: {error}") from error
    if result != "applied":
        raise BenchError(answer)


def _reload(running: Running, job: Job, step: int) -> None:
    replace_and_reload(Admin(job.admin_port), _config(job), _text(job))


def _contender(program: Callable[[], _Program]) -> Contender:
    return Contender(
        "fastmesh",
        partial(_command, program),
        partial(_version, program),
        variants=frozenset({PLAIN, LOGGED, RELOADABLE}),
        has_admin=True,
        policies=frozenset(POLICIES),
        drain=drain_by(signal.SIGTERM),
        reload=_reload,
        rebuild=lambda path: _contender(lambda: _of_another(path)),
    )


FASTMESH = _contender(_of_this_checkout)
