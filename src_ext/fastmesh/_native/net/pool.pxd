"""Connections to endpoints: opening, the pool of idle ones, passive down-marking.

A pool belongs to one endpoint on one worker; the most recently used connection is taken first, so that the rest can
grow old and close. A connection with bytes, a FIN or an error on it is never in the pool: the worker closes such
idle connections before any pick of the same turn.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from fastmesh._native.base.errors cimport FM_E_CONNECT_REFUSED, FM_E_CONNECT_TIMEOUT, FM_E_NO_MEMORY, FM_E_OVERLOADED
from fastmesh._native.base.limits cimport DOWN_FIRST_MS, DOWN_MAX_MS
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.net.conn cimport conn_close, conn_new, conn_register, conn_reset, conn_timer
from fastmesh._native.net.worker_t cimport CONN_CLOSED, F_FRESH, U_IDLE, conn_t, endpoint_t, worker_t
from fastmesh._native.sys.atomics cimport (
    fm_add_relaxed_u32,
    fm_bump_u32,
    fm_bump_u64,
    fm_cas_u64,
    fm_load_relaxed_u64,
    fm_store_release_u32,
    fm_store_release_u64,
)
from fastmesh._native.sys.os cimport (
    AF_UNIX,
    EAGAIN,
    EINPROGRESS,
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    ETIMEDOUT,
    IPPROTO_TCP,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    TCP_NODELAY,
    close,
    connect,
    errno,
    setsockopt,
    sockaddr,
    socket,
)


cdef inline int32_t connect_error(int number) noexcept nogil:
    """The data-plane error of a failed connect(2)."""
    if number == ETIMEDOUT:
        return FM_E_CONNECT_TIMEOUT
    return FM_E_CONNECT_REFUSED


cdef inline conn_t *upstream_open(worker_t *w, endpoint_t *ep, uint8_t kind, uint8_t state, int32_t *error) noexcept nogil:
    """A connection under way to the endpoint, registered, in ``state``; or NULL and ``error`` (FM_E_…, positive)."""
    cdef slot_t *slot = ep.slot
    cdef sockaddr *address = <sockaddr *> &slot.sockaddr_bytes[0]
    cdef int one = 1
    cdef conn_t *u
    cdef int fd = socket(address.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        # Ours, not the endpoint's: it must not be marked down for it
        error[0] = FM_E_OVERLOADED if errno == EMFILE or errno == ENFILE else FM_E_NO_MEMORY
        return NULL
    if address.sa_family != AF_UNIX:
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if connect(fd, address, slot.sockaddr_len) != 0 and errno != EINPROGRESS:
        # A Unix socket whose backlog is full says EAGAIN: nothing is under way then
        error[0] = connect_error(errno)
        close(fd)
        return NULL
    u = conn_new(w, fd, kind, state)
    if u == NULL or not conn_register(w, u):
        if u != NULL:
            conn_close(w, u)
        else:
            close(fd)
        error[0] = FM_E_NO_MEMORY
        return NULL
    u.flags |= F_FRESH
    u.endpoint = ep
    fm_bump_u32(&ep.connections, 1)
    return u


cdef inline void pool_unlink(conn_t *u) noexcept nogil:
    cdef endpoint_t *ep = u.endpoint
    if u.idle_prev != NULL:
        u.idle_prev.idle_next = u.idle_next
    else:
        ep.idle_first = u.idle_next
    if u.idle_next != NULL:
        u.idle_next.idle_prev = u.idle_prev
    else:
        ep.idle_last = u.idle_prev
    u.idle_next = NULL
    u.idle_prev = NULL
    fm_bump_u32(&ep.idle, <uint32_t> -1)


cdef inline void upstream_close(worker_t *w, conn_t *u) noexcept nogil:
    """Closes a connection to an endpoint, idle or leased."""
    if u.state == CONN_CLOSED:
        return
    if u.state == U_IDLE:
        pool_unlink(u)
    # Release: `slot_is_free` may see 0 now and the slot be given away
    fm_store_release_u32(&u.endpoint.connections, u.endpoint.connections - 1)
    conn_close(w, u)


cdef inline void upstream_reset(worker_t *w, conn_t *u) noexcept nogil:
    """The same for a leased one, with RST: what it carried broke off."""
    if u.state == CONN_CLOSED:
        return
    fm_store_release_u32(&u.endpoint.connections, u.endpoint.connections - 1)  # as in upstream_close
    conn_reset(w, u)


cdef inline conn_t *pool_take(worker_t *w, endpoint_t *ep) noexcept nogil:
    """An idle connection, now in no list, or NULL."""
    cdef conn_t *u = ep.idle_first
    if u != NULL:
        pool_unlink(u)
    return u


cdef inline void pool_put(worker_t *w, conn_t *u, uint32_t most, uint32_t idle_ms) noexcept nogil:
    """A connection whose exchange ended cleanly; the oldest is closed when the endpoint has ``most`` already."""
    cdef endpoint_t *ep = u.endpoint
    if most == 0 or (fm_load_relaxed_u64(&ep.slot.health) >> 33) & 1:
        upstream_close(w, u)
        return
    if ep.idle >= most:
        upstream_close(w, ep.idle_last)
    u.state = U_IDLE
    u.peer = NULL
    u.exchange = NULL
    u.idle_prev = NULL
    u.idle_next = ep.idle_first
    if ep.idle_first != NULL:
        ep.idle_first.idle_prev = u
    else:
        ep.idle_last = u
    ep.idle_first = u
    fm_bump_u32(&ep.idle, 1)
    conn_timer(w, u, idle_ms)


cdef inline void pool_close_all(worker_t *w, endpoint_t *ep) noexcept nogil:
    while ep.idle_first != NULL:
        upstream_close(w, ep.idle_first)


# ---------------------------------------------------------------- what the policies look at

cdef inline void flight_begin(worker_t *w, endpoint_t *ep) noexcept nogil:
    fm_bump_u64(&ep.in_flight, 1)
    if w.shared.workers == 1:
        fm_bump_u32(&ep.slot.in_flight, 1)
    else:
        fm_add_relaxed_u32(&ep.slot.in_flight, 1)


cdef inline void flight_end(worker_t *w, endpoint_t *ep) noexcept nogil:
    if w.shared.workers == 1:
        fm_bump_u32(&ep.slot.in_flight, <uint32_t> -1)
    else:
        fm_add_relaxed_u32(&ep.slot.in_flight, <uint32_t> -1)
    # Last, and release: `slot_is_free` may see 0 now and the slot be given away
    fm_store_release_u64(&ep.in_flight, ep.in_flight - 1)


cdef inline void health_set_down_until(slot_t *slot, uint32_t until_ms) noexcept nogil:
    cdef uint64_t word
    while True:
        word = fm_load_relaxed_u64(&slot.health)
        if fm_cas_u64(&slot.health, word, (word & ~<uint64_t> 0xFFFFFFFF) | until_ms):
            return


cdef inline void endpoint_connect_failed(worker_t *w, endpoint_t *ep) noexcept nogil:
    """Marks it down for a short while that grows: 1 s, 2 s, 4 s … 30 s. The policies never skip the last one."""
    cdef uint32_t until
    cdef uint32_t pause_ms = DOWN_FIRST_MS
    pause_ms = DOWN_FIRST_MS << ep.fails if ep.fails < 5 else DOWN_MAX_MS
    if pause_ms > DOWN_MAX_MS:
        pause_ms = DOWN_MAX_MS
    ep.fails += 1
    fm_bump_u64(&w.health_changes, 1)
    until = <uint32_t> w.now_ms + pause_ms
    health_set_down_until(ep.slot, until if until != 0 else 1)


cdef inline void endpoint_connected(worker_t *w, endpoint_t *ep) noexcept nogil:
    if ep.fails or <uint32_t> fm_load_relaxed_u64(&ep.slot.health) != 0:
        ep.fails = 0
        fm_bump_u64(&w.health_changes, 1)
        health_set_down_until(ep.slot, 0)
