"""What the cases play on: a folder, a seed, a fastmesh in front of endpoints, and lines with verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness.place import BenchError
from chaos.programs import IdOrigin, IdTable, Load, LoadResult, Toxic
from support.ports import free_port
from support.proxy import Proxy

POLICIES = ("least_request", "round_robin", "random", "ring_hash", "maglev")
"""The first is the default one."""
CONNECTIONS = 64
"""Closed loops that a load has."""
# What is stalled may last as long as the default time-out of a drain.
_DRAIN_SECONDS = 40.0


@dataclass(frozen=True)
class Line:
    """One line of the report. `figures` is what is to be shown of it; `broken` says what does not hold."""

    case: str
    what: str
    figures: Mapping[str, object]
    broken: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        return not self.broken

    def text(self) -> str:
        shown = "  ".join(f"{name} {_short(value)}" for name, value in self.figures.items())
        verdict = "ok" if self.holds else "FAILED: " + "; ".join(self.broken)
        return f"{self.case:<13} {self.what:<34} {shown}  {verdict}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def unmet(*checks: tuple[bool, str]) -> list[str]:
    """The texts of the conditions that do not hold."""
    return [text for holds, text in checks if not holds]


def _say_nothing(text: str) -> None:
    pass


@dataclass
class Stage:
    """`scale` multiplies counts where a case allows it; `policies` are those that are asked for.

    `settings` of the service are added to the default configuration, and `top` to the file's top level. With
    `unhurried`, nothing is said of times, rates and memory: a disturbed machine must not make a case fail.
    """

    folder: Path
    seed: int
    scale: float = 1.0
    policies: Sequence[str] = POLICIES
    say: Callable[[str], None] = _say_nothing
    settings: Mapping[str, object] = field(default_factory=dict)
    top: Mapping[str, object] = field(default_factory=dict)
    unhurried: bool = False
    _used: int = 0

    def fresh_folder(self) -> Path:
        self._used += 1
        folder = self.folder / str(self._used)
        folder.mkdir()
        return folder

    def mesh(
        self,
        folder: Path,
        endpoints: Sequence[str],
        policy: str,
        environment: Mapping[str, str] | None = None,
    ) -> Mesh:
        return Mesh(folder, endpoints, policy, self.settings, environment, self.top)

    def count(self, full: int, least: int = 1) -> int:
        return max(least, round(full * self.scale))


def service(endpoints: Sequence[str], policy: str, settings: Mapping[str, object]) -> dict[str, object]:
    """A service of the configuration; the default policy is not named, so that it is the default."""
    found: dict[str, object] = {"endpoints": list(endpoints), **settings}
    if policy in ("ring_hash", "maglev"):
        found["balance"] = {"policy": policy, "key": {"header": "x-chaos-id"}}
    elif policy != POLICIES[0]:
        found["balance"] = policy
    return found


class Mesh:
    """`fastmesh run` with one listener and one service, and else the default configuration."""

    def __init__(
        self,
        folder: Path,
        endpoints: Sequence[str],
        policy: str = POLICIES[0],
        settings: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        top: Mapping[str, object] | None = None,
    ) -> None:
        self.port = free_port()
        config = {
            **(top or {}),
            "listeners": {"web": {"bind": f"127.0.0.1:{self.port}", "routes": {"/": "origins"}}},
            "services": {"origins": service(endpoints, policy, settings or {})},
        }
        self.proxy = Proxy(folder, config, environment=environment).start()

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Its end is part of the verdict: exit code 0 and nothing leaked. Not after another failure."""
        if kind is None:
            self.proxy.stop(within=_DRAIN_SECONDS)
        else:
            self.proxy.kill()

    def endpoints(self) -> list[dict[str, Any]]:
        """As the admin API shows them, in the order of the configuration."""
        rows: list[dict[str, Any]] = self.proxy.api("services")["services"][0]["endpoints"]
        return rows

    def upstream_connections(self) -> int:
        return sum(row["connections_active"] + row["connections_idle"] for row in self.endpoints())


def local(ports: Sequence[int]) -> list[str]:
    return [f"127.0.0.1:{port}" for port in ports]


@contextmanager
def running(load: Load) -> Iterator[Load]:
    """The load, started; it is stopped when the block ends."""
    try:
        load.wait_started()
        yield load
    finally:
        load.stop()


def pause(load: Load, seconds: float) -> None:
    """Lets the load go on; BenchError if it ended."""
    if load.wait(seconds):
        raise BenchError("the load ended before the case did")


@dataclass
class Spoilt:
    """Endpoints of id origins behind a toxic proxy, with tables of what either received."""

    origins: list[IdOrigin]
    toxic: Toxic
    received: IdTable  # by the toxic proxy
    whole: IdTable  # by the origins

    @property
    def ports(self) -> list[int]:
        return self.toxic.ports

    def wrong_bodies(self) -> int:
        """Bodies of requests that were not theirs, and heads that made no sense, at the origins."""
        counts = [origin.counts() for origin in self.origins]
        return sum(count["wrong"] + count["bad"] for count in counts)


@contextmanager
def spoilt(stage: Stage, folder: Path, endpoints: int, requests: int) -> Iterator[Spoilt]:
    """So many endpoints, and room for so many ids."""
    with ExitStack() as stack:
        tables = [IdTable(folder / name, 2 * requests + 2) for name in ("received", "whole")]
        origins = []
        for number in range(endpoints):
            origins.append(IdOrigin(number, free_port(), folder, seen=tables[1]))
            stack.callback(origins[-1].stop)
        gates = {free_port(): origin.port for origin in origins}
        toxic = Toxic(gates, folder, seed=stage.seed, seen=tables[0])
        stack.callback(toxic.stop)
        yield Spoilt(origins, toxic, *tables)


def failures(result: LoadResult) -> dict[str, object]:
    """The figures that each line begins with."""
    return {"requests": result.sent, "failed": result.failed(), **result.errors()}
