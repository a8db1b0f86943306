"""Priorities: which of them gets what part of the load, and what happens when one gets weak."""

from collections import Counter

import pytest

from fastmesh._native.lb._t_lb import Block
from support.balancing import (
    DRAINING,
    MAGLEV,
    POLICIES,
    RANDOM,
    RING_HASH,
    ROUND_ROBIN,
    UNHEALTHY,
    Service,
    down_until,
    slow_start,
)

EACH = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
HASHING = pytest.mark.parametrize("policy", [RING_HASH, MAGLEV], ids=["ring_hash", "maglev"])
NOW = 10_000
DOWN = down_until(NOW + 500)
KEYS = [k * 0x9E3779B97F4A7C15 % 2**64 for k in range(2000)]


def tiers(policy, *sizes, **options):
    """Endpoints of weight 1, as many of each priority; slots are numbered through."""
    priorities = [level for level, size in enumerate(sizes) for _ in range(size)]
    return Service(policy, [1] * len(priorities), priorities=priorities, **options)


def set_health(service, slots, word):
    for slot in slots:
        service.slots.set_health(slot, word)


def served(service, count=100, **ask):
    return {service.pick(**{"now_ms": NOW, "key": key, **ask}) for key in KEYS[:count]}


def parts(service, *sizes, now_ms=NOW, count=2000):
    """What each priority gets of the load."""
    picks = Counter(service.pick(now_ms=now_ms, key=key) for key in KEYS[:count])
    ends = [sum(sizes[: level + 1]) for level in range(len(sizes))]
    return [
        sum(picks[slot] for slot in range(end - size, end)) / count
        for size, end in zip(sizes, ends, strict=True)
    ]


@EACH
def test_a_sound_first_priority_gets_everything(policy):
    assert served(tiers(policy, 3, 3)) == {0, 1, 2}


@EACH
def test_numbers_order_priorities_whatever_the_order_of_endpoints(policy):
    service = Service(policy, [1] * 5, priorities=[255, 7, 3, 7, 3])
    assert served(service) == {2, 4}
    set_health(service, [2, 4], UNHEALTHY)
    assert served(service, now_ms=NOW + 16) == {1, 3}
    set_health(service, [1, 3], UNHEALTHY)
    assert served(service, now_ms=NOW + 32) == {0}


@EACH
def test_every_priority_number_may_be_in_use(policy):
    service = Service(policy, [1] * 256, priorities=list(range(255, -1, -1)), table_size=251, ring_size=16)
    assert served(service) == {255}
    set_health(service, range(1, 256), UNHEALTHY)
    assert served(service, now_ms=NOW + 16) == {0}


@EACH
@pytest.mark.parametrize(
    ("away", "expected"),
    [
        ((2, 0, 0), (1, 0, 0)),  # 8 of 10 carry 1.12
        ((3, 0, 0), (0.98, 0.02, 0)),
        ((5, 0, 0), (0.7, 0.3, 0)),
        ((9, 0, 0), (0.14, 0.86, 0)),
        ((10, 0, 0), (0, 1, 0)),
        ((5, 8, 0), (0.7, 0.28, 0.02)),
        ((5, 10, 0), (0.7, 0, 0.3)),
        ((10, 8, 0), (0, 0.28, 0.72)),
        ((9, 9, 9), (1 / 3, 1 / 3, 1 / 3)),  # 0.42 together: in proportion
        ((8, 9, 10), (2 / 3, 1 / 3, 0)),
    ],
)
def test_what_a_weak_priority_cannot_carry_spills_over(policy, away, expected):
    service = tiers(policy, 10, 10, 10)
    for level, count in enumerate(away):
        set_health(service, range(10 * level, 10 * level + count), UNHEALTHY)
    # 2,000 draws: five standard deviations
    assert parts(service, 10, 10, 10) == pytest.approx(expected, abs=0.056)


