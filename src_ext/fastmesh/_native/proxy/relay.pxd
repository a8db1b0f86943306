"""Relays: TCP listeners, and tunnels after 101. Bytes go both ways unread; a FIN is passed on, each way by itself.

Each side is a connection of kind CONN_RELAY whose ``peer`` is the other. What a side cannot take waits in its ``out`` (or
in a pipe, once much has passed and splice(2) carries it), and the other side is not read meanwhile. The exchange stays
for statistics and the access log; it holds no block of configuration once the endpoint is connected.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastmesh._native.base.errors cimport (
    FM_E_CLIENT_ABORTED,
    FM_E_CONNECT_REFUSED,
    FM_E_CONNECT_TIMEOUT,
    FM_E_DRAINING,
    FM_E_NO_ENDPOINT,
    FM_E_NO_MEMORY,
    FM_E_UPSTREAM_RESET,
    FM_E_UPSTREAM_TIMEOUT,
    fm_error_info,
)
from fastmesh._native.base.hash cimport hash_xxh64
from fastmesh._native.base.limits cimport (
    READS_PER_EVENT,
    SCRATCH_BYTES,
    SCRATCH_HEADROOM,
    SPLICE_MIN_BYTES,
    TRIED_MAX,
    UNDECIDED_GRACE_MS,
)
from fastmesh._native.base.slab cimport pend_clear, pend_len
from fastmesh._native.net.conn cimport (
    IO_AGAIN,
    IO_FAILED,
    conn_flush,
    conn_ready,
    conn_recv,
    conn_send,
    conn_shut_write,
    conn_timer,
    conn_unsent,
)
from fastmesh._native.net.pool cimport (
    connect_error,
    upstream_close,
    upstream_reset,
    upstream_open,
)
from fastmesh._native.net.snap_t cimport KEY_SOURCE_IP, PROTOCOL_AUTO, RETRY_ON_CONNECT, service_t, target_t
from fastmesh._native.net.splice cimport pipe_take, splice_fill, splice_flush
from fastmesh._native.net.stats cimport pair_stats
from fastmesh._native.net.worker_t cimport (
    CONN_CLOSED,
    CONN_RELAY,
    CONN_UNDECIDED,
    F_CLIENT_SIDE,
    F_EOF,
    F_ERROR,
    F_READABLE,
    F_SHUT_AFTER_FLUSH,
    F_WRITE_SHUT,
    R_CONNECTING,
    R_OPEN,
    conn_t,
    pipe_t,
    worker_t,
)
from fastmesh._native.proxy.answer cimport client_close, client_reset
from fastmesh._native.proxy.attempt cimport attempt_retries_left
from fastmesh._native.proxy.exchange cimport (
    exchange_count_in,
    exchange_detach_up,
    exchange_outlive_blocks,
    exchange_end,
    exchange_log_begin,
    exchange_log_keep,
    exchange_new,
    exchange_take_service,
    exchange_upstream_done,
)
from fastmesh._native.proxy.exchange_t cimport UNDECIDED, UNDECIDED_HTTP, UNDECIDED_NOT, xchg_t
from fastmesh._native.proxy.pick cimport attempt_admit, attempt_pick, attempt_was_tried
from fastmesh._native.proxy.proxy_header cimport proxy_header_prepend
from fastmesh._native.proxy.targets cimport action_target
from fastmesh._native.proxy.verdict cimport attempt_blame, attempt_is_good
from fastmesh._native.sys.atomics cimport fm_bump_u64
from fastmesh._native.sys.os cimport SO_ERROR, SOL_SOCKET, getsockopt, socklen_t


# ---------------------------------------------------------------- the end

cdef inline void relay_end(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """Both connections go; ``error`` 0 is the ordinary end, anything else is told to the peers by RST."""
    cdef conn_t *c = x.client
    cdef conn_t *u = x.up
    if u != NULL:
        if x.undecided:
            fm_bump_u64(&x.endpoint.requests, 1)
        exchange_upstream_done(x)
        exchange_detach_up(w, x)
        if error:
            upstream_reset(w, u)
        else:
            upstream_close(w, u)
    x.error = <uint8_t> error
    if x.status == 0:
        x.status = fm_error_info[error].status if error else 200
    exchange_end(w, x)
    if error:
        client_reset(w, c)
    else:
        client_close(w, c)


# ---------------------------------------------------------------- moving bytes

cdef inline int32_t relay_flush(worker_t *w, conn_t *dst) noexcept nogil:
    """1: ``dst`` has taken everything; 0: some waits; IO_FAILED."""
    cdef int32_t result
    if dst.out.data != NULL:
        result = conn_flush(w, dst)
        if result != 1:
            return result
    if dst.pipe != NULL:
        result = splice_flush(w, dst)
        if result != 1:
            return result
    if dst.flags & F_SHUT_AFTER_FLUSH:
        conn_shut_write(dst)
    return 1


cdef inline int64_t relay_move(worker_t *w, conn_t *src, conn_t *dst) noexcept nogil:
    """One read of ``src`` goes to ``dst``: what was read, 0 at FIN, IO_AGAIN, or IO_FAILED of either side (then
    ``src`` carries F_ERROR if it was that one)."""
    cdef uint8_t *data = w.scratch + SCRATCH_HEADROOM
    cdef pipe_t *pipe = NULL
    cdef int64_t n
    if src.passed >= SPLICE_MIN_BYTES:
        pipe = pipe_take(w)
    if pipe != NULL:
        dst.pipe = pipe
        n = splice_fill(src, pipe, SCRATCH_BYTES * 16)
        if splice_flush(w, dst) == IO_FAILED:
            return IO_FAILED
    else:
        n = conn_recv(src, data, SCRATCH_BYTES)
        if n > 0 and conn_send(w, dst, data, <uint32_t> n) == IO_FAILED:
            return IO_FAILED
    return n


cdef inline void relay_count(xchg_t *x, conn_t *src, uint64_t size) noexcept nogil:
    src.passed += size
    if src.flags & F_CLIENT_SIDE:
        x.bytes_received += size
    else:
        x.bytes_sent += size


cdef inline bint relay_pump(worker_t *w, xchg_t *x, conn_t *src, conn_t *dst) noexcept nogil:
    """Moves what ``src`` has as far as ``dst`` takes it. False: the relay has ended."""
    cdef uint32_t budget = READS_PER_EVENT
    cdef int64_t n
    while src.flags & F_READABLE and dst.out.data == NULL and dst.pipe == NULL:
        if budget == 0:
            conn_ready(w, src)
            return True
        budget -= 1
        n = relay_move(w, src, dst)
        if n == IO_AGAIN:
            return True
        if n == IO_FAILED:
            relay_end(w, x, FM_E_CLIENT_ABORTED if (src.flags & F_ERROR != 0) == (src.flags & F_CLIENT_SIDE != 0)
                      else FM_E_UPSTREAM_RESET)
            return False
        conn_timer(w, x.client, x.tunnel_idle_ms)
        if n > 0:
            relay_count(x, src, <uint64_t> n)
            continue
        if dst.out.data == NULL and dst.pipe == NULL:
            conn_shut_write(dst)
        else:
            dst.flags |= F_SHUT_AFTER_FLUSH
    return True


cdef inline void relay_event(worker_t *w, conn_t *c, bint writable) noexcept nogil:
    """Something happened on one side of a relay, or it is its turn on the ready list."""
    cdef xchg_t *x = <xchg_t *> c.exchange
    cdef conn_t *peer
    cdef int32_t flushed
    cdef uint32_t before
    if c.state == CONN_CLOSED or x == NULL:
        return
    if c.state == R_CONNECTING or x.up == NULL or x.up.state == R_CONNECTING:
        relay_connecting(w, x, c, writable)
        return
    peer = c.peer
    if writable or c.out.data != NULL or c.pipe != NULL:
        before = conn_unsent(c)
        flushed = relay_flush(w, c)
        if flushed == IO_FAILED:
            relay_end(w, x, FM_E_CLIENT_ABORTED if c.flags & F_CLIENT_SIDE else FM_E_UPSTREAM_RESET)
            return
        if flushed == 1 or conn_unsent(c) < before:  # it takes bytes, if slowly
            conn_timer(w, x.client, x.tunnel_idle_ms)
        if flushed == 1:
            if peer.flags & F_READABLE and not relay_pump(w, x, peer, c):
                return
    if c.flags & F_READABLE and not relay_pump(w, x, c, peer):
        return
    # Over when both have said FIN and both have everything
    if c.flags & F_EOF and peer.flags & F_EOF and c.flags & F_WRITE_SHUT and peer.flags & F_WRITE_SHUT:
        relay_end(w, x, 0)


# ---------------------------------------------------------------- beginning: tunnels

cdef inline bint relay_send_ahead(worker_t *w, xchg_t *x) noexcept nogil:
    """What was read from the client before the relay began goes first. False: the relay has ended."""
    cdef conn_t *c = x.client
    if pend_len(&c.input) == 0:
        return True
    x.bytes_received += pend_len(&c.input)
    if conn_send(w, x.up, c.input.data + c.input.start, pend_len(&c.input)) == IO_FAILED:
        relay_end(w, x, FM_E_UPSTREAM_RESET)
        return False
    pend_clear(&w.bufs, &c.input)
    return True


cdef inline void tunnel_begin(worker_t *w, xchg_t *x) noexcept nogil:
    """The 101 has been sent: what the client has sent ahead goes to the endpoint, and the relay begins."""
    cdef conn_t *c = x.client
    cdef conn_t *u = x.up
    c.kind = CONN_RELAY
    u.kind = CONN_RELAY
    c.state = R_OPEN
    u.state = R_OPEN
    c.peer = u
    u.peer = c
    c.flags |= F_CLIENT_SIDE
    x.tunnel = 1
    pend_clear(&w.bufs, &x.request)
    x.sent = 0
    conn_timer(w, u, 0)
    conn_timer(w, c, x.tunnel_idle_ms)
    exchange_outlive_blocks(w, x)
    if relay_send_ahead(w, x):
        conn_ready(w, c)
        conn_ready(w, u)


# ---------------------------------------------------------------- beginning: TCP

cdef inline void relay_attempt(worker_t *w, xchg_t *x) noexcept nogil:
    """Opens a connection to ``x.endpoint``; on failure to one other. Ends the relay when none is left."""
    cdef int32_t error = 0
    cdef conn_t *u
    while True:
        x.attempts += 1
        if x.tried_count < TRIED_MAX:
            x.tried[x.tried_count] = x.endpoint.slot.index
            x.tried_count += 1
        x.attempt_us = w.now_us
        if not x.undecided:  # else it counts when it is known not to be the first request's
            fm_bump_u64(&x.endpoint.requests, 1)
        exchange_count_in(w, x)
        u = upstream_open(w, x.endpoint, x.client, x.client.kind, R_CONNECTING, &error)
        if u != NULL:
            x.up = u
            u.exchange = x
            u.peer = x.client
            x.client.peer = u
            if x.service.send_proxy and not proxy_header_prepend(w, u, x.client, x.service.send_proxy):
                relay_end(w, x, FM_E_NO_MEMORY)
                return
            conn_timer(w, u, x.service.connect_ms)
            return
        if not relay_retry(w, x, error):
            return


cdef inline void relay_fail(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """There is no endpoint for it. A client that may yet turn out to speak HTTP has a moment to do so, and gets an answer."""
    if x.undecided:
        x.wait_error = <uint8_t> error
        if x.undecided == UNDECIDED_HTTP:
            conn_ready(w, x.client)
        conn_timer(w, x.client, UNDECIDED_GRACE_MS)
    else:
        relay_end(w, x, error)


cdef inline bint relay_retry(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """After a failed connect: True when ``x.endpoint`` is another one to try; else the relay has ended."""
    cdef conn_t *u = x.up
    if x.undecided:
        fm_bump_u64(&x.endpoint.requests, 1)
    fm_bump_u64(&x.endpoint.failures, 1)
    attempt_blame(w, x, error, False)
    exchange_detach_up(w, x)
    if u != NULL:
        upstream_close(w, u)
    if x.service.retry_on & RETRY_ON_CONNECT and attempt_retries_left(x) and fm_error_info[error].retryable \
            and attempt_pick(w, x) == 0 and not attempt_was_tried(x) \
            and (not x.service.limited or attempt_admit(w, x) == 0):
        fm_bump_u64(&x.service_stats.retries, 1)
        return True
    relay_fail(w, x, error)
    return False


cdef inline void relay_connect_failed(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """Connects to another endpoint, or ends the relay."""
    if relay_retry(w, x, error):
        relay_attempt(w, x)


cdef inline void relay_connect_broken(worker_t *w, xchg_t *x) noexcept nogil:
    """The connect has failed: ``SO_ERROR`` says why."""
    cdef int number = 0
    cdef socklen_t length = sizeof(int)
    getsockopt(x.up.fd, SOL_SOCKET, SO_ERROR, &number, &length)
    relay_connect_failed(w, x, connect_error(number))


cdef inline void relay_connected(worker_t *w, xchg_t *x) noexcept nogil:
    if not x.undecided:  # else a connect says nothing of how requests are answered
        attempt_is_good(w, x)
    x.up.state = R_OPEN
    conn_timer(w, x.up, 0)
    conn_timer(w, x.client, x.tunnel_idle_ms)
    exchange_outlive_blocks(w, x)


cdef inline void relay_connecting(worker_t *w, xchg_t *x, conn_t *c, bint writable) noexcept nogil:
    """Until the endpoint is connected the client is not read; only its going away counts."""
    cdef conn_t *u = x.up
    if c.flags & F_CLIENT_SIDE:
        if c.flags & F_ERROR:
            relay_end(w, x, FM_E_CLIENT_ABORTED)
        return
    if u.flags & F_ERROR:
        relay_connect_broken(w, x)
        return
    if not writable:
        return
    relay_connected(w, x)
    if relay_send_ahead(w, x):
        conn_ready(w, x.client)
        relay_event(w, u, True)


cdef inline void relay_begin(worker_t *w, conn_t *c) noexcept nogil:
    """A client of a TCP listener is here: choose a service and an endpoint, and connect. Where whoever speaks first decides
    the protocol, the same is done before anybody has spoken."""
    cdef xchg_t *x = exchange_new(w, c, c.socket.block)
    cdef const target_t *target
    cdef service_t *service = NULL
    cdef int32_t error
    if x == NULL:
        client_reset(w, c)
        return
    x.undecided = UNDECIDED if x.listener.protocol == PROTOCOL_AUTO else UNDECIDED_NOT
    c.kind = CONN_UNDECIDED if x.undecided else CONN_RELAY
    c.state = R_OPEN
    c.flags |= F_CLIENT_SIDE
    x.tunnel = 1
    if c.flags & F_READABLE or pend_len(&c.input):  # a PROXY header came, and perhaps more with it
        conn_ready(w, c)
    target = action_target(w, &x.listener.actions[0])
    x.pair = pair_stats(w, target.pair_index)
    if target.service_index < w.snap.service_count:
        service = w.snap.services[target.service_index]
    if service == NULL:
        relay_fail(w, x, FM_E_NO_ENDPOINT)
        return
    exchange_take_service(w, x, service)
    x.tunnel_idle_ms = service.tunnel_idle_ms
    if exchange_log_begin(w, x):
        exchange_log_keep(x)
    if service.needs_key and c.client_ip_len:
        x.key = hash_xxh64(&c.client_ip[0], c.client_ip_len, 0)
        x.has_key = 1
    error = FM_E_DRAINING if service.draining else -attempt_pick(w, x)
    if error == 0 and service.limited:
        error = attempt_admit(w, x)
        if error:
            fm_bump_u64(&x.service_stats.limited, 1)
    if error != 0:
        relay_fail(w, x, error)
        return
    relay_attempt(w, x)
