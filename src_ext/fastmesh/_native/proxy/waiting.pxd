"""Exchanges that wait: for the budget of retries, for a request in flight to end, or out a back-off.

The first two stand in queues of their service on their worker, oldest first; ``waiting_run`` of ``admission.pxd`` looks at the
heads each turn. All three have a time until when they wait, which is the client's timer. Owner worker only.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._native.base.limits cimport RETRIES_LEAST
from fastmesh._native.net.snap_t cimport UNLIMITED, service_t
from fastmesh._native.net.stats cimport service_usage, usage_t
from fastmesh._native.net.table cimport table_get
from fastmesh._native.net.worker_t cimport service_stats_t, worker_t
from fastmesh._native.proxy.exchange_t cimport WAIT_BUDGET, WAIT_NONE, WAIT_QUEUE, xchg_t
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_load_relaxed_u64, fm_store_relaxed_u64


# ---------------------------------------------------------------- queues

cdef inline void waiting_join(worker_t *w, xchg_t *x, uint8_t kind, uint64_t until_ms) noexcept nogil:
    cdef service_stats_t *stats = x.service_stats
    cdef void **first = &stats.queue_first
    cdef void **last = &stats.queue_last
    x.waits = kind
    x.wait_until_ms = until_ms
    if kind != WAIT_BUDGET and kind != WAIT_QUEUE:
        return
    if kind == WAIT_BUDGET:
        first = &stats.budget_first
        last = &stats.budget_last
    else:
        fm_bump_u64(&stats.queued, 1)
        x.queued_us = w.now_us
        if stats.queue_first == NULL:
            fm_store_relaxed_u64(&stats.queue_since_us, x.queued_us)
    x.wait_next = NULL
    x.wait_prev = <xchg_t *> last[0]
    if x.wait_prev != NULL:
        x.wait_prev.wait_next = x
    else:
        first[0] = x
    last[0] = x
    if not stats.is_waiting:
        stats.is_waiting = 1
        stats.next_waiting = w.waiting
        w.waiting = stats


cdef inline void waiting_leave(xchg_t *x) noexcept nogil:
    """Takes the exchange out of its queue, if it stands in one."""
    cdef service_stats_t *stats = x.service_stats
    cdef uint8_t kind = x.waits
    cdef void **first
    cdef void **last
    x.waits = WAIT_NONE
    if kind != WAIT_BUDGET and kind != WAIT_QUEUE:
        return
    first = &stats.queue_first if kind == WAIT_QUEUE else &stats.budget_first
    last = &stats.queue_last if kind == WAIT_QUEUE else &stats.budget_last
    if kind == WAIT_QUEUE:
        fm_bump_u64(&stats.queued, <uint64_t> -1)
    if x.wait_prev != NULL:
        x.wait_prev.wait_next = x.wait_next
    else:
        first[0] = x.wait_next
    if x.wait_next != NULL:
        x.wait_next.wait_prev = x.wait_prev
    else:
        last[0] = x.wait_prev
    if kind == WAIT_QUEUE:
        x = <xchg_t *> stats.queue_first
        fm_store_relaxed_u64(&stats.queue_since_us, x.queued_us if x != NULL else 0)


cdef inline worker_t *queue_next_worker(worker_t *w, uint32_t service_index) noexcept nogil:
    """The worker with the request that has waited for longest in the service's queue, or NULL."""
    cdef worker_t *found = NULL
    cdef service_stats_t *stats
    cdef uint64_t since_us, oldest_us = 0
    cdef uint32_t i
    for i in range(w.shared.workers):
        stats = <service_stats_t *> table_get(&w.shared.all[i].services, service_index)
        since_us = fm_load_relaxed_u64(&stats.queue_since_us) if stats != NULL else 0
        if since_us and (found == NULL or since_us < oldest_us):
            found = w.shared.all[i]
            oldest_us = since_us
    return found


# ---------------------------------------------------------------- the budget of retries

cdef inline bint budget_take(worker_t *w, xchg_t *x) noexcept nogil:
    """Counts the exchange among the retries in flight, at most so large a share of the requests in flight; False: there
    are enough of them."""
    cdef service_t *service = x.service
    cdef usage_t usage
    if x.retrying:
        return True
    if service.retry_budget != UNLIMITED:
        usage = service_usage(w, service.index)
        if usage.retrying + 1 > RETRIES_LEAST \
                and (usage.retrying + 1) * 1000 > usage.in_flight * service.retry_budget:
            return False
    x.retrying = 1
    fm_bump_u64(&x.service_stats.retrying, 1)
    return True


cdef inline void budget_give_back(xchg_t *x) noexcept nogil:
    if x.retrying:
        x.retrying = 0
        fm_bump_u64(&x.service_stats.retrying, <uint64_t> -1)
