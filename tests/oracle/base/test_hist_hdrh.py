"""The native indexes are those of the ``hdrh`` package, for every index and for any value."""

import array

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from fastmesh._native.base import _t_hist as hist

REFERENCE = HdrHistogram(1, hist.HIGHEST, 2)


def test_length():
    assert REFERENCE.counts_len == hist.COUNTS


def test_every_index():
    assert all(REFERENCE.get_value_from_index(i) == hist.value(i) for i in range(hist.COUNTS))


def test_edges_of_every_bucket():
    for i in range(hist.COUNTS):
        low = hist.value(i)
        high = REFERENCE.get_highest_equivalent_value(low)
        assert hist.index(low) == REFERENCE._counts_index_for(low) == i
        assert hist.index(high) == REFERENCE._counts_index_for(high) == i


@given(st.integers(0, hist.HIGHEST))
def test_any_value(value):
    assert hist.index(value) == REFERENCE._counts_index_for(value)


@given(st.lists(st.integers(0, 2 * hist.HIGHEST), max_size=300))
def test_recording_gives_the_same_counts_and_percentiles(values):
    counts = array.array("Q", hist.recorded(False, values))
    ours, theirs = HdrHistogram(1, hist.HIGHEST, 2), HdrHistogram(1, hist.HIGHEST, 2)
    for i, count in enumerate(counts):
        if count:
            ours.record_value(hist.value(i), count)
    for value in values:
        assert theirs.record_value(min(value, hist.HIGHEST))
    assert sum(counts) == len(values)
    assert [ours.get_count_at_index(i) for i in range(hist.COUNTS)] == list(counts)
    assert [theirs.get_count_at_index(i) for i in range(hist.COUNTS)] == list(counts)
    for percentile in (50, 90, 99, 99.9, 100):
        assert ours.get_value_at_percentile(percentile) == theirs.get_value_at_percentile(percentile)


@pytest.mark.parametrize("value", [2**26, 2**32, 2**63, 2**64 - 1])
def test_above_the_highest_is_the_highest(value):
    assert hist.index(value) == REFERENCE._counts_index_for(hist.HIGHEST)
