"""The process behind ``fastmesh run`` and ``fastmesh demo``."""

from __future__ import annotations

import sys

import trio

from fastmesh.config import render_text
from fastmesh.errors import ConfigError, FastmeshError, StartError
from fastmesh.observability import logs
from fastmesh.supervisor import activation, notify
from fastmesh.supervisor.app import serve
from fastmesh.supervisor.dataplane import DataPlaneFactory
from fastmesh.supervisor.drain import Exit

# Reading a large configuration takes a thread some hundred milliseconds of Python. The admin API, which needs
# the interpreter several times for an answer, waits at most this long each time.
SWITCH_SECONDS = 0.001


def run(file: str, build_data_plane: DataPlaneFactory | None = None) -> Exit:
    """Serves with the configuration ``file`` until told to stop; what is wrong goes to stderr."""
    logs.set_up()
    sys.setswitchinterval(SWITCH_SECONDS)
    if build_data_plane is None:
        from fastmesh.engine import DataPlane

        build_data_plane = DataPlane
    failures: list[FastmeshError] = []
    code = Exit.FAILED
    try:
        # Before anything else opens a descriptor: theirs are known by their numbers.
        given = activation.take_sockets()
        code = trio.run(serve, file, build_data_plane, given)
    except* (ConfigError, StartError) as group:
        failures = [error for error in group.exceptions if isinstance(error, FastmeshError)]
    except* KeyboardInterrupt:
        code = Exit.FORCED
    for failure in failures:
        print(_explain(failure), file=sys.stderr)
        notify.failed(failure)
    return code


def _explain(failure: FastmeshError) -> str:
    if isinstance(failure, ConfigError):
        return render_text(failure.problems).rstrip("\n")
    return f"fastmesh cannot start:\n{failure}"
