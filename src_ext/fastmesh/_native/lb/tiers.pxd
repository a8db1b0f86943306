"""Priorities: endpoints in *tiers*, one a priority, each balanced by the service's policy on its own.

Which tier. As Envoy's priority levels: what a tier can carry of the load is 1.4 times the usable part of its
weight, at most all. So it carries all while 5/7 of its weight (71.4 %) are usable. The first
tier gets what it can carry, the next one what is left, and so on; when all together cannot carry the load, it
is split in proportion to what they can. An endpoint in slow start counts in full. Parts are measured at most
every ``LB_SHARES_MS`` and when a tier has less than was thought (then at most once a millisecond); that takes
one pass over the endpoints of the tiers that carry something, up to 5/7 of a sound one.

The tier of a request is drawn by these parts. Policies with a key draw by it: a key keeps its tier while the
parts stay, and when the first tier loses some, only keys that it cannot carry any more move.

The rule of a pick (``lb.pxd``) holds over all tiers: when the chosen one has no usable endpoint that was not
tried, the others are asked in the order of their priority, and the best found is taken; the chosen tier wins a
tie. So a retry prefers the chosen tier and then the first one that has something left, and an endpoint that
is down is used when no tier has a usable one.

Bounded load compares with the service's requests in flight times the tier's part of the load: counting those
of a tier would take a pass over it. Where they are still spread as before a change of the parts, the bound is
too high or too low until they end; it stays a preference. A tier that is asked although it carries nothing is
compared with all requests of the service.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastmesh._native.base.hash cimport hash_mix, rng_next
from fastmesh._native.lb.candidate cimport LB_USABLE, lb_condition, lb_was_tried
from fastmesh._native.lb.lb_t cimport LB_MAGLEV, LB_RING_HASH, lb_ctx_t, lb_state_t, lb_t, lb_tier_t

cdef enum:
    LB_TIERS_MAX = 256
    LB_SHARES_MS = 16
    LB_WHOLE = 1 << 16  # all of the load
    LB_CARRIES = 7  # what a weight of LB_WEIGHS carries: 1.4 times its part of the load
    LB_WEIGHS = 5
    LB_NO_RANK = 4

cdef inline uint32_t lb_tier_strength(const lb_t *tier, uint32_t now_ms) noexcept nogil:
    """What part of the load a tier can carry, in 1/LB_WHOLE, rounded up: not 0 if anything is usable."""
    cdef uint64_t usable = 0, all_needed = tier.total_weight * LB_WEIGHS
    cdef uint32_t i
    for i in range(tier.n):
        if lb_condition(tier, i, now_ms) == LB_USABLE:
            usable += <uint64_t>tier.weights[i] * LB_CARRIES
            if usable >= all_needed:
                return LB_WHOLE
    if usable == 0:
        return 0
    return <uint32_t>((usable * LB_WHOLE + all_needed - 1) // all_needed)


cdef inline void lb_measure_shares(const lb_t *lb, uint32_t now_ms, uint32_t *shares) noexcept nogil:
    """Running sums of what each tier gets, at most LB_WHOLE in all."""
    cdef uint32_t t, sum = 0
    for t in range(lb.ntiers):
        if sum < LB_WHOLE:
            sum = min(sum + lb_tier_strength(lb.tiers[t].lb, now_ms), <uint32_t>LB_WHOLE)
        shares[t] = sum


cdef inline uint32_t _tier_at(const lb_t *lb, const uint32_t *shares, uint64_t draw) noexcept nogil:
    """The tier of a draw; the first one when none has anything usable."""
    cdef uint32_t t = 0, sum = shares[lb.ntiers - 1]
    cdef uint32_t at = <uint32_t>(((draw >> 32) * sum) >> 32)
    if sum != 0:
        while shares[t] <= at:
            t += 1
    return t


cdef inline uint64_t _tier_draw(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    if ctx.has_key and (lb.policy == LB_RING_HASH or lb.policy == LB_MAGLEV):
        return hash_mix(~ctx.key)  # not what the policies make of the key
    return rng_next(&state.rng)


cdef inline uint32_t _total_of_tier(uint32_t total, const uint32_t *shares, uint32_t ntiers,
                                    uint32_t t) noexcept nogil:
    """How many of the service's requests in flight should be the tier's."""
    cdef uint32_t sum = shares[ntiers - 1], share = shares[t] - (shares[t - 1] if t != 0 else 0)
    if share == 0:
        return total
    return <uint32_t>((<uint64_t>total * share + sum - 1) // sum)


cdef inline void _ask_tier(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx, const uint32_t *shares,
                           uint32_t t, int32_t *best, uint32_t *best_rank) noexcept nogil:
    """Lets the tier pick; what it picks becomes ``best`` if it is better. A rank is the place in the rule of a
    pick: 0 is usable and was not tried."""
    cdef const lb_tier_t *tier = &lb.tiers[t]
    # A block that was not adopted, and so each tier of it, only takes random numbers from the state
    cdef lb_state_t *part = &state.tiers[t] if state.serial == lb.serial else state
    cdef lb_ctx_t bounded
    cdef int32_t i
    cdef uint32_t rank
    if lb.bounded_load != 0:
        bounded = ctx[0]
        bounded.total_in_flight = _total_of_tier(ctx.total_in_flight, shares, lb.ntiers, t)
        ctx = &bounded
    i = tier.lb.pick(tier.lb, part, ctx)
    if i < 0:
        return
    rank = <uint32_t>lb_condition(tier.lb, i, ctx.now_ms) + (2 if lb_was_tried(tier.lb, i, ctx) else 0)
    if rank < best_rank[0]:
        best_rank[0] = rank
        best[0] = <int32_t>tier.members[i]


cdef inline void _measure(const lb_t *lb, lb_state_t *state, uint32_t now_ms, bint adopted,
                          uint32_t *shares) noexcept nogil:
    lb_measure_shares(lb, now_ms, shares)
    if adopted:
        state.shares_measured = True
        state.shares_measured_ms = now_ms


cdef inline int32_t lb_pick_tiers(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    cdef uint32_t own_shares[LB_TIERS_MAX]
    cdef bint adopted = state.serial == lb.serial
    cdef uint32_t *shares = state.tier_shares if adopted else own_shares
    cdef uint64_t draw = _tier_draw(lb, state, ctx)
    cdef uint32_t first, second, t, rank = LB_NO_RANK
    cdef int32_t best = -1
    if (
        not adopted or not state.shares_measured
        or ctx.now_ms - state.shares_measured_ms >= <uint32_t>LB_SHARES_MS
    ):
        _measure(lb, state, ctx.now_ms, adopted, shares)
    first = second = _tier_at(lb, shares, draw)
    _ask_tier(lb, state, ctx, shares, first, &best, &rank)
    if rank != 0 and adopted and state.shares_measured_ms != ctx.now_ms:
        _measure(lb, state, ctx.now_ms, adopted, shares)
        second = _tier_at(lb, shares, draw)
        if second != first:
            _ask_tier(lb, state, ctx, shares, second, &best, &rank)
    for t in range(lb.ntiers):
        if rank == 0:
            break
        if t != first and t != second:
            _ask_tier(lb, state, ctx, shares, t, &best, &rank)
    return best
