"""The layout facts for Python equal those that the native half records by."""

import array

import pytest

from fastmesh._native.base import _t_hist as native
from fastmesh.model import histogram


def test_constants_equal_the_native_ones():
    assert histogram.HIGHEST == native.HIGHEST
    assert histogram.length("hdr") == histogram.HDR_COUNTS == native.COUNTS
    assert histogram.length("small") == histogram.SMALL_COUNTS == native.SMALL_COUNTS


def test_bounds_equal_the_native_ones():
    assert [histogram.lowest("hdr", i) for i in range(2560)] == [native.value(i) for i in range(2560)]
    assert [histogram.lowest("small", i) for i in range(100)] == [native.small_lower(i) for i in range(100)]
    assert histogram.highest_values("small") == tuple(native.small_upper(i) for i in range(100))


@pytest.mark.parametrize("layout", ["hdr", "small"])
def test_buckets_follow_each_other_without_a_gap(layout):
    highest = histogram.highest_values(layout)
    assert histogram.lowest(layout, 0) == 0
    assert highest[-1] == histogram.HIGHEST
    assert all(histogram.lowest(layout, i + 1) == highest[i] + 1 for i in range(len(highest) - 1))
    assert all(histogram.index(layout, value) == i for i, value in enumerate(highest))


def test_unpack_reads_little_endian_counts():
    counts = array.array("Q", [1, 2**40, 0])
    assert list(histogram.unpack(counts.tobytes())) == [1, 2**40, 0]
