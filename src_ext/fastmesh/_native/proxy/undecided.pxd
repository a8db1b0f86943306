"""Clients whose protocol nobody has said: the endpoint is connected meanwhile, and whoever speaks first decides.

Both sides are of kind CONN_UNDECIDED and have the exchange of a relay, which holds no block of configuration once the endpoint
is connected. When the client begins a request line, the exchange is dropped once the endpoint is connected: the connection goes
to the pool, the client is one of HTTP, and its first request goes where the policy has sent it already. When the endpoint
speaks or ends, or the client says anything else, it is a relay, and what the client has said so far goes on. Owner worker only.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from fastmesh._native.base.errors cimport (
    FM_E_CLIENT_ABORTED,
    FM_E_CONNECT_TIMEOUT,
    FM_E_NO_MEMORY,
    FM_E_UPSTREAM_RESET,
)
from fastmesh._native.base.limits cimport SCRATCH_HEADROOM, UNDECIDED_PART_MS
from fastmesh._native.base.slab cimport pend_append, pend_len
from fastmesh._native.net.conn cimport IO_AGAIN, IO_FAILED, conn_flush, conn_ready, conn_recv, conn_timer
from fastmesh._native.net.health cimport health_good
from fastmesh._native.net.pool cimport pool_put, upstream_close
from fastmesh._native.net.snap_t cimport service_t
from fastmesh._native.net.worker_t cimport (
    C_HEAD,
    CONN_CLIENT,
    CONN_CLOSED,
    CONN_RELAY,
    CONN_UPSTREAM,
    F_CLIENT_SIDE,
    F_EOF,
    F_ERROR,
    F_FRESH,
    F_RDHUP,
    F_READABLE,
    R_CONNECTING,
    R_OPEN,
    U_ACTIVE,
    conn_t,
    worker_t,
)
from fastmesh._native.proto.sniff cimport SNIFF_HTTP, SNIFF_MORE, sniff_request
from fastmesh._native.proxy.answer cimport client_linger
from fastmesh._native.proxy.exchange cimport exchange_discard
from fastmesh._native.proxy.exchange_t cimport UNDECIDED_HTTP, UNDECIDED_NOT, xchg_t
from fastmesh._native.proxy.relay cimport (
    relay_connect_broken,
    relay_connect_failed,
    relay_connected,
    relay_end,
    relay_send_ahead,
)
from fastmesh._native.proxy.request cimport HEAD_READ_BYTES
from fastmesh._native.sys.atomics cimport fm_bump_u64


# ---------------------------------------------------------------- the decision

cdef inline service_t *undecided_service(worker_t *w, const conn_t *u) noexcept nogil:
    """The service of the endpoint as it is now, or NULL."""
    cdef uint32_t index = u.endpoint.slot.service_index
    return w.snap.services[index] if index < w.snap.service_count else NULL


cdef inline void undecided_is_good(worker_t *w, xchg_t *x) noexcept nogil:
    """Of a relay the connect is all that is known of the endpoint. Of one in which nobody has spoken not even that: the next
    may be HTTP, and the streak of its bad answers goes on."""
    cdef service_t *service = undecided_service(w, x.up)
    if service == NULL or (pend_len(&x.client.input) == 0 and not x.up.flags & F_READABLE):
        return
    x.probing = 0
    if health_good(x.endpoint.slot, service.slow_start_ms, <uint32_t> w.now_ms, <uint32_t> (x.attempt_us // 1000)):
        fm_bump_u64(&w.health_changes, 1)


cdef inline void undecided_relay(worker_t *w, xchg_t *x) noexcept nogil:
    """It is a relay. One that waits for its endpoint goes on waiting as such."""
    cdef conn_t *c = x.client
    cdef conn_t *u = x.up
    x.undecided = UNDECIDED_NOT
    c.kind = CONN_RELAY
    if u == NULL:
        relay_end(w, x, x.wait_error)
        return
    u.kind = CONN_RELAY
    fm_bump_u64(&x.endpoint.requests, 1)
    if u.state != R_OPEN:
        return
    undecided_is_good(w, x)
    conn_timer(w, c, x.tunnel_idle_ms)
    if relay_send_ahead(w, x):
        conn_ready(w, c)
        conn_ready(w, u)


cdef inline void undecided_http(worker_t *w, xchg_t *x) noexcept nogil:
    """It is HTTP: the client's first bytes are read as those of any other, in the turn that it gets now."""
    cdef conn_t *c = x.client
    cdef conn_t *u = x.up
    x.undecided = UNDECIDED_HTTP
    if u != NULL and u.state == R_CONNECTING:
        return
    exchange_discard(w, x)
    undecided_client(w, c)
    conn_timer(w, c, c.socket.block.header_ms)
    conn_ready(w, c)
    if u != NULL:
        c.endpoint = u.endpoint
        undecided_pool(w, u)


cdef inline void undecided_client(worker_t *w, conn_t *c) noexcept nogil:
    c.kind = CONN_CLIENT
    c.state = C_HEAD
    c.peer = NULL
    c.flags &= <uint16_t> ~F_CLIENT_SIDE
    c.idle_since_ms = <uint32_t> w.now_ms


