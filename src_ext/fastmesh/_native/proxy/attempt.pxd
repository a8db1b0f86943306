"""Attempts: pick an endpoint, lease a connection to it, send the request, and what happens when that fails.

A request is sent again when nothing of it was sent, or when it is idempotent (or the service says that it may be), still
whole in its buffer, and nothing of an answer has gone to the client: after what the service's ``retries`` name, to an endpoint
that was not tried while there is one, and within the budget. The first retry to another endpoint goes at once; later ones
back off exponentially with full jitter. A retry opens a fresh connection.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastmesh._native.base.errors cimport (
    FM_E_CONNECT_REFUSED,
    FM_E_CONNECT_TIMEOUT,
    FM_E_NO_MEMORY,
    FM_E_UPSTREAM_CLOSED,
    FM_E_UPSTREAM_RESET,
    FM_E_UPSTREAM_TIMEOUT,
    fm_error_info,
)
from fastmesh._native.base.hash cimport rng_below
from fastmesh._native.base.limits cimport (
    BACKOFF_FIRST_MS,
    BACKOFF_MAX_MS,
    POOLED_GRACE_MS,
    REPLAY_BYTES,
    RETRY_WAIT_MOST_MS,
    RETRY_WAIT_MS,
    RETRY_WAIT_TIMES,
    TRIED_MAX,
)
from fastmesh._native.base.slab cimport pend_append, pend_clear, pend_len
from fastmesh._native.net.conn cimport conn_flush, conn_has_unsent, conn_ready, conn_timer, conn_write
from fastmesh._native.net.pool cimport pool_take, upstream_open
from fastmesh._native.net.snap_t cimport RETRY_ON_CONNECT, RETRY_ON_RESET, RETRY_ON_TIMEOUT, service_t
from fastmesh._native.net.stats cimport service_usage
from fastmesh._native.net.worker_t cimport (
    CONN_UPSTREAM,
    F_FRESH,
    F_READABLE,
    U_ACTIVE,
    U_CONNECTING,
    conn_t,
    endpoint_t,
    worker_t,
)
from fastmesh._native.proxy.answer cimport exchange_client_timer, exchange_close_up, exchange_fail
from fastmesh._native.proxy.exchange cimport exchange_count_in, exchange_renew_service
from fastmesh._native.proxy.exchange_t cimport WAIT_BACKOFF, WAIT_BUDGET, WAIT_QUEUE, xchg_t
from fastmesh._native.proxy.pick cimport (
    attempt_admit,
    attempt_is_usable,
    attempt_pick,
    attempt_release_probe,
    attempt_set_patience,
    attempt_was_tried,
)
from fastmesh._native.proxy.proxy_header cimport proxy_header_prepend
from fastmesh._native.proxy.verdict cimport attempt_blame
from fastmesh._native.proxy.waiting cimport budget_take, waiting_join
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_likely, fm_unlikely

cdef enum again_t:
    AGAIN_NOW = 0
    AGAIN_LATER = 1
    AGAIN_NEVER = 2


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
    if x.whole and x.sent and pend_len(&x.request) + size > REPLAY_BYTES:  # until then nothing has to be dropped
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
        conn_timer(w, u, x.try_ms)
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
        exchange_client_timer(w, x)  # the rest of a body is read and dropped
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
    x.upstream_bytes = 0
    x.gave_up = 0
    x.attempt_us = w.now_us
    x.try_ms = x.response_ms
    if fm_unlikely(x.probing or x.service.per_try_ms != 0):
        attempt_set_patience(w, x)
    fm_bump_u64(&ep.requests, 1)
    exchange_count_in(w, x)
    if not fresh and not x.service.send_proxy:
        u = pool_take(w, ep)
    if fm_likely(u != NULL):
        u.state = U_ACTIVE
    else:
        u = upstream_open(w, ep, x.client, CONN_UPSTREAM, U_CONNECTING, &error)
        if u == NULL:
            return error
        if x.service.send_proxy and not proxy_header_prepend(w, u, x.client, x.service.send_proxy):
            x.up = u
            return FM_E_NO_MEMORY
    x.up = u
    u.exchange = x
    u.peer = x.client
    return 0


# ---------------------------------------------------------------- again

cdef inline bint attempt_may_repeat(worker_t *w, const xchg_t *x) noexcept nogil:
    """Nothing was answered, all of the request is still here, and sending it twice does no harm."""
    return (
        x.service != NULL and not x.head_done and x.bytes_sent == 0 and x.whole
        and (not x.sent_any or x.idempotent) and (x.deadline_ms == 0 or w.now_ms < x.deadline_ms)
    )


cdef inline bint attempt_retries_left(const xchg_t *x) noexcept nogil:
    return x.attempts - x.repaired <= x.service.retry_attempts


cdef inline bint attempt_is_retried(worker_t *w, xchg_t *x, int32_t error, bint was_pooled) noexcept nogil:
    """Whether the rules of the service want another attempt after this error. A pooled connection that ends at once, as
    one does that was closed while it was idle, is replaced once whatever they say, and whatever the budget."""
    if not fm_error_info[error].retryable or not attempt_may_repeat(w, x):
        return False
    if was_pooled and not x.repaired and (error == FM_E_UPSTREAM_RESET or error == FM_E_UPSTREAM_CLOSED) \
            and w.now_us - x.attempt_us < POOLED_GRACE_MS * 1000:
        x.repaired = 1
        return True
    if not attempt_retries_left(x):
        return False
    if error == FM_E_CONNECT_REFUSED or error == FM_E_CONNECT_TIMEOUT:
        return x.service.retry_on & RETRY_ON_CONNECT
    if error == FM_E_UPSTREAM_TIMEOUT:
        return x.service.retry_on & RETRY_ON_TIMEOUT or x.try_ms != x.response_ms
    return x.service.retry_on & RETRY_ON_RESET


cdef inline uint64_t attempt_budget_wait_ms(const xchg_t *x) noexcept nogil:
    """Long enough for those who have the budget to get their answers."""
    cdef uint64_t wait_ms = RETRY_WAIT_MS + RETRY_WAIT_TIMES * x.service_stats.typical_us // 1000
    return min(wait_ms, <uint64_t> RETRY_WAIT_MOST_MS)


cdef inline bint waiting_queue(worker_t *w, xchg_t *x) noexcept nogil:
    """The limits have no room: the exchange joins the queue of its service, if that has."""
    if service_usage(w, x.service.index).queued >= x.service.limit_queue:
        return False
    waiting_join(w, x, WAIT_QUEUE, w.now_ms + x.service.queue_ms)
    exchange_client_timer(w, x)
    return True


cdef inline int32_t attempt_prepare(worker_t *w, xchg_t *x, int32_t error, bint replace) noexcept nogil:
    """Chooses where the next attempt goes, and when: AGAIN_NOW, AGAIN_LATER (it waits) or AGAIN_NEVER. ``replace``: it only
    replaces a broken pooled connection."""
    cdef uint32_t span_ms, delay_ms = 0
    cdef uint32_t retries = x.attempts - 1 - x.repaired
    cdef bint tried
    exchange_renew_service(w, x)
    if attempt_pick(w, x) != 0:
        return AGAIN_NEVER
    tried = attempt_was_tried(x)
    x.sent = 0
    x.sent_any = 0
    x.write_broken = 0
    x.wait_error = <uint8_t> error
    if not replace and not budget_take(w, x):
        # Worth a moment only while there is somebody to ask; when all fail, more load helps nobody
        if tried or not attempt_is_usable(w, x):
            attempt_release_probe(w, x)
            fm_bump_u64(&x.service_stats.retries_refused, 1)
            return AGAIN_NEVER
        attempt_release_probe(w, x)
        waiting_join(w, x, WAIT_BUDGET, w.now_ms + attempt_budget_wait_ms(x))
        exchange_client_timer(w, x)
        return AGAIN_LATER
    if x.service.limited and attempt_admit(w, x) != 0:
        return AGAIN_LATER if waiting_queue(w, x) else AGAIN_NEVER
    if not replace and (tried or retries or not attempt_is_usable(w, x)):
        span_ms = BACKOFF_FIRST_MS << retries if retries < 4 else BACKOFF_MAX_MS
        delay_ms = rng_below(&w.rng, min(span_ms, <uint32_t> BACKOFF_MAX_MS) + 1)
    fm_bump_u64(&x.service_stats.retries, 1)
    if delay_ms == 0:
        return AGAIN_NOW
    attempt_release_probe(w, x)
    waiting_join(w, x, WAIT_BACKOFF, w.now_ms + delay_ms)
    exchange_client_timer(w, x)
    return AGAIN_LATER


cdef inline uint32_t attempt_connect_ms(const xchg_t *x) noexcept nogil:
    """A probe, and an attempt with a time of its own, need not wait longer for the connection than for the answer."""
    if x.try_ms != x.response_ms and (x.service.connect_ms == 0 or x.try_ms < x.service.connect_ms):
        return x.try_ms
    return x.service.connect_ms


cdef inline void attempt_go(worker_t *w, xchg_t *x, bint fresh) noexcept nogil:
    """Makes the attempt on ``x.endpoint``. The exchange may be over when this returns."""
    cdef int32_t error = attempt_lease(w, x, fresh)
    if fm_unlikely(error != 0):
        attempt_failed(w, x, error)
    elif x.up.state == U_CONNECTING:
        conn_timer(w, x.up, attempt_connect_ms(x))
    else:
        attempt_send(w, x)
        if not x.request_complete and x.client.flags & F_READABLE:
            conn_ready(w, x.client)  # it was not read while there was nobody to send to


cdef inline void attempt_failed(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """The attempt failed with ``error`` (positive). Tries again, now or later, or answers."""
    cdef bint was_pooled = x.up != NULL and not x.up.flags & F_FRESH
    cdef bint again, was_repaired
    cdef int32_t when
    while True:
        was_repaired = x.repaired
        fm_bump_u64(&x.endpoint.failures, 1)
        attempt_blame(w, x, error, was_pooled)
        again = attempt_is_retried(w, x, error, was_pooled)
        if not again:
            exchange_fail(w, x, error)
            return
        exchange_close_up(w, x)
        when = attempt_prepare(w, x, error, x.repaired and not was_repaired)
        if when == AGAIN_LATER:
            return
        if when == AGAIN_NEVER:
            exchange_fail(w, x, error)
            return
        error = attempt_lease(w, x, True)
        if error == 0:
            conn_timer(w, x.up, attempt_connect_ms(x))
            exchange_client_timer(w, x)  # what it was waited for is sent once more
            return
        was_pooled = False


cdef inline bint attempt_retry_status(worker_t *w, xchg_t *x, uint32_t status) noexcept nogil:
    """True: the answer is of a status that is retried, another endpoint is asked, and the exchange may be over. False: the
    client gets this answer."""
    cdef service_t *service = x.service
    cdef endpoint_t *answered = x.endpoint
    cdef endpoint_t *other
    cdef uint8_t probing = x.probing
    if status > 599 or not service.retry_codes[(status - 400) >> 3] & (1 << (status & 7)):
        return False
    if not attempt_may_repeat(w, x) or not x.request_complete or not attempt_retries_left(x):
        return False
    exchange_renew_service(w, x)
    if attempt_pick(w, x) != 0 or attempt_was_tried(x) or not attempt_is_usable(w, x) \
            or (x.service.limited and attempt_admit(w, x) != 0) or not budget_take(w, x):
        attempt_release_probe(w, x)
        x.endpoint = answered
        x.probing = probing
        return False
    fm_bump_u64(&x.service_stats.retries, 1)
    other = x.endpoint
    x.endpoint = answered
    exchange_close_up(w, x)
    x.endpoint = other
    attempt_go(w, x, True)
    return True


cdef inline void attempt_connected(worker_t *w, xchg_t *x, conn_t *u) noexcept nogil:
    u.state = U_ACTIVE
    attempt_send(w, x)
