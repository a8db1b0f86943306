"""Policy ``round_robin``: weighted and evenly interleaved, by earliest deadline over groups of one weight.

Endpoints of the same weight form a group that goes round by a cursor. A group of ``m`` endpoints of weight
``w`` has a turn each ``total_weight / (w * m)`` picks, the first one in the middle of that time; a tree of
minima finds the group whose turn is next. So
- any ``total_weight`` picks in a row give each endpoint exactly its weight, spread as evenly as can be;
- equal weights are one group and cost a counter; ``g`` different weights cost O(log g).
Time is virtual: one pick is ``1 << tick_bits`` of it, to which strides are rounded: 2**28 for any sane
weights.

The turn of an endpoint that cannot be used is passed over, which leaves the others' shares to each other as
they were. ``lb_adopt_turns`` carries cursors and times to a new block: an endpoint that stays keeps its
place.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort

from fastmesh._native.base.hash cimport rng_next
from fastmesh._native.lb.candidate cimport LB_DRAWS, LB_TURNS, lb_is_fresh, lb_last_resort
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_group_t, lb_state_t, lb_t
from fastmesh._native.lb.random cimport lb_pick_random

cdef enum:
    LB_TICK_BITS = 28
    LB_KEY_BITS = 62
    LB_ADOPT_PROBES = 1024  # members of an old group that are looked up to find where to go on
    LB_NO_TURN = 0xFFFFFFFFFFFFFFFF

cdef extern from *:
    """
    /* The lesser one. The compiler may not look through `others`: it would compare `key`, which is known
     * last, with each of the values that `others` is the least of, one after the other. */
    static inline uint64_t lb_lesser_key(uint64_t key, uint64_t others)
    {
        __asm__("" : "+r"(others));
        return others < key ? others : key;
    }
    """
    uint64_t lb_lesser_key(uint64_t key, uint64_t others) nogil


cdef inline int lb_compare_u64(const void *a, const void *b) noexcept nogil:
    cdef uint64_t left = (<const uint64_t *>a)[0], right = (<const uint64_t *>b)[0]
    return (left > right) - (left < right)


cdef inline uint32_t _bits_of(uint64_t value) noexcept nogil:
    cdef uint32_t bits = 0
    while value >> bits:
        bits += 1
    return bits


cdef inline void _set_strides(lb_t *lb) noexcept nogil:
    """Chooses the resolution of virtual time, so that a whole cycle of it and a group fit a key."""
    cdef uint32_t k
    cdef uint64_t rate
    lb.group_bits = (_bits_of(lb.ngroups - 1) + 1) & ~<uint32_t>1
    lb.tick_bits = min(<uint32_t>LB_TICK_BITS, LB_KEY_BITS - lb.group_bits - _bits_of(lb.total_weight))
    for k in range(lb.ngroups):
        rate = <uint64_t>lb.groups[k].weight * lb.groups[k].count
        lb.groups[k].stride = ((lb.total_weight << lb.tick_bits) // rate) << lb.group_bits


cdef inline bint lb_build_groups(lb_t *lb) noexcept nogil:
    """Fills ``lb.groups`` and ``lb.members`` (falling weight, then endpoint index); False: no memory."""
    cdef uint64_t *keys = <uint64_t *>malloc((<size_t>lb.n + 1) * sizeof(uint64_t))
    cdef uint32_t k, used = 0, weight
    cdef lb_group_t *group = NULL
    lb.members = <uint32_t *>malloc((<size_t>lb.n + 1) * sizeof(uint32_t))
    if keys == NULL or lb.members == NULL:
        free(keys)
        return False
    for k in range(lb.n):
        if lb.weights[k] != 0:
            keys[used] = (<uint64_t>(<uint32_t>0xFFFFFFFF - lb.weights[k]) << 32) | k
            used += 1
    qsort(keys, used, sizeof(uint64_t), lb_compare_u64)
    for k in range(used):
        lb.members[k] = <uint32_t>keys[k]
        lb.ngroups += k == 0 or keys[k] >> 32 != keys[k - 1] >> 32
    lb.groups = <lb_group_t *>malloc((<size_t>lb.ngroups + 1) * sizeof(lb_group_t))
    if lb.groups != NULL:
        for k in range(used):
            weight = lb.weights[lb.members[k]]
            if group == NULL or group.weight != weight:
                group = lb.groups if group == NULL else group + 1
                group.weight = weight
                group.first = k
                group.count = 0
            group.count += 1
        _set_strides(lb)
    free(keys)
    return lb.groups != NULL


cdef inline uint32_t lb_turn_nodes(const lb_t *lb) noexcept nogil:
    """Size of ``lb_state_t.turns``: 4**levels + … + 4."""
    return ((<uint32_t>4 << lb.group_bits) - 4) // 3


cdef inline void _order_turns(lb_state_t *state, uint32_t width) noexcept nogil:
    """Makes the upper levels from the ``width`` leaves."""
    cdef uint64_t *level = state.turns
    cdef uint64_t *above
    cdef uint32_t k
    while width > 1:
        above = level + width if width > 4 else &state.next_turn
        for k in range(0, width, 4):
            above[k >> 2] = min(min(level[k], level[k + 1]), min(level[k + 2], level[k + 3]))
        level = above
        width >>= 2


cdef inline void lb_shift_turns(lb_state_t *state, uint32_t nodes, uint64_t by) noexcept nogil:
    """Moves all times on by ``by``, modulo 2**64."""
    cdef uint32_t k
    state.next_turn += by
    for k in range(nodes):
        if state.turns[k] != <uint64_t>LB_NO_TURN:
            state.turns[k] += by


cdef inline uint32_t _next_group(const lb_t *lb, lb_state_t *state) noexcept nogil:
    """The group whose turn it is, of several, and sets its next turn."""
    cdef uint64_t *level = state.turns
    cdef uint64_t mask = (<uint64_t>1 << lb.group_bits) - 1
    cdef uint64_t key, others
    cdef uint32_t g, at, left
    if state.next_turn >> 63:
        lb_shift_turns(state, lb_turn_nodes(lb), 0 - (state.next_turn & ~mask))
    g = <uint32_t>(state.next_turn & mask)
    key = state.next_turn + lb.groups[g].stride
    at = g
    left = lb.group_bits
    while left != 0:
        # Always as many levels, and which nodes are read does not depend on the comparisons: a level
        # costs a compare and a select, and nothing is left to guess.
        others = min(min(level[at ^ 1], level[at ^ 2]), level[at ^ 3])
        level[at] = key
        key = lb_lesser_key(key, others)
        level += <uint64_t>1 << left
        at >>= 2
        left -= 2
    state.next_turn = key
    return g


cdef inline uint32_t lb_next_turn(const lb_t *lb, lb_state_t *state) noexcept nogil:
    """The endpoint whose turn it is. Needs an adopted block with a group."""
    cdef uint32_t g = _next_group(lb, state) if lb.ngroups > 1 else 0
    cdef const lb_group_t *group = &lb.groups[g]
    cdef uint32_t at = state.cursors[g]
    state.cursors[g] = (at + 1) & (<uint32_t>0 - <uint32_t>(at + 1 < group.count))  # or back to 0
    return lb.members[group.first + at]


cdef inline int32_t lb_find_slot(const lb_t *lb, uint32_t slot_index) noexcept nogil:
    """The endpoint index of a slot in this block, or -1."""
    cdef uint32_t low = 0, high = lb.n, middle
    while low < high:
        middle = (low + high) >> 1
        if lb.slots[lb.by_slot[middle]].index < slot_index:
            low = middle + 1
        else:
            high = middle
    if low < lb.n and lb.slots[lb.by_slot[low]].index == slot_index:
        return <int32_t>lb.by_slot[low]
    return -1


cdef inline uint32_t _cursor_after_change(const lb_t *old, const lb_group_t *old_group, uint32_t cursor,
                                          const lb_t *new, const lb_group_t *group) noexcept nogil:
    """Where a group goes on: at the first of its old members, in turn, that is still in it."""
    cdef uint32_t _k, at = cursor, low, high, middle
    cdef int32_t i
    for _k in range(min(old_group.count, <uint32_t>LB_ADOPT_PROBES)):
        i = lb_find_slot(new, old.slots[old.members[old_group.first + at]].index)
        if i >= 0 and new.weights[i] == group.weight:
            low = 0
            high = group.count - 1
            while low < high:
                middle = (low + high) >> 1
                if new.members[group.first + middle] < <uint32_t>i:
                    low = middle + 1
                else:
                    high = middle
            return low
        at = at + 1 if at + 1 < old_group.count else 0
    return 0


cdef inline uint64_t _start_group(const lb_t *lb, lb_state_t *state, uint32_t g) noexcept nogil:
    """When a new group has its first turn, now being 0. Worker ``k`` of ``w`` starts ``k / w`` of a whole
    cycle into the sequence."""
    cdef const lb_group_t *group = &lb.groups[g]
    cdef uint64_t now = (lb.total_weight << lb.tick_bits) // state.workers * state.worker_index
    cdef uint64_t stride = group.stride >> lb.group_bits, turns = 0
    if now > stride // 2:
        turns = (now - stride // 2 + stride - 1) // stride
    state.cursors[g] = <uint32_t>(turns % group.count)
    return stride // 2 + turns * stride - now


cdef inline void lb_adopt_turns(const lb_state_t *before, const lb_t *old, const lb_t *new,
                                lb_state_t *state) noexcept nogil:
    """Fills ``state``'s cursors and turns for ``new``, from ``before``'s for ``old`` (NULL: from the start).
    A group that stays keeps the part of its stride that it has still to wait."""
    cdef uint32_t g, at = 0, width = <uint32_t>1 << new.group_bits
    cdef const lb_group_t *group
    cdef uint64_t due
    for g in range(new.ngroups):
        group = &new.groups[g]
        due = _start_group(new, state, g)
        while old != NULL and at < old.ngroups and old.groups[at].weight > group.weight:
            at += 1
        if old != NULL and at < old.ngroups and old.groups[at].weight == group.weight:
            state.cursors[g] = _cursor_after_change(old, &old.groups[at], before.cursors[at], new, group)
            if old.ngroups > 1:
                due = (before.turns[at] >> old.group_bits) - (before.next_turn >> old.group_bits)
                due = <uint64_t>(
                    <double>due / <double>(old.groups[at].stride >> old.group_bits)
                    * <double>(group.stride >> new.group_bits)
                )
        state.turns[g] = (due << new.group_bits) | g
    for g in range(new.ngroups, width):
        state.turns[g] = <uint64_t>LB_NO_TURN
    _order_turns(state, width)


cdef inline int32_t lb_pick_round_robin(const lb_t *lb, lb_state_t *state,
                                        const lb_ctx_t *ctx) noexcept nogil:
    cdef uint32_t _k, i
    if state.serial != lb.serial:
        return lb_pick_random(lb, state, ctx)
    if lb.ngroups != 0:
        for _k in range(LB_TURNS):
            i = lb_next_turn(lb, state)
            if lb_is_fresh(lb, i, ctx, &state.rng):
                return <int32_t>i
    return lb_last_resort(lb, state, ctx, rng_next(&state.rng))
