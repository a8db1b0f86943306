"""The endpoint's side of HTTP: response heads and bodies on their way to the client.

A read of the endpoint's connection goes to the worker's scratch and from there to the client at once. Only what the
client's kernel does not take is kept (at most one read), and reading stops until that has gone.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastmesh._native.base.errors cimport (
    FM_E_CLIENT_ABORTED,
    FM_E_NO_MEMORY,
    FM_E_UPSTREAM_CLOSED,
    FM_E_UPSTREAM_MALFORMED,
    FM_E_UPSTREAM_RESET,
)
from fastmesh._native.base.limits cimport (
    OUT_BYTES,
    READS_PER_EVENT,
    SCRATCH_BYTES,
    SCRATCH_HEADROOM,
    SPLICE_MIN_BYTES,
)
from fastmesh._native.base.slab cimport buf_new, pend_append, pend_clear, pend_len
from fastmesh._native.net.conn cimport IO_AGAIN, IO_FAILED, conn_ready, conn_recv, conn_send, conn_timer
from fastmesh._native.net.pool cimport connect_error, pool_learn, pool_put, upstream_close
from fastmesh._native.net.splice cimport pipe_take, splice_fill, splice_flush
from fastmesh._native.net.worker_t cimport (
    CONN_CLOSED,
    F_EOF,
    F_ERROR,
    F_FRESH,
    F_RDHUP,
    F_READABLE,
    U_ACTIVE,
    U_CONNECTING,
    U_IDLE,
    conn_t,
    pipe_t,
    worker_t,
)
from fastmesh._native.proto.chunked cimport chunk_decode, chunk_head, chunk_init
from fastmesh._native.proto.chunked_t cimport CHUNK_TRAILERS_MAX
from fastmesh._native.proto.h1_emit cimport h1_emit_response, h1_response_verbatim
from fastmesh._native.proto.h1_response cimport h1_parse_response
from fastmesh._native.proto.h1_t cimport (
    H1_BODY_CHUNKED,
    H1_BODY_LENGTH,
    H1_BODY_NONE,
    H1_BODY_UNTIL_CLOSE,
    h1_reply_t,
    h1_resp_t,
)
from fastmesh._native.proxy.answer cimport (
    client_must_close,
    exchange_abort,
    exchange_client_timer,
    exchange_fail,
    exchange_finish,
    exchange_truncate,
)
from fastmesh._native.proxy.attempt cimport (
    attempt_connected,
    attempt_failed,
    attempt_retry_status,
    attempt_send,
    request_unsent,
)
from fastmesh._native.proxy.exchange cimport exchange_detach_up, exchange_upstream_done, slice_of
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.proxy.relay cimport tunnel_begin
from fastmesh._native.proxy.verdict cimport attempt_answered, attempt_blame, attempt_completed
from fastmesh._native.proxy.waiting cimport budget_give_back
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_likely, fm_unlikely
from fastmesh._native.sys.os cimport SO_ERROR, SOL_SOCKET, getsockopt, socklen_t

cdef enum:
    FEED_MORE = 0
    FEED_OVER = 1  # the exchange has ended, one way or another


# ---------------------------------------------------------------- the end

cdef inline void response_end(worker_t *w, xchg_t *x, bint stray) noexcept nogil:
    """The response is complete. The connection is pooled unless something is left on it, or may still come."""
    cdef conn_t *u = x.up
    cdef bint keep
    if u.flags & F_READABLE and not u.flags & (F_RDHUP | F_ERROR):
        conn_recv(u, w.scratch, 1)  # usually nothing, which clears F_READABLE; a byte leaves the connection unfit
        stray = stray or u.flags & F_READABLE
    keep = (
        x.response_keep and not stray and x.request_complete and request_unsent(x) == 0 and not x.write_broken
        and not u.flags & (F_READABLE | F_RDHUP | F_ERROR | F_EOF) and not x.service.send_proxy
    )
    attempt_completed(w, x)
    exchange_upstream_done(x)
    exchange_detach_up(w, x)
    if fm_likely(keep):
        u.flags &= <uint16_t> ~F_FRESH
        pool_put(w, u, x.service)
    else:
        upstream_close(w, u)
    exchange_finish(w, x)


cdef inline void response_blame(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """The response broke off after its head."""
    fm_bump_u64(&x.endpoint.failures, 1)
    attempt_blame(w, x, error, False)


cdef inline bint response_send(worker_t *w, xchg_t *x, const uint8_t *data, uint32_t size) noexcept nogil:
    """To the client; False: the exchange is over."""
    cdef int32_t sent
    if size == 0:
        return True
    x.bytes_sent += size
    sent = conn_send(w, x.client, data, size)
    if fm_unlikely(sent == IO_FAILED):
        exchange_abort(w, x, FM_E_CLIENT_ABORTED)
        return False
    if sent == 0:
        exchange_client_timer(w, x)
    return True


# ---------------------------------------------------------------- bodies

cdef inline int32_t response_feed_length(worker_t *w, xchg_t *x, uint8_t *data, uint32_t size, uint32_t head_len) noexcept nogil:
    """``head_len`` bytes of a response head wait in ``w.out``; they go in the same send."""
    cdef uint32_t take = size
    if take > x.response_left:
        take = <uint32_t> x.response_left
    if head_len:
        memcpy(w.out + head_len, data, take)
        if not response_send(w, x, w.out, head_len + take):
            return FEED_OVER
    elif not response_send(w, x, data, take):
        return FEED_OVER
    x.response_left -= take
    if x.response_left == 0:
        response_end(w, x, take < size)
        return FEED_OVER
    return FEED_MORE


cdef inline int32_t response_feed_chunked(worker_t *w, xchg_t *x, uint8_t *data, uint32_t size, uint32_t head_len) noexcept nogil:
    """Decodes in place, and sends what came as one chunk of our own, or bare to a client of HTTP/1.0."""
    cdef uint32_t length = 0
    cdef uint32_t at = head_len
    cdef int64_t taken = chunk_decode(&x.response_chunk, data, size, data, &length)
    cdef bint done
    if taken < 0:
        x.head_done = head_len == 0  # a head that was not sent yet makes room for an honest 502
        response_blame(w, x, FM_E_UPSTREAM_MALFORMED)
        exchange_fail(w, x, FM_E_UPSTREAM_MALFORMED)
        return FEED_OVER
    done = x.response_chunk.done
    if length:
        if x.response_out == H1_BODY_CHUNKED:
            at += chunk_head(w.out + at, length)
        memcpy(w.out + at, data, length)
        at += length
        if x.response_out == H1_BODY_CHUNKED:
            w.out[at] = c'\r'
            w.out[at + 1] = c'\n'
            at += 2
    if done and x.response_out == H1_BODY_CHUNKED:
        memcpy(w.out + at, b"0\r\n", 3)
        at += 3
        if x.trailers != NULL:
            memcpy(w.out + at, x.trailers, x.response_chunk.trailers_len)
            at += x.response_chunk.trailers_len
        w.out[at] = c'\r'
        w.out[at + 1] = c'\n'
        at += 2
    if not response_send(w, x, w.out, at):
        return FEED_OVER
    if done:
        response_end(w, x, taken < size)
        return FEED_OVER
    return FEED_MORE


cdef inline int32_t response_feed_until_close(worker_t *w, xchg_t *x, uint8_t *data, uint32_t size, uint32_t head_len) noexcept nogil:
    cdef uint32_t at = head_len
    if size:
        if x.response_out == H1_BODY_CHUNKED:
            at += chunk_head(w.out + at, size)
        memcpy(w.out + at, data, size)
        at += size
        if x.response_out == H1_BODY_CHUNKED:
            w.out[at] = c'\r'
            w.out[at + 1] = c'\n'
            at += 2
    return FEED_MORE if response_send(w, x, w.out, at) else FEED_OVER


cdef inline int32_t response_feed_body(worker_t *w, xchg_t *x, uint8_t *data, uint32_t size, uint32_t head_len) noexcept nogil:
    if fm_likely(x.response_in == H1_BODY_LENGTH):
        return response_feed_length(w, x, data, size, head_len)
    if x.response_in == H1_BODY_CHUNKED:
        return response_feed_chunked(w, x, data, size, head_len)
    if x.response_in == H1_BODY_UNTIL_CLOSE:
        return response_feed_until_close(w, x, data, size, head_len)
    if response_send(w, x, w.out, head_len):
        response_end(w, x, size != 0)
    return FEED_OVER


# ---------------------------------------------------------------- heads

cdef inline bint response_frame(worker_t *w, xchg_t *x, const h1_resp_t *resp, h1_reply_t *reply) noexcept nogil:
    """Decides how the response is framed towards the client; False: no memory."""
    x.response_in = resp.body
    x.response_left = resp.content_length if resp.body == H1_BODY_LENGTH else 0
    x.response_keep = resp.keep_alive
    x.response_out = resp.body
    if resp.body == H1_BODY_CHUNKED or resp.body == H1_BODY_UNTIL_CLOSE:
        x.response_out = H1_BODY_CHUNKED if x.minor else H1_BODY_UNTIL_CLOSE
        if x.response_out == H1_BODY_UNTIL_CLOSE:
            x.close_client = 1
            x.client_asked_close = 1
    if resp.body == H1_BODY_CHUNKED:
        if x.te_trailers and x.minor:
            x.trailers = buf_new(&w.bufs, CHUNK_TRAILERS_MAX, &x.trailers_capacity)
            if x.trailers == NULL:
                return False
        chunk_init(&x.response_chunk, x.trailers, CHUNK_TRAILERS_MAX if x.trailers != NULL else 0)
    if not x.request_complete or client_must_close(w, x.client):
        # The rest of the request is not waited for: the next one could not be told from it
        x.close_client = 1
    reply.client_minor = x.minor
    reply.close = x.close_client
    reply.keep_alive_10 = 0
    reply.body = x.response_out
    reply.trailers = x.trailers != NULL
    reply.date = slice_of(&w.date[0], 29)
    return True


cdef inline int32_t response_begin(worker_t *w, xchg_t *x, uint8_t *data, uint32_t size, uint32_t head_len) noexcept nogil:
    """The final head is parsed (``w.response``, from ``data``) and ``size - head_len`` body bytes follow it."""
    cdef h1_resp_t *resp = &w.response
    cdef h1_reply_t reply
    cdef int32_t length
    cdef uint32_t take
    if resp.minor == 0:
        x.endpoint.speaks_http10 = 1
    if resp.keepalive_timeout_s >= 0:
        pool_learn(w, x.endpoint, <uint32_t> min(resp.keepalive_timeout_s, 3600) * 1000)
    attempt_answered(w, x, resp.status)
    if fm_unlikely(resp.status >= 400) and attempt_retry_status(w, x, resp.status):
        return FEED_OVER
    budget_give_back(x)  # nothing is sent again from here on
    if not response_frame(w, x, resp, &reply):
        exchange_fail(w, x, FM_E_NO_MEMORY)
        return FEED_OVER
    x.status = resp.status
    x.head_done = 1
    if x.whole and request_unsent(x) == 0:
        pend_clear(&w.bufs, &x.request)  # no further attempt: the kept request is not needed any more
        x.sent = 0
        x.whole = 0
    if resp.body == H1_BODY_LENGTH and h1_response_verbatim(resp, &reply):
        take = size - head_len
        if take <= x.response_left:  # head and body go out as they came in, in one send
            if not response_send(w, x, data, size):
                return FEED_OVER
            x.response_left -= take
            if x.response_left == 0:
                response_end(w, x, False)
                return FEED_OVER
            return FEED_MORE
    length = h1_emit_response(resp, &reply, w.out, OUT_BYTES - SCRATCH_BYTES - CHUNK_TRAILERS_MAX - 64)
    if length < 0:
        x.head_done = 0
        exchange_fail(w, x, FM_E_UPSTREAM_MALFORMED)
        return FEED_OVER
    return response_feed_body(w, x, data + head_len, size - head_len, <uint32_t> length)


cdef inline int32_t response_informational(worker_t *w, xchg_t *x) noexcept nogil:
    """1xx heads go on to clients of HTTP/1.1 (RFC 9110 15.2)."""
    cdef h1_reply_t reply
    cdef int32_t length
    if x.minor == 0:
        return FEED_MORE
    reply.client_minor = x.minor
    reply.close = 0
    reply.keep_alive_10 = 0
    reply.body = H1_BODY_NONE
    reply.trailers = 0
    reply.date = slice_of(NULL, 0)
    length = h1_emit_response(&w.response, &reply, w.out, OUT_BYTES)
    if length > 0 and not response_send(w, x, w.out, <uint32_t> length):
        return FEED_OVER
    return FEED_MORE


cdef inline int32_t response_switch(worker_t *w, xchg_t *x, uint8_t *data, uint32_t size, uint32_t head_len) noexcept nogil:
    """101: from here on both connections are a tunnel."""
    cdef h1_reply_t reply
    cdef int32_t length
    reply.client_minor = x.minor
    reply.close = 0
    reply.keep_alive_10 = 0
    reply.body = H1_BODY_NONE
    reply.trailers = 0
    reply.date = slice_of(NULL, 0)
    attempt_answered(w, x, 101)
    attempt_completed(w, x)
    x.status = 101
    length = h1_emit_response(&w.response, &reply, w.out, OUT_BYTES - SCRATCH_BYTES)
    if length < 0:
        exchange_fail(w, x, FM_E_UPSTREAM_MALFORMED)
        return FEED_OVER
    x.head_done = 1
    memcpy(w.out + length, data + head_len, size - head_len)
    if response_send(w, x, w.out, <uint32_t> length + size - head_len):
        tunnel_begin(w, x)
    return FEED_OVER


cdef inline int32_t response_feed_head(worker_t *w, xchg_t *x, uint8_t *data, uint32_t size, uint32_t *taken) noexcept nogil:
    """Parses heads from ``data``; ``taken`` says how much is done with. Stops when more bytes are needed."""
    cdef conn_t *u = x.up
    cdef uint32_t at = 0
    cdef int32_t parsed
    taken[0] = 0
    x.upstream_bytes = 1
    while at < size:
        parsed = h1_parse_response(data + at, size - at, &u.scan, &w.response_limits, x.asked, &w.response)
        if parsed == 0:
            return FEED_MORE
        if parsed < 0:
            attempt_failed(w, x, FM_E_UPSTREAM_MALFORMED)
            return FEED_OVER
        u.scan = 0
        if w.response.upgrade:
            return response_switch(w, x, data + at, size - at, <uint32_t> parsed)
        if not w.response.informational:
            taken[0] = size
            return response_begin(w, x, data + at, size - at, <uint32_t> parsed)
        at += <uint32_t> parsed
        taken[0] = at
        if response_informational(w, x) == FEED_OVER:
            return FEED_OVER
    return FEED_MORE


cdef inline int32_t response_feed(worker_t *w, xchg_t *x, uint8_t *data, uint32_t size) noexcept nogil:
    """Bytes of the endpoint, in the scratch."""
    cdef conn_t *u = x.up
    cdef uint32_t taken = 0
    cdef int32_t result
    if x.head_done:
        return response_feed_body(w, x, data, size, 0)
    if fm_unlikely(pend_len(&u.input)):
        # A head in pieces: join them in front of the scratch's bytes
        if not pend_append(&w.bufs, &u.input, data, size):
            exchange_fail(w, x, FM_E_UPSTREAM_MALFORMED)
            return FEED_OVER
        size = pend_len(&u.input)
        if size > SCRATCH_BYTES:
            exchange_fail(w, x, FM_E_UPSTREAM_MALFORMED)
            return FEED_OVER
        memcpy(data, u.input.data + u.input.start, size)
        pend_clear(&w.bufs, &u.input)
    result = response_feed_head(w, x, data, size, &taken)
    if result == FEED_MORE and taken < size and not x.head_done:
        if not pend_append(&w.bufs, &u.input, data + taken, size - taken):
            exchange_fail(w, x, FM_E_NO_MEMORY)
            return FEED_OVER
    return result


# ---------------------------------------------------------------- reading

cdef inline void response_eof(worker_t *w, xchg_t *x) noexcept nogil:
    """The endpoint sent FIN."""
    if not x.head_done:
        # A head that was cut short is malformed
        attempt_failed(w, x, FM_E_UPSTREAM_MALFORMED if x.upstream_bytes else FM_E_UPSTREAM_CLOSED)
    elif x.response_in == H1_BODY_UNTIL_CLOSE:
        if x.response_out == H1_BODY_CHUNKED and not response_send(w, x, <const uint8_t *> b"0\r\n\r\n", 5):
            return
        response_end(w, x, False)
    else:
        response_blame(w, x, FM_E_UPSTREAM_CLOSED)
        exchange_truncate(w, x, FM_E_UPSTREAM_CLOSED)


cdef inline void response_broken(worker_t *w, xchg_t *x) noexcept nogil:
    """The endpoint's connection was reset."""
    if x.head_done:
        response_blame(w, x, FM_E_UPSTREAM_RESET)
        exchange_truncate(w, x, FM_E_UPSTREAM_RESET)
    else:
        attempt_failed(w, x, FM_E_UPSTREAM_RESET)


