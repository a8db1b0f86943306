"""Policy ``round_robin``: weighted and evenly interleaved, by earliest deadline over groups of one weight.

Endpoints of the same weight form a group that goes round by a cursor. A group of ``m`` endpoints of weight ``w``
has a turn each ``total_weight / (w * m)`` picks, the first one in the middle of that time; a heap holds the
groups by the time of their next turn. So
- any ``total_weight`` picks in a row give each endpoint exactly its weight, spread as evenly as can be;
- equal weights are one group and cost a counter; ``g`` different weights cost O(log g).
Time is virtual: one pick is ``LB_TICK`` of it, so a stride is rounded by less than 1e-6.

The turn of an endpoint that cannot be used is passed over, which leaves the others' shares to each other as they
were. ``lb_adopt_turns`` carries cursors and times to a new block: an endpoint that stays keeps its place.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort

from fastmesh._native.base.hash cimport rng_next
from fastmesh._native.lb.candidate cimport LB_DRAWS, LB_TURNS, lb_is_fresh, lb_last_resort
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_group_t, lb_state_t, lb_t, lb_turn_t
from fastmesh._native.lb.random cimport lb_pick_random

cdef enum:
    LB_TICK = 1 << 20
    LB_ADOPT_PROBES = 1024  # members of an old group that are looked up to find where to go on


cdef inline int lb_compare_u64(const void *a, const void *b) noexcept nogil:
    cdef uint64_t left = (<const uint64_t *>a)[0], right = (<const uint64_t *>b)[0]
    return (left > right) - (left < right)


cdef inline bint lb_build_groups(lb_t *lb) noexcept nogil:
    """Fills ``lb.groups`` and ``lb.members`` (weight falling, then endpoint index); False: memory is short."""
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
        for k in range(lb.ngroups):
            group = &lb.groups[k]
            group.stride = lb.total_weight * LB_TICK / (<uint64_t>group.weight * group.count)
    free(keys)
    return lb.groups != NULL


cdef inline bint _turn_before(const lb_turn_t *a, const lb_turn_t *b) noexcept nogil:
    if a.due == b.due:
        return a.group < b.group
    return <int64_t>(a.due - b.due) < 0


cdef inline void lb_sift_turn(lb_turn_t *heap, uint32_t count, uint32_t at) noexcept nogil:
    cdef lb_turn_t moving = heap[at]
    cdef uint32_t child = 2 * at + 1
    while child < count:
        if child + 1 < count and _turn_before(&heap[child + 1], &heap[child]):
            child += 1
        if not _turn_before(&heap[child], &moving):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = moving


cdef inline uint32_t lb_next_turn(const lb_t *lb, lb_state_t *state) noexcept nogil:
    """The endpoint whose turn it is. Needs an adopted block with a group."""
    cdef uint32_t g = 0, at
    cdef const lb_group_t *group = lb.groups
    if lb.ngroups > 1:
        g = state.heap[0].group
        group = &lb.groups[g]
        state.heap[0].due += group.stride
        lb_sift_turn(state.heap, lb.ngroups, 0)
    at = state.cursors[g]
    state.cursors[g] = at + 1 if at + 1 < group.count else 0
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
    cdef uint32_t k, at = cursor, low, high, middle
    cdef int32_t i
    for k in range(min(old_group.count, <uint32_t>LB_ADOPT_PROBES)):
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


cdef inline void _start_group(const lb_t *lb, lb_state_t *state, uint32_t g) noexcept nogil:
    """Worker ``k`` of ``w`` starts ``k / w`` of a whole cycle into the sequence; time 0 is then now."""
    cdef const lb_group_t *group = &lb.groups[g]
    cdef uint64_t now = lb.total_weight * LB_TICK / state.workers * state.worker_index
    cdef uint64_t first = group.stride / 2, turns = 0
    if now > first:
        turns = (now - first + group.stride - 1) / group.stride
    state.cursors[g] = <uint32_t>(turns % group.count)
    state.heap[g].due = first + turns * group.stride - now


cdef inline void lb_adopt_turns(const lb_state_t *before, const lb_t *old, const lb_t *new,
                                lb_state_t *state) noexcept nogil:
    """Fills ``state``'s cursors and heap for ``new``, from ``before``'s for ``old`` (NULL: from the start)."""
    cdef uint32_t g, k, o
    cdef const lb_group_t *group
    cdef uint64_t left
    cdef uint32_t at = 0
    for g in range(new.ngroups):
        group = &new.groups[g]
        state.heap[g].group = g
        _start_group(new, state, g)
        if old == NULL:
            continue
        while at < old.ngroups and old.groups[at].weight > group.weight:
            at += 1
        if at == old.ngroups or old.groups[at].weight != group.weight:
            continue
        state.cursors[g] = _cursor_after_change(old, &old.groups[at], before.cursors[at], new, group)
        if old.ngroups > 1:
            for k in range(old.ngroups):
                if before.heap[k].group == at:
                    left = before.heap[k].due - before.heap[0].due
                    state.heap[g].due = <uint64_t>(
                        <double>left / <double>old.groups[at].stride * <double>group.stride
                    )
                    break
    if new.ngroups > 1:
        for k in range(new.ngroups // 2, 0, -1):
            lb_sift_turn(state.heap, new.ngroups, k - 1)


cdef inline int32_t lb_pick_round_robin(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    cdef uint32_t k, i
    if state.serial != lb.serial:
        return lb_pick_random(lb, state, ctx)
    if lb.ngroups != 0:
        for k in range(LB_TURNS):
            i = lb_next_turn(lb, state)
            if lb_is_fresh(lb, i, ctx, &state.rng):
                return <int32_t>i
    return lb_last_resort(lb, state, ctx, rng_next(&state.rng))
