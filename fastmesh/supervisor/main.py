"""The process behind ``fastmesh run`` and ``fastmesh demo``."""

from __future__ import annotations

import gc
import logging
import sys

import trio

from fastmesh.config import render_text
from fastmesh.errors import ConfigError, FastmeshError, StartError
from fastmesh.observability import logs
from fastmesh.supervisor import activation, notify, successor
from fastmesh.supervisor.app import RESTART_SECONDS, SIGNALS, serve
from fastmesh.supervisor.dataplane import DataPlaneFactory
from fastmesh.supervisor.drain import Exit
from fastmesh.supervisor.lasting import Lasting

log = logging.getLogger("fastmesh")

# Reading a large configuration takes a thread some hundred milliseconds of Python. The admin API, which needs
# the interpreter several times for an answer, waits at most this long each time.
SWITCH_SECONDS = 0.001


def run(file: str, build_data_plane: DataPlaneFactory | None = None, *, takeover: str | None = None) -> Exit:
    """Serves with the configuration ``file`` until told to stop; what is wrong goes to stderr. ``takeover``:
    the Unix socket at which this process takes over from another one, and the next one from it."""
    successor.detach()
    logs.set_up()
    sys.setswitchinterval(SWITCH_SECONDS)
    if build_data_plane is None:
        from fastmesh.engine import DataPlane

        build_data_plane = DataPlane
    failures: list[FastmeshError] = []
    code: Exit | None = None
    try:
        # Before anything else opens a descriptor: theirs are known by their numbers.
        lasting = Lasting(activation.take_sockets(), takeover)
        with lasting.signals_kept(SIGNALS):
            try:
                while code is None:
                    code = _control(file, build_data_plane, lasting)
            finally:
                lasting.stop()
        log.info("stopped")
    except* (ConfigError, StartError) as group:
        failures = [error for error in group.exceptions if isinstance(error, FastmeshError)]
        code = Exit.FAILED
    except* KeyboardInterrupt:
        code = Exit.FORCED
    for failure in failures:
        print(_explain(failure), file=sys.stderr)
        notify.failed(failure)
    assert code is not None
    return code


def _control(file: str, build_data_plane: DataPlaneFactory, lasting: Lasting) -> Exit | None:
    """Runs a control plane to its end. None: it failed while the data plane serves; another one is due."""
    try:
        return trio.run(serve, file, build_data_plane, lasting)
    except Exception:
        if not lasting.serving or lasting.ending or lasting.succession.successor:
            raise
        lasting.failures += 1
        log.critical(
            "the control plane failed; traffic goes on with the last configuration,"
            " and it starts again in %g s",
            RESTART_SECONDS,
            exc_info=True,
        )
    gc.collect()  # what the failed one left behind lets go now, and not of what the next one has taken
    return None


def _explain(failure: FastmeshError) -> str:
    if isinstance(failure, ConfigError):
        return render_text(failure.problems).rstrip("\n")
    return f"fastmesh cannot start:\n{failure}"