cdef inline int32_t response_splice(worker_t *w, xchg_t *x, conn_t *u) noexcept nogil:
    """One step of a large body by splice(2). FEED_OVER: the exchange has ended."""
    cdef conn_t *c = x.client
    cdef pipe_t *pipe = pipe_take(w)
    cdef int64_t n
    if pipe == NULL:
        x.spliced = 0  # none free: copy
        return FEED_MORE
    c.pipe = pipe
    n = splice_fill(u, pipe, x.response_left)
    if n > 0:
        x.response_left -= <uint64_t> n
        x.bytes_sent += <uint64_t> n
    if splice_flush(w, c) == IO_FAILED:
        exchange_abort(w, x, FM_E_CLIENT_ABORTED)
        return FEED_OVER
    if n == 0:
        response_eof(w, x)
        return FEED_OVER
    if n == IO_FAILED:
        response_broken(w, x)
        return FEED_OVER
    if c.pipe != NULL:
        exchange_client_timer(w, x)
    return FEED_MORE


cdef inline void response_read_spliced(worker_t *w, xchg_t *x, conn_t *u) noexcept nogil:
    cdef conn_t *c = x.client
    cdef uint32_t budget = READS_PER_EVENT
    while x.spliced and x.response_left and u.flags & F_READABLE and c.pipe == NULL:
        if budget == 0:
            conn_timer(w, u, x.idle_ms)
            conn_ready(w, u)
            return
        budget -= 1
        if response_splice(w, x, u) == FEED_OVER:
            return
    conn_timer(w, u, 0 if c.pipe != NULL else x.idle_ms)
    if x.response_left == 0 and c.pipe == NULL:
        response_end(w, x, False)
    elif not x.spliced:
        conn_ready(w, u)


