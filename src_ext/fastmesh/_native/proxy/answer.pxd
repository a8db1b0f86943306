"""Answers of the proxy itself, and what becomes of the client's connection after an exchange.

One function turns an error into an answer, a retry or a close: ``exchange_fail`` here and ``attempt_failed`` one
floor of calls above (``attempt.pxd``), which decides about retries first.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastmesh._native.base.errors cimport FM_E_CLIENT_ABORTED, FM_E_NO_MEMORY, fm_error_info
from fastmesh._native.base.field_t cimport slice_t
from fastmesh._native.base.limits cimport LINGER_MS, OUT_BYTES
from fastmesh._native.base.slab cimport pend_clear, pend_len
from fastmesh._native.net.conn cimport (
    IO_FAILED,
    conn_close,
    conn_has_unsent,
    conn_in_kernel,
    conn_ready,
    conn_reset,
    conn_send,
    conn_shut_write,
    conn_timer,
    conn_timer_at,
)
from fastmesh._native.net.pool cimport upstream_close
from fastmesh._native.net.snap_t cimport action_t, listener_block_t
from fastmesh._native.net.stats cimport listener_stats, pair_stats
from fastmesh._native.net.worker_t cimport (
    C_EXCHANGE,
    C_HEAD,
    C_LINGER,
    CONN_CLOSED,
    CONN_RELAY,
    F_COUNTED,
    F_EOF,
    F_ERROR,
    F_FILLED,
    F_LINGER_AFTER_FLUSH,
    F_OWED,
    F_RDHUP,
    F_READABLE,
    PRESSURE_NONE,
    conn_t,
    listener_stats_t,
    pair_stats_t,
    worker_t,
)
from fastmesh._native.proto.h1_emit cimport h1_emit_error, h1_emit_fixed, h1_emit_redirect
from fastmesh._native.proto.h1_t cimport H1_BODY_CHUNKED, H1_BODY_LENGTH, H1_BODY_UNTIL_CLOSE, h1_own_t
from fastmesh._native.proxy.exchange cimport exchange_detach_up, exchange_end, refusal_log, slice_of
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.proxy.pace cimport (
    PACE_FREE,
    pace_body,
    pace_free,
    pace_pause,
    pace_reading,
    pace_until_ms,
)
from fastmesh._native.sys.atomics cimport fm_add_relaxed_u64, fm_bump_u64, fm_load_relaxed_u32, fm_unlikely


# ---------------------------------------------------------------- the client's connection

cdef inline void client_owe(worker_t *w, conn_t *c) noexcept nogil:
    """The exchange has ended, but not for the client: a drain waits for it to take the rest."""
    if conn_has_unsent(c) and not c.flags & F_OWED:
        c.flags |= F_OWED
        fm_bump_u64(&w.busy, 1)


cdef inline void client_paid(worker_t *w, conn_t *c) noexcept nogil:
    """It has taken the rest, or never will."""
    if c.flags & F_OWED:
        c.flags &= <unsigned short> ~F_OWED
        fm_bump_u64(&w.busy, <uint64_t> -1)


cdef inline void client_uncount(worker_t *w, conn_t *c) noexcept nogil:
    """It is none of those that ``connection_limit`` is for any more."""
    if c.flags & F_COUNTED:
        c.flags &= <unsigned short> ~F_COUNTED
        fm_add_relaxed_u64(&w.shared.connections, <uint64_t> -1)


cdef inline void client_give_back_place(worker_t *w, conn_t *c) noexcept nogil:
    cdef listener_stats_t *stats = listener_stats(w, c.socket.listener_index)
    if stats != NULL:
        fm_bump_u64(&stats.connections_active, <uint64_t> -1)
    c.socket.connections -= 1
    client_paid(w, c)
    client_uncount(w, c)


cdef inline void client_close(worker_t *w, conn_t *c) noexcept nogil:
    """Closes a client's connection and gives back its place; its exchange must have ended."""
    if c.state != CONN_CLOSED:
        client_give_back_place(w, c)
        conn_close(w, c)


cdef inline void client_reset(worker_t *w, conn_t *c) noexcept nogil:
    """The same with RST: what was sent broke off."""
    if c.state != CONN_CLOSED:
        client_give_back_place(w, c)
        conn_reset(w, c)


cdef inline void client_await_reading(worker_t *w, conn_t *c) noexcept nogil:
    """There is no exchange, but the client has not taken all that it was given."""
    cdef uint64_t at_ms
    pace_reading(c)
    at_ms = pace_until_ms(w, c, c.socket.block.client_idle_ms, True)
    if c.state == C_LINGER and not conn_has_unsent(c):  # nothing tells when the kernel has got rid of the rest
        at_ms = min(at_ms, w.now_ms + LINGER_MS) if at_ms else w.now_ms + LINGER_MS
    conn_timer_at(w, c, at_ms)


