"""Entries are found by their number, and no other number finds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh._native.net import _t_net as net

LIMIT = 1024 * 256


@given(
    st.dictionaries(st.integers(0, LIMIT - 1), st.integers(1, 2**60), max_size=50), st.integers(0, LIMIT - 1)
)
def test_what_was_set_is_found(entries: dict[int, int], other: int) -> None:
    table = net.Table()
    for number, entry in entries.items():
        assert table.set(number, entry)
    for number, entry in entries.items():
        assert table.get(number) == entry
    assert table.get(other) == entries.get(other, 0)


def test_an_entry_may_be_replaced() -> None:
    table = net.Table()
    table.set(300, 1)
    table.set(300, 2)
    assert (table.get(300), table.get(299), table.get(301), table.get(300 + 256)) == (2, 0, 0, 0)


@pytest.mark.parametrize("number", [LIMIT, LIMIT + 1, 2**32 - 1])
def test_beyond_the_last_number(number: int) -> None:
    table = net.Table()
    assert not table.set(number, 1)
    assert table.get(number) == 0
    assert table.set(LIMIT - 1, 1)
