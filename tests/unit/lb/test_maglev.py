"""The Maglev table; its content is compared with Envoy's in tests/golden."""

from collections import Counter

from support.balancing import MAGLEV, Service


def test_a_maglev_table_is_full_and_even():
    counts = Counter(Service(MAGLEV, [1] * 50).block.table())
    assert sum(counts.values()) == 65537
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_table_size_is_raised_to_a_prime():
    assert len(Service(MAGLEV, [1] * 3, table_size=1000).block.table()) == 1009
    assert len(Service(MAGLEV, [1], table_size=1).block.table()) == 2


def test_entries_follow_weights():
    counts = Counter(Service(MAGLEV, [1, 2, 5], table_size=8009).block.table())
    assert all(abs(counts[slot] - 1001 * weight) <= 2 for slot, weight in enumerate([1, 2, 5]))


def test_a_table_may_be_smaller_than_the_service():
    assert len(set(Service(MAGLEV, [1] * 300, table_size=101).block.table())) == 101
