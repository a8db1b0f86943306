"""Each native policy agrees, pick for pick, with its slow reference, while everything around it changes."""

import random
import sys
from pathlib import Path

import pytest

from fastmesh._native.lb._t_lb import Block, Slots, State, mix, random_below, random_words, xxh64

sys.path.insert(0, str(Path(__file__).parent))

import reference_policies as reference
from reference_tiers import TieredBlock, TieredState

POLICIES = {"round_robin": 0, "random": 1, "least_request": 2, "ring_hash": 3, "maglev": 4}
TABLE_SIZE = 251  # the reference is slow


def test_hash_and_generator_agree():
    chaos = random.Random(1)
    for length in range(80):
        data = chaos.randbytes(length)
        seed = chaos.getrandbits(64)
        assert xxh64(data, seed) == reference.xxh64(data, seed)
    rng = reference.Rng(99)
    assert random_words(99, 50) == [rng.next() for _ in range(50)]
    rng = reference.Rng(7)
    assert random_below(7, 255, 50) == [rng.below(255) for _ in range(50)]
    assert mix(12345) == reference.mix(12345)


class Pair:
    """The native side and the reference, told the same things."""

    def __init__(
        self, policy: int, slots: int, seed: int, workers: int, worker_index: int, bounded_load: int
    ):
        self.policy, self.bounded_load = policy, bounded_load
        names = [f"10.0.{k // 250}.{k % 250}:80" for k in range(slots)]
        self.world = reference.World(names)
        self.slots = Slots(names)
        self.state = State(seed, worker_index, workers)
        self.reference_state = TieredState(seed, worker_index, workers)

    def change(self, members: list[int], weights: list[int], priorities: list[int] | None = None) -> None:
        options = {"ring_size": 64, "table_size": TABLE_SIZE, "bounded_load": self.bounded_load}
        self.block = Block(self.policy, self.slots, members, weights, **options, priorities=priorities)
        self.reference_block = TieredBlock(self.policy, self.world, members, weights, priorities, **options)

    def adopt(self) -> None:
        self.state.adopt(self.block)
        self.reference_state.adopt(self.reference_block)

    def set_health(self, slot: int, word: int) -> None:
        self.world.health[slot] = word
        self.slots.set_health(slot, word)

    def set_in_flight(self, slot: int, value: int) -> None:
        self.world.in_flight[slot] = value
        self.slots.set_in_flight(slot, value)

    def pick(self, **ask) -> tuple[int, int]:
        native = self.state.pick(self.block, **ask)
        ask["tried"] = tuple(ask.get("tried", ()))
        return native, self.reference_state.pick(self.reference_block, reference.Ask(**ask))


def random_word(chaos: random.Random, now_ms: int, trouble: float) -> int:
    if chaos.random() > trouble:
        return chaos.choice([0, 0, 0, chaos.randrange(256) << 40, (now_ms - chaos.randrange(1000)) % 2**32])
    down_until = (now_ms + chaos.randrange(2000)) % 2**32
    return chaos.choice([1 << 32, 1 << 33, down_until, down_until, down_until | chaos.randrange(256) << 40])


def agrees_through_changes(policy: int, seed: int, chaos: random.Random, levels: list[list[int]]) -> None:
    """``levels``: for each change one is chosen, the priorities that endpoints then have."""
    slots = chaos.choice([1, 2, 3, 10, 40, 300])
    workers = chaos.choice([1, 4])
    bounded_load = chaos.choice([0, 1250]) if policy >= reference.RING_HASH else 0
    pair = Pair(policy, slots, seed, workers, chaos.randrange(workers), bounded_load)
    now_ms = chaos.choice([0, 2**32 - 2000])
    weight_choices = chaos.choice([[1], [1, 3], [0, 1, 100], [7, 2**20, 2**21]])
    if policy == reference.RING_HASH and max(weight_choices) > 100:
        weight_choices = [7, 40]  # the reference makes each of the many points
    for change in range(12):
        members = chaos.sample(range(slots), chaos.randint(0 if change == 5 else 1, slots))
        level = chaos.choice(levels)
        priorities = [chaos.choice(level) for _ in members] if level else None
        pair.change(members, [chaos.choice(weight_choices) for _ in members], priorities)
        if chaos.random() < 0.8:
            pair.adopt()
        trouble = chaos.choice([0, 0.3, 0.95, 0.99, 1])
        for _ in range(40 if slots < 300 else 15):
            now_ms = (now_ms + chaos.randrange(12)) % 2**32
            for _ in range(chaos.choice([0, 1, slots])):
                pair.set_health(chaos.randrange(slots), random_word(chaos, now_ms, trouble))
            for _ in range(chaos.choice([0, 2])):
                pair.set_in_flight(chaos.randrange(slots), chaos.choice([0, 0, 1, 5]))
            native, expected = pair.pick(
                now_ms=now_ms,
                key=chaos.choice([None, chaos.getrandbits(64), 2**64 - 1, 0]),
                tried=chaos.sample(range(slots), min(slots, chaos.choice([0, 0, 1, 2]))),
                total_in_flight=sum(pair.world.in_flight),
            )
            assert native == expected


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("seed", range(12))
def test_agrees_through_changes(policy, seed):
    agrees_through_changes(policy, seed, random.Random(f"{policy} {seed}"), [[]])


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("seed", range(24))
def test_agrees_through_changes_of_priorities(policy, seed):
    chaos = random.Random(f"priorities {policy} {seed}")
    levels = [[], [0], [1], [0, 1], [0, 1], [0, 1, 2], [1, 7, 255], list(range(256))]
    agrees_through_changes(policy, seed, chaos, levels)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_agrees_on_a_long_undisturbed_run(policy):
    pair = Pair(policy, 7, 5, 2, 1, 0)
    pair.change(list(range(7)), [5, 1, 1, 3, 3, 3, 100])
    pair.adopt()
    for k in range(2000):
        native, expected = pair.pick(key=reference.mix(k))
        assert native == expected
