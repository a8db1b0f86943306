"""Policy ``random``: by weight, in constant time (Vose's alias method).

Endpoint ``i`` is drawn with chance ``weights[i] / total_weight``, to within 2**-32. Draws of unusable
endpoints are thrown away and drawn again, which leaves the shares of the others as they should be.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastmesh._native.base.hash cimport rng_next
from fastmesh._native.lb.candidate cimport LB_DRAWS, lb_is_fresh, lb_last_resort
from fastmesh._native.lb.lb_t cimport lb_alias_t, lb_ctx_t, lb_state_t, lb_t


cdef inline uint32_t lb_sample(const lb_t *lb, uint64_t draw) noexcept nogil:
    """An endpoint by weight; the upper half of the draw chooses the cell, the lower half its side."""
    cdef uint32_t cell = <uint32_t>(((draw >> 32) * lb.n) >> 32), other_side
    if lb.alias == NULL:
        return cell
    # By mask: a branch on a random bit would be guessed wrongly half of the time.
    other_side = <uint32_t>0 - <uint32_t>(<uint32_t>draw >= lb.alias[cell].threshold)
    return cell ^ ((cell ^ lb.alias[cell].alias) & other_side)


cdef inline bint lb_build_alias(lb_t *lb) noexcept nogil:
    """Fills ``lb.alias``; False when memory is short. Needs n > 0 and a total weight above 0."""
    cdef double *scaled = <double *>malloc(lb.n * sizeof(double))
    cdef uint32_t *small = <uint32_t *>malloc(2 * <size_t>lb.n * sizeof(uint32_t))
    cdef uint32_t *large
    cdef uint32_t nsmall = 0, nlarge = 0, i, low, high
    lb.alias = <lb_alias_t *>malloc(lb.n * sizeof(lb_alias_t))
    if scaled == NULL or small == NULL or lb.alias == NULL:
        free(scaled)
        free(small)
        return False
    large = small + lb.n
    for i in range(lb.n):
        scaled[i] = <double>(<uint64_t>lb.weights[i] * lb.n) / <double>lb.total_weight
        lb.alias[i].threshold = <uint32_t>0xFFFFFFFF
        lb.alias[i].alias = i
        if scaled[i] < 1.0:
            small[nsmall] = i
            nsmall += 1
        else:
            large[nlarge] = i
            nlarge += 1
    while nsmall and nlarge:
        nsmall -= 1
        low = small[nsmall]
        high = large[nlarge - 1]
        lb.alias[low].threshold = <uint32_t>(scaled[low] * 4294967296.0)
        lb.alias[low].alias = high
        scaled[high] -= 1.0 - scaled[low]
        if scaled[high] < 1.0:
            nlarge -= 1
            small[nsmall] = high
            nsmall += 1
    free(scaled)
    free(small)
    return True


cdef inline int32_t lb_pick_random(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    cdef uint32_t _k, i
    if lb.total_weight != 0:
        for _k in range(LB_DRAWS):
            i = lb_sample(lb, rng_next(&state.rng))
            if lb_is_fresh(lb, i, ctx, &state.rng):
                return <int32_t>i
    return lb_last_resort(lb, state, ctx, rng_next(&state.rng))
