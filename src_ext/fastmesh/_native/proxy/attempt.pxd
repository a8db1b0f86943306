"""Attempts: pick an endpoint, lease a connection to it, send the request, and what happens when that fails.

A request goes to another endpoint once: if nothing of it was sent, or if it is idempotent, still whole in its buffer,
and the connection ended before any response byte. The second attempt opens a fresh connection.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastmesh._native.base.errors cimport (
    FM_E_CONNECT_REFUSED,
    FM_E_CONNECT_TIMEOUT,
    FM_E_NO_ENDPOINT,
    FM_E_NO_MEMORY,
    FM_E_UPSTREAM_RESET,
    fm_error_info,
)
from fastmesh._native.base.limits cimport REPLAY_BYTES, TRIED_MAX
from fastmesh._native.base.slab cimport pend_append, pend_clear, pend_len
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.lb cimport lb_adopt, lb_pick, lb_wants_total
from fastmesh._native.lb.lb_t cimport lb_ctx_t
from fastmesh._native.net.conn cimport conn_flush, conn_has_unsent, conn_ready, conn_timer, conn_write
from fastmesh._native.net.pool cimport (
    endpoint_connect_failed,
    endpoint_connected,
    pool_take,
    upstream_open,
)
from fastmesh._native.net.snap_t cimport block_drop, block_take, service_t
from fastmesh._native.net.stats cimport endpoint_of, service_stats
from fastmesh._native.net.table cimport table_get
from fastmesh._native.net.worker_t cimport (
    CONN_CLOSED,
    CONN_UPSTREAM,
    F_FRESH,
    F_READABLE,
    U_ACTIVE,
    U_CONNECTING,
    conn_t,
    endpoint_t,
    service_stats_t,
    worker_t,
)
from fastmesh._native.proxy.answer cimport exchange_client_timer, exchange_close_up, exchange_fail
from fastmesh._native.proxy.exchange cimport exchange_count_in
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.proxy.proxy_header cimport proxy_header_prepend
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_likely, fm_load_relaxed_u64, fm_unlikely


# ---------------------------------------------------------------- picking

cdef inline uint32_t service_in_flight(worker_t *w, uint32_t service_index) noexcept nogil:
    """Requests in flight over the service and all workers."""
    cdef uint32_t i
    cdef uint64_t total = 0
    cdef service_stats_t *stats
    for i in range(w.shared.workers):
        stats = <service_stats_t *> table_get(&w.shared.all[i].services, service_index)
        if stats != NULL:
            total += fm_load_relaxed_u64(&stats.in_flight)
    return <uint32_t> total


cdef inline void service_adopt(worker_t *w, service_stats_t *stats, service_t *service) noexcept nogil:
    """The worker's state follows the newest block; what it knew of the old one is carried over."""
    cdef service_t *old = stats.adopted
    if lb_adopt(&stats.lb_state, old.lb if old != NULL else NULL, service.lb) != 0:
        return  # no memory: picks go on without the memory of turns
    block_take(service.refs, w.index)
    stats.adopted = service
    if old != NULL:
        block_drop(old.refs, w.index)


cdef inline int32_t attempt_pick(worker_t *w, xchg_t *x) noexcept nogil:
    """Chooses ``x.endpoint``; 0, or -FM_E_…"""
    cdef service_t *service = x.service
    cdef lb_ctx_t ctx
    cdef int32_t index
    cdef slot_t *slot
    if x.service_stats == NULL:
        x.service_stats = service_stats(w, service.index)
        if x.service_stats == NULL:
            return -FM_E_NO_MEMORY
    if fm_unlikely(x.service_stats.adopted != service) and service.index < w.snap.service_count \
            and w.snap.services[service.index] == service:
        service_adopt(w, x.service_stats, service)
    ctx.now_ms = <uint32_t> w.now_ms
    ctx.ntried = x.tried_count
    ctx.tried = &x.tried[0]
    ctx.key = x.key
    ctx.has_key = x.has_key
    ctx.total_in_flight = service_in_flight(w, service.index) if lb_wants_total(service.lb) else 0
    index = lb_pick(service.lb, &x.service_stats.lb_state, &ctx)
    if index < 0:
        return -FM_E_NO_ENDPOINT
    slot = service.lb.slots[index]
    x.endpoint = endpoint_of(w, slot)
    if x.endpoint == NULL:
        return -FM_E_NO_MEMORY
    return 0


cdef inline bint attempt_was_tried(const xchg_t *x) noexcept nogil:
    cdef uint32_t i
    for i in range(x.tried_count):
        if x.tried[i] == x.endpoint.slot.index:
            return True
    return False


# ---------------------------------------------------------------- the request's buffer

cdef inline void request_rule_out_replay(worker_t *w, xchg_t *x) noexcept nogil:
    """From here on only unsent bytes are kept."""
    if x.whole:
        x.whole = 0
        x.request.start += x.sent
        x.sent = 0
    if x.request.start == x.request.end:
        pend_clear(&w.bufs, &x.request)


cdef inline uint32_t request_unsent(const xchg_t *x) noexcept nogil:
    return pend_len(&x.request) - x.sent


