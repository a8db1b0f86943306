"""A running container, as the tests use one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.waiting import eventually

if TYPE_CHECKING:
    from support.engine import Engine


class Container:
    def __init__(self, engine: Engine, name: str) -> None:
        self._docker = engine.docker
        self.name = name

    def inspect(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self._docker("inspect", self.name))[0]
        return facts

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.inspect()["State"]
        return found

    def address(self, network: str = "bridge") -> str:
        """Its IPv4 address in a network."""
        return str(self.inspect()["NetworkSettings"]["Networks"][network]["IPAddress"])

    def published(self, port: int) -> int:
        """The port of this machine that leads to `port` of the container."""
        return int(self.inspect()["NetworkSettings"]["Ports"][f"{port}/tcp"][0]["HostPort"])

    def logs(self) -> str:
        """Standard output and error."""
        return self._docker("logs", self.name, both=True)

    def exec(self, *command: str, options: tuple[str, ...] = (), timeout: float = 60) -> str:
        """Standard output of a command inside; AssertionError when it fails."""
        return self._docker("exec", *options, self.name, *command, timeout=timeout)

    def docker(self, action: str, *options: str) -> None:
        """`docker ACTION OPTIONS… NAME`: kill, pause, unpause, stop, restart, …"""
        self._docker(action, *options, self.name)

    def wait(self, within: float = 30) -> int:
        """Its exit code."""
        return int(self._docker("wait", self.name, timeout=within))

    def healthy(self, within: float = 60) -> None:
        """Returns when the health check of its image says so."""
        eventually(
            lambda: self.state["Health"]["Status"] == "healthy",
            f"{self.name} to be healthy",
            within=within,
            every=0.1,
        )
