"""What all policies share: judging one endpoint, and what to do when few can be used.

A policy looks at a bounded number of endpoints of its own choice (``LB_DRAWS``, ``LB_TURNS``, ``LB_STEPS``).
When none of them will do, most of the service is gone, and ``lb_last_resort`` chooses from the *survivors*:
the list of usable endpoints, or of passively down ones if there are none. The list costs one pass over all
endpoints. A service of up to ``LB_SCAN`` endpoints is listed anew each time; a larger one at most once in
``LB_SURVIVORS_MS``, or when an endpoint of the list turns out to be unusable. So a pick costs a bounded time
on average, and an endpoint that recovers while nearly all are down is found after that time at the latest.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from fastmesh._native.base.hash cimport rng_below, rng_next
from fastmesh._native.lb.lb_t cimport LB_ROUND_ROBIN, lb_ctx_t, lb_state_t, lb_t
from fastmesh._native.sys.atomics cimport fm_likely, fm_load_relaxed_u32, fm_load_relaxed_u64

cdef enum:
    LB_DRAWS = 16  # random draws a pick
    LB_TURNS = 128  # turns of round robin that a pick may pass over
    LB_STEPS = 128  # points of a ring, or entries of a Maglev table, that a pick walks
    LB_SCAN = 256  # endpoints that a pick may look at one by one
    LB_SURVIVORS_MS = 16

ctypedef enum lb_condition_t:
    LB_USABLE = 0
    LB_DOWN = 1  # passively: used when nothing else is left
    LB_OUT = 2  # unhealthy, draining or of weight 0


cdef inline lb_condition_t lb_condition_of(uint64_t health, uint32_t now_ms) noexcept nogil:
    """What a health word means (``slot_t.pxd``)."""
    cdef uint32_t down_until = <uint32_t>health
    if health & (<uint64_t>3 << 32):  # unhealthy, draining
        return LB_OUT
    if down_until != 0 and <int32_t>(down_until - now_ms) > 0:
        return LB_DOWN
    return LB_USABLE


cdef inline lb_condition_t lb_condition(const lb_t *lb, uint32_t i, uint32_t now_ms) noexcept nogil:
    if lb.weights[i] == 0:
        return LB_OUT
    return lb_condition_of(fm_load_relaxed_u64(&lb.slots[i].health), now_ms)


cdef inline uint32_t lb_in_flight(const lb_t *lb, uint32_t i) noexcept nogil:
    return fm_load_relaxed_u32(&lb.slots[i].in_flight)


cdef inline bint lb_was_tried(const lb_t *lb, uint32_t i, const lb_ctx_t *ctx) noexcept nogil:
    cdef uint32_t k
    for k in range(ctx.ntried):
        if ctx.tried[k] == lb.slots[i].index:
            return True
    return False


cdef inline bint _is_fresh_by_word(uint64_t health, uint32_t now_ms, uint64_t *rng) noexcept nogil:
    cdef uint32_t share = (health >> 40) & 0xFF
    if lb_condition_of(health, now_ms) != LB_USABLE:
        return False
    return share == 0 or rng_below(rng, 255) < share


cdef inline bint lb_is_fresh(const lb_t *lb, uint32_t i, const lb_ctx_t *ctx, uint64_t *rng) noexcept nogil:
    """Usable, not tried, and let through by its slow start (one draw from ``rng``, only then)."""
    cdef uint64_t health = fm_load_relaxed_u64(&lb.slots[i].health)
    if not fm_likely(health == 0) and not _is_fresh_by_word(health, ctx.now_ms, rng):
        return False
    return ctx.ntried == 0 or not lb_was_tried(lb, i, ctx)


cdef inline void _list_survivors(const lb_t *lb, lb_state_t *state, uint32_t now_ms) noexcept nogil:
    """Lists the usable endpoints, or the down ones if there are none, with running sums of their weights. A
    slow start counts here as a share of the weight."""
    cdef uint32_t i, wanted = LB_USABLE, share
    cdef uint64_t sum
    state.survivor_count = 0
    while state.survivor_count == 0 and wanted <= LB_DOWN:
        sum = 0
        for i in range(lb.n):
            if lb_condition(lb, i, now_ms) == wanted:
                share = (fm_load_relaxed_u64(&lb.slots[i].health) >> 40) & 0xFF
                sum += <uint64_t>lb.weights[i] * (share if share != 0 else 255)
                state.survivors[state.survivor_count] = i
                state.survivor_sums[state.survivor_count] = sum
                state.survivor_count += 1
        wanted += 1
    state.survivors_wanted = wanted - 1
    state.survivors_built = True
    state.survivors_built_ms = now_ms


cdef inline uint32_t _survivor_at(const lb_t *lb, lb_state_t *state, uint64_t draw) noexcept nogil:
    """A position in the list: in turn for round robin over equal weights, else by weight."""
    cdef uint32_t low = 0, high = state.survivor_count - 1, middle
    if lb.policy == LB_ROUND_ROBIN and lb.ngroups == 1:
        state.survivor_turn += 1
        return (state.survivor_turn - 1) % state.survivor_count
    draw %= state.survivor_sums[high]
    while low < high:
        middle = (low + high) >> 1
        if state.survivor_sums[middle] > draw:
            high = middle
        else:
            low = middle + 1
    return low


cdef inline int32_t _untried_down(const lb_t *lb, const lb_ctx_t *ctx, uint32_t start) noexcept nogil:
    """The first down, untried endpoint among ``LB_SCAN`` from ``start`` on, or -1."""
    cdef uint32_t _k, i = start
    for _k in range(min(lb.n, <uint32_t>LB_SCAN)):
        if lb_condition(lb, i, ctx.now_ms) == LB_DOWN and not lb_was_tried(lb, i, ctx):
            return <int32_t>i
        i += 1
        if i == lb.n:
            i = 0
    return -1


cdef inline int32_t _best_of_all(const lb_t *lb, const lb_ctx_t *ctx, uint32_t start) noexcept nogil:
    """The rule applied to every endpoint, from ``start`` on: for a block that the state did not adopt."""
    cdef uint32_t _k, i = start, rank, best_rank = 4
    cdef int32_t best = -1
    cdef lb_condition_t condition
    for _k in range(lb.n):
        condition = lb_condition(lb, i, ctx.now_ms)
        if condition != LB_OUT:
            rank = <uint32_t>condition + (2 if lb_was_tried(lb, i, ctx) else 0)
            if rank < best_rank:
                best_rank = rank
                best = <int32_t>i
                if rank == 0:
                    break
        i += 1
        if i == lb.n:
            i = 0
    return best


cdef inline int32_t _from_survivors(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx, uint64_t draw,
                                    int32_t *tried, bint *stale) noexcept nogil:
    """An untried endpoint of the list or -1; ``tried`` gets the first tried one that is met, ``stale``
    whether one of the list is no longer what it was listed for."""
    cdef uint32_t _k, i, position
    tried[0] = -1
    stale[0] = False
    if state.survivor_count == 0:
        return -1
    position = _survivor_at(lb, state, draw)
    for _k in range(min(state.survivor_count, <uint32_t>LB_SCAN)):
        i = state.survivors[position]
        if lb_condition(lb, i, ctx.now_ms) > state.survivors_wanted:
            stale[0] = True
        elif not lb_was_tried(lb, i, ctx):
            return <int32_t>i
        elif tried[0] < 0:
            tried[0] = <int32_t>i
        position += 1
        if position == state.survivor_count:
            position = 0
    return -1


cdef inline int32_t lb_last_resort(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx,
                                   uint64_t draw) noexcept nogil:
    """An endpoint when the policy's own choices will not do; ``draw`` is random, or the hash of the key."""
    cdef uint32_t start
    cdef int32_t chosen, tried = -1, down
    cdef bint stale = False, listed = False
    if lb.n == 0:
        return -1
    start = <uint32_t>(((draw >> 32) * lb.n) >> 32)
    if state.serial != lb.serial:
        return _best_of_all(lb, ctx, start)
    if (
        not state.survivors_built or lb.n <= LB_SCAN
        or ctx.now_ms - state.survivors_built_ms >= <uint32_t>LB_SURVIVORS_MS
    ):
        _list_survivors(lb, state, ctx.now_ms)
        listed = True
    chosen = _from_survivors(lb, state, ctx, draw, &tried, &stale)
    if chosen < 0 and stale and not listed:
        _list_survivors(lb, state, ctx.now_ms)
        chosen = _from_survivors(lb, state, ctx, draw, &tried, &stale)
    if chosen >= 0 or state.survivor_count == 0:
        return chosen
    if state.survivors_wanted == LB_USABLE:
        down = _untried_down(lb, ctx, start)
        if down >= 0:
            return down
    return tried if tried >= 0 else <int32_t>state.survivors[0]
