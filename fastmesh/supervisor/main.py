"""The process behind ``fastmesh run`` and ``fastmesh demo``."""

from __future__ import annotations

import sys

import trio

from fastmesh.errors import ConfigError, FastmeshError, StartError
from fastmesh.observability import logs
from fastmesh.supervisor.app import serve
from fastmesh.supervisor.drain import Exit
from fastmesh.supervisor.parts import Parts


def run(file: str, parts: Parts | None = None) -> Exit:
    """Serves with the configuration ``file`` until told to stop; what is wrong goes to stderr."""
    logs.set_up()
    if parts is None:
        from fastmesh.supervisor.real_parts import real_parts

        parts = real_parts()
    failures: list[FastmeshError] = []
    code = Exit.FAILED
    try:
        code = trio.run(serve, file, parts)
    except* (ConfigError, StartError) as group:
        failures = [error for error in group.exceptions if isinstance(error, FastmeshError)]
    except* KeyboardInterrupt:
        code = Exit.FORCED
    for failure in failures:
        print(_explain(failure), file=sys.stderr)
    return code


def _explain(failure: FastmeshError) -> str:
    if isinstance(failure, ConfigError):
        from fastmesh.config import render

        return render(failure.problems)
    return f"fastmesh cannot start:\n{failure}"
