"""Policy ``least_request``: the better of two choices by requests in flight, weighted.

The first choice is the endpoint whose turn it is (weighted round robin), the second any other one. An idle
first choice is taken, so a service with little to do is visited in order and by weight, and a tie goes to the
turn. Else the one with the smaller ``(in_flight + 1) / weight`` is taken: its load if it got this request.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastmesh._native.base.hash cimport rng_below, rng_next
from fastmesh._native.lb.candidate cimport LB_DRAWS, LB_TURNS, lb_in_flight, lb_is_fresh, lb_last_resort
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_state_t, lb_t
from fastmesh._native.lb.random cimport lb_sample
from fastmesh._native.lb.round_robin cimport lb_next_turn


cdef inline int32_t _first_choice(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    cdef uint32_t _k, i
    if lb.ngroups == 0:
        return -1
    if state.serial == lb.serial:
        for _k in range(LB_TURNS):
            i = lb_next_turn(lb, state)
            if lb_is_fresh(lb, i, ctx, &state.rng):
                return <int32_t>i
    else:
        for _k in range(LB_DRAWS):
            i = lb_sample(lb, rng_next(&state.rng))
            if lb_is_fresh(lb, i, ctx, &state.rng):
                return <int32_t>i
    return -1


cdef inline int32_t lb_pick_least_request(const lb_t *lb, lb_state_t *state,
                                          const lb_ctx_t *ctx) noexcept nogil:
    cdef int32_t first = _first_choice(lb, state, ctx)
    cdef uint32_t _k, second, load, take_second
    if first < 0:
        return lb_last_resort(lb, state, ctx, rng_next(&state.rng))
    load = lb_in_flight(lb, first)
    if load == 0 or lb.n == 1:
        return first
    for _k in range(LB_DRAWS):
        second = rng_below(&state.rng, lb.n - 1)
        second += second >= <uint32_t>first
        if lb.weights[second] != 0 and lb_is_fresh(lb, second, ctx, &state.rng):
            take_second = (
                (<uint64_t>lb_in_flight(lb, second) + 1) * lb.weights[first]
                < (<uint64_t>load + 1) * lb.weights[second]
            )
            return first ^ ((first ^ <int32_t>second) & -<int32_t>take_second)
    return first
