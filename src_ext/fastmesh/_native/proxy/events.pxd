"""What a connection does when something happens to it: by its kind and state. Owner worker only."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastmesh._native.base.errors cimport (
    FM_E_BODY_TIMEOUT,
    FM_E_CLIENT_ABORTED,
    FM_E_CONNECT_TIMEOUT,
    FM_E_HEADER_TIMEOUT,
    FM_E_UPSTREAM_TIMEOUT,
)
from fastmesh._native.base.limits cimport LINGER_BYTES, SCRATCH_BYTES
from fastmesh._native.base.slab cimport pend_len
from fastmesh._native.net.conn cimport (
    IO_AGAIN,
    IO_FAILED,
    conn_flush,
    conn_has_unsent,
    conn_ready,
    conn_recv,
    conn_timer,
)
from fastmesh._native.net.pool cimport upstream_close
from fastmesh._native.net.splice cimport splice_flush
from fastmesh._native.net.worker_t cimport (
    C_EXCHANGE,
    C_HEAD,
    C_LINGER,
    C_PROXY_HEADER,
    CONN_CLIENT,
    CONN_CLOSED,
    CONN_LISTENER,
    CONN_RELAY,
    CONN_UNDECIDED,
    CONN_UPSTREAM,
    F_ERROR,
    F_HEAD_BEGUN,
    F_LINGER_AFTER_FLUSH,
    F_RDHUP,
    F_READABLE,
    F_UNWATCHED,
    R_CONNECTING,
    U_ACTIVE,
    U_CONNECTING,
    U_IDLE,
    conn_t,
    worker_t,
)
from fastmesh._native.proxy.accept cimport client_read_proxy_header, listener_accept, listener_event, listener_watch
from fastmesh._native.proxy.admission cimport waiting_over
from fastmesh._native.proxy.answer cimport (
    client_await_reading,
    client_close,
    client_left_to_kernel,
    client_linger,
    client_paid,
    client_part,
    client_refuse,
    client_reset,
    exchange_abort,
    exchange_awaits_body,
    exchange_client_arm,
    exchange_client_timer,
    exchange_fail,
)
from fastmesh._native.proxy.attempt cimport attempt_arm, attempt_failed
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.proxy.pace cimport PACE_BODY, PACE_FREE, pace_body_lost, pace_free, pace_reading_lost
from fastmesh._native.proxy.relay cimport relay_connect_failed, relay_end, relay_event
from fastmesh._native.proxy.request cimport client_read_body, client_read_head
from fastmesh._native.proxy.response cimport upstream_event
from fastmesh._native.proxy.undecided cimport undecided_event, undecided_timeout
from fastmesh._native.proxy.verdict cimport attempt_given_up


cdef inline void client_drain_linger(worker_t *w, conn_t *c) noexcept nogil:
    """Our FIN is sent: reads and drops until the peer's, within a bound."""
    cdef int64_t n
    if conn_has_unsent(c):
        return
    while c.flags & F_READABLE:
        n = conn_recv(c, w.scratch, SCRATCH_BYTES)
        if n == IO_AGAIN:
            return
        if n == 0:
            client_part(w, c)
            return
        c.passed += <uint64_t> (n if n > 0 else 0)
        if n < 0 or c.passed > LINGER_BYTES:
            client_close(w, c)
            return


cdef inline bint client_flush(worker_t *w, conn_t *c) noexcept nogil:
    """Sends what waits for the client and lets the other side go on. False: the connection is gone."""
    cdef xchg_t *x = <xchg_t *> c.exchange
    cdef int32_t flushed = conn_flush(w, c)
    if flushed == 1 and c.pipe != NULL:
        flushed = splice_flush(w, c)
    if flushed == IO_FAILED:
        if x != NULL:
            exchange_abort(w, x, FM_E_CLIENT_ABORTED)
        else:
            client_reset(w, c)
        return False
    if flushed == 0:
        return True
    client_paid(w, c)
    if c.flags & F_LINGER_AFTER_FLUSH:
        c.flags &= <unsigned short> ~F_LINGER_AFTER_FLUSH
        client_linger(w, c)
        return False
    if x == NULL:  # from here on it is idle
        pace_free(c)
        conn_timer(w, c, c.socket.block.client_idle_ms)
        return True
    exchange_client_timer(w, x)
    if x.up != NULL and x.up.state == U_ACTIVE:
        attempt_arm(w, x, x.up)  # the endpoint's turn begins
        if x.up.flags & F_READABLE or x.spliced:
            conn_ready(w, x.up)
    return True


