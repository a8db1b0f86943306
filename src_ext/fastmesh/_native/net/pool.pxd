"""Connections to endpoints: opening, the pool of idle ones.

A pool belongs to one endpoint on one worker; the most recently used connection is taken first, so that the rest can
grow old and close. A connection with bytes, a FIN or an error on it is never in the pool: the worker closes such
idle connections before any pick of the same turn. How long an endpoint keeps idle connections is learned from
``Keep-Alive: timeout=`` and from the age of those that it closes; ours go earlier, so that no request meets a close.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from fastmesh._native.base.errors cimport (
    FM_E_CONNECT_REFUSED,
    FM_E_CONNECT_TIMEOUT,
    FM_E_NO_ENDPOINT,
    FM_E_NO_MEMORY,
    FM_E_OVERLOADED,
)
from fastmesh._native.base.hash cimport hash_mix
from fastmesh._native.base.limits cimport (
    IDLE_LIMIT_VALID_MS,
    IDLE_MARGIN_MS,
    IDLE_SEEN_APART_MS,
    IDLE_SEEN_LEAST_MS,
    LOOK_MS,
    UNACKNOWLEDGED_MS,
)
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.net.address cimport sockaddr_of_address
from fastmesh._native.net.conn cimport conn_close, conn_new, conn_register, conn_reset, conn_timer
from fastmesh._native.net.overload cimport descriptors_are_out, overload_no_descriptor
from fastmesh._native.net.snap_t cimport UNLIMITED, service_t
from fastmesh._native.net.stats cimport service_stats, service_usage
from fastmesh._native.net.worker_t cimport (
    CONN_CLOSED,
    F_COUNTED,
    F_ERROR,
    F_FRESH,
    F_RDHUP,
    PRESSURE_NONE,
    RESOURCE_DESCRIPTORS,
    RESOURCE_MEMORY,
    TABLE_LEAF,
    TABLE_ROOT,
    U_IDLE,
    conn_t,
    endpoint_t,
    service_stats_t,
    worker_t,
)
from fastmesh._native.sys.atomics cimport (
    fm_add_relaxed_u32,
    fm_bump_u32,
    fm_bump_u64,
    fm_load_relaxed_u64,
    fm_store_release_u32,
    fm_store_release_u64,
    fm_unlikely,
)
from fastmesh._native.sys.os cimport (
    AF_UNIX,
    AF_UNSPEC,
    EADDRNOTAVAIL,
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
    TCP_USER_TIMEOUT,
    close,
    connect,
    errno,
    setsockopt,
    sockaddr,
    sockaddr_storage,
    socket,
    socklen_t,
)


cdef enum: NO_TIMEOUT_MS = 0x7FFFFFFF


cdef inline int32_t connect_error(int number) noexcept nogil:
    """The data-plane error of a failed connect(2)."""
    if number == ETIMEDOUT:
        return FM_E_CONNECT_TIMEOUT
    if number == EADDRNOTAVAIL:
        return FM_E_OVERLOADED  # no local port is left: nothing that the endpoint did
    return FM_E_CONNECT_REFUSED


cdef inline int upstream_socket(worker_t *w, int family, int32_t *error) noexcept nogil:
    """A descriptor, or -1 and ``error``. When there is none left, an idle connection to an endpoint makes room for it."""
    cdef int fd, again
    for again in range(2):
        if not descriptors_are_out(w):
            fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
            if fd >= 0:
                return fd
            if errno != EMFILE and errno != ENFILE:
                error[0] = FM_E_NO_MEMORY
                return -1
        overload_no_descriptor(w)
        if again or pool_shed(w, 1) == 0:
            break
    error[0] = FM_E_OVERLOADED  # ours, not the endpoint's: it must not be marked down for it
    return -1


cdef inline bint slot_is_original(const slot_t *slot) noexcept nogil:
    """Whether the endpoint is wherever each client was going: many places, of which none speaks for another."""
    return (<const sockaddr *> &slot.sockaddr_bytes[0]).sa_family == AF_UNSPEC


cdef inline conn_t *upstream_open(worker_t *w, endpoint_t *ep, const conn_t *client, uint8_t kind, uint8_t state, int32_t *error) noexcept nogil:
    """A connection under way to the endpoint, registered, in ``state``; or NULL and ``error`` (FM_E_…, positive)."""
    cdef slot_t *slot = ep.slot
    cdef const sockaddr *address = <const sockaddr *> &slot.sockaddr_bytes[0]
    cdef socklen_t address_len = slot.sockaddr_len
    cdef sockaddr_storage original
    cdef int one = 1
    cdef unsigned int unacknowledged_ms = UNACKNOWLEDGED_MS
    cdef conn_t *u
    cdef service_stats_t *stats
    cdef int fd
    if fm_unlikely(slot_is_original(slot)):
        address = <const sockaddr *> &original
        address_len = sockaddr_of_address(&original, &client.local_address, client.local_scope) if client.intercepted else 0
        if address_len == 0:
            error[0] = FM_E_NO_ENDPOINT
            return NULL
    fd = upstream_socket(w, address.sa_family, error)
    if fd < 0:
        return NULL
    if address.sa_family != AF_UNIX:
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        # A host that has gone without a word is noticed before the time for a response is over
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms, sizeof(unacknowledged_ms))
    if connect(fd, address, address_len) != 0 and errno != EINPROGRESS:
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
    u.since_ms = <uint32_t> w.now_ms
    fm_bump_u32(&ep.connections, 1)
    stats = service_stats(w, slot.service_index)
    if stats != NULL:
        u.flags |= F_COUNTED
        fm_bump_u64(&stats.connections, 1)
    return u


cdef inline void upstream_uncount(worker_t *w, conn_t *u) noexcept nogil:
    cdef service_stats_t *stats
    if u.flags & F_COUNTED:
        stats = service_stats(w, u.endpoint.slot.service_index)
        fm_bump_u64(&stats.connections, <uint64_t> -1)
    # Release, and last: `slot_is_free` may see 0 now and the slot be given away
    fm_store_release_u32(&u.endpoint.connections, u.endpoint.connections - 1)


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
    upstream_uncount(w, u)
    conn_close(w, u)


cdef inline void upstream_reset(worker_t *w, conn_t *u) noexcept nogil:
    """The same for a leased one, with RST: what it carried broke off."""
    if u.state == CONN_CLOSED:
        return
    upstream_uncount(w, u)
    conn_reset(w, u)


cdef inline conn_t *pool_take(worker_t *w, endpoint_t *ep) noexcept nogil:
    """An idle connection, now in no list, or NULL."""
    cdef conn_t *u = ep.idle_first
    if u != NULL:
        pool_unlink(u)
    return u


cdef inline void pool_learn(worker_t *w, endpoint_t *ep, uint32_t limit_ms) noexcept nogil:
    """The endpoint closes connections that were idle for ``limit_ms``. Forgotten after IDLE_LIMIT_VALID_MS, so that what
    does not hold any more is found out."""
    ep.idle_limit_ms = limit_ms if limit_ms != 0 else 1
    ep.idle_learned_ms = <uint32_t> w.now_ms


cdef inline void pool_saw_close(worker_t *w, conn_t *u) noexcept nogil:
    """The endpoint closed an idle connection. Two of about the same age, one some time after the other, show a time-out;
    connections that close together show an endpoint that ends."""
    cdef endpoint_t *ep = u.endpoint
    cdef uint32_t now_ms = <uint32_t> w.now_ms
    cdef uint32_t age_ms = now_ms - u.idle_since_ms
    cdef uint32_t less, more
    if u.flags & F_ERROR or not u.flags & F_RDHUP or age_ms < IDLE_SEEN_LEAST_MS:
        return
    less = min(age_ms, ep.seen_idle_ms)
    more = max(age_ms, ep.seen_idle_ms)
    if less and now_ms - ep.seen_close_ms >= IDLE_SEEN_APART_MS and more - less <= more // 8:
        pool_learn(w, ep, less)
    ep.seen_idle_ms = age_ms
    ep.seen_close_ms = now_ms


cdef inline uint32_t pool_keep_ms(worker_t *w, conn_t *u, const service_t *service) noexcept nogil:
    """How long the connection may be idle: 0: not at all, NO_TIMEOUT_MS: for ever."""
    cdef endpoint_t *ep = u.endpoint
    cdef uint32_t now_ms = <uint32_t> w.now_ms
    cdef uint32_t keep_ms = service.pool_idle_ms if service.pool_idle_ms else NO_TIMEOUT_MS
    cdef uint32_t margin_ms, most_ms
    if fm_unlikely(ep.idle_limit_ms):
        if now_ms - ep.idle_learned_ms > IDLE_LIMIT_VALID_MS:
            ep.idle_limit_ms = 0
        else:
            margin_ms = max(ep.idle_limit_ms // 8, <uint32_t> IDLE_MARGIN_MS)
            keep_ms = min(keep_ms, ep.idle_limit_ms - margin_ms if ep.idle_limit_ms > margin_ms else 0)
    if service.max_age_ms:
        # Up to a tenth earlier, each at a time of its own: what was opened together does not close together
        most_ms = service.max_age_ms
        most_ms -= <uint32_t> (hash_mix(<uint64_t> u.since_ms << 32 | u.index) % (most_ms // 10 + 1))
        keep_ms = min(keep_ms, most_ms - (now_ms - u.since_ms) if now_ms - u.since_ms < most_ms else 0)
    return keep_ms


cdef inline bint pool_has_too_many(worker_t *w, const service_t *service) noexcept nogil:
    """More connections than the limit, which is lower than it was, or was overshot by several workers."""
    return service_usage(w, service.index).connections > service.limit_connections


cdef inline bint pool_is_closed(const worker_t *w) noexcept nogil:
    """Descriptors or memory are short, and so nothing is kept for later."""
    return w.strain[RESOURCE_DESCRIPTORS] != PRESSURE_NONE or w.strain[RESOURCE_MEMORY] != PRESSURE_NONE


cdef inline void pool_put(worker_t *w, conn_t *u, const service_t *service) noexcept nogil:
    """A connection whose exchange ended cleanly; the oldest is closed when the endpoint has ``keepalive`` already."""
    cdef endpoint_t *ep = u.endpoint
    cdef uint32_t keep_ms = pool_keep_ms(w, u, service)
    if fm_unlikely(w.pressure != PRESSURE_NONE) and pool_is_closed(w):
        upstream_close(w, u)
        return
    if service.keepalive == 0 or keep_ms == 0 or (fm_load_relaxed_u64(&ep.slot.health) >> 33) & 1 \
            or (service.limit_connections != UNLIMITED and pool_has_too_many(w, service)):
        upstream_close(w, u)
        return
    if ep.idle >= service.keepalive:
        upstream_close(w, ep.idle_last)
    u.state = U_IDLE
    u.idle_since_ms = <uint32_t> w.now_ms
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
    conn_timer(w, u, 0 if keep_ms == NO_TIMEOUT_MS else keep_ms)


cdef inline void pool_close_all(worker_t *w, endpoint_t *ep) noexcept nogil:
    while ep.idle_first != NULL:
        upstream_close(w, ep.idle_first)


cdef inline uint32_t pool_shed(worker_t *w, uint32_t most) noexcept nogil:
    """Closes up to ``most`` idle connections of all endpoints, beginning where it ended the last time. How many."""
    cdef uint32_t i = w.pool_cursor
    cdef uint32_t passed = 0, closed = 0, step
    cdef endpoint_t *ep
    if w.now_ms < w.pool_bare_ms:
        return 0
    while passed < TABLE_ROOT * TABLE_LEAF and closed < most:
        if w.endpoints.leaves[i // TABLE_LEAF] == NULL:
            step = TABLE_LEAF - i % TABLE_LEAF
        else:
            step = 1
            ep = <endpoint_t *> w.endpoints.leaves[i // TABLE_LEAF][i % TABLE_LEAF]
            while ep != NULL and ep.idle_last != NULL and closed < most:
                upstream_close(w, ep.idle_last)
                closed += 1
        passed += step
        i = (i + step) % (TABLE_ROOT * TABLE_LEAF)
    w.pool_cursor = i
    fm_bump_u64(&w.shed_pooled, closed)
    if closed == 0:
        w.pool_bare_ms = w.now_ms + LOOK_MS
    return closed


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
