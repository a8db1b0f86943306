"""Prints what one pick costs for each policy: nanoseconds, and as a multiple of ``random`` among two endpoints.

Needs the test modules (``FASTMESH_TEST_MODULES=1``). Takes about three seconds::

    python bench/micro_pick.py [--json]

Each figure is the best of several rounds, so that other work on the machine disturbs little. ``busy`` rows have a
request in flight at each endpoint, so that ``least_request`` compares two; ``weighted`` rows have 100 weights.
"""

import json
import sys
import time

from fastmesh._native.lb._t_lb import Block, Slots, State

ROUND_ROBIN, RANDOM, LEAST_REQUEST, RING_HASH, MAGLEV = range(5)
ROWS = [
    ("random", RANDOM, ""),
    ("random", RANDOM, "weighted"),
    ("round_robin", ROUND_ROBIN, ""),
    ("round_robin", ROUND_ROBIN, "weighted"),
    ("least_request", LEAST_REQUEST, ""),
    ("least_request", LEAST_REQUEST, "busy"),
    ("least_request", LEAST_REQUEST, "weighted busy"),
    ("ring_hash", RING_HASH, ""),
    ("maglev", MAGLEV, ""),
]
ROUNDS, PICKS = 7, 200_000
LIMITS = {100: 4, 10_000: 8}


def pick_ns(policy: int, n: int, shape: str) -> float:
    slots = Slots([f"10.{k >> 16}.{k >> 8 & 255}.{k & 255}:8080" for k in range(n)])
    weights = [1 + k % 100 if "weighted" in shape else 1 for k in range(n)]
    block = Block(policy, slots, list(range(n)), weights)
    state = State(1)
    state.adopt(block)
    if "busy" in shape:
        for slot in range(n):
            slots.set_in_flight(slot, 1 + slot % 3)
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        state.pick_often(block, PICKS, policy in (RING_HASH, MAGLEV))
        best = min(best, time.perf_counter() - start)
    return best / PICKS * 1e9


def main() -> None:
    base = pick_ns(RANDOM, 2, "")
    rows = [("random", "", 2, base, 1.0)]
    for n in LIMITS:
        for name, policy, shape in ROWS:
            cost = pick_ns(policy, n, shape)
            rows.append((name, shape, n, cost, cost / base))
    if "--json" in sys.argv[1:]:
        keys = ("policy", "shape", "endpoints", "ns", "ratio")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    print(f"{'policy':<14} {'shape':<14} {'endpoints':>9} {'ns/pick':>8} {'ratio':>6} {'limit':>6}")
    for name, shape, n, cost, ratio in rows:
        print(f"{name:<14} {shape:<14} {n:>9} {cost:>8.1f} {ratio:>6.2f} {LIMITS.get(n, ''):>6}")


if __name__ == "__main__":
    main()
