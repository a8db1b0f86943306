"""Which service of a weighted split gets a request or a connection."""
from libc.stdint cimport uint32_t

from fastmesh._native.base.hash cimport rng_below
from fastmesh._native.net.snap_t cimport action_t, target_t
from fastmesh._native.net.worker_t cimport worker_t


cdef inline const target_t *action_target(worker_t *w, const action_t *action) noexcept nogil:
    """At random, by share."""
    cdef uint32_t i, draw
    if action.target_count == 1 or action.weight_total == 0:
        return &action.targets[0]
    draw = rng_below(&w.rng, action.weight_total)
    for i in range(action.target_count - 1):
        if draw < action.targets[i].weight_up_to:
            return &action.targets[i]
    return &action.targets[action.target_count - 1]
