"""Random: shares follow weights, whatever is left out."""

from collections import Counter

from support.balancing import RANDOM, UNHEALTHY, Service, slow_start


def test_equal_weights_have_equal_shares():
    counts = Counter(Service(RANDOM, [1] * 4).picks(8000))
    assert all(1850 < counts[k] < 2150 for k in range(4))


def test_shares_follow_weights():
    counts = Counter(Service(RANDOM, [1, 2, 0, 5]).picks(8000))
    assert counts[2] == 0
    assert all(abs(counts[k] - 1000 * weight) < 180 for k, weight in ((0, 1), (1, 2), (3, 5)))


def test_a_weight_above_the_limit_counts_as_the_limit():
    counts = Counter(Service(RANDOM, [2**32 - 1, 2**20]).picks(4000))
    assert 1850 < counts[0] < 2150


def test_shares_of_the_others_stay_when_one_is_out():
    service = Service(RANDOM, [4, 1, 3])
    service.slots.set_health(0, UNHEALTHY)
    counts = Counter(service.picks(4000))
    assert counts[0] == 0
    assert 2.5 < counts[2] / counts[1] < 3.5


def test_a_slow_start_gets_its_share():
    service = Service(RANDOM, [1, 1])
    service.slots.set_health(0, slow_start(25))
    counts = Counter(service.picks(6000))
    assert 0.06 < counts[0] / counts[1] < 0.14


def test_seeds_and_workers_draw_differently():
    sequences = {
        tuple(Service(RANDOM, [1] * 10, seed=seed, worker_index=worker, workers=2).picks(20))
        for seed in (1, 2)
        for worker in (0, 1)
    }
    assert len(sequences) == 4