cdef inline void client_event(worker_t *w, conn_t *c, bint writable) noexcept nogil:
    cdef xchg_t *x
    if c.state == CONN_CLOSED or (conn_has_unsent(c) and not client_flush(w, c)):
        return
    x = <xchg_t *> c.exchange
    if c.state == C_HEAD:
        if not conn_has_unsent(c):  # a client that does not read its answers gets no further ones
            client_read_head(w, c)
    elif c.state == C_EXCHANGE:
        if c.flags & (F_ERROR | F_RDHUP):
            attempt_given_up(w, x)
        if c.flags & F_ERROR:
            exchange_abort(w, x, FM_E_CLIENT_ABORTED)  # RST: the endpoint need not go on
        elif not x.request_complete:
            client_read_body(w, c)
    elif c.state == C_LINGER:
        if c.flags & F_ERROR:
            client_part(w, c)  # broken, or both have said FIN
        else:
            client_drain_linger(w, c)
    elif c.state == C_PROXY_HEADER:
        client_read_proxy_header(w, c)


cdef inline void conn_event(worker_t *w, conn_t *c, bint writable) noexcept nogil:
    """An edge was reported (its flags are set), or it is the connection's turn on the ready list."""
    if c.kind == CONN_UPSTREAM:
        upstream_event(w, c, writable)
    elif c.kind == CONN_CLIENT:
        client_event(w, c, writable)
    elif c.kind == CONN_RELAY:
        relay_event(w, c, writable)
    elif c.kind == CONN_UNDECIDED:
        undecided_event(w, c, writable)
    elif c.kind == CONN_LISTENER:
        listener_event(w, c)


# ---------------------------------------------------------------- time-outs

cdef inline void exchange_client_late(worker_t *w, xchg_t *x) noexcept nogil:
    """The timer of a client with an exchange has fired."""
    cdef conn_t *c = x.client
    if x.deadline_ms and w.now_ms >= x.deadline_ms:
        exchange_fail(w, x, FM_E_UPSTREAM_TIMEOUT)
    elif x.waits:
        if w.now_ms >= x.wait_until_ms:
            waiting_over(w, x)
        else:
            exchange_client_timer(w, x)
    elif conn_has_unsent(c):
        if pace_reading_lost(w, c, x.idle_ms, x.bytes_sent):
            exchange_abort(w, x, FM_E_CLIENT_ABORTED)
        else:
            exchange_client_arm(w, x)
    elif c.pace == PACE_BODY and exchange_awaits_body(x):
        if pace_body_lost(w, c, x.idle_ms, x.bytes_received, not x.head_done):
            exchange_fail(w, x, FM_E_BODY_TIMEOUT)
        else:
            exchange_client_arm(w, x)
    else:
        exchange_client_timer(w, x)  # fired for what has been done since: `total` may still be to come


cdef inline void client_timeout(worker_t *w, conn_t *c) noexcept nogil:
    if c.state == C_EXCHANGE:
        exchange_client_late(w, <xchg_t *> c.exchange)
    elif c.state == C_HEAD and c.flags & F_HEAD_BEGUN:
        client_refuse(w, c, FM_E_HEADER_TIMEOUT, False)
    elif c.pace == PACE_FREE:
        client_part(w, c)
    elif not conn_has_unsent(c) and client_left_to_kernel(w, c):
        client_close(w, c)
    elif pace_reading_lost(w, c, c.socket.block.client_idle_ms, 0):
        client_reset(w, c)
    else:
        client_await_reading(w, c)


cdef inline void upstream_timeout(worker_t *w, conn_t *u) noexcept nogil:
    cdef xchg_t *x = <xchg_t *> u.exchange
    if u.state == U_IDLE or x == NULL:
        upstream_close(w, u)
    elif u.state == U_CONNECTING:
        attempt_failed(w, x, FM_E_CONNECT_TIMEOUT)
    else:
        attempt_failed(w, x, FM_E_UPSTREAM_TIMEOUT)


cdef inline void relay_timeout(worker_t *w, conn_t *c) noexcept nogil:
    cdef xchg_t *x = <xchg_t *> c.exchange
    if x == NULL:
        return
    if c.state == R_CONNECTING:
        relay_connect_failed(w, x, FM_E_CONNECT_TIMEOUT)
    elif x.up != NULL and x.up.state == R_CONNECTING:
        return  # the time for heads of the accept; the connect has its own
    elif conn_has_unsent(x.client):
        relay_end(w, x, FM_E_CLIENT_ABORTED)  # it does not read: a FIN would say that it has everything
    elif x.up != NULL and conn_has_unsent(x.up):
        relay_end(w, x, FM_E_UPSTREAM_TIMEOUT)
    else:
        relay_end(w, x, 0)


cdef inline void conn_timeout(worker_t *w, conn_t *c) noexcept nogil:
    """The connection's timer has fired."""
    if c.state == CONN_CLOSED:
        return
    if c.kind == CONN_UPSTREAM:
        upstream_timeout(w, c)
    elif c.kind == CONN_CLIENT:
        client_timeout(w, c)
    elif c.kind == CONN_RELAY:
        relay_timeout(w, c)
    elif c.kind == CONN_UNDECIDED:
        undecided_timeout(w, c)
    elif c.kind == CONN_LISTENER:
        if c.flags & F_UNWATCHED:
            listener_watch(w, c)
        c.flags |= F_READABLE
        listener_accept(w, c)
