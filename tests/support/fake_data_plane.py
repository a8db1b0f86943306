"""A data plane in memory for tests of the control plane: it binds the listeners and serves nothing.

Run as a script (``fake_data_plane.py FILE [TAKEOVER]``) it is the whole of ``fastmesh run`` on this data
plane. The environment ``FAKE_BUSY`` then names a file whose number is what `busy` says, and each call goes to
stderr as ``fake: …``.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastmesh.errors import StartError
from fastmesh.model import Config, Given, Resolved
from fastmesh.model.ceilings import Ceilings
from fastmesh.model.stats import (
    EndpointStats,
    Histogram,
    ListenerStats,
    PairStats,
    ServiceStats,
    Stats,
    WorkerStats,
)
from fastmesh.model.told import Told
from fastmesh.registry import changes

NO_CEILINGS = Ceilings()
EMPTY = Histogram("hdr", b"")
EMPTY_SMALL = Histogram("small", b"")


@dataclass(frozen=True)
class Applied:
    changed: bool
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    generation: int


class FakeDataPlane:
    """Records what it was told: calls, the verdicts of the last `apply` and those since, ejections.

    `in_progress` is what `busy` says, `clients` what `connections` says until idle ones are let go,
    `inbound` what `leaving` says, `may_eject` what `eject` does."""

    def __init__(
        self,
        *,
        workers: int,
        connection_limit: int,
        ceilings: Ceilings = NO_CEILINGS,
        given: Mapping[str, Given] | None = None,
        told: Iterable[Told] = (),
    ) -> None:
        self.workers = workers
        self.connection_limit = connection_limit
        self.ceilings = ceilings
        self.given = dict(given or {})
        self.told = tuple(told)
        self.calls: list[str] = []
        self.config: Config | None = None
        self.resolved: Resolved = {}
        self.out: dict[tuple[str, str], int] = {}
        self.in_progress = 0
        self.clients = 0
        self.relays = 0
        self.inbound = 0
        self.refuse: str | None = None
        self.access_log: tuple[int | None, str] = (None, "")
        self.leaks = 0
        self.verdicts: dict[tuple[str, str], bool] = {}
        self.health: dict[tuple[str, str], bool] = {}
        self.ejected: list[tuple[str, str]] = []
        self.may_eject = True
        self._generation = 0
        self._sockets: dict[str, socket.socket] = {}

    def _called(self, name: str) -> None:
        self.calls.append(name)

    def apply(
        self,
        config: Config,
        resolved: Resolved,
        verdicts: Mapping[tuple[str, str], bool] | None = None,
    ) -> Applied:
        self._called("apply")
        self.verdicts = dict(verdicts or {})
        if self.refuse is not None:
            raise StartError(self.refuse)
        serving = [listener for listener in config.listeners.values() if not listener.drain]
        wanted = {bind.text: bind for listener in serving for bind in listener.binds}
        fresh: dict[str, socket.socket] = {}
        for text, bind in wanted.items():
            if text in self._sockets:
                continue
            if text in self.given:
                fresh[text] = self.given.pop(text).sockets[0]
                continue
            item = socket.socket()
            item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                item.bind((bind.host, bind.port))
                item.listen()
            except OSError as error:
                item.close()
                for opened in fresh.values():
                    opened.close()
                raise StartError(f"listener: {text} is in use: {error}") from error
            fresh[text] = item
        for text in [text for text in self._sockets if text not in wanted]:
            self._sockets.pop(text).close()
        self._sockets.update(fresh)
        changed = config != self.config or resolved != self.resolved
        said = changes(self.config, config) if self.config is not None else ()
        self.config, self.resolved = config, resolved
        self._generation += changed
        return Applied(changed, said, (), self._generation)

    def set_health(self, verdicts: Mapping[tuple[str, str], bool]) -> None:
        self.health.update(verdicts)

    def eject(self, service: str, address: str) -> bool:
        self.ejected.append((service, address))
        return self.may_eject

    def left_out(self) -> Mapping[tuple[str, str], int]:
        return dict(self.out)

    def start(self) -> None:
        self._called("start")

    def set_access_log(self, fd: int | None, format: str) -> None:
        self._called("set_access_log")
        if self.access_log[0] is not None:
            os.close(self.access_log[0])
        self.access_log = (None if fd is None else os.dup(fd), format)

    def tend(self) -> tuple[str, ...]:
        return ()

    def stats(self) -> Stats:
        config = self.config
        assert config is not None
        return Stats(
            pairs=tuple(
                PairStats(listener, service, {200: 1}, EMPTY)
                for listener in config.listeners
                for service in config.services
            ),
            services=tuple(ServiceStats(service, EMPTY) for service in config.services),
            endpoints=tuple(
                EndpointStats(
                    service.name,
                    endpoint.address.text,
                    "draining" if endpoint.drain else "up",
                    endpoint.weight,
                    *(0, 0, 0, 0, 0),
                    EMPTY_SMALL,
                )
                for service in config.services.values()
                for endpoint in service.endpoints
            ),
            listeners=tuple(
                ListenerStats(
                    item.name,
                    () if item.drain else tuple(bind.text for bind in item.binds),
                    item.protocol,
                    *(0, 0, 0, 0),
                    draining=item.drain,
                )
                for item in config.listeners.values()
            ),
            workers=tuple(
                WorkerStats(index, 0, 0, 0, 0, self._generation, {}) for index in range(self.workers)
            ),
            errors={},
            access_lines_dropped=0,
            generation=self._generation,
        )

    def held_sockets(self) -> dict[str, Given]:
        return {text: Given((item,), ours=True) for text, item in self._sockets.items()}

    def tell(self) -> tuple[Told, ...]:
        return self.told

    def release_given(self, binds: Iterable[str]) -> tuple[str, ...]:
        unused = tuple(text for text in binds if text in self.given)
        for text in unused:
            self.given.pop(text).sockets[0].close()
        return unused

    def own_listeners(self, binds: Iterable[str]) -> None:
        self._called(f"own_listeners {' '.join(binds)}")

    def leave_listeners(self, binds: Collection[str]) -> None:
        self._called(f"leave_listeners {' '.join(binds)}")
        for text in [text for text in self._sockets if text in binds]:
            self._sockets.pop(text).close()

    def begin_drain(self) -> None:
        self._called("begin_drain")

    def refuse_new(self) -> None:
        self._called("refuse_new")

    def close_listeners(self) -> None:
        self._called("close_listeners")
        for item in self._sockets.values():
            item.close()
        self._sockets.clear()

    def busy(self) -> int:
        return self.in_progress

    def connections(self) -> int:
        return max(self.clients, self.busy())

    def tunnels(self) -> int:
        return self.relays

    def close_idle(self, least_idle: float, leaving: bool = False) -> None:
        self._called("close_idle of closed sockets" if leaving else "close_idle")

    def leaving(self) -> int:
        return self.inbound

    def stop(self) -> None:
        self._called("stop")
        if self.access_log[0] is not None:
            os.close(self.access_log[0])
            self.access_log = (None, "")
        for item in self._sockets.values():
            item.close()
        self._sockets.clear()

    def ledger(self) -> dict[str, int]:
        return {"connection": self.leaks}


class ScriptedDataPlane(FakeDataPlane):
    """The one that the script uses."""

    def _called(self, name: str) -> None:
        super()._called(name)
        print(f"fake: {name}", file=sys.stderr, flush=True)

    def busy(self) -> int:
        file = os.environ.get("FAKE_BUSY")
        return int(Path(file).read_text() or "0") if file else 0


def main() -> int:
    from fastmesh.supervisor.main import run

    return run(sys.argv[1], ScriptedDataPlane, takeover=sys.argv[2] if len(sys.argv) > 2 else None)


if __name__ == "__main__":
    sys.exit(main())