cdef inline bint request_append(worker_t *w, xchg_t *x, const uint8_t *data, uint32_t size) noexcept nogil:
    """Adds bytes to what goes upstream; False: no memory."""
    if x.write_broken:
        if size:
            x.whole = 0  # bytes that are dropped could not be sent again
        return True
    if x.whole and pend_len(&x.request) + size > REPLAY_BYTES:
        request_rule_out_replay(w, x)
    return pend_append(&w.bufs, &x.request, data, size)


# ---------------------------------------------------------------- sending

cdef inline void attempt_arm(worker_t *w, xchg_t *x, conn_t *u) noexcept nogil:
    """The endpoint's turn to do something: answer (response time-out), or take and give bytes (idle)."""
    if request_unsent(x) and not x.write_broken:
        conn_timer(w, u, x.idle_ms)
    elif x.head_done:  # a client that reads slowly is not the endpoint's silence
        conn_timer(w, u, 0 if conn_has_unsent(x.client) else x.idle_ms)
    elif x.request_complete:
        conn_timer(w, u, x.response_ms)
    else:
        conn_timer(w, u, 0)  # the client's turn, and its timer's


cdef inline void attempt_send(worker_t *w, xchg_t *x) noexcept nogil:
    """Sends what is unsent as far as the kernel takes it. A broken connection is left to the reading side: the
    endpoint may have answered before it closed."""
    cdef conn_t *u = x.up
    cdef uint32_t unsent = request_unsent(x)
    cdef int64_t n
    if u.out.data != NULL:  # a PROXY header goes first
        n = conn_flush(w, u)
        if n == 0:
            attempt_arm(w, x, u)
            return
        if n < 0:
            x.write_broken = 1
    while unsent and not x.write_broken:
        n = conn_write(u, x.request.data + x.request.start + x.sent, unsent)
        if fm_unlikely(n < 0):
            x.write_broken = 1
            break
        if n == 0:
            break
        x.sent_any = 1
        x.sent += <uint32_t> n
        unsent -= <uint32_t> n
    if fm_unlikely(x.write_broken):
        u.flags |= F_READABLE
        conn_ready(w, u)
        attempt_arm(w, x, u)
        return
    if x.whole:
        if x.sent_any and not x.idempotent:
            request_rule_out_replay(w, x)
    else:
        x.request.start += x.sent
        x.sent = 0
        if unsent == 0:
            pend_clear(&w.bufs, &x.request)
    attempt_arm(w, x, u)
    if unsent == 0 and not x.request_complete:
        exchange_client_timer(w, x)  # the client's turn begins


cdef inline int32_t attempt_lease(worker_t *w, xchg_t *x, bint fresh) noexcept nogil:
    """Leases a connection to ``x.endpoint``: 0, or a positive FM_E_… when none can be opened."""
    cdef endpoint_t *ep = x.endpoint
    cdef conn_t *u = NULL
    cdef int32_t error = 0
    x.attempts += 1
    if x.tried_count < TRIED_MAX:
        x.tried[x.tried_count] = ep.slot.index
        x.tried_count += 1
    x.sent = 0
    x.sent_any = 0
    x.write_broken = 0
    x.attempt_us = w.now_us
    fm_bump_u64(&ep.requests, 1)
    exchange_count_in(w, x)
    if not fresh and not x.service.send_proxy:
        u = pool_take(w, ep)
    if fm_likely(u != NULL):
        u.state = U_ACTIVE
    else:
        u = upstream_open(w, ep, CONN_UPSTREAM, U_CONNECTING, &error)
        if u == NULL:
            return error
        if x.service.send_proxy and not proxy_header_prepend(w, u, x.client, x.service.send_proxy):
            x.up = u
            return FM_E_NO_MEMORY
    x.up = u
    u.exchange = x
    u.peer = x.client
    return 0


cdef inline void attempt_failed(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """The attempt's connection failed with ``error`` (positive). Tries another endpoint, or answers."""
    cdef bint was_pooled = x.up != NULL and not x.up.flags & F_FRESH
    cdef bint may_retry
    while True:
        fm_bump_u64(&x.endpoint.failures, 1)
        if error == FM_E_CONNECT_REFUSED or error == FM_E_CONNECT_TIMEOUT:
            endpoint_connect_failed(w, x.endpoint)
        may_retry = (
            fm_error_info[error].retryable and x.attempts < 2 and not x.upstream_bytes and x.service != NULL
            and x.whole and (not x.sent_any or x.idempotent)
        )
        exchange_close_up(w, x)
        if not may_retry or attempt_pick(w, x) != 0 or (attempt_was_tried(x) and not was_pooled):
            exchange_fail(w, x, error)
            return
        if x.service_stats != NULL:
            fm_bump_u64(&x.service_stats.retries, 1)
        error = attempt_lease(w, x, True)
        if error == 0:
            conn_timer(w, x.up, x.service.connect_ms)
            return


cdef inline void attempt_start(worker_t *w, xchg_t *x) noexcept nogil:
    """The first attempt, to ``x.endpoint``. The exchange may be over when this returns."""
    cdef int32_t error = attempt_lease(w, x, False)
    if fm_unlikely(error != 0):
        attempt_failed(w, x, error)
    elif x.up.state == U_CONNECTING:
        conn_timer(w, x.up, x.service.connect_ms)
    else:
        attempt_send(w, x)


cdef inline void attempt_connected(worker_t *w, xchg_t *x, conn_t *u) noexcept nogil:
    endpoint_connected(w, u.endpoint)
    u.state = U_ACTIVE
    attempt_send(w, x)
