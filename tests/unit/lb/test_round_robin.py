"""Round robin: exact shares, evenly spread, and a place that survives changes."""

from collections import Counter
from itertools import pairwise

import pytest

from support.balancing import ROUND_ROBIN, UNHEALTHY, Service, slow_start


def test_equal_weights_go_round_in_order():
    assert Service(ROUND_ROBIN, [4, 4, 4]).picks(7) == [0, 1, 2, 0, 1, 2, 0]


def test_three_to_one_is_interleaved():
    picks = Service(ROUND_ROBIN, [3, 1]).picks(400)
    assert Counter(picks) == {0: 300, 1: 100}
    assert all(sorted(picks[k : k + 4]) == [0, 0, 0, 1] for k in range(0, 400, 4))


def test_a_hundred_to_one_gives_one_turn_in_each_101():
    picks = Service(ROUND_ROBIN, [100, 1]).picks(1010)
    turns = [k for k, slot in enumerate(picks) if slot == 1]
    assert [later - earlier for earlier, later in pairwise(turns)] == [101] * 9


def test_light_endpoints_are_spread_between_the_heavy_ones_turns():
    picks = Service(ROUND_ROBIN, [10] + [1] * 10).picks(20)
    assert Counter(picks)[0] == 10
    assert max(len(run) for run in "".join("h" if slot == 0 else "l" for slot in picks).split("h")) <= 2


def test_ten_thousand_endpoints_are_each_visited_once_a_round():
    assert Counter(Service(ROUND_ROBIN, [1] * 10_000).picks(10_000)) == dict.fromkeys(range(10000), 1)


def test_ten_thousand_weights_have_exact_shares():
    weights = [1 + k % 100 for k in range(10_000)]
    counts = Counter(Service(ROUND_ROBIN, weights).picks(sum(weights)))
    assert [counts[k] for k in range(10_000)] == weights


def test_workers_start_at_different_endpoints():
    firsts = [Service(ROUND_ROBIN, [1] * 4, worker_index=k, workers=4).pick() for k in range(4)]
    assert sorted(firsts) == [0, 1, 2, 3]


@pytest.mark.parametrize("worker", range(3))
def test_each_worker_gives_exact_shares_from_its_own_start(worker):
    picks = Service(ROUND_ROBIN, [5, 1, 2], worker_index=worker, workers=3).picks(80)
    assert Counter(picks) == {0: 50, 1: 10, 2: 20}


def test_adding_an_endpoint_does_not_restart_the_sequence():
    service = Service(ROUND_ROBIN, [1] * 4, spare_slots=1)
    assert service.picks(2) == [0, 1]
    service.change([0, 1, 2, 3, 4], [1] * 5)
    assert service.picks(4) == [2, 3, 4, 0]


def test_the_sequence_goes_on_where_a_removed_endpoint_stood():
    service = Service(ROUND_ROBIN, [1] * 4)
    assert service.picks(2) == [0, 1]
    service.change([0, 1, 3], [1] * 3)
    assert service.picks(3) == [3, 0, 1]


def test_the_sequence_goes_on_when_the_order_changes():
    service = Service(ROUND_ROBIN, [1] * 4)
    assert service.picks(2) == [0, 1]
    service.change([3, 2, 1, 0], [1] * 4)
    assert service.picks(4) == [2, 1, 0, 3]


def test_times_of_weighted_groups_survive_a_change_of_nothing():
    plain, changed = Service(ROUND_ROBIN, [5, 1, 1, 2]), Service(ROUND_ROBIN, [5, 1, 1, 2])
    expected = plain.picks(45)
    picks = []
    for k in range(45):
        if k % 4 == 3:
            changed.change([0, 1, 2, 3], [5, 1, 1, 2])
        picks.append(changed.pick())
    assert picks == expected


def test_virtual_time_may_run_for_ever():
    young, old = Service(ROUND_ROBIN, [5, 1, 1, 2]), Service(ROUND_ROBIN, [5, 1, 1, 2])
    old.state.age(2**63 - 2**31)
    assert old.picks(45) == young.picks(45)


def test_constant_change_starves_nobody():
    service = Service(ROUND_ROBIN, [10, 1], spare_slots=1)
    picks = []
    for k in range(220):
        service.change([0, 1] if k % 2 else [0, 1, 2], [10, 1] if k % 2 else [10, 1, 1])
        picks.append(service.pick())
    assert Counter(picks)[1] >= 15


def test_turns_of_an_unusable_endpoint_leave_the_other_shares_as_they_were():
    service = Service(ROUND_ROBIN, [4, 2, 1])
    service.slots.set_health(0, UNHEALTHY)
    assert Counter(service.picks(300)) == {1: 200, 2: 100}


def test_a_slow_start_gets_its_share():
    service = Service(ROUND_ROBIN, [1, 1])
    service.slots.set_health(1, slow_start(51))
    counts = Counter(service.picks(6000))
    assert 0.15 < counts[1] / counts[0] < 0.25


def test_a_block_that_was_not_adopted_is_still_picked_from_by_weight():
    service = Service(ROUND_ROBIN, [1, 3])
    old = service.block
    service.change([0], [1])
    counts = Counter(service.state.pick(old) for _ in range(4000))
    assert 2700 < counts[1] < 3300
