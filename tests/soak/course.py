"""The configuration of a soak run and its course: each change does something that clients do not notice."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLICIES: tuple[object, ...] = (
    "least_request",
    "round_robin",
    "random",
    {"policy": "ring_hash", "key": "path"},
    {"policy": "maglev", "key": "source_ip"},
)
# What must be refused: a key that does not exist, a service that does not, a value without its unit, no YAML.
BAD_FILES = (
    "listeners: {web: {bind: '127.0.0.1:1', service: web, colour: blue}}\nservices: {web: {endpoints: []}}\n",
    "listeners: {web: {bind: '127.0.0.1:1', service: nobody}}\nservices: {}\n",
    "listeners: {web: {bind: '127.0.0.1:1', service: web}}\n"
    "services: {web: {endpoints: [], timeouts: {connect: 5}}}\n",
    "listeners: {web: [\n",
)


@dataclass(frozen=True)
class Places:
    """Addresses of what the configuration names. `clean` are endpoints that always live; the first two are
    always in use."""

    web_port: int
    relay_port: int
    extra_ports: Sequence[int]
    access_log: Path
    clean: Sequence[str]
    echoes: Sequence[str]
    dying: Sequence[str]
    toxic: Sequence[str]


@dataclass
class Course:
    """What the configuration says now; each method of `STEPS` changes one thing of it."""

    places: Places
    rng: random.Random
    drain: str = "30s"
    endpoints: int = 2
    echoes: int = 2
    weight: int = 1
    policy: int = 0
    extra_routes: int = 0
    extra_listeners: int = 0
    split: bool = False
    requests: int = 4000
    header_bytes: int = 32
    response: int = 15
    keepalive: int = 128
    checks: bool = False
    drains: bool = False
    _turn: list[str] = field(default_factory=list)

    def bare(self) -> dict[str, Any]:
        """Without an endpoint, so that no connection to one is left."""
        config = self.config()
        config["listeners"] = {name: config["listeners"][name] for name in ("web", "relay")}
        config["services"] = {name: {"endpoints": []} for name in config["services"]}
        return config

    def config(self) -> dict[str, Any]:
        places = self.places
        routes: list[dict[str, Any]] = [
            {"path": f"/extra/{number}", "service": "spare"} for number in range(self.extra_routes)
        ]
        routes += [
            {"path": "/c", "service": {"clean": 90, "spare": 10} if self.split else "clean"},
            {"path": "/mortal", "service": "dying"},
            {"path": "/toxic", "service": "toxic"},
            {"path": "/pong", "respond": {"body": "pong\n"}},
            {"path": "/moved", "redirect": {"to": "/elsewhere"}},
        ]
        listeners: dict[str, Any] = {
            "web": {"bind": f"127.0.0.1:{places.web_port}", "routes": routes},
            "relay": {"bind": f"127.0.0.1:{places.relay_port}", "protocol": "tcp", "service": "echo"},
        }
        for number in range(self.extra_listeners):
            bind = f"127.0.0.1:{places.extra_ports[number]}"
            listeners[f"extra{number}"] = {"bind": bind, "service": "spare"}
        return {
            "workers": 2,
            "drain": {"timeout": self.drain},
            "access_log": {"to": str(places.access_log)},
            "limits": {"header_bytes": f"{self.header_bytes}KiB"},
            "listeners": listeners,
            "services": self._services(),
        }

    def _services(self) -> dict[str, Any]:
        places = self.places
        clean: dict[str, Any] = {
            "endpoints": [
                {
                    "address": address,
                    "weight": self.weight if number == 0 else 1,
                    "drain": self.drains and number == 1,
                }
                for number, address in enumerate(places.clean[: self.endpoints])
            ],
            "balance": POLICIES[self.policy],
            "limits": {"requests": self.requests},
            "timeouts": {"response": f"{self.response}s"},
            "upstream": {"keepalive": self.keepalive},
        }
        if self.checks:
            clean["health"] = "tcp"
        return {
            "clean": clean,
            "spare": {"endpoints": list(places.clean[:1])},
            "echo": {"endpoints": list(places.echoes[: self.echoes])},
            "dying": {"endpoints": list(places.dying)},
            "toxic": {"endpoints": list(places.toxic)},
        }

    # What changes

    def change(self) -> str:
        """Changes one thing and names it. Each kind comes once in a round, in an order of its own."""
        if not self._turn:
            self._turn = self.rng.sample(sorted(STEPS), len(STEPS))
        name = self._turn.pop()
        STEPS[name](self)
        return name

    def _endpoints(self) -> None:
        self.endpoints = len(self.places.clean) if self.endpoints == 2 else 2

    def _echoes(self) -> None:
        self.echoes = len(self.places.echoes) if self.echoes == 1 else 1

    def _weight(self) -> None:
        self.weight = self.weight % 5 + 1

    def _policy(self) -> None:
        self.policy = (self.policy + 1) % len(POLICIES)

    def _routes(self) -> None:
        self.extra_routes = (self.extra_routes + 3) % 10

    def _listeners(self) -> None:
        self.extra_listeners = (self.extra_listeners + 1) % (len(self.places.extra_ports) + 1)

    def _split(self) -> None:
        self.split = not self.split

    def _limits(self) -> None:
        self.requests = 9000 - self.requests
        self.header_bytes = 80 - self.header_bytes

    def _settings(self) -> None:
        self.response = 35 - self.response
        self.keepalive = 192 - self.keepalive

    def _drain(self) -> None:
        self.drains = not self.drains

    def _checks(self) -> None:
        self.checks = not self.checks


STEPS: Mapping[str, Callable[[Course], None]] = {
    "endpoint": Course._endpoints,
    "relay endpoint": Course._echoes,
    "weight": Course._weight,
    "policy": Course._policy,
    "route": Course._routes,
    "listener": Course._listeners,
    "split": Course._split,
    "limits": Course._limits,
    "settings": Course._settings,
    "checks": Course._checks,
    "drain": Course._drain,
}
