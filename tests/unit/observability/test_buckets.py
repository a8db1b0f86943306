"""The tables agree with the model of the layouts and with hdrh."""

import array

import pytest
from hdrh.histogram import HdrHistogram

from fastmesh.model import histogram as layouts
from fastmesh.model.stats import Histogram
from fastmesh.observability import buckets


def test_hdr_bounds_and_middles_are_those_of_hdrh():
    reference = HdrHistogram(layouts.LOWEST, layouts.HIGHEST, layouts.DIGITS)
    scale = buckets.scale("hdr")
    assert len(scale.lowest) == reference.counts_len
    for index in range(0, reference.counts_len, 7):
        lowest = reference.get_value_from_index(index)
        assert scale.lowest[index] == lowest
        highest = reference.get_highest_equivalent_value(lowest)
        assert scale.middle[index] == lowest + ((highest - lowest + 1) >> 1)


@pytest.mark.parametrize("layout", ["hdr", "small"])
def test_each_middle_lies_within_its_count(layout):
    scale = buckets.scale(layout)
    for index, middle in enumerate(scale.middle):
        assert scale.lowest[index] <= middle <= layouts.highest(layout, index)


def test_no_bytes_are_an_empty_histogram():
    assert list(buckets.counts_of(Histogram("small", b""))) == [0] * layouts.SMALL_COUNTS


def test_a_histogram_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="2560 counts, not 3"):
        buckets.counts_of(Histogram("hdr", array.array("Q", [1, 2, 3]).tobytes()))
