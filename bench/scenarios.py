"""The work: which listener, which path, over how many connections, by whom, how often."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.contenders import CONTENDERS, HTTP, LOGGED, PLAIN, POLICIES, TCP

ALL = tuple(CONTENDERS)
# Who is measured in what goes beyond the core: the proxies that one would otherwise write in C or C++.
FURTHER = ("fastmesh", "nginx", "haproxy", "envoy")
# Endpoints that a policy picks among.
POLICY_ENDPOINTS = 4


@dataclass(frozen=True)
class Scenario:
    """One closed-loop load, put on each contender in turn, `rounds` times over.

    `least_bytes` is what a whole answer has at least: fewer bytes a request make a sample invalid. `script`
    is a file of `bench/wrk/` that makes the requests. `endpoints` ports of the origin are behind the proxy.
    """

    name: str
    title: str
    contenders: tuple[str, ...]
    rounds: int
    path: str = "/"
    listener: str = HTTP
    variant: str = PLAIN
    connections: int = 64
    seconds: int = 2
    headers: tuple[str, ...] = ()
    least_bytes: int = 128
    script: str = "report.lua"
    group: str = "core"
    policy: str = "round_robin"
    endpoints: int = 1


@dataclass(frozen=True)
class LatencyScenario:
    """One open-loop load: `share` of what the slowest peer can do, the same rate for every contender."""

    name: str
    title: str
    contenders: tuple[str, ...]
    rounds: int
    share: float
    connections: int = 64
    seconds: int = 2


_QUICK_PROXIES = ("fastmesh", "nginx", "haproxy")

SMALL = Scenario(
    "small",
    "small keep-alive request, 64 connections",
    ("floor", *_QUICK_PROXIES),
    rounds=14,
    seconds=1,
)
LOGGED_SMALL = Scenario(
    "logged",
    "the same with the access log on",
    ("fastmesh", "nginx"),
    rounds=14,
    seconds=1,
    variant=LOGGED,
)
BODY_16K = Scenario(
    "body-16k",
    "16 KiB response body",
    _QUICK_PROXIES,
    rounds=9,
    seconds=1,
    path="/16k",
    least_bytes=16 * 1024,
)
BODY_HTTP = Scenario(
    "body-1m",
    "1 MiB response body, HTTP",
    ("fastmesh", "haproxy"),
    rounds=9,
    seconds=1,
    path="/1m",
    connections=16,
    least_bytes=1024 * 1024,
)
BODY_TCP = Scenario(
    "body-1m-tcp",
    "1 MiB response body, relayed TCP",
    ("fastmesh", "haproxy"),
    rounds=9,
    seconds=1,
    path="/1m",
    listener=TCP,
    connections=16,
    least_bytes=1024 * 1024,
)
CLOSE = Scenario(
    "close",
    "a new client connection for each request",
    _QUICK_PROXIES,
    rounds=9,
    seconds=1,
    headers=("Connection: close",),
)

# Not the 1 MiB bodies, which only the full run has: between short runs their ratios differ by a fifth.
QUICK: tuple[Scenario, ...] = (SMALL, LOGGED_SMALL, BODY_16K, CLOSE)

_CORE_ROUNDS = 5


def _core(scenario: Scenario) -> Scenario:
    return replace(scenario, contenders=ALL, rounds=_CORE_ROUNDS, seconds=2, group="core")


CORE: tuple[Scenario, ...] = (
    _core(SMALL),
    _core(Scenario("connections-1024", "small request, 1,024 connections", ALL, 5, connections=1024)),
    _core(BODY_16K),
    _core(BODY_HTTP),
    _core(CLOSE),
    _core(Scenario("tcp", "small request over relayed TCP", ALL, 5, listener=TCP)),
)
LATENCY: tuple[LatencyScenario, ...] = tuple(
    LatencyScenario(f"latency-{share}", f"open loop at {share} % of the slowest peer", ALL, 9, share / 100)
    for share in (25, 50, 75)
)


def _further(name: str, title: str, **changed: object) -> Scenario:
    return replace(Scenario(name, title, FURTHER, 3, seconds=1, group="further"), **changed)  # type: ignore[arg-type]


MORE: tuple[Scenario, ...] = (
    _further("connections-1", "small request, 1 connection", connections=1),
    _further("connections-16", "small request, 16 connections", connections=16),
    _further("post-chunked", "POST of 1 KiB, chunked", script="post_chunked.lua"),
    _further("post-64k", "POST of 64 KiB", script="post_64k.lua"),
    _further("cookies", "20 request headers with cookies", script="cookies.lua"),
)
BY_POLICY: tuple[Scenario, ...] = tuple(
    _further(
        f"policy-{policy}",
        f"balanced over {POLICY_ENDPOINTS} endpoints: {policy}",
        group="policy",
        policy=policy,
        endpoints=POLICY_ENDPOINTS,
        script="paths.lua",
    )
    for policy in POLICIES
)
FULL: tuple[Scenario, ...] = (*CORE, *MORE, *BY_POLICY)
