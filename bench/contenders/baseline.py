"""What the proxies are held against: no proxy at all, and one that only passes bytes on."""

from __future__ import annotations

from bench.contenders.contender import HTTP, LOGGED, PLAIN, POLICIES, RELOADABLE, TCP, Command, Contender, Job
from bench.harness.native import built

_NOTHING_TO_SET = "there is no proxy that could"
_PARSES_NOTHING = "the relay floor passes bytes to one endpoint and knows nothing else"


def _direct_version() -> str:
    return "no proxy: bench/origin.c"


def _floor_command(job: Job) -> Command:
    return Command([str(built("relay_floor")), str(job.http_port), str(job.origin_port)])


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
    listeners=frozenset({HTTP}),
    variants=frozenset({PLAIN}),
    lacks={
        TCP: "the relay floor relays TCP whatever is in it: see its small requests",
        **dict.fromkeys((LOGGED, RELOADABLE, *POLICIES[1:]), _PARSES_NOTHING),
    },
)
