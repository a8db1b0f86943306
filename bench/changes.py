"""Effective configuration changes while the proxy serves: endpoints, weights, routes, listeners, policies.

Each text of `configurations()` differs from the one before in what the data plane does. All endpoints are
alive and `/` always has a route, so that a failed request is the proxy's fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.contenders import Running, replace_and_reload
from bench.harness.admin import Admin
from bench.harness.place import BenchError, free_ports
from bench.measure import Bench, load_on
from bench.scenarios import SMALL

POLICIES = (
    "least_request",
    "round_robin",
    "random",
    "{policy: ring_hash, key: path}",
    "{policy: maglev, key: source_ip}",
)


@dataclass
class _State:
    """What the configuration says now. `ports` are of listeners that come and go."""

    head: str
    web_port: int
    tcp_port: int
    origins: Sequence[int]
    ports: Sequence[int]
    endpoints: list[int] = field(default_factory=list)
    weight: int = 1
    policy: int = 0
    routes: int = 0
    split: bool = False
    listeners: int = 0

    def text(self) -> str:
        endpoints = ", ".join(
            f"{{address: 127.0.0.1:{port}, weight: {self.weight if i == 0 else 1}}}"
            for i, port in enumerate(self.endpoints)
        )
        lines = [self.head, "listeners:", "  web:", f"    bind: 127.0.0.1:{self.web_port}", "    routes:"]
        lines += [f"      - {{path: /extra/{i}, service: other}}" for i in range(self.routes)]
        lines += [f"      - {{path: /, service: {'{origin: 90, other: 10}' if self.split else 'origin'}}}"]
        lines += [
            "  relay:",
            f"    bind: 127.0.0.1:{self.tcp_port}",
            "    protocol: tcp",
            "    service: origin",
        ]
        for i in range(self.listeners):
            lines += [f"  extra{i}:", f"    bind: 127.0.0.1:{self.ports[i]}", "    service: other"]
        lines += ["services:", "  origin:", f"    balance: {POLICIES[self.policy]}"]
        lines += [f"    endpoints: [{endpoints}]"]
        lines += ["  other:", f"    endpoints: [127.0.0.1:{self.origins[-1]}]", ""]
        return "\n".join(lines)

    def toggle_endpoint(self) -> None:
        if len(self.endpoints) > 1:
            self.endpoints.pop(0)
        else:
            self.endpoints = list(self.origins)

    def next_weight(self) -> None:
        if len(self.endpoints) < 2:  # the weight of an only endpoint changes nothing
            self.endpoints = list(self.origins)
        self.weight = self.weight % 5 + 1

    def next_policy(self) -> None:
        self.policy = (self.policy + 1) % len(POLICIES)

    def next_routes(self) -> None:
        self.routes = (self.routes + 3) % 10

    def toggle_split(self) -> None:
        self.split = not self.split

    def next_listeners(self) -> None:
        self.listeners = (self.listeners + 1) % (len(self.ports) + 1)


def configurations(
    head: str, web_port: int, tcp_port: int, origins: Sequence[int], ports: Sequence[int]
) -> Iterator[tuple[str, str]]:
    """Endless (kind of change, whole configuration); the first is where the changes start from, `start`."""
    state = _State(head, web_port, tcp_port, origins, ports, endpoints=list(origins))
    yield "start", state.text()
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("endpoints", state.toggle_endpoint),
        ("routes", state.next_routes),
        ("listeners", state.next_listeners),
        ("policy", state.next_policy),
        ("weight", state.next_weight),
        ("split", state.toggle_split),
    )
    while True:
        for kind, step in steps:
            step()
            yield kind, state.text()


class Changer:
    """Applies one configuration after the other to a running fastmesh and sees each one applied."""

    def __init__(self, running: Running, origins: Sequence[int]) -> None:
        self._running = running
        self._config = running.job.folder / "fastmesh.yaml"
        head = self._config.read_text().partition("listeners:")[0]
        self._texts = configurations(
            head, running.job.http_port, running.job.tcp_port, origins, free_ports(3)
        )
        self._admin = Admin(running.job.admin_port)
        self.applied = 0
        self.seconds: list[float] = []

    def change(self) -> None:
        """Replaces the file as an editor would, asks for a reload, and makes sure that it was applied."""
        kind, text = next(self._texts)  # `start`, the first, already differs from the peers/ file
        begin = time.monotonic()
        try:
            replace_and_reload(self._admin, self._config, text)
        except BenchError as error:
            self._running.check_alive()
            raise BenchError(f"change {self.applied + 1} ({kind}) was not applied: {error}") from error
        self.seconds.append(time.monotonic() - begin)
        self.applied += 1


@dataclass(frozen=True)
class ChangesUnderLoad:
    """What wrk saw while the changes went on."""

    applied: int
    requests: int
    failed: int
    errors: str
    seconds_each: list[float]


def change_under_load(bench: Bench, count: int) -> ChangesUnderLoad:
    """`count` changes, one after the other, while wrk keeps 64 connections busy."""
    running = bench.start("fastmesh")
    try:
        changer = Changer(running, bench.origin.ports)
        load = load_on(bench, running, SMALL, seconds=300)
        try:
            load.wait_started()
            for _ in range(count):
                changer.change()
                if not load.running():
                    raise BenchError("wrk ended before the changes did")
            result = load.finish()
        finally:
            load.stop()
        running.check_alive()
    finally:
        running.stop()
    return ChangesUnderLoad(
        changer.applied, result.requests, result.failed, result.error_text(), changer.seconds
    )
