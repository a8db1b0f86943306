"""What the proxies are held against: no proxy at all, and one that only passes bytes on."""

from __future__ import annotations

from bench.contenders.contender import LOGGED, PLAIN, POLICIES, RELOADABLE, Command, Contender, Job
from bench.harness.native import built

_NOTHING_TO_SET = "there is no proxy that could"
_PARSES_NOTHING = "the relay floor passes bytes to one endpoint and knows nothing else"


def _direct_version() -> str:
    return "no proxy: bench/origin.c"


def _floor_command(job: Job) -> Command:
    """A port for each kind of listener: it does the same on both."""
    ports = (job.http_port, job.tcp_port, job.origin_port)
    return Command([str(built("relay_floor")), *map(str, ports)])


def _floor_version() -> str:
    built("relay_floor")
    return "bench/relay_floor.c"


DIRECT = Contender(
    "direct",
    lambda job: Command([]),
    _direct_version,
    variants=frozenset({PLAIN}),
    lacks=dict.fromkeys((LOGGED, RELOADABLE, *POLICIES[1:]), _NOTHING_TO_SET),
)
FLOOR = Contender(
    "floor",
    _floor_command,
    _floor_version,
    variants=frozenset({PLAIN}),
    lacks=dict.fromkeys((LOGGED, RELOADABLE, *POLICIES[1:]), _PARSES_NOTHING),
)
