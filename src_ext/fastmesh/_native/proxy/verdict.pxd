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
    REASON_SLOW,
    REASON_STATUS,
    health_bad,
    health_connect_failed,
    health_good,
    health_judges_answers,
)
from fastmesh._native.net.snap_t cimport service_t
from fastmesh._native.net.stats cimport service_stats
from fastmesh._native.net.worker_t cimport U_ACTIVE, service_stats_t, worker_t
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_likely, fm_unlikely


cdef inline void attempt_answered(worker_t *w, xchg_t *x, uint32_t status) noexcept nogil:
    """The endpoint's final head is here. 501 and 505 say something about the request, not about the endpoint."""
    cdef service_t *service = x.service
    cdef service_stats_t *stats = x.service_stats
    cdef slot_t *slot = x.endpoint.slot
    cdef bint is_bad = status >= 500 and status != 501 and status != 505
    cdef uint64_t took_us = w.now_us - x.attempt_us
    if took_us > 4 * stats.typical_us + 1000:  # the rare slow one is not typical
        took_us = 4 * stats.typical_us + 1000
    stats.typical_us = stats.typical_us - (stats.typical_us >> 4) + (took_us >> 4)
    if fm_unlikely(is_bad):
        fm_bump_u64(&x.endpoint.answers_5xx, 1)
    if fm_likely(not is_bad) or not health_judges_answers(service):
        if not x.gave_up and health_good(slot, service.slow_start_ms, <uint32_t> w.now_ms, <uint32_t> (x.attempt_us // 1000)):
            fm_bump_u64(&w.health_changes, 1)
        return
    if health_bad(slot, service, <uint32_t> w.now_ms, REASON_STATUS + status, 502 <= status <= 504, x.probing):
        fm_bump_u64(&w.health_changes, 1)


cdef inline void attempt_blame(worker_t *w, xchg_t *x, int32_t error, bint was_pooled) noexcept nogil:
    """The attempt failed with ``error``: does it speak against the endpoint? What is ours does not, nor does a connection
    that it closed while it was idle."""
    cdef slot_t *slot = x.endpoint.slot
    cdef uint32_t now_ms = <uint32_t> w.now_ms
    cdef bint changed = False
    if error == FM_E_CONNECT_REFUSED or error == FM_E_CONNECT_TIMEOUT:
        changed = health_connect_failed(slot, x.service, now_ms, <uint32_t> error, x.probing)
    elif fm_error_info[error].side != c'U' or (was_pooled and error != FM_E_UPSTREAM_TIMEOUT
                                               and w.now_us - x.attempt_us < POOLED_GRACE_MS * 1000):
        return
    elif not health_judges_answers(x.service):
        changed = health_good(slot, x.service.slow_start_ms, now_ms, <uint32_t> (x.attempt_us // 1000))
    else:
        changed = health_bad(slot, x.service, now_ms, <uint32_t> error, True, x.probing)
    if changed:
        fm_bump_u64(&w.health_changes, 1)


cdef inline void attempt_given_up(worker_t *w, xchg_t *x) noexcept nogil:
    """The client closes while it waits for an answer. When that took many times as long as usual, it speaks against the
    endpoint: nobody else would notice one that is only slow."""
    cdef uint64_t waited_us = w.now_us - x.attempt_us
    if x.gave_up or x.tunnel or x.head_done or x.up == NULL or x.up.state != U_ACTIVE or not x.request_complete \
            or pend_len(&x.request) != x.sent or x.service == NULL:
        return
    if x.service_stats.typical_us == 0 or waited_us < SLOW_LEAST_MS * 1000 \
            or waited_us < SLOW_TIMES * x.service_stats.typical_us:
        return
    x.gave_up = 1
    if health_bad(x.endpoint.slot, x.service, <uint32_t> w.now_ms, REASON_SLOW, True, x.probing):
        fm_bump_u64(&w.health_changes, 1)
