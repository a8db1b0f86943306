"""Whether a request may begin now, and what has waited goes on: the limits of a service, its queue, its retries.

The limits count over all workers without a lock: two workers that begin a request at the same moment can overshoot by one.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t, uint8_t

from fastmesh._native.base.errors cimport (
    FM_E_NO_ENDPOINT,
    FM_E_QUEUE_TIMEOUT,
    FM_E_TOO_MANY_CONNECTIONS,
    FM_E_TOO_MANY_REQUESTS,
)
from fastmesh._native.base.hash cimport rng_below
from fastmesh._native.base.limits cimport WAITING_PER_TURN
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.candidate cimport LB_USABLE, lb_condition
from fastmesh._native.net.pool cimport upstream_close
from fastmesh._native.net.snap_t cimport UNLIMITED, service_t
from fastmesh._native.net.stats cimport endpoint_of, service_stats
from fastmesh._native.net.table cimport table_get
from fastmesh._native.net.worker_t cimport conn_t, endpoint_t, service_stats_t, worker_t
from fastmesh._native.proxy.answer cimport exchange_client_timer, exchange_fail
from fastmesh._native.proxy.attempt cimport attempt_go
from fastmesh._native.proxy.exchange_t cimport WAIT_BACKOFF, WAIT_QUEUE, xchg_t
from fastmesh._native.proxy.pick cimport attempt_pick
from fastmesh._native.proxy.waiting cimport budget_take, service_usage, usage_t, waiting_join, waiting_leave
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_load_acquire_u32, fm_load_relaxed_u32, fm_unlikely


# ---------------------------------------------------------------- limits

cdef inline bint endpoint_is_full(worker_t *w, const xchg_t *x, slot_t *slot) noexcept nogil:
    """Whether the service's limits for one endpoint are reached."""
    cdef service_t *service = x.service
    cdef endpoint_t *ep
    cdef uint32_t i, idle = 0
    cdef uint64_t connections = 0
    if service.limit_endpoint_requests != UNLIMITED \
            and fm_load_relaxed_u32(&slot.in_flight) >= service.limit_endpoint_requests:
        return True
    if service.limit_endpoint_connections == UNLIMITED:
        return False
    for i in range(w.shared.workers):
        ep = <endpoint_t *> table_get(&w.shared.all[i].endpoints, slot.index)
        if ep != NULL and fm_load_acquire_u32(&ep.generation) == slot.generation:
            connections += fm_load_relaxed_u32(&ep.connections)
            if i == w.index:
                idle = ep.idle
    return idle == 0 and connections >= service.limit_endpoint_connections


cdef inline bint attempt_pick_not_full(worker_t *w, xchg_t *x) noexcept nogil:
    """Another usable endpoint whose limits are not reached becomes ``x.endpoint``; False: there is none."""
    cdef service_t *service = x.service
    cdef uint32_t n = service.lb.n
    cdef uint32_t i = rng_below(&w.rng, n)
    cdef uint32_t _k
    cdef endpoint_t *ep
    for _k in range(n):
        i = i + 1 if i + 1 < n else 0
        if lb_condition(service.lb, i, <uint32_t> w.now_ms) == LB_USABLE \
                and not endpoint_is_full(w, x, service.lb.slots[i]):
            ep = endpoint_of(w, service.lb.slots[i])
            if ep != NULL:
                x.endpoint = ep
                return True
    return False


cdef inline bint pool_close_oldest(worker_t *w, const service_t *service) noexcept nogil:
    """Makes room for a connection: closes the one of the service that has been idle for longest on this worker."""
    cdef conn_t *oldest = NULL
    cdef endpoint_t *ep
    cdef uint32_t i
    for i in range(service.lb.n):
        ep = <endpoint_t *> table_get(&w.endpoints, service.lb.slots[i].index)
        if ep != NULL and ep.idle_last != NULL and (
                oldest == NULL or <int32_t> (ep.idle_last.idle_since_ms - oldest.idle_since_ms) < 0):
            oldest = ep.idle_last
    if oldest == NULL:
        return False
    upstream_close(w, oldest)
    return True


