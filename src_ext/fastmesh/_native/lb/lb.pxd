"""Load balancing: build a block, carry a worker's state, pick an endpoint.

Threads: ``lb_new`` and ``lb_del`` on the control thread (the GIL does not matter); all else on the worker
that owns the state. Errors: ``lb_new`` returns NULL when memory is short or the policy is unknown;
``lb_adopt`` and ``lb_state_init`` return 0 or ``-FM_E_NO_MEMORY``; ``lb_pick`` returns an endpoint index, or
-1 when there is none that may be used. No function here allocates but ``lb_new`` and ``lb_adopt``.

The rule of a pick. An endpoint is *usable* when its health word says neither unhealthy nor draining, and is
not down at ``now_ms``. Preferred are usable endpoints that were not tried; then passively down ones that were
not tried (so passive down-marking never removes the last endpoint); then usable ones that were tried; then
the down ones that were tried. -1 means that all are unhealthy, draining or of weight 0, or that there are
none.

Priorities. Requests go to the endpoints of the lowest priority number while enough of them are usable, then to
the next as well (``tiers.pxd``). The rule of a pick holds over all priorities, so no request fails while any
endpoint of any priority may be used.

A block that the state did not adopt (an exchange that outlived a change retries on its old block) is picked
from by weighted random, or by its table: correct, only without the memory of turns.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.candidate cimport LB_USABLE, lb_condition, lb_condition_t
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_options_t, lb_state_t, lb_t

# `priorities` NULL: all are 0
cdef lb_t *lb_new(int policy, uint32_t n, slot_t **slots, const uint32_t *weights, const uint8_t *priorities,
                  const lb_options_t *options) noexcept nogil
cdef void lb_del(lb_t *lb) noexcept nogil

cdef int lb_state_init(lb_state_t *state, uint64_t seed, uint32_t worker_index,
                       uint32_t workers) noexcept nogil
cdef void lb_state_free(lb_state_t *state) noexcept nogil
cdef int lb_adopt(lb_state_t *state, const lb_t *old_or_null, const lb_t *new) noexcept nogil


cdef inline int32_t lb_pick(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    return lb.pick(lb, state, ctx)


cdef inline bint lb_wants_total(const lb_t *lb) noexcept nogil:
    """Whether ``lb_ctx_t.total_in_flight`` must be filled in."""
    return lb.bounded_load != 0


cdef inline lb_condition_t lb_condition_at(const lb_t *lb, uint32_t index, uint32_t now_ms) noexcept nogil:
    """LB_USABLE, LB_DOWN or LB_OUT, of an endpoint index."""
    return lb_condition(lb, index, now_ms)


cdef inline uint32_t lb_usable_count(const lb_t *lb, uint32_t now_ms) noexcept nogil:
    """How many endpoints are usable, over all priorities. One pass over all: not for every request."""
    cdef uint32_t i, count = 0
    for i in range(lb.n):
        count += lb_condition(lb, i, now_ms) == LB_USABLE
    return count