def test_parts_go_by_weight():
    service = Service(RANDOM, [5, 5, 90, 1], priorities=[0, 0, 0, 1])
    set_health(service, [0, 1], UNHEALTHY)
    assert parts(service, 3, 1) == [1, 0]
    set_health(service, [0, 1], 0)
    set_health(service, [2], UNHEALTHY)
    assert parts(service, 3, 1, now_ms=NOW + 16) == pytest.approx((0.14, 0.86), abs=0.04)


@pytest.mark.parametrize("word", [UNHEALTHY, DRAINING, DOWN], ids=hex)
def test_whatever_is_not_usable_weakens_its_priority(word):
    service = tiers(RANDOM, 10, 10)
    set_health(service, range(5), word)
    assert parts(service, 10, 10) == pytest.approx((0.7, 0.3), abs=0.056)


@EACH
def test_a_slow_start_does_not_weaken_its_priority(policy):
    service = tiers(policy, 3, 3)
    set_health(service, range(3), slow_start(1))
    assert served(service) == {0, 1, 2}


@EACH
def test_a_priority_of_weight_0_gets_nothing(policy):
    service = Service(policy, [0, 0, 1], priorities=[0, 0, 1])
    assert served(service) == {2}
    set_health(service, [2], UNHEALTHY)
    assert served(service, now_ms=NOW + 16) == {-1}


@EACH
def test_within_a_priority_the_policy_goes_by_weight(policy):
    service = Service(policy, [1, 3, 1], priorities=[4, 4, 5])
    counts = Counter(service.keyed(KEYS))
    assert counts[2] == 0
    assert counts[1] / counts[0] == pytest.approx(3, rel=0.25)


# When they are measured


@EACH
def test_parts_are_measured_again_after_16_ms(policy):
    service = tiers(policy, 10, 10)
    assert parts(service, 10, 10) == [1, 0]
    set_health(service, range(5), UNHEALTHY)
    assert parts(service, 10, 10, now_ms=NOW + 15) == [1, 0]
    assert parts(service, 10, 10, now_ms=NOW + 16) == pytest.approx((0.7, 0.3), abs=0.056)
    set_health(service, range(5), 0)
    assert parts(service, 10, 10, now_ms=NOW + 31) == pytest.approx((0.7, 0.3), abs=0.056)
    assert parts(service, 10, 10, now_ms=NOW + 32) == [1, 0]


@EACH
def test_parts_are_measured_at_once_when_a_priority_has_nothing_left(policy):
    service = tiers(policy, 10, 10, 10)
    assert parts(service, 10, 10, 10) == [1, 0, 0]
    set_health(service, range(10), DOWN)
    set_health(service, range(10, 15), DOWN)
    assert parts(service, 10, 10, 10, now_ms=NOW + 1) == pytest.approx((0, 0.7, 0.3), abs=0.056)


@EACH
def test_nothing_fails_before_parts_are_measured(policy):
    service = tiers(policy, 2, 2)
    assert served(service) == {0, 1}
    set_health(service, [0, 1], UNHEALTHY)
    assert served(service) == {2, 3}


def test_the_clock_may_wrap():
    service = tiers(RANDOM, 1, 1)
    assert service.pick(now_ms=2**32 - 4) == 0
    set_health(service, [0], UNHEALTHY)
    assert service.pick(now_ms=3) == 1
    set_health(service, [0], 0)
    assert service.pick(now_ms=18) == 1
    assert service.pick(now_ms=19) == 0


# The rule of a pick, over all priorities


@EACH
def test_a_down_endpoint_is_better_than_none_and_the_first_priority_goes_first(policy):
    service = tiers(policy, 3, 3, 3)
    set_health(service, [0, 1, 2], UNHEALTHY)
    set_health(service, [3, 4, 6, 7, 8], DOWN)
    set_health(service, [5], DRAINING)
    assert served(service) == {3, 4}
    set_health(service, [3, 4], DRAINING)
    assert served(service) == {6, 7, 8}
    set_health(service, [6, 7, 8], UNHEALTHY)
    assert served(service) == {-1}


