"""What the two hashing policies share: the key, names in order, bounded load, and the walk over owners.

A table (ring or Maglev) says which endpoint owns a key. If that one cannot be used, the walk goes on to the
owners of the following entries, so the keys of an endpoint that is away are spread over the others and come
back to it afterwards, and a retry goes to the next one. Bounded load: an endpoint is passed over while it has
its share of the service's requests in flight times ``bounded_load``; if all on the walk are full, the least
loaded of them is taken. Slow start is decided by the key, so that the keys move over to the endpoint one by
one.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport malloc, qsort
from libc.string cimport memcmp

from fastmesh._native.base.hash cimport hash_mix, rng_next
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.candidate cimport LB_STEPS, lb_in_flight, lb_is_fresh, lb_last_resort
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_state_t, lb_t

# An endpoint on the way into a table.
ctypedef struct lb_named_t:
    const slot_t *slot
    uint32_t i
    double share  # weight / total_weight


cdef inline int _compare_names(const void *a, const void *b) noexcept nogil:
    cdef const lb_named_t *left = <const lb_named_t *>a
    cdef const lb_named_t *right = <const lb_named_t *>b
    cdef uint32_t shorter = min(left.slot.name_len, right.slot.name_len)
    cdef int order = memcmp(left.slot.name, right.slot.name, shorter)
    if order == 0:
        order = <int>left.slot.name_len - <int>right.slot.name_len
    if order == 0:
        order = (left.i > right.i) - (left.i < right.i)
    return order


cdef inline lb_named_t *lb_by_name(const lb_t *lb, uint32_t *count) noexcept nogil:
    """The endpoints with weight, by name, so that tables do not depend on their order. malloc'ed; NULL when
    memory is short."""
    cdef lb_named_t *named = <lb_named_t *>malloc((<size_t>lb.n + 1) * sizeof(lb_named_t))
    cdef uint32_t i, used = 0
    if named == NULL:
        return NULL
    for i in range(lb.n):
        if lb.weights[i] != 0:
            named[used].slot = lb.slots[i]
            named[used].i = i
            named[used].share = <double>lb.weights[i] / <double>lb.total_weight
            used += 1
    qsort(named, used, sizeof(lb_named_t), _compare_names)
    count[0] = used
    return named


cdef inline uint64_t lb_key_of(lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    return ctx.key if ctx.has_key else rng_next(&state.rng)


cdef inline int32_t lb_walk(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx, uint64_t key,
                            const uint32_t *owners, uint32_t stride, uint32_t size,
                            uint32_t position) noexcept nogil:
    """The first owner from ``position`` on that will do, of ``size`` owners, ``stride`` words apart."""
    cdef uint32_t _k, i, last = lb.n
    cdef int32_t least = -1
    cdef uint64_t draw
    cdef double load, least_load = 0
    cdef double bound = <double>lb.bounded_load * (<double>ctx.total_in_flight + 1)
    for _k in range(min(size, <uint32_t>LB_STEPS)):
        i = owners[<size_t>position * stride]
        position = position + 1 if position + 1 < size else 0
        if i == last:
            continue
        last = i
        draw = key ^ lb.slots[i].index
        if not lb_is_fresh(lb, i, ctx, &draw):
            continue
        if lb.bounded_load == 0:
            return <int32_t>i
        load = <double>lb_in_flight(lb, i) * lb.fair_scale / lb.weights[i]
        if load < bound:
            return <int32_t>i
        if least < 0 or load < least_load:
            least = <int32_t>i
            least_load = load
    if least >= 0:
        return least
    return lb_last_resort(lb, state, ctx, hash_mix(key))
