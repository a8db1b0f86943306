"""What outlives a control plane that fails: the data plane, which serves, and the admin API's sockets."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from fastmesh.admin.sockets import AdminListening
from fastmesh.model import Given
from fastmesh.supervisor.dataplane import DataPlane
from fastmesh.supervisor.keeper import ConfigKeeper
from fastmesh.supervisor.takeover import Succession

log = logging.getLogger("fastmesh")


class Lasting:
    """Made once a process. `fastmesh.supervisor.app.serve` fills it, and finds it so when it runs again."""

    def __init__(self, given: dict[str, Given] | None = None, takeover: str | None = None) -> None:
        """``given`` are listening sockets that were handed in, by the text of their address. ``takeover``:
        the Unix socket at which this process takes over, and is taken over from."""
        self.given = given or {}
        self.succession = Succession(takeover)
        self.data_plane: DataPlane | None = None
        self.admin: AdminListening | None = None
        self.keeper: ConfigKeeper | None = None  # of the control plane that runs, or ran last
        self.serving = False
        self.ending = False  # the end was asked for: what fails then is not started again
        self.failures = 0
        self._missed: list[int] = []

    @contextmanager
    def signals_kept(self, numbers: Sequence[int]) -> Iterator[None]:
        """Between two control planes a signal must neither end the process nor be lost."""
        before = {number: signal.signal(number, self._keep) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._missed.append(number)

    def raise_missed(self) -> None:
        """Signals that came while nobody obeyed are raised again, for who obeys now."""
        missed, self._missed = self._missed, []
        for number in missed:
            signal.raise_signal(number)

    def stop(self) -> None:
        """The end of the process: in the reverse order of the start."""
        self.succession.close()
        if self.admin is not None:
            self.admin.close()
        if self.data_plane is None:
            return
        self.data_plane.stop()
        if self.serving:
            report_leaks(self.data_plane)


def report_leaks(data_plane: DataPlane) -> None:
    left = {kind: count for kind, count in data_plane.ledger().items() if count}
    if left:
        log.error("native objects leaked: %s", left)