cdef inline void undecided_pool(worker_t *w, conn_t *u) noexcept nogil:
    """Nothing was sent on it yet, unless a PROXY header that speaks of one client."""
    cdef service_t *service = undecided_service(w, u)
    u.kind = CONN_UPSTREAM
    u.state = U_ACTIVE
    if u.flags & (F_READABLE | F_RDHUP | F_ERROR) or service == NULL or service.send_proxy:
        upstream_close(w, u)
        return
    u.flags &= <uint16_t> ~F_FRESH
    pool_put(w, u, service)


# ---------------------------------------------------------------- who speaks

cdef inline void undecided_arm(worker_t *w, xchg_t *x) noexcept nogil:
    """A client that has begun what may be a request line, and now waits for an answer to that, would wait in vain."""
    if x.up != NULL and x.up.state == R_OPEN and pend_len(&x.client.input):
        conn_timer(w, x.client, UNDECIDED_PART_MS)


cdef inline bint undecided_listen(worker_t *w, xchg_t *x, conn_t *c) noexcept nogil:
    """Reads what the client says until it is known what that is. False: it is, or it is over."""
    cdef uint8_t *data = w.scratch + SCRATCH_HEADROOM
    cdef int64_t n
    cdef int32_t found
    if c.flags & F_ERROR:
        relay_end(w, x, FM_E_CLIENT_ABORTED)
        return False
    if x.undecided == UNDECIDED_HTTP:
        undecided_http(w, x)
        return False
    while True:
        if pend_len(&c.input):
            found = sniff_request(c.input.data + c.input.start, pend_len(&c.input))
            if found == SNIFF_HTTP:
                undecided_http(w, x)
                return False
            if found != SNIFF_MORE:
                undecided_relay(w, x)
                return False
        if not c.flags & F_READABLE:
            undecided_arm(w, x)
            return True
        n = conn_recv(c, data, HEAD_READ_BYTES)
        if n == IO_AGAIN:
            undecided_arm(w, x)
            return True
        if n == 0:
            c.flags = (c.flags | F_READABLE) & <uint16_t> ~F_EOF  # the relay meets it again, and passes it on
            undecided_relay(w, x)
            return False
        if n < 0 or not pend_append(&w.bufs, &c.input, data, <uint32_t> n):
            relay_end(w, x, FM_E_CLIENT_ABORTED if n < 0 else FM_E_NO_MEMORY)
            return False


cdef inline void undecided_endpoint(worker_t *w, xchg_t *x, conn_t *u, bint writable) noexcept nogil:
    """The endpoint is connected, or speaks, or has gone."""
    if u.state == R_CONNECTING:
        if u.flags & F_ERROR:
            relay_connect_broken(w, x)
            return
        if not writable:
            return
        relay_connected(w, x)
    if u.out.data != NULL and conn_flush(w, u) == IO_FAILED:  # a PROXY header goes first
        relay_end(w, x, FM_E_UPSTREAM_RESET)
        return
    if x.undecided == UNDECIDED_HTTP:
        undecided_http(w, x)
    # A client that has spoken by the time that the endpoint gives up is the first
    elif u.flags & (F_READABLE | F_RDHUP | F_ERROR):
        if undecided_listen(w, x, x.client):
            undecided_relay(w, x)
    else:
        undecided_arm(w, x)


cdef inline void undecided_event(worker_t *w, conn_t *c, bint writable) noexcept nogil:
    cdef xchg_t *x = <xchg_t *> c.exchange
    if c.state == CONN_CLOSED or x == NULL:
        return
    if c.flags & F_CLIENT_SIDE:
        undecided_listen(w, x, c)
    else:
        undecided_endpoint(w, x, c, writable)


# ---------------------------------------------------------------- time

cdef inline void undecided_timeout(worker_t *w, conn_t *c) noexcept nogil:
    """The connect, the moment that a client has without an endpoint, or the idle time of relays is over."""
    cdef xchg_t *x = <xchg_t *> c.exchange
    if x == NULL:
        return
    if c.state == R_CONNECTING:
        relay_connect_failed(w, x, FM_E_CONNECT_TIMEOUT)
    elif x.up == NULL or (x.up.state == R_OPEN and pend_len(&c.input)):
        undecided_relay(w, x)
    elif x.up.state != R_CONNECTING:  # the connect has a time of its own
        relay_end(w, x, 0)


cdef inline void undecided_part(worker_t *w, conn_t *c) noexcept nogil:
    """We are about to go, and nobody has said anything: FIN to the client, and what crosses it is dropped."""
    cdef xchg_t *x = <xchg_t *> c.exchange
    cdef conn_t *u = x.up
    c.flags |= F_READABLE
    if not undecided_listen(w, x, c) or pend_len(&c.input):
        return
    exchange_discard(w, x)
    if u != NULL:
        upstream_close(w, u)
    undecided_client(w, c)
    client_linger(w, c)
