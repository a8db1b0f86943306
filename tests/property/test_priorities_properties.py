"""What must hold for priorities with any weights and any health, whatever the implementation."""

from collections import Counter
from fractions import Fraction

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastmesh._native.lb._t_lb import Block, Slots, State, xxh64

ROUND_ROBIN, RANDOM, LEAST_REQUEST, RING_HASH, MAGLEV = range(5)
KEYS = [xxh64(f"key {k}".encode()) for k in range(2000)]
UNHEALTHY, DRAINING, DOWN = 1 << 32, 1 << 33, 5000
NOW = 1000

policies = st.integers(0, 4)
seeds = st.integers(0, 2**64 - 1)  # shown with an example that fails
tier = st.lists(st.tuples(st.sampled_from([0, 0, UNHEALTHY, DRAINING, DOWN]), st.integers(0, 9)), max_size=8)
some_tiers = st.lists(tier, min_size=2, max_size=4)


def service(policy, tiers, seed):
    """Slots are numbered through; who is in which tier, in the order of their slots, second."""
    words = [(word, weight, level) for level, tier in enumerate(tiers) for word, weight in tier]
    slots = Slots([f"10.1.2.{k}:80" for k in range(len(words))])
    for slot, (word, _, _) in enumerate(words):
        slots.set_health(slot, word)
    priorities = [level for _, _, level in words]
    weights = [weight for _, weight, _ in words]
    members = list(range(len(words)))
    block = Block(policy, slots, members, weights, table_size=251, ring_size=64, priorities=priorities)
    state = State(seed)
    state.adopt(block)
    return slots, block, state, priorities


def expected_parts(tiers):
    """Of the load, for each tier; None when nothing is usable."""
    left, parts = Fraction(1), []
    for one in tiers:
        total = sum(weight for _, weight in one)
        usable = sum(weight for word, weight in one if word == 0)
        parts.append(min(left, Fraction(7, 5) * Fraction(usable, total)) if total else Fraction(0))
        left -= parts[-1]
    return [part / sum(parts) for part in parts] if sum(parts) else None


@settings(deadline=None, max_examples=80)
@given(policies, some_tiers, seeds)
def test_the_load_is_split_as_the_tiers_can_carry_it(policy, tiers, seed):
    expected = expected_parts(tiers)
    assume(expected is not None)
    _, block, state, priorities = service(policy, tiers, seed)
    counts = Counter(priorities[state.pick(block, now_ms=NOW, key=key)] for key in KEYS)
    for level, part in enumerate(expected):
        deviation = float(part * (1 - part) / len(KEYS)) ** 0.5
        assert abs(counts[level] / len(KEYS) - part) <= 5 * deviation + 0.001


@settings(deadline=None, max_examples=80)
@given(policies, some_tiers, seeds, st.data())
def test_nothing_goes_to_another_tier_while_the_first_is_72_percent_sound(policy, tiers, seed, data):
    tiers[0] = [(0, weight + 1) for _, weight in tiers[0]] or [(0, 1)]
    total, away = sum(weight for _, weight in tiers[0]), 0
    for at in data.draw(st.permutations(range(len(tiers[0])))):
        if away + tiers[0][at][1] <= Fraction(28, 100) * total:
            away += tiers[0][at][1]
            tiers[0][at] = (UNHEALTHY, tiers[0][at][1])
    _, block, state, priorities = service(policy, tiers, seed)
    for key in KEYS[:200]:
        assert priorities[state.pick(block, now_ms=NOW, key=key)] == 0


@settings(deadline=None, max_examples=80)
@given(policies, some_tiers, seeds, st.integers(16, 2000))
def test_after_an_outage_the_first_tier_has_everything_again(policy, tiers, seed, later):
    tiers[0] = [(word or DOWN, weight + 1) for word, weight in tiers[0]] or [(DOWN, 1)]
    slots, block, state, priorities = service(policy, tiers, seed)
    somewhere_else = expected_parts(tiers) is not None
    for key in KEYS[:100]:
        chosen = state.pick(block, now_ms=NOW, key=key)
        assert not somewhere_else or priorities[chosen] != 0
    for slot in range(len(tiers[0])):
        slots.set_health(slot, 0)
    for key in KEYS[:100]:
        assert priorities[state.pick(block, now_ms=NOW + later, key=key)] == 0


@settings(deadline=None, max_examples=100)
@given(policies, some_tiers, seeds, st.sets(st.integers(0, 31), max_size=4), st.data())
def test_the_rule_of_a_pick_holds_over_all_tiers(policy, tiers, seed, tried, data):
    """Also right after a change of health that no measurement has seen."""
    slots, block, state, _ = service(policy, tiers, seed)
    words = [word for tier in tiers for word, _ in tier]
    weights = [weight for tier in tiers for _, weight in tier]
    for key in KEYS[:20]:
        if words and data.draw(st.booleans()):
            slot = data.draw(st.integers(0, len(words) - 1))
            words[slot] = data.draw(st.sampled_from([0, UNHEALTHY, DOWN]))
            slots.set_health(slot, words[slot])
        ranks = {
            slot: (word == DOWN) + 2 * (slot in tried)
            for slot, word in enumerate(words)
            if weights[slot] and word in (0, DOWN)
        }
        chosen = state.pick(block, now_ms=NOW, key=key, tried=sorted(tried))
        assert chosen == -1 if not ranks else ranks[chosen] == min(ranks.values())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sampled_from([ROUND_ROBIN, LEAST_REQUEST]),
    st.lists(st.lists(st.integers(1, 255), max_size=4), min_size=1, max_size=8),
    seeds,
)
def test_shares_of_a_tier_stay_exact_while_others_come_and_go(weights, policy, changes, seed):
    n = len(weights)
    slots = Slots([f"10.1.2.{k}:80" for k in range(n + 4)])
    state, counts = State(seed), Counter()
    for others in changes:
        block = Block(
            policy,
            slots,
            list(range(n + len(others))),
            [*weights, *([5] * len(others))],
            priorities=[*([0] * n), *others],
        )
        state.adopt(block)
        counts.update(state.pick(block) for _ in range(sum(weights)))
    for slot in range(n):
        # A change rounds the time until the next turn
        assert abs(counts[slot] - len(changes) * weights[slot]) <= 1


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([RING_HASH, MAGLEV]), st.integers(1, 10), st.integers(0, 10), st.integers(0, 10), seeds
)
def test_of_two_tiers_a_key_leaves_the_first_only_when_that_gets_weaker(policy, size, away, more, seed):
    away, more = min(away, size), min(more, size)
    first = [(UNHEALTHY if slot < away else 0, 1) for slot in range(size)]
    slots, block, state, priorities = service(policy, [first, [(0, 1)] * 3], seed)
    before = [priorities[state.pick(block, key=key)] for key in KEYS]
    for slot in range(size):
        slots.set_health(slot, UNHEALTHY if slot < more else 0)
    after = [priorities[state.pick(block, key=key, now_ms=16)] for key in KEYS]
    moved = {(b, a) for b, a in zip(before, after, strict=True) if b != a}
    assert moved <= ({(0, 1)} if more > away else {(1, 0)})
