"""Least request: the turn's endpoint, unless another one is less loaded for its weight."""

from collections import Counter

import pytest

from support.balancing import LEAST_REQUEST, Service


def test_an_idle_service_is_visited_in_order():
    assert Service(LEAST_REQUEST, [1] * 3).picks(6) == [0, 1, 2, 0, 1, 2]


def test_an_idle_service_is_visited_by_weight():
    assert Counter(Service(LEAST_REQUEST, [3, 1]).picks(400)) == {0: 300, 1: 100}


def test_of_two_the_less_loaded_one_is_taken():
    service = Service(LEAST_REQUEST, [1, 1])
    service.slots.set_in_flight(0, 5)
    service.slots.set_in_flight(1, 2)
    assert set(service.picks(50)) == {1}


def test_a_tie_goes_in_turn():
    service = Service(LEAST_REQUEST, [1] * 3)
    for slot in range(3):
        service.slots.set_in_flight(slot, 4)
    assert service.picks(6) == [0, 1, 2, 0, 1, 2]


def test_load_is_compared_by_weight():
    service = Service(LEAST_REQUEST, [4, 1])
    service.slots.set_in_flight(0, 6)  # (6 + 1) / 4 is less than (1 + 1) / 1
    service.slots.set_in_flight(1, 1)
    assert set(service.picks(50)) == {0}
    service.slots.set_in_flight(0, 9)  # (9 + 1) / 4 is more
    assert set(service.picks(50)) == {1}


def test_a_loaded_endpoint_among_many_is_avoided():
    service = Service(LEAST_REQUEST, [1] * 10)
    for slot in range(10):
        service.slots.set_in_flight(slot, 100 if slot == 3 else 1)
    assert Counter(service.picks(1000))[3] == 0


@pytest.mark.parametrize("weights", [[1] * 20, [1, 2, 4] * 7])
def test_requests_that_stay_fill_endpoints_evenly(weights):
    service = Service(LEAST_REQUEST, weights)
    loads = service.state.hold(service.block, 20 * sum(weights))
    assert max(abs(load / weight - 20) for load, weight in zip(loads, weights, strict=True)) <= 2.5
