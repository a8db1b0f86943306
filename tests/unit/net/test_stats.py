"""Records are made once a number, and begin anew when their slot is another endpoint's."""

from __future__ import annotations

from typing import Any


def test_records_are_made_once(it: Any) -> None:
    for number in (0, 255, 256, 70_000):
        assert it.has_records(number) == (True, True, True)
        assert it.same_records(number) == (True, True, True)


def test_beyond_the_last_number_nothing_is_counted(it: Any) -> None:
    assert it.has_records(1024 * 256) == (False, False, False)


def test_a_slot_keeps_its_record_until_it_is_another_endpoints(it: Any) -> None:
    assert it.endpoint_records(7, 1) == (True, 1, 1)
    assert it.endpoint_records(7, 1) == (True, 2, 2)
    assert it.endpoint_records(8, 2) == (True, 1, 1)
    assert it.endpoint_records(7, 1) == (True, 3, 3)
    assert it.endpoint_records(7, 3) == (True, 1, 1)


def test_references_of_a_block_are_counted(it: Any) -> None:
    assert [it.references(change) for change in (1, 2, -1, -2)] == [1, 3, 2, 0]