cdef inline int32_t attempt_admit(worker_t *w, xchg_t *x) noexcept nogil:
    """Whether the service's limits have room for this request: 0, or FM_E_… (positive)."""
    cdef service_t *service = x.service
    cdef usage_t usage = service_usage(w, service.index)
    if not x.tunnel and service.limit_requests != UNLIMITED and usage.in_flight >= service.limit_requests:
        return FM_E_TOO_MANY_REQUESTS
    if endpoint_is_full(w, x, x.endpoint.slot) and not attempt_pick_not_full(w, x):
        return FM_E_TOO_MANY_REQUESTS
    if service.limit_connections != UNLIMITED and usage.connections >= service.limit_connections \
            and (x.endpoint.idle == 0 or x.tunnel) and not pool_close_oldest(w, service):
        return FM_E_TOO_MANY_CONNECTIONS
    return 0


cdef inline bint attempt_must_wait(worker_t *w, xchg_t *x) noexcept nogil:
    """True: the limits have no room; the exchange waits in the queue, or was refused and is over."""
    cdef service_t *service = x.service
    cdef service_stats_t *stats = x.service_stats
    cdef int32_t error = FM_E_TOO_MANY_REQUESTS if stats.queue_first != NULL else attempt_admit(w, x)
    if error == 0:
        return False
    if service_usage(w, service.index).queued < service.limit_queue:
        x.wait_error = FM_E_QUEUE_TIMEOUT
        waiting_join(w, x, WAIT_QUEUE, w.now_ms + service.queue_ms)
        exchange_client_timer(w, x)
    else:
        fm_bump_u64(&stats.limited, 1)
        exchange_fail(w, x, error)
    return True


# ---------------------------------------------------------------- waiting

cdef inline void waiting_over(worker_t *w, xchg_t *x) noexcept nogil:
    """The time is over: of a back-off, to go on; of all else, to give up."""
    cdef uint8_t kind = x.waits
    waiting_leave(x)
    if kind == WAIT_BACKOFF:
        waiting_go(w, x)
        return
    if kind == WAIT_QUEUE:
        fm_bump_u64(&x.service_stats.limited, 1)
    else:
        fm_bump_u64(&x.service_stats.retries_refused, 1)
    exchange_fail(w, x, x.wait_error)


cdef inline void waiting_go(worker_t *w, xchg_t *x) noexcept nogil:
    """The waiting was not in vain: where to is chosen anew, for much may have changed."""
    if attempt_pick(w, x) != 0:
        exchange_fail(w, x, x.wait_error if x.attempts else FM_E_NO_ENDPOINT)
        return
    exchange_client_timer(w, x)
    attempt_go(w, x, x.attempts != 0)


cdef inline void waiting_run_service(worker_t *w, service_stats_t *stats) noexcept nogil:
    """Starts what may go, oldest first, until one may not."""
    cdef xchg_t *x
    cdef uint32_t budget = WAITING_PER_TURN
    while stats.budget_first != NULL and budget:
        x = <xchg_t *> stats.budget_first
        if not budget_take(w, x):
            break
        budget -= 1
        waiting_leave(x)
        fm_bump_u64(&stats.retries, 1)
        waiting_go(w, x)
    while stats.queue_first != NULL and budget:
        x = <xchg_t *> stats.queue_first
        budget -= 1
        if attempt_pick(w, x) != 0:
            waiting_leave(x)
            exchange_fail(w, x, FM_E_NO_ENDPOINT)
            continue
        if attempt_admit(w, x) != 0:
            break
        waiting_leave(x)
        exchange_client_timer(w, x)
        attempt_go(w, x, False)


cdef inline void waiting_run(worker_t *w) noexcept nogil:
    """Once a turn: something may have ended, here or on another worker."""
    cdef service_stats_t *stats = w.waiting
    cdef service_stats_t *following
    w.waiting = NULL
    while stats != NULL:
        following = stats.next_waiting
        stats.is_waiting = 0
        waiting_run_service(w, stats)
        if not stats.is_waiting and (stats.queue_first != NULL or stats.budget_first != NULL):
            stats.is_waiting = 1
            stats.next_waiting = w.waiting
            w.waiting = stats
        stats = following


# ---------------------------------------------------------------- the first attempt

cdef inline void attempt_start(worker_t *w, xchg_t *x) noexcept nogil:
    """The first attempt, to ``x.endpoint``. The exchange may be over when this returns."""
    if fm_unlikely(x.service.limited) and attempt_must_wait(w, x):
        return
    attempt_go(w, x, False)
