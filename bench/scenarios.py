"""The work: which listener, which path, over how many connections, by whom, how often."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contenders import HTTP, LOGGED, PLAIN, TCP


@dataclass(frozen=True)
class Scenario:
    """One load, put on each contender in turn, `rounds` times over.

    `least_bytes` is what a whole answer has at least: fewer bytes a request make a sample invalid.
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


SMALL = Scenario(
    "small",
    "small keep-alive request, 64 connections",
    ("floor", "fastmesh", "nginx", "haproxy"),
    rounds=5,
)
LOGGED_SMALL = Scenario(
    "logged",
    "the same with the access log on",
    ("fastmesh", "nginx"),
    rounds=4,
    variant=LOGGED,
)
BODY_HTTP = Scenario(
    "body-http",
    "1 MiB response body, HTTP",
    ("fastmesh", "haproxy"),
    rounds=4,
    path="/1m",
    connections=16,
    least_bytes=1024 * 1024,
)
BODY_TCP = Scenario(
    "body-tcp",
    "1 MiB response body, relayed TCP",
    ("fastmesh", "haproxy"),
    rounds=4,
    path="/1m",
    listener=TCP,
    connections=16,
    least_bytes=1024 * 1024,
)
CLOSE = Scenario(
    "close",
    "a new client connection for each request",
    ("fastmesh", "nginx", "haproxy"),
    rounds=4,
    headers=("Connection: close",),
)

QUICK: tuple[Scenario, ...] = (SMALL, LOGGED_SMALL, BODY_HTTP, BODY_TCP, CLOSE)
