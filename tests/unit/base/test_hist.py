"""Recording into native histograms."""

import array

import pytest

from fastmesh._native.base import _t_hist as hist


def counted(small, values):
    return {i: n for i, n in enumerate(array.array("Q", hist.recorded(small, values))) if n}


def test_each_value_counts_once_in_its_bucket():
    assert counted(False, [0, 1, 255, 255, 256, 257, 258]) == {0: 1, 1: 1, 255: 2, 256: 2, 257: 1}


@pytest.mark.parametrize(("small", "last"), [(False, 2559), (True, 99)])
def test_values_above_the_highest_go_into_the_last_bucket(small, last):
    assert counted(small, [hist.HIGHEST, hist.HIGHEST + 1, 2**64 - 1]) == {last: 3}


def test_small_buckets_of_the_first_octaves():
    indexes = [hist.small_index(v) for v in range(18)]
    assert indexes == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12]


def test_a_small_bucket_is_at_most_a_quarter_of_its_lower_bound_wide():
    for i in range(4, hist.SMALL_COUNTS):
        assert 4 * (hist.small_upper(i) - hist.small_lower(i) + 1) <= max(hist.small_lower(i), 4)


def test_sizes_are_those_of_the_budget():
    assert len(hist.recorded(False, [])) == 20 * 1024
    assert len(hist.recorded(True, [])) == 800
