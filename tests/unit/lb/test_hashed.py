"""Ring hash and Maglev: who owns a key, and what moves when something changes."""

from collections import Counter

import pytest

from fastmesh._native.lb._t_lb import xxh64
from support.balancing import MAGLEV, RING_HASH, UNHEALTHY, Service, slow_start

KEYS = [xxh64(f"user-{k}".encode()) for k in range(5000)]
BOTH = pytest.mark.parametrize("policy", [RING_HASH, MAGLEV], ids=["ring_hash", "maglev"])


@BOTH
def test_a_key_stays_where_it_is_on_every_worker(policy):
    first = Service(policy, [1] * 7, seed=1)
    second = Service(policy, [1] * 7, seed=2, worker_index=3, workers=4)
    assert first.keyed(KEYS) == first.keyed(KEYS) == second.keyed(KEYS)


@BOTH
def test_keys_are_spread_by_weight(policy):
    counts = Counter(Service(policy, [1, 2, 4]).keyed(KEYS))
    for slot, weight in enumerate([1, 2, 4]):
        assert counts[slot] == pytest.approx(5000 * weight / 7, rel=0.2)


@BOTH
def test_without_a_key_one_is_drawn(policy):
    counts = Counter(Service(policy, [1] * 4).picks(4000))
    assert all(800 < counts[slot] < 1200 for slot in range(4))


@BOTH
def test_removing_one_of_ten_moves_its_keys_and_few_more(policy):
    service = Service(policy, [1] * 10)
    before = service.keyed(KEYS)
    service.change([k for k in range(10) if k != 4], [1] * 9)
    after = service.keyed(KEYS)
    assert all(slot != 4 for slot in after)
    moved_without_need = sum(b != a for b, a in zip(before, after, strict=True) if b != 4)
    assert moved_without_need <= (0.03 if policy == RING_HASH else 0.06) * len(KEYS)


@BOTH
def test_an_unusable_endpoint_moves_its_own_keys_only_and_over_many(policy):
    service = Service(policy, [1] * 10)
    before = service.keyed(KEYS)
    service.slots.set_health(4, UNHEALTHY)
    after = service.keyed(KEYS)
    assert all(b == a for b, a in zip(before, after, strict=True) if b != 4)
    assert {a for b, a in zip(before, after, strict=True) if b == 4} == set(range(10)) - {4}
    service.slots.set_health(4, 0)
    assert service.keyed(KEYS) == before


@BOTH
def test_a_retry_of_a_key_goes_to_another_endpoint_always_the_same(policy):
    service = Service(policy, [1] * 5)
    for key in KEYS[:200]:
        first = service.pick(key=key)
        second = service.pick(key=key, tried=[first])
        assert second != first
        assert service.pick(key=key, tried=[first]) == second


@BOTH
def test_slow_start_moves_a_fixed_part_of_the_keys(policy):
    service = Service(policy, [1] * 4)
    home = [key for key in KEYS if service.pick(key=key) == 2]
    service.slots.set_health(2, slow_start(51))
    there = [key for key in home if service.pick(key=key) == 2]
    assert 0.12 < len(there) / len(home) < 0.28
    assert [key for key in home if service.pick(key=key) == 2] == there
    service.slots.set_health(2, slow_start(128))
    assert set(there) < {key for key in home if service.pick(key=key) == 2}


@BOTH
def test_bounded_load_walks_past_an_endpoint_with_more_than_its_share(policy):
    service = Service(policy, [1] * 4, bounded_load=1250)
    key = KEYS[0]
    owner = service.pick(key=key, total_in_flight=0)
    for slot in range(4):
        service.slots.set_in_flight(slot, 10)
    # 125 % of (40 + 1) / 4 is 12.8
    service.slots.set_in_flight(owner, 12)
    assert service.pick(key=key, total_in_flight=40) == owner
    service.slots.set_in_flight(owner, 13)
    assert service.pick(key=key, total_in_flight=40) != owner


@BOTH
def test_bounded_load_takes_the_least_loaded_when_all_are_full(policy):
    service = Service(policy, [1] * 3, bounded_load=1000)
    for slot, load in enumerate((9, 7, 8)):
        service.slots.set_in_flight(slot, load)
    assert {service.pick(key=key, total_in_flight=3) for key in KEYS[:50]} == {1}


@BOTH
def test_bounded_load_measures_by_weight(policy):
    service = Service(policy, [3, 1], bounded_load=1250)
    service.slots.set_in_flight(0, 9)
    service.slots.set_in_flight(1, 5)
    # of 16: 3/4 * 1.25 is 15, 1/4 * 1.25 is 5
    assert {service.pick(key=key, total_in_flight=15) for key in KEYS[:100]} == {0}


@BOTH
def test_a_hot_key_is_spread_over_the_service(policy):
    service = Service(policy, [1] * 5, bounded_load=1250)
    loads = [0] * 5
    for total in range(500):
        slot = service.pick(key=KEYS[1], total_in_flight=total)
        loads[slot] += 1
        service.slots.set_in_flight(slot, loads[slot])
    assert max(loads) <= 126
