"""What the supervisor asks of the data plane (`fastmesh.engine.DataPlane` is the real one)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from fastmesh.model import Config, Given, Resolved
from fastmesh.model.ceilings import Ceilings
from fastmesh.model.stats import Stats
from fastmesh.model.told import Told


class ApplyResult(Protocol):
    """What `DataPlane.apply` did; ``changes`` (those of `fastmesh.registry.changes`) and ``warnings`` are
    sentences for people."""

    @property
    def changed(self) -> bool: ...
    @property
    def changes(self) -> tuple[str, ...]: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def generation(self) -> int: ...


class DataPlane(Protocol):
    """Calls come from one thread at a time, apart from `stats`, `busy`, `connections` and
    `tunnels`."""

    def apply(
        self,
        config: Config,
        resolved: Resolved,
        verdicts: Mapping[tuple[str, str], bool] | None = None,
    ) -> ApplyResult:
        """Puts a configuration in force (blocking); the first call binds the listeners. ``verdicts`` of
        active checks say which new endpoints, by service and address, may be used. Raises StartError and
        then leaves what was in force untouched."""

    def set_health(self, verdicts: Mapping[tuple[str, str], bool]) -> None:
        """What active checks found since then. Waits for a change in progress."""

    def eject(self, service: str, address: str) -> bool:
        """Leaves an endpoint out for a time because of its success rate. False if it is out or gone already,
        or no more may be left out."""

    def start(self) -> None: ...

    def set_access_log(self, fd: int | None, format: str) -> None:
        """Access lines go to a duplicate of ``fd`` from now on; None: nowhere."""

    def stats(self) -> Stats: ...

    def tend(self) -> tuple[str, ...]:
        """Called every second: frees what is not used any more; returns what is worth a log line."""

    def left_out(self) -> Mapping[tuple[str, str], int]:
        """How often each endpoint was left out, by service and address, that `tend` found so last."""

    def held_sockets(self) -> Mapping[str, Given]:
        """All listening sockets by the text of their bind, to be handed to another process."""

    def tell(self) -> tuple[Told, ...]:
        """What requests said of endpoints. Waits for a change in progress."""

    def release_given(self, binds: Iterable[str]) -> tuple[str, ...]:
        """Closes the handed-in sockets that no listener has, and returns their binds."""

    def own_listeners(self, binds: Iterable[str]) -> None:
        """No other process cares for these any more."""

    def leave_listeners(self, binds: Collection[str]) -> None:
        """Another process serves these now (blocking)."""

    def begin_drain(self) -> None:
        """From now on each answer carries ``Connection: close``."""

    def refuse_new(self) -> None:
        """Who waits in the queues of listeners stays there, nobody else joins."""

    def close_listeners(self) -> None:
        """Accepts who waits in the queues, then stops listening."""

    def busy(self) -> int:
        """Exchanges, tunnels and TCP relays in progress."""

    def connections(self) -> int:
        """Clients' connections, idle ones, tunnels and relays among them."""

    def tunnels(self) -> int:
        """Tunnels and TCP relays."""

    def close_idle(self, least_idle: float, leaving: bool = False) -> None:
        """Lets go of clients that have waited for so many seconds between two requests; with ``leaving`` only
        of those of closed sockets. Returns at once."""

    def leaving(self) -> int:
        """Clients of closed sockets, as far as is known: 1 at least until workers have looked."""

    def stop(self) -> None:
        """Closes everything and joins the workers (blocking)."""

    def ledger(self) -> Mapping[str, int]: ...


class DataPlaneFactory(Protocol):
    def __call__(
        self,
        *,
        workers: int,
        connection_limit: int,
        ceilings: Ceilings,
        given: Mapping[str, Given] | None = None,
        told: Iterable[Told] = (),
    ) -> DataPlane:
        """``given``: listening sockets that were handed in, by the text of their bind. ``told``: what another
        process knew of endpoints."""