@EACH
def test_any_usable_endpoint_comes_before_a_down_one(policy):
    service = tiers(policy, 3, 3, 3)
    set_health(service, range(8), DOWN)
    assert served(service) == {8}


@EACH
def test_a_retry_stays_in_its_priority_while_something_is_left_there(policy):
    service = tiers(policy, 3, 3)
    assert served(service, tried=[0, 2]) == {1}


@EACH
def test_a_retry_goes_to_the_next_priority_when_its_own_has_been_tried(policy):
    service = tiers(policy, 2, 2, 2)
    assert served(service, tried=[0, 1]) == {2, 3}
    assert served(service, tried=[0, 1, 2, 3]) == {4, 5}
    set_health(service, [1, 2], DOWN)
    assert served(service, tried=[0]) == {3}


@EACH
def test_a_retry_of_what_spilled_over_goes_to_the_first_priority_before_the_last(policy):
    service = tiers(policy, 2, 1, 2)
    set_health(service, [0], UNHEALTHY)
    assert served(service) == {1, 2}
    assert served(service, tried=[2]) == {1}
    assert served(service, tried=[1]) == {2}


@EACH
def test_tried_endpoints_are_used_when_nothing_else_is_left(policy):
    service = tiers(policy, 1, 1)
    assert served(service, tried=[0, 1]) == {0}
    set_health(service, [0], DOWN)
    assert served(service, tried=[1]) == {0}
    assert served(service, tried=[0, 1]) == {1}


@HASHING
def test_a_retry_of_a_key_goes_to_another_endpoint_always_the_same(policy):
    service = tiers(policy, 3, 3)
    set_health(service, [0], UNHEALTHY)
    for key in KEYS[:200]:
        first = service.pick(now_ms=NOW, key=key)
        again = {service.pick(now_ms=NOW, key=key, tried=[first]) for _ in range(5)}
        assert len(again) == 1
        assert first not in again


# Keys


@HASHING
def test_a_key_keeps_its_endpoint(policy):
    service = tiers(policy, 4, 4)
    set_health(service, [0, 1], UNHEALTHY)
    assert service.keyed(KEYS) == service.keyed(KEYS)


@HASHING
def test_only_keys_that_the_first_priority_cannot_carry_move(policy):
    service = tiers(policy, 10, 10)
    set_health(service, range(4), UNHEALTHY)  # carries 0.84
    before = service.keyed(KEYS)
    set_health(service, [4], UNHEALTHY)  # carries 0.7
    after = [service.pick(now_ms=16, key=key) for key in KEYS]
    for old, new in zip(before, after, strict=True):
        if old >= 10:
            assert new == old
        elif new < 10:
            assert new == old or old == 4
    assert sum(old < 10 <= new for old, new in zip(before, after, strict=True)) < 0.2 * len(KEYS)


@HASHING
def test_what_spills_over_is_spread_over_the_whole_next_priority(policy):
    service = tiers(policy, 10, 10)
    set_health(service, range(6), UNHEALTHY)
    counts = Counter(service.keyed(KEYS))
    assert min(counts[slot] for slot in range(10, 20)) > 0.4 * max(counts[slot] for slot in range(10, 20))


@HASHING
def test_without_a_key_requests_are_spread_at_random(policy):
    service = tiers(policy, 10, 10)
    set_health(service, range(5), UNHEALTHY)
    counts = Counter(service.picks(2000))
    assert set(counts) == set(range(5, 20))
    assert sum(counts[slot] for slot in range(5, 10)) / 2000 == pytest.approx(0.7, abs=0.056)


@HASHING
def test_bounded_load_goes_by_the_part_of_the_priority(policy):
    service = tiers(policy, 10, 10, bounded_load=1250)
    assert service.block.wants_total()
    set_health(service, range(5), UNHEALTHY)
    key = next(key for key in KEYS if service.pick(key=key) >= 10)
    owner = service.pick(key=key)
    # 0.3 of 199 requests and this one, times 1.25, over 10: a share of 7.6
    service.slots.set_in_flight(owner, 7)
    assert service.pick(key=key, total_in_flight=199) == owner
    service.slots.set_in_flight(owner, 8)
    assert service.pick(key=key, total_in_flight=199) != owner


