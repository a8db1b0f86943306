"""Rewriting of prefixes, and weighted splits."""

from collections import Counter

import pytest

from fastmesh._native.lb._t_lb import random_words
from fastmesh._native.route._t_route import rewrite_prefix, split_pick

TARGET_TOO_LONG = 5


@pytest.mark.parametrize(
    ("path", "prefix", "replacement", "expected"),
    [
        # The Gateway API's table of ReplacePrefixMatch
        (b"/foo/bar", b"/foo", b"/xyz", b"/xyz/bar"),
        (b"/foo/bar", b"/foo", b"/xyz/", b"/xyz/bar"),
        (b"/foo", b"/foo", b"/xyz", b"/xyz"),
        (b"/foo/", b"/foo", b"/xyz", b"/xyz/"),
        (b"/foo/bar", b"/foo", b"", b"/bar"),
        (b"/foo/", b"/foo", b"", b"/"),
        (b"/foo", b"/foo", b"", b"/"),
        (b"/foo/", b"/foo", b"/", b"/"),
        (b"/foo", b"/foo", b"/", b"/"),
        # and around it
        (b"/foo/bar", b"/foo", b"/", b"/bar"),
        (b"/a", b"", b"/xyz", b"/xyz/a"),
        (b"/", b"", b"/xyz", b"/xyz/"),
        (b"/", b"", b"", b"/"),
        (b"/foo//bar", b"/foo", b"/xyz", b"/xyz//bar"),
        (b"/foo//evil.example", b"/foo", b"/", b"/evil.example"),
        (b"/foo///", b"/foo", b"", b"/"),
        (b"*", b"", b"/xyz", b"*"),
        (b"", b"", b"/xyz", b""),
    ],
)
def test_prefixes(path, prefix, replacement, expected):
    assert rewrite_prefix(path, len(prefix), replacement) == expected


def test_a_result_that_does_not_fit_is_an_error():
    assert rewrite_prefix(b"/foo/bar", 4, b"/xyz", 8) == b"/xyz/bar"
    assert rewrite_prefix(b"/foo/bar", 4, b"/xyz", 7) == -TARGET_TOO_LONG
    assert rewrite_prefix(b"/foo", 4, b"/", 0) == -TARGET_TOO_LONG


def test_a_split_follows_its_weights():
    counts = Counter(split_pick([90, 0, 10], word) for word in random_words(5, 10_000))
    assert counts[1] == 0
    assert 850 < counts[2] < 1150


def test_the_ends_of_a_split():
    assert split_pick([0, 3, 1, 0], 0) == 1
    assert split_pick([0, 3, 1, 0], 2**64 - 1) == 2
    assert split_pick([2**31, 2**31], 2**64 - 1) == 1
    assert split_pick([0, 0], 5) == -1
    assert split_pick([], 5) == -1
