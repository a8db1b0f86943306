"""What all policies do when endpoints are tried, down, unhealthy or draining."""

from collections import Counter

import pytest

from support.balancing import DRAINING, POLICIES, ROUND_ROBIN, UNHEALTHY, Service, down_until, slow_start

EACH = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
NOW = 10_000
DOWN = down_until(NOW + 500)


def served(service, count=60, **ask):
    return {service.pick(now_ms=NOW, key=(k * 2**58 + k) % 2**64, **ask) for k in range(count)}


@EACH
def test_no_endpoint_at_all(policy):
    assert Service(policy, []).pick() == -1


@EACH
@pytest.mark.parametrize("word", [UNHEALTHY, DRAINING, UNHEALTHY | DRAINING | DOWN], ids=hex)
def test_unhealthy_and_draining_endpoints_are_never_used(policy, word):
    service = Service(policy, [1] * 3)
    service.slots.set_health(0, word)
    assert served(service) == {1, 2}
    service.slots.set_health(1, word)
    service.slots.set_health(2, word)
    assert served(service) == {-1}


@EACH
def test_a_down_endpoint_is_passed_over_until_its_time(policy):
    service = Service(policy, [1] * 3)
    service.slots.set_health(1, DOWN)
    assert served(service) == {0, 2}
    service.slots.set_health(1, down_until(NOW))
    assert served(service) == {0, 1, 2}


@EACH
def test_down_marks_survive_the_wrap_of_the_clock(policy):
    service = Service(policy, [1] * 2)
    service.slots.set_health(0, down_until(100))
    assert {service.pick(now_ms=2**32 - 100) for _ in range(30)} == {1}
    assert {service.pick(now_ms=101) for _ in range(30)} == {0, 1}


@EACH
def test_down_marking_never_removes_the_last_endpoint(policy):
    service = Service(policy, [1] * 3)
    service.slots.set_health(0, UNHEALTHY)
    service.slots.set_health(1, DOWN)
    service.slots.set_health(2, DOWN)
    assert served(service) == {1, 2}


@EACH
def test_tried_endpoints_are_avoided(policy):
    service = Service(policy, [1] * 3)
    assert served(service, tried=[0, 2]) == {1}


@EACH
def test_a_down_untried_endpoint_comes_before_a_tried_one(policy):
    service = Service(policy, [1] * 3)
    service.slots.set_health(0, DOWN)
    assert served(service, tried=[1, 2]) == {0}


@EACH
def test_a_tried_endpoint_is_better_than_none(policy):
    service = Service(policy, [1] * 2)
    service.slots.set_health(1, UNHEALTHY)
    assert served(service, tried=[0]) == {0}
    service.slots.set_health(0, DOWN)
    assert served(service, tried=[0]) == {0}


@EACH
def test_of_tried_ones_a_usable_comes_before_a_down_one(policy):
    service = Service(policy, [1] * 2)
    service.slots.set_health(0, DOWN)
    assert served(service, tried=[0, 1]) == {1}


@EACH
def test_an_endpoint_of_weight_0_gets_nothing(policy):
    service = Service(policy, [1, 0])
    assert served(service) == {0}
    service.slots.set_health(0, UNHEALTHY)
    assert served(service) == {-1}
    assert served(Service(policy, [0, 0])) == {-1}


@EACH
def test_slow_start_is_no_reason_to_have_none(policy):
    service = Service(policy, [1, 1])
    service.slots.set_health(0, slow_start(1))
    assert served(service, tried=[1]) == {0}
    service.slots.set_health(1, UNHEALTHY)
    assert served(service) == {0}


@EACH
def test_the_only_usable_one_of_very_many_is_found(policy):
    service = Service(policy, [1] * 3000)
    for slot in range(3000):
        service.slots.set_health(slot, UNHEALTHY if slot % 2 else DOWN)
    service.slots.set_health(1234, 0)
    assert served(service) == {1234}


@EACH
def test_a_few_usable_ones_of_very_many_share_the_work(policy):
    service = Service(policy, [1] * 3000)
    for slot in range(3000):
        service.slots.set_health(slot, 0 if slot in (700, 701, 702) else UNHEALTHY)
    counts = Counter(service.pick(now_ms=NOW, key=(k * 0x9E3779B97F4A7C15) % 2**64) for k in range(600))
    assert set(counts) == {700, 701, 702}
    assert min(counts.values()) > 100


@EACH
def test_a_recovered_endpoint_is_found_within_the_refresh_time(policy):
    service = Service(policy, [1] * 3000)
    for slot in range(3000):
        service.slots.set_health(slot, UNHEALTHY)
    assert served(service, 5) == {-1}
    service.slots.set_health(9, 0)
    assert {service.pick(now_ms=NOW + 16) for _ in range(5)} == {9}


@EACH
def test_a_survivor_that_falls_is_replaced_at_once(policy):
    service = Service(policy, [1] * 3000)
    for slot in range(3000):
        service.slots.set_health(slot, 0 if slot == 5 else UNHEALTHY)
    assert served(service, 5) == {5}
    service.slots.set_health(5, DOWN)
    service.slots.set_health(6, 0)
    assert served(service, 5) == {6}


@EACH
def test_an_unadopted_block_follows_the_same_rule(policy):
    service = Service(policy, [1] * 3)
    old = service.block
    service.change([0], [1])
    service.slots.set_health(0, UNHEALTHY)
    service.slots.set_health(1, DOWN)
    service.slots.set_health(2, DOWN)
    assert {service.state.pick(old, now_ms=NOW, tried=[1]) for _ in range(20)} == {2}
    service.slots.set_health(2, 0)
    assert {service.state.pick(old, now_ms=NOW, tried=[2]) for _ in range(20)} == {1}
    service.slots.set_health(1, UNHEALTHY)
    assert {service.state.pick(old, now_ms=NOW, tried=[2]) for _ in range(20)} == {2}


def test_round_robin_over_survivors_goes_round():
    service = Service(ROUND_ROBIN, [1] * 3000)
    for slot in range(3000):
        service.slots.set_health(slot, 0 if slot in (10, 20, 30) else UNHEALTHY)
    picks = service.picks(9, now_ms=NOW)
    assert picks[:3] * 3 == picks
    assert set(picks) == {10, 20, 30}
