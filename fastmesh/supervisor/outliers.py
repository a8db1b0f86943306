"""Endpoints whose answers are worse than their peers': looked for while the data plane serves, left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import trio

from fastmesh.health import Counts, Detector, Outlier
from fastmesh.model import Config, OutlierDetection
from fastmesh.supervisor.dataplane import DataPlane

log = logging.getLogger("fastmesh.health")

# How soon a service that a change brought is noticed, and how often counters are read at most.
IDLE_SECONDS = 5.0
LEAST_SECONDS = 0.5


async def eject_outliers(data_plane: DataPlane, config: Callable[[], Config]) -> None:
    """Compares the endpoints of each service of ``config()`` at its intervals, until cancelled."""
    detector = Detector()
    while True:
        settings = {
            service.name: service.outlier_detection
            for service in config().services.values()
            if service.outlier_detection is not None
        }
        due = detector.due(settings)
        now = trio.current_time()
        if due is None or due > now:
            wait = IDLE_SECONDS if due is None else min(due - now, IDLE_SECONDS)
            await trio.sleep(max(wait, LEAST_SECONDS))
            continue
        # In a thread, because reading ten thousand endpoints takes longer than the admin API may wait.
        for outlier in await trio.to_thread.run_sync(_look, detector, data_plane, now, settings):
            if await trio.to_thread.run_sync(data_plane.eject, outlier.service, outlier.address):
                # The data plane tells for how long.
                log.warning(
                    "service %s: endpoint %s is worse than its peers: %s",
                    outlier.service,
                    outlier.address,
                    outlier.why,
                )


def _look(
    detector: Detector, data_plane: DataPlane, now: float, settings: Mapping[str, OutlierDetection]
) -> list[Outlier]:
    counts = [
        Counts(item.service, item.address, item.requests, item.answers_5xx + item.failures)
        for item in data_plane.stats().endpoints
    ]
    return detector.look(now, settings, counts)
