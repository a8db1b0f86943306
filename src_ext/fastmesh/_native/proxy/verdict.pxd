"""What an attempt says about its endpoint: good, bad, or gone (``net/health.pxd`` draws the consequences)."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastmesh._native.base.errors cimport (
    FM_E_CONNECT_REFUSED,
    FM_E_CONNECT_TIMEOUT,
    FM_E_UPSTREAM_TIMEOUT,
    fm_error_info,
)
from fastmesh._native.base.limits cimport POOLED_GRACE_MS, SLOW_LEAST_MS, SLOW_TIMES
from fastmesh._native.base.slab cimport pend_len
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.net.health cimport (
    REASON_STATUS,
    health_bad,
    health_connect_failed,
    health_good,
    health_judges_answers,
    health_slow,
)
from fastmesh._native.net.pool cimport slot_is_original
from fastmesh._native.net.snap_t cimport service_t
from fastmesh._native.net.worker_t cimport U_ACTIVE, service_stats_t, worker_t
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_likely, fm_unlikely


cdef inline void attempt_is_good(worker_t *w, xchg_t *x) noexcept nogil:
    x.probing = 0
    if health_good(x.endpoint.slot, x.service.slow_start_ms, <uint32_t> w.now_ms, <uint32_t> (x.attempt_us // 1000)):
        fm_bump_u64(&w.health_changes, 1)


cdef inline void attempt_answered(worker_t *w, xchg_t *x, uint32_t status) noexcept nogil:
    """The endpoint's final head is here. 501 and 505 say something about the request, not about the endpoint. A good one
    brings a probed endpoint back; else it counts when the response is complete."""
    cdef service_t *service = x.service
    cdef service_stats_t *stats = x.service_stats
    cdef uint64_t took_us = w.now_us - x.attempt_us
    cdef bint probing = x.probing
    if took_us > 4 * stats.typical_us + 1000:  # the rare slow one is not typical
        took_us = 4 * stats.typical_us + 1000
    stats.typical_us = stats.typical_us - (stats.typical_us >> 4) + (took_us >> 4)
    if fm_likely(status < 500) or status == 501 or status == 505:
        x.good_head = not x.gave_up
        if fm_unlikely(probing):
            attempt_is_good(w, x)
        return
    fm_bump_u64(&x.endpoint.answers_5xx, 1)
    if not health_judges_answers(service):
        attempt_is_good(w, x)
        return
    x.probing = 0
    if health_bad(x.endpoint.slot, service, <uint32_t> w.now_ms, REASON_STATUS + status, 502 <= status <= 504, probing):
        fm_bump_u64(&w.health_changes, 1)


cdef inline void attempt_completed(worker_t *w, xchg_t *x) noexcept nogil:
    """The response is whole."""
    if fm_likely(x.good_head):
        attempt_is_good(w, x)


cdef inline void attempt_blame(worker_t *w, xchg_t *x, int32_t error, bint was_pooled) noexcept nogil:
    """The attempt failed with ``error``: does it speak against the endpoint? What is ours does not, nor does a pooled
    connection that ends at once: it was closed while it was idle; nor one place against all others that `original` is."""
    cdef slot_t *slot = x.endpoint.slot
    cdef uint32_t now_ms = <uint32_t> w.now_ms
    cdef bint changed = False
    cdef bint probing = x.probing
    if fm_error_info[error].side != c'U' or (was_pooled and error != FM_E_UPSTREAM_TIMEOUT
                                             and w.now_us - x.attempt_us < POOLED_GRACE_MS * 1000):
        return
    if slot_is_original(slot):
        return
    x.probing = 0
    if error == FM_E_CONNECT_REFUSED or error == FM_E_CONNECT_TIMEOUT:
        changed = health_connect_failed(slot, x.service, now_ms, <uint32_t> error, probing)
    elif not health_judges_answers(x.service):
        attempt_is_good(w, x)
    else:
        changed = health_bad(slot, x.service, now_ms, <uint32_t> error, True, probing)
    if changed:
        fm_bump_u64(&w.health_changes, 1)


cdef inline void attempt_given_up(worker_t *w, xchg_t *x) noexcept nogil:
    """The client closes while it waits for an answer. When that took many times as long as usual, several times in a row
    at this endpoint and at no other, it speaks against the endpoint: nobody else would notice one that is only slow."""
    cdef service_stats_t *stats = x.service_stats
    cdef uint64_t waited_us = w.now_us - x.attempt_us
    cdef bint probing = x.probing
    if x.gave_up or x.tunnel or x.head_done or x.up == NULL or x.up.state != U_ACTIVE or not x.request_complete \
            or pend_len(&x.request) != x.sent or x.service == NULL or x.service.eject_gateway == 0:
        return
    if stats.typical_us == 0 or waited_us < SLOW_LEAST_MS * 1000 or waited_us < SLOW_TIMES * stats.typical_us:
        return
    x.gave_up = 1
    x.probing = 0
    if health_slow(x.endpoint.slot, x.service, <uint32_t> w.now_ms, probing):
        fm_bump_u64(&w.health_changes, 1)