# Changes


def test_turns_go_on_while_priorities_come_and_go():
    service = Service(ROUND_ROBIN, [1] * 4, spare_slots=4)
    assert service.picks(2) == [0, 1]
    service.change(list(range(6)), [1] * 6, priorities=[0, 0, 0, 0, 3, 3])
    assert service.picks(3) == [2, 3, 0]
    service.change([6, *range(6)], [1] * 7, priorities=[2, 0, 0, 0, 0, 3, 3])
    assert service.picks(2) == [1, 2]
    service.change(list(range(4)), [1] * 4, priorities=None)
    assert service.picks(3) == [3, 0, 1]


def test_a_priority_that_is_not_served_keeps_its_turn():
    service = tiers(ROUND_ROBIN, 1, 3, spare_slots=1)
    set_health(service, [0], UNHEALTHY)
    assert service.picks(2) == [1, 2]
    set_health(service, [0], 0)
    assert service.pick(now_ms=16) == 0
    service.change([4, 0, 1, 2, 3], [1] * 5, priorities=[2, 0, 1, 1, 1])
    set_health(service, [0], UNHEALTHY)
    assert service.picks(2, now_ms=32) == [3, 1]


def test_the_priority_that_stays_alone_goes_on():
    service = tiers(ROUND_ROBIN, 1, 3)
    set_health(service, [0], UNHEALTHY)
    assert service.picks(2) == [1, 2]
    service.change([1, 2, 3], [1] * 3, priorities=[1] * 3)
    assert service.picks(3) == [3, 1, 2]


@EACH
def test_an_unadopted_block_of_priorities_follows_the_same_rule(policy):
    service = tiers(policy, 2, 2)
    old = service.block
    service.change([0], [1], priorities=None)

    def seen(**ask):
        return {service.state.pick(old, now_ms=NOW, key=key, **ask) for key in KEYS[:100]}

    assert seen() == {0, 1}
    assert seen(tried=[0, 1]) == {2, 3}
    set_health(service, [0, 1], DOWN)
    assert seen() == {2, 3}
    set_health(service, [2, 3], UNHEALTHY)
    assert seen(tried=[1]) == {0}
    set_health(service, [0, 1], UNHEALTHY)
    assert seen() == {-1}


@EACH
def test_a_state_of_priorities_picks_from_an_unadopted_block_without(policy):
    service = Service(policy, [1] * 3)
    old = service.block
    service.change([0, 1, 2], [1] * 3, priorities=[0, 1, 2])
    assert {service.state.pick(old, key=key) for key in KEYS[:100]} == {0, 1, 2}


@pytest.mark.parametrize("before", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("after", POLICIES.values(), ids=POLICIES)
def test_a_service_of_priorities_may_change_its_policy(before, after):
    service = Service(before, [3, 1, 3], priorities=[0, 1, 0])
    service.picks(4)
    service.policy = after
    service.change([1, 2, 0], [2, 1, 1], priorities=[0, 0, 1])
    assert set(service.picks(60)) == {1, 2}


# What the block says of its endpoints


@EACH
def test_conditions_and_how_many_are_usable(policy):
    service = Service(policy, [1, 1, 1, 1, 0, 1], priorities=[2, 0, 1, 0, 0, 2])
    service.slots.set_health(1, DOWN)
    service.slots.set_health(2, DRAINING)
    service.slots.set_health(5, slow_start(9))
    conditions = [service.block.condition_at(index, NOW) for index in range(6)]
    usable, down, out = range(3)
    assert conditions == [usable, down, out, usable, out, usable]
    assert service.block.usable_count(NOW) == 3
    assert service.block.usable_count(NOW + 500) == 4
    assert Block(policy, service.slots, [], []).usable_count() == 0
