"""Tables over `fastmesh.model.histogram` that metrics and latency need: where each count begins, and its
middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from fastmesh.model import histogram as layouts
from fastmesh.model.stats import Histogram, HistogramLayout


@dataclass(frozen=True, slots=True)
class Scale:
    """``lowest[i]`` is the lowest value of count ``i`` in µs, ``middle[i]`` what HdrHistogram calls its
    median."""

    lowest: tuple[int, ...]
    middle: tuple[int, ...]


@cache
def scale(layout: HistogramLayout) -> Scale:
    highest = layouts.highest_values(layout)
    lowest = tuple(layouts.lowest(layout, place) for place in range(len(highest)))
    middle = tuple(low + ((high - low + 1) >> 1) for low, high in zip(lowest, highest, strict=True))
    return Scale(lowest, middle)


@cache
def _nothing(length: int) -> tuple[int, ...]:
    return (0,) * length


def counts_of(histogram: Histogram) -> Sequence[int]:
    """The counts, one for each of the layout's. A histogram that nothing was recorded in may have no
    bytes."""
    length = layouts.length(histogram.layout)
    if not histogram.counts:
        return _nothing(length)
    counts = layouts.unpack(histogram.counts)
    if len(counts) != length:
        raise ValueError(f"a {histogram.layout} histogram has {length} counts, not {len(counts)}")
    return counts
