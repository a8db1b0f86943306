"""Shared by the tests of balancing: a service in one object."""

from fastmesh._native.lb._t_lb import Block, Slots, State

ROUND_ROBIN, RANDOM, LEAST_REQUEST, RING_HASH, MAGLEV = range(5)
POLICIES = {"round_robin": 0, "random": 1, "least_request": 2, "ring_hash": 3, "maglev": 4}
UNHEALTHY, DRAINING = 1 << 32, 1 << 33


def down_until(ms):
    return ms


def slow_start(share):
    return share << 40


class Service:
    """``n`` endpoints whose slot indices are their positions."""

    def __init__(self, policy, weights, seed=1, worker_index=0, workers=1, spare_slots=0, **options):
        n = len(weights)
        self.slots = Slots([f"10.0.{k // 250}.{k % 250}:8080" for k in range(n + spare_slots)])
        self.policy, self.options = policy, options
        self.state = State(seed, worker_index, workers)
        self.change(list(range(n)), weights)

    def change(self, members, weights, **changed):
        self.options |= changed
        self.block = Block(self.policy, self.slots, members, weights, **self.options)
        self.state.adopt(self.block)

    def pick(self, **ask):
        return self.state.pick(self.block, **ask)

    def picks(self, count, **ask):
        return [self.pick(**ask) for _ in range(count)]

    def keyed(self, keys):
        return [self.pick(key=key) for key in keys]
