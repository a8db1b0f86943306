"""What is read of the process under test once a second, and what its course says: slope and growth."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path

MIB = 1 << 20
KIB = 1 << 10
_BUCKETS = 60
# Two-sided 95 % of a normal distribution.
_95 = 1.96


@dataclass(frozen=True)
class Sample:
    """`at`: seconds of the run; sizes in bytes. `private` is what no other process has, `anonymous` what no
    file stands behind: there a leak is."""

    at: float
    resident: int
    proportional: int
    private: int
    anonymous: int
    descriptors: int


def take_sample(pid: int, at: float) -> Sample:
    """Raises FileNotFoundError or ProcessLookupError when the process is gone."""
    sizes: Counter[str] = Counter()
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        words = line.split()
        if words[-1] == "kB":
            sizes[words[0].rstrip(":")] = int(words[1]) * KIB
    return Sample(
        at,
        sizes["Rss"],
        sizes["Pss"],
        sizes["Private_Clean"] + sizes["Private_Dirty"],
        sizes["Anonymous"],
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
    )


def descriptors(pid: int) -> Counter[str]:
    """How many of each kind: `socket`, `pipe`, `eventpoll`, `eventfd`, `inotify`, `file`."""
    kinds: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        anonymous = target.removeprefix("anon_inode:")
        kind = "file" if target.startswith("/") else anonymous.partition(":")[0].strip("[]")
        kinds[kind] += 1
    return kinds


def warm_up(seconds: float) -> float:
    """How much of a run is not judged: a fifth, at least a minute, but never more than a third."""
    return max(seconds / 5, min(60.0, seconds / 3))


# ---------------------------------------------------------------- slopes


@dataclass(frozen=True)
class Slope:
    """Units an hour, with the ends of the interval that holds the true one with 95 %."""

    value: float
    low: float = -inf
    high: float = inf

    @property
    def uncertainty(self) -> float:
        return (self.high - self.low) / 2


Points = Sequence[tuple[float, float]]


def low(values: Iterable[float]) -> float:
    """A tenth of them is lower."""
    ordered = sorted(values)
    return ordered[len(ordered) // 10]


def bucketed(points: Points, buckets: int = _BUCKETS) -> list[tuple[float, float]]:
    """What is there in quiet moments of equal stretches of time, their lowest tenth: what comes and goes
    within one is gone (a file being read, connections that pile up while the machine does something else),
    and neighbours are nearly independent."""
    if not points:
        return []
    begin, end = points[0][0], points[-1][0]
    width = (end - begin) / buckets or 1.0
    found: dict[int, list[tuple[float, float]]] = {}
    for at, value in points:
        found.setdefault(min(buckets - 1, int((at - begin) / width)), []).append((at, value))
    return [
        (statistics.median(at for at, _ in part), low(value for _, value in part)) for part in found.values()
    ]


def theil_sen(points: Points) -> Slope:
    """The median of the slopes between all pairs, by hours (Theil 1950, Sen 1968); a quarter of the points
    may be off without moving it far. The interval is Sen's, from the variance of Kendall's rank statistic.

    It takes the points for independent. Memory is not: it makes steps, and stays. So the interval is too
    narrow for a course of few steps, and is not used for the verdict.
    """
    slopes = sorted(
        (value - before) / (at - then) * 3600
        for number, (at, value) in enumerate(points)
        for then, before in points[:number]
        if at > then
    )
    if not slopes:
        return Slope(0.0)
    count = len(points)
    spread = _95 * sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low, high = round((len(slopes) - spread) / 2), round((len(slopes) + spread) / 2)
    return Slope(
        statistics.median(slopes),
        slopes[low] if low >= 0 else -inf,
        slopes[high] if high < len(slopes) else inf,
    )


def slope(samples: Sequence[Sample], value: Callable[[Sample], float]) -> Slope:
    """Bytes an hour."""
    return theil_sen(bucketed([(sample.at, value(sample)) for sample in samples]))


def growth(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """What is there in quiet moments of the last third (`low`) above that of the first one, in units of
    `value`; 0 without samples."""
    third = len(samples) // 3
    if not third:
        return 0.0
    first, last = samples[:third], samples[-third:]
    return low(map(value, last)) - low(map(value, first))
