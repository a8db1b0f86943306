"""The two layouts of native latency histograms, in microseconds (see ``fastmesh/_native/base/hist.pxd``).

A histogram's counts are a little-endian array of unsigned 64-bit integers. Count ``i`` holds the values from
``lowest(layout, i)`` to ``highest(layout, i)``, both inclusive; values above ``HIGHEST`` are counted as
``HIGHEST``.

``hdr`` has the indexes of ``HdrHistogram(LOWEST, HIGHEST, DIGITS)``; ``small`` has four buckets an octave.
"""

import sys
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Final, Literal

Layout = Literal["hdr", "small"]

LOWEST: Final = 1
HIGHEST: Final = 2**26 - 1
DIGITS: Final = 2
HDR_COUNTS: Final = 2560
SMALL_COUNTS: Final = 100

# How many bits the number of counts in an octave has, and how many counts there are.
_SHAPES: Final[dict[str, tuple[int, int]]] = {"hdr": (7, HDR_COUNTS), "small": (2, SMALL_COUNTS)}


def length(layout: Layout) -> int:
    """How many counts a histogram of this layout has."""
    return _SHAPES[layout][1]


def index(layout: Layout, micros: int) -> int:
    """The index of the count for a value (not negative)."""
    bits, _ = _SHAPES[layout]
    micros = min(micros, HIGHEST)
    octave = max(micros.bit_length() - bits - 1, 0)
    return (octave << bits) + (micros >> octave)


def lowest(layout: Layout, place: int) -> int:
    """The lowest value that is counted at index ``place``."""
    bits, _ = _SHAPES[layout]
    octave, rest = place >> bits, place & ((1 << bits) - 1)
    if octave == 0:
        return rest
    return (rest + (1 << bits)) << (octave - 1)


def highest(layout: Layout, place: int) -> int:
    """The highest value that is counted at index ``place``."""
    return lowest(layout, place + 1) - 1


@cache
def highest_values(layout: Layout) -> tuple[int, ...]:
    """``highest`` of each index: ascending, the last one is ``HIGHEST``."""
    return tuple(highest(layout, place) for place in range(length(layout)))


def unpack(counts: bytes) -> Sequence[int]:
    """The counts of a histogram as integers, without a copy where the machine is little-endian."""
    if sys.byteorder == "little":
        return memoryview(counts).cast("Q")
    values = array("Q", counts)
    values.byteswap()
    return values
