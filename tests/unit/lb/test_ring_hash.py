"""The ring of points; its content is compared with gRPC's in tests/golden."""

from support.balancing import RING_HASH, Service


def test_a_ring_has_its_size_or_more():
    for weights in ([1] * 3, [1, 5, 2], [1] * 700):
        ring = Service(RING_HASH, weights, ring_size=1024).block.ring()
        assert len(ring) >= max(1024, 16 * len(weights))
        assert ring == sorted(ring)


def test_the_highest_key_belongs_to_the_lowest_point():
    service = Service(RING_HASH, [1] * 5)
    ring = service.block.ring()
    assert service.pick(key=2**64 - 1) == ring[0][1]
    assert service.pick(key=ring[7][0]) == ring[7][1]
    assert service.pick(key=ring[7][0] + 1) == ring[8][1]


def test_points_of_an_endpoint_stay_when_another_one_goes():
    def points(weights):
        ring = Service(RING_HASH, weights).block.ring()
        return {slot: {point for point, owner in ring if owner == slot} for slot in range(len(weights))}

    before, after = points([1] * 10), points([1] * 9)
    assert all(before[slot] == after[slot] for slot in range(9))


def test_the_number_of_points_is_limited():
    assert len(Service(RING_HASH, [1, 2**20], ring_size=2**31).block.ring()) <= 2**20 + 1