cdef inline void response_read(worker_t *w, xchg_t *x, conn_t *u) noexcept nogil:
    cdef conn_t *c = x.client
    cdef uint8_t *data = w.scratch + SCRATCH_HEADROOM
    cdef uint32_t size = SCRATCH_BYTES
    cdef uint32_t budget = READS_PER_EVENT
    cdef int64_t n
    if x.spliced:
        response_read_spliced(w, x, u)
        return
    while u.flags & F_READABLE and not pend_len(&c.out):
        if budget == 0:
            conn_ready(w, u)
            return
        budget -= 1
        size = SCRATCH_BYTES
        if pend_len(&u.input):
            size -= pend_len(&u.input)  # the joined head must fit
        n = conn_recv(u, data, size)
        if n > 0:
            if response_feed(w, x, data, <uint32_t> n) == FEED_OVER:
                return
            if x.response_left >= SPLICE_MIN_BYTES and x.head_done and x.response_in == H1_BODY_LENGTH \
                    and not pend_len(&c.out) and w.pipe_free_count:
                x.spliced = 1
                response_read_spliced(w, x, u)
                return
            if x.head_done:  # a client that reads slowly is not the endpoint's silence
                conn_timer(w, u, 0 if pend_len(&c.out) else x.idle_ms)
        elif n == IO_AGAIN:
            return
        elif n == 0:
            response_eof(w, x)
            return
        else:
            response_broken(w, x)
            return