cdef inline bint client_left_to_kernel(worker_t *w, const conn_t *c) noexcept nogil:
    """Whether nobody need wait until the client has taken what the kernel holds for it: that was never much, or is nothing
    any more, or we are about to go, and the kernel stays."""
    return (
        not c.flags & F_FILLED or c.socket.block.client_idle_ms == 0 or c.socket.draining
        or fm_load_relaxed_u32(&w.shared.draining) != 0 or not conn_in_kernel(c)
    )


cdef inline void client_part(worker_t *w, conn_t *c) noexcept nogil:
    """Nothing more is expected of the client. What the kernel holds for it would stay there for as long as the peer takes a
    byte now and then, and nobody would count it: so after a buffer that was full once it is waited for, at a pace."""
    if client_left_to_kernel(w, c):
        client_close(w, c)
    elif c.state != C_LINGER or c.pace == PACE_FREE:
        conn_shut_write(c)
        client_uncount(w, c)  # it is served no more
        c.state = C_LINGER
        c.idle_since_ms = <uint32_t> w.now_ms
        client_await_reading(w, c)


cdef inline void client_linger(worker_t *w, conn_t *c) noexcept nogil:
    """A staged close (RFC 9112 9.6): FIN, then read until the peer's, so that no RST destroys what was sent."""
    pend_clear(&w.bufs, &c.input)
    pace_free(c)
    if c.flags & F_ERROR:
        client_close(w, c)
        return
    if c.flags & F_EOF:
        client_part(w, c)
        return
    conn_shut_write(c)
    client_uncount(w, c)  # it is served no more
    c.state = C_LINGER
    c.passed = 0
    c.idle_since_ms = <uint32_t> w.now_ms
    conn_timer(w, c, LINGER_MS)
    if c.flags & F_READABLE:
        conn_ready(w, c)


cdef inline void client_close_when_sent(worker_t *w, conn_t *c, bint at_once) noexcept nogil:
    """Closes once ``out`` has gone; staged unless the client announced that nothing more comes."""
    pace_free(c)
    if conn_has_unsent(c):
        pend_clear(&w.bufs, &c.input)
        c.flags |= F_LINGER_AFTER_FLUSH
        c.state = C_LINGER
        client_owe(w, c)
        client_await_reading(w, c)
    elif at_once and not c.flags & (F_READABLE | F_FILLED) and pend_len(&c.input) == 0:
        client_close(w, c)
    else:
        client_linger(w, c)


cdef inline bint client_must_close(worker_t *w, const conn_t *c) noexcept nogil:
    """Whether an answer that is written now has to say ``Connection: close``."""
    return c.socket.draining or w.pressure != PRESSURE_NONE or fm_load_relaxed_u32(&w.shared.draining) != 0


cdef inline void client_next(worker_t *w, conn_t *c) noexcept nogil:
    """An exchange has ended and the connection stays: the next request may be here already."""
    c.state = C_HEAD
    c.scan = 0
    c.idle_since_ms = <uint32_t> w.now_ms
    pace_free(c)
    if fm_unlikely(conn_has_unsent(c)):
        client_owe(w, c)
        client_await_reading(w, c)
    else:
        conn_timer(w, c, c.socket.block.client_idle_ms)
    if pend_len(&c.input) or c.flags & F_READABLE:
        conn_ready(w, c)


cdef inline bint exchange_awaits_body(const xchg_t *x) noexcept nogil:
    """Whether the request lacks bytes that only the client has: the endpoint has taken, or will not take, what came."""
    return not x.request_complete and (pend_len(&x.request) == x.sent or x.write_broken)


cdef inline void exchange_client_arm(worker_t *w, xchg_t *x) noexcept nogil:
    """Until when nothing need be done about the client, and the end of `total`."""
    cdef conn_t *c = x.client
    cdef uint64_t at_ms = 0
    if fm_unlikely(x.waits):
        at_ms = x.wait_until_ms
    elif fm_unlikely(c.pace != PACE_FREE):
        # Once an answer has begun, the two may converse as slowly as they like
        at_ms = pace_until_ms(w, c, x.idle_ms, not x.head_done)
    if x.deadline_ms and (at_ms == 0 or x.deadline_ms < at_ms):
        at_ms = x.deadline_ms
    conn_timer_at(w, c, at_ms)


cdef inline void exchange_client_timer(worker_t *w, xchg_t *x) noexcept nogil:
    """Something has moved: what the client may make us wait for now is its body, or its reading of the answer."""
    cdef conn_t *c = x.client
    if fm_unlikely(x.waits):
        pace_pause(w, c)
    elif conn_has_unsent(c):
        pace_reading(c)
    elif exchange_awaits_body(x):
        pace_body(w, c, x.bytes_received)
    elif fm_unlikely(c.pace != PACE_FREE):
        pace_pause(w, c)
    exchange_client_arm(w, x)


# ---------------------------------------------------------------- the end of an exchange

