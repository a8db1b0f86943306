"""When a request begins: at once, or from the queue of its service; and how what waits goes on. Owner worker only."""
from libc.stdint cimport int32_t, uint8_t, uint32_t

from fastmesh._native.base.errors cimport FM_E_QUEUE_TIMEOUT, FM_E_TOO_MANY_REQUESTS
from fastmesh._native.base.limits cimport WAITING_PER_TURN
from fastmesh._native.net.snap_t cimport service_t
from fastmesh._native.net.stats cimport service_usage
from fastmesh._native.net.worker_t cimport service_stats_t, worker_t
from fastmesh._native.proxy.answer cimport exchange_client_timer, exchange_fail
from fastmesh._native.proxy.attempt cimport attempt_go, waiting_queue
from fastmesh._native.proxy.exchange cimport exchange_renew_service
from fastmesh._native.proxy.exchange_t cimport WAIT_BACKOFF, WAIT_QUEUE, xchg_t
from fastmesh._native.proxy.pick cimport attempt_admit, attempt_pick, attempt_release_probe
from fastmesh._native.proxy.waiting cimport budget_take, queue_next_worker, waiting_leave
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_unlikely
from fastmesh._native.sys.os cimport eventfd_write


# ---------------------------------------------------------------- the queue

cdef inline bint attempt_must_wait(worker_t *w, xchg_t *x) noexcept nogil:
    """True: the limits have no room; the exchange waits in the queue, or was refused and is over."""
    cdef service_t *service = x.service
    cdef service_stats_t *stats = x.service_stats
    cdef int32_t error = FM_E_TOO_MANY_REQUESTS
    if queue_next_worker(w, service.index) == NULL:  # else those who wait are first
        error = attempt_admit(w, x)
    if error == 0:
        return False
    attempt_release_probe(w, x)
    x.wait_error = FM_E_QUEUE_TIMEOUT
    if not waiting_queue(w, x):
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
    exchange_renew_service(w, x)
    if attempt_pick(w, x) != 0:
        exchange_fail(w, x, x.wait_error)
        return
    if x.service.limited and attempt_admit(w, x) != 0:
        if not waiting_queue(w, x):
            exchange_fail(w, x, x.wait_error)
        return
    exchange_client_timer(w, x)
    attempt_go(w, x, True)


cdef inline bint waiting_start_first(worker_t *w, service_stats_t *stats) noexcept nogil:
    """Starts the first of the queue; False: there is no room, or somebody waits for longer on another worker."""
    cdef xchg_t *x = <xchg_t *> stats.queue_first
    cdef worker_t *next_worker
    cdef int32_t error
    exchange_renew_service(w, x)
    if service_usage(w, x.service.index).in_flight >= x.service.limit_requests:
        return False
    next_worker = queue_next_worker(w, x.service.index)
    if next_worker != NULL and next_worker != w:
        eventfd_write(next_worker.event_fd, 1)
        return False
    error = -attempt_pick(w, x)
    if error != 0:
        waiting_leave(x)
        exchange_fail(w, x, error)
        return True
    if attempt_admit(w, x) != 0:
        return False
    waiting_leave(x)
    exchange_client_timer(w, x)
    attempt_go(w, x, x.attempts != 0)
    return True


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
    while stats.queue_first != NULL and budget and waiting_start_first(w, stats):
        budget -= 1


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