cdef inline void upstream_event(worker_t *w, conn_t *u, bint writable) noexcept nogil:
    """Something happened on a connection to an endpoint, or it is its turn on the ready list."""
    cdef xchg_t *x = <xchg_t *> u.exchange
    cdef int number = 0
    cdef socklen_t length = sizeof(int)
    if u.state == U_IDLE:
        if u.flags & (F_READABLE | F_RDHUP | F_ERROR):
            upstream_close(w, u)  # FIN, or bytes that nobody asked for (RFC 9112 9.2)
        return
    if u.state == CONN_CLOSED or x == NULL:
        return
    if u.state == U_CONNECTING:
        if u.flags & F_ERROR:
            getsockopt(u.fd, SOL_SOCKET, SO_ERROR, &number, &length)
            attempt_failed(w, x, connect_error(number))
            return
        if not writable:
            return
        attempt_connected(w, x, u)
    elif writable and not x.write_broken and (request_unsent(x) or u.out.data != NULL):
        attempt_send(w, x)
    if u.state == U_ACTIVE and not x.request_complete and not request_unsent(x) and x.client.flags & F_READABLE:
        conn_ready(w, x.client)
    if u.state == U_ACTIVE and (u.flags & F_READABLE or x.spliced):
        response_read(w, x, u)
