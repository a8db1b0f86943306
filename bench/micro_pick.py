"""Prints what a pick costs for each policy: nanoseconds, and as a multiple of ``random`` among two endpoints.

Needs the test modules (``FASTMESH_TEST_MODULES=1``). Takes about a second::

    python bench/micro_pick.py [--json]

Each figure is the best of several rounds, so that other work on the machine disturbs little. ``weighted``
rows have the weights 1 to 10; ``busy`` rows have requests in flight, so that ``least_request`` compares two.
The rows ``… (100 weights)`` are the worst case of round robin's tree, where hardly two endpoints weigh the
same; they are shown to be watched and stand outside of the budget.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence

from fastmesh._native.lb._t_lb import Block, Slots, State

ROUND_ROBIN, RANDOM, LEAST_REQUEST, RING_HASH, MAGLEV = range(5)
# name, policy, how many different weights, whether requests are in flight
ROWS = [
    ("random", RANDOM, 1, False),
    ("random", RANDOM, 10, False),
    ("round_robin", ROUND_ROBIN, 1, False),
    ("round_robin", ROUND_ROBIN, 10, False),
    ("least_request", LEAST_REQUEST, 1, False),
    ("least_request", LEAST_REQUEST, 1, True),
    ("least_request", LEAST_REQUEST, 10, False),
    ("least_request", LEAST_REQUEST, 10, True),
    ("ring_hash", RING_HASH, 1, False),
    ("maglev", MAGLEV, 1, False),
    ("maglev", MAGLEV, 10, False),
    ("round_robin (100 weights)", ROUND_ROBIN, 100, False),
    ("least_request (100 weights)", LEAST_REQUEST, 100, True),
]
ROUNDS, PICKS = 9, 200_000
LIMITS = {100: 4, 10_000: 8}


def picker(policy: int, n: int, different_weights: int, busy: bool) -> Callable[[], None]:
    """Something that picks `PICKS` times among ``n`` endpoints."""
    slots = Slots([f"10.{k >> 16}.{k >> 8 & 255}.{k & 255}:8080" for k in range(n)])
    block = Block(policy, slots, list(range(n)), [1 + k % different_weights for k in range(n)])
    state = State(1)
    state.adopt(block)
    if busy:
        for slot in range(n):
            slots.set_in_flight(slot, 1 + slot % 3)
    return lambda: state.pick_often(block, PICKS, policy in (RING_HASH, MAGLEV))


def best_ns(pickers: Sequence[Callable[[], None]]) -> list[float]:
    """ns a pick of each, the best of its rounds. Rounds are interleaved: a busy second takes one
    from each, and not all of one. Before each, what the others pushed out of the cache comes back."""
    best = [float("inf")] * len(pickers)
    for _ in range(ROUNDS):
        for number, pick in enumerate(pickers):
            pick()
            start = time.perf_counter()
            pick()
            best[number] = min(best[number], time.perf_counter() - start)
    return [seconds / PICKS * 1e9 for seconds in best]


def main() -> None:
    shapes = [("random", RANDOM, 1, False, 2), *((*row, n) for n in LIMITS for row in ROWS)]
    costs = best_ns([picker(policy, n, weights, busy) for _, policy, weights, busy, n in shapes])
    rows = []
    for (name, _, different_weights, busy, n), cost in zip(shapes, costs, strict=True):
        shape = " ".join(["weighted"] * (different_weights > 1) + ["busy"] * busy)
        rows.append((name, shape, n, cost, cost / costs[0]))
    if "--json" in sys.argv[1:]:
        keys = ("policy", "shape", "endpoints", "ns", "ratio")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    print(f"{'policy':<28} {'shape':<14} {'endpoints':>9} {'ns/pick':>8} {'ratio':>6} {'limit':>6}")
    for name, shape, n, cost, ratio in rows:
        limit = "" if "(" in name else LIMITS.get(n, "")
        print(f"{name:<28} {shape:<14} {n:>9} {cost:>8.1f} {ratio:>6.2f} {limit:>6}")


if __name__ == "__main__":
    main()
