"""Building blocks and adopting them."""

import pytest

from fastmesh._native.lb._t_lb import Block, Slots, State
from support.balancing import MAGLEV, POLICIES, ROUND_ROBIN, Service


@pytest.mark.parametrize("policy", [-1, 5, 2**31 - 1])
def test_an_unknown_policy_is_refused(policy):
    with pytest.raises(ValueError):
        Block(policy, Slots(["a"]), [0], [1])


def test_only_bounded_load_asks_for_the_total():
    assert not Service(MAGLEV, [1]).block.wants_total()
    assert not Service(0, [1], bounded_load=1250).block.wants_total()
    assert Service(MAGLEV, [1], bounded_load=1250).block.wants_total()


def test_adopting_the_same_block_again_changes_nothing():
    service = Service(ROUND_ROBIN, [1] * 3)
    assert service.pick() == 0
    service.state.adopt(service.block)
    assert service.pick() == 1


def test_without_the_old_block_turns_start_anew():
    service = Service(ROUND_ROBIN, [1] * 3)
    assert service.pick() == 0
    service.state.adopt(Block(ROUND_ROBIN, service.slots, [0, 1, 2], [1] * 3), from_start=True)
    service.block = Block(ROUND_ROBIN, service.slots, [0, 1, 2], [1] * 3)
    service.state.adopt(service.block)
    assert service.pick() == 0


@pytest.mark.parametrize("before", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("after", POLICIES.values(), ids=POLICIES)
def test_a_service_may_change_its_policy(before, after):
    service = Service(before, [3, 1, 3])
    service.picks(4)
    service.policy = after
    service.change([1, 2], [2, 1])
    assert set(service.picks(60)) == {1, 2}


def test_two_states_of_one_block_do_not_disturb_each_other():
    service = Service(ROUND_ROBIN, [1] * 3)
    other = State(1)
    other.adopt(service.block)
    assert [service.pick(), service.pick()] == [0, 1]
    assert other.pick(service.block) == 0