cdef inline void exchange_close_up(worker_t *w, xchg_t *x) noexcept nogil:
    """Ends the attempt and closes its connection: it has bytes on it that belong to nobody else."""
    cdef conn_t *u = x.up
    exchange_detach_up(w, x)
    if u != NULL:
        upstream_close(w, u)


cdef inline void exchange_abort(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """The client cannot be answered any more: both connections go."""
    cdef conn_t *c = x.client
    exchange_close_up(w, x)
    if x.error == 0:
        x.error = <uint8_t> error
    if x.status == 0:
        x.status = fm_error_info[error].status
    exchange_end(w, x)
    client_reset(w, c)


cdef inline void exchange_truncate(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """The response broke off in its middle: the client must see that (RFC 9112 8), never a clean end."""
    cdef conn_t *c = x.client
    cdef bint reset = x.response_out == H1_BODY_UNTIL_CLOSE
    exchange_close_up(w, x)
    x.error = <uint8_t> error
    exchange_end(w, x)
    if reset:
        client_reset(w, c)  # without a length only RST tells
    else:
        client_close_when_sent(w, c, False)


cdef inline void exchange_finish(worker_t *w, xchg_t *x) noexcept nogil:
    """The response is with the kernel or in ``out``, whole. The attempt's connection was dealt with."""
    cdef conn_t *c = x.client
    cdef bint close_it = x.close_client or not x.request_complete
    cdef bint at_once = x.client_asked_close and x.request_complete
    exchange_end(w, x)
    if close_it:
        client_close_when_sent(w, c, at_once)
    else:
        client_next(w, c)


cdef inline void own_answer_init(worker_t *w, xchg_t *x, h1_own_t *own) noexcept nogil:
    if not x.request_complete or client_must_close(w, x.client):
        x.close_client = 1
    own.close = x.close_client
    own.head_only = x.is_head
    own.client_minor = x.minor
    own.keep_alive_10 = 0
    own.date = slice_of(&w.date[0], 29)


cdef inline void exchange_answer(worker_t *w, xchg_t *x, uint32_t length) noexcept nogil:
    """Sends ``w.out[:length]`` as the whole answer and ends the exchange. 0: there is none that would fit."""
    x.head_done = 1
    x.bytes_sent += length
    if length == 0:
        exchange_abort(w, x, FM_E_NO_MEMORY)  # silence would leave the next answer for this request
        return
    if conn_send(w, x.client, w.out, length) == IO_FAILED:
        exchange_abort(w, x, FM_E_CLIENT_ABORTED)
        return
    exchange_finish(w, x)


cdef inline void exchange_fail(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """Turns an error (positive) into what the client gets: an answer if none has begun, else a visible truncation."""
    cdef h1_own_t own
    cdef int32_t length
    if x.head_done:
        exchange_truncate(w, x, error)
        return
    exchange_close_up(w, x)
    x.error = <uint8_t> error
    x.status = fm_error_info[error].status
    own_answer_init(w, x, &own)
    length = h1_emit_error(error, &own, w.out, OUT_BYTES)
    exchange_answer(w, x, <uint32_t> length if length > 0 else 0)


cdef inline void exchange_respond(worker_t *w, xchg_t *x, uint16_t status, slice_t body) noexcept nogil:
    cdef h1_own_t own
    cdef int32_t length
    x.status = status
    own_answer_init(w, x, &own)
    length = h1_emit_fixed(status, body, &own, w.out, OUT_BYTES)
    exchange_answer(w, x, <uint32_t> length if length > 0 else 0)


cdef inline void exchange_redirect(worker_t *w, xchg_t *x, uint16_t status, slice_t location) noexcept nogil:
    cdef h1_own_t own
    cdef int32_t length
    x.status = status
    own_answer_init(w, x, &own)
    length = h1_emit_redirect(status, location, &own, w.out, OUT_BYTES)
    exchange_answer(w, x, <uint32_t> length if length > 0 else 0)


cdef inline void client_refuse(worker_t *w, conn_t *c, int32_t error, bint head_only) noexcept nogil:
    """An error before there is an exchange: a head that cannot be read, too late, or too much. Answers and closes."""
    cdef h1_own_t own
    cdef int32_t length
    cdef listener_block_t *block = c.socket.block
    cdef pair_stats_t *pair = pair_stats(w, block.own_pair_index)
    if pair != NULL and fm_error_info[error].status < 600:
        fm_bump_u64(&pair.codes[fm_error_info[error].status], 1)
    fm_bump_u64(&w.errors[error], 1)
    own.close = 1
    own.head_only = head_only
    own.client_minor = 1
    own.keep_alive_10 = 0
    own.date = slice_of(&w.date[0], 29)
    length = h1_emit_error(error, &own, w.out, OUT_BYTES)
    refusal_log(w, c, error, <uint32_t> length if length > 0 else 0)
    if length > 0 and conn_send(w, c, w.out, <uint32_t> length) == IO_FAILED:
        client_reset(w, c)
        return
    client_close_when_sent(w, c, False)
