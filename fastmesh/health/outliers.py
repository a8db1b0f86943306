"""Endpoints whose answers are worse than those of their peers. Counters in, sentences out: no I/O, no clock.

An endpoint is an outlier of an interval when its share of good answers is lower than that of the others of
its service together, by more than the configured difference and by more than chance explains: the
two-proportion z-test (pooled variance) must give more than `Z`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import sqrt

from msgspec import Struct

from fastmesh.model import OutlierDetection

Z = 4.0
# A share of fewer answers says little, on either side of the comparison.
LEAST_REQUESTS = 20


class Counts(Struct, frozen=True, gc=False):
    """What one endpoint counted since it exists."""

    service: str
    address: str
    requests: int
    failures: int


class Outlier(Struct, frozen=True):
    service: str
    address: str
    why: str


class _Window(Struct, frozen=True):
    """When a service's interval began, and its counters then, by address."""

    began: float
    before: dict[str, Counts]


class Detector:
    """Remembers the counters of each service from one interval to the next."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    def due(self, settings: Mapping[str, OutlierDetection]) -> float | None:
        """When the next interval ends: -inf if a service has none yet, None if there is nothing to do."""
        wanted = [name for name, setting in settings.items() if setting.success_rate is not None]
        if any(name not in self._windows for name in wanted):
            return float("-inf")
        return min((self._end(name, settings[name]) for name in wanted), default=None)

    def look(
        self, now: float, settings: Mapping[str, OutlierDetection], counts: Iterable[Counts]
    ) -> list[Outlier]:
        """The outliers of the intervals that end by ``now`` (seconds of any steady clock). ``counts`` are
        those of all endpoints."""
        wanted = {name: setting for name, setting in settings.items() if setting.success_rate is not None}
        by_service: dict[str, dict[str, Counts]] = {name: {} for name in wanted}
        for item in counts:
            if item.service in wanted:
                by_service[item.service][item.address] = item
        self._windows = {name: window for name, window in self._windows.items() if name in wanted}
        found: list[Outlier] = []
        for name, setting in wanted.items():
            window = self._windows.get(name)
            if window is None or now >= self._end(name, setting):
                if window is not None:
                    found += _outliers(setting, _answers(window.before, by_service[name]))
                self._windows[name] = _Window(now, by_service[name])
        return found

    def _end(self, name: str, setting: OutlierDetection) -> float:
        return self._windows[name].began + setting.interval


def _answers(before: Mapping[str, Counts], now: Mapping[str, Counts]) -> dict[str, Counts]:
    """What was counted since ``before``. An endpoint that is new, or whose counters began anew, is none."""
    answers: dict[str, Counts] = {}
    for address, counts in now.items():
        first = before.get(address)
        if first is None:
            continue
        requests = counts.requests - first.requests
        failures = counts.failures - first.failures
        if requests < 0 or failures < 0:
            continue
        # An attempt that failed may have begun in the interval before, or never have become a request.
        answers[address] = Counts(counts.service, address, max(requests, failures), failures)
    return answers


def _outliers(setting: OutlierDetection, answers: Mapping[str, Counts]) -> list[Outlier]:
    requests = sum(item.requests for item in answers.values())
    failures = sum(item.failures for item in answers.values())
    answering = sum(item.requests > 0 for item in answers.values())
    found = []
    for item in answers.values():
        others, other_failures = requests - item.requests, failures - item.failures
        if min(item.requests, others) < LEAST_REQUESTS:
            continue
        own, theirs = 1 - item.failures / item.requests, 1 - other_failures / others
        if theirs - own <= (setting.success_rate or 0.0) or _z(item, others, other_failures) <= Z:
            continue
        peers = "its peer" if answering == 2 else f"its {answering - 1} peers"
        why = f"{_percent(own)} of {item.requests:,} answers were good, of {peers} {_percent(theirs)}"
        found.append(Outlier(item.service, item.address, why))
    return found


def _z(item: Counts, others: int, other_failures: int) -> float:
    """How many standard deviations lie between two shares, if they were the same."""
    pooled = (item.failures + other_failures) / (item.requests + others)
    deviation = sqrt(pooled * (1 - pooled) * (1 / item.requests + 1 / others))
    difference = item.failures / item.requests - other_failures / others
    return difference / deviation if deviation > 0 else 0.0


def _percent(share: float) -> str:
    """Rounded down: 100 % is said only of all."""
    return f"{int(share * 100 + 1e-9)} %"
