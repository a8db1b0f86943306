"""New clients: accept, the address of the peer, the PROXY protocol header, and the first state.

Owner worker only.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastmesh._native.base.errors cimport (
    FM_E_DRAINING,
    FM_E_NO_MEMORY,
    FM_E_NOT_REDIRECTED,
    FM_E_OVERLOADED,
    FM_E_PROXY_HEADER,
    FM_E_TOO_MANY_CONNECTIONS,
)
from fastmesh._native.base.limits cimport (
    ACCEPT_PACE_MS,
    ACCEPT_RETRY_MS,
    ACCEPTS_PER_EVENT,
    ACCEPTS_WHEN_SHORT,
    PROXY_HEADER_BYTES,
    SHED_POOLED,
    SHED_SCAN_ACCEPT,
)
from fastmesh._native.base.slab cimport pend_clear, pend_len, pend_reserve
from fastmesh._native.base.timers cimport timer_is_armed
from fastmesh._native.net.address cimport (
    address_in_ranges,
    address_of_sockaddr,
    address_set_v6,
    conn_set_peer_text,
)
from fastmesh._native.net.conn cimport (
    IO_AGAIN,
    conn_close,
    conn_new,
    conn_ready,
    conn_recv,
    conn_register,
    conn_register_listener,
    conn_timer,
    fd_reset,
)
from fastmesh._native.net.destination cimport destination_ask, destination_find
from fastmesh._native.net.overload cimport descriptors_are_out, overload_no_descriptor
from fastmesh._native.net.pool cimport pool_shed
from fastmesh._native.net.snap_t cimport PROTOCOL_HTTP, destination_t, listener_block_t
from fastmesh._native.net.stats cimport listener_stats
from fastmesh._native.net.within cimport within_socket
from fastmesh._native.net.worker_t cimport (
    C_HEAD,
    C_PROXY_HEADER,
    CONN_CLIENT,
    F_COUNTED,
    F_FRESH,
    F_READABLE,
    F_UNWATCHED,
    F_TRUSTED,
    PRESSURE_FULL,
    PRESSURE_NONE,
    RESOURCE_MEMORY,
    address_t,
    conn_t,
    listener_stats_t,
    socket_t,
    worker_t,
)
from fastmesh._native.proto.proxyproto cimport pp_parse
from fastmesh._native.proto.proxyproto_t cimport PP_INET, PP_INET6, pp_addr_t
from fastmesh._native.proxy.answer cimport client_close, client_refuse, client_uncount
from fastmesh._native.proxy.relay cimport relay_begin
from fastmesh._native.proxy.shed cimport clients_shed, place_for_client
from fastmesh._native.sys.atomics cimport fm_add_relaxed_u64, fm_bump_u64, fm_unlikely
from fastmesh._native.sys.os cimport (
    EAGAIN,
    ECONNABORTED,
    EINTR,
    EMFILE,
    ENFILE,
    EPROTO,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    accept4,
    close,
    errno,
    sockaddr,
    sockaddr_storage,
    socklen_t,
)


cdef inline void client_set_trust(conn_t *c, const listener_block_t *block) noexcept nogil:
    if address_in_ranges(&c.peer_address, block.trusted, block.trusted_count):
        c.flags |= F_TRUSTED
    else:
        c.flags &= <unsigned short> ~F_TRUSTED


cdef inline void client_start(worker_t *w, conn_t *c) noexcept nogil:
    """The peer is known: HTTP waits for a head, TCP connects at once (the server may speak first)."""
    if c.socket.block.protocol == PROTOCOL_HTTP:
        c.state = C_HEAD
        if c.flags & F_READABLE or pend_len(&c.input):
            conn_ready(w, c)
    else:
        relay_begin(w, c)


cdef inline void client_read_proxy_header(worker_t *w, conn_t *c) noexcept nogil:
    """Waits for the whole PROXY header of a trusted peer; what follows it stays in ``input``."""
    cdef pp_addr_t told
    cdef int64_t n
    cdef int32_t parsed
    while c.flags & F_READABLE:
        if not pend_reserve(&w.bufs, &c.input, PROXY_HEADER_BYTES):
            client_refuse(w, c, FM_E_NO_MEMORY, False)
            return
        n = conn_recv(c, c.input.data + c.input.end, c.input.capacity - c.input.end)
        if n == IO_AGAIN:
            return
        if n <= 0:
            client_close(w, c)
            return
        c.input.end += <uint32_t> n
        parsed = pp_parse(c.input.data + c.input.start, pend_len(&c.input), &told)
        if parsed < 0:
            if c.socket.block.protocol == PROTOCOL_HTTP:
                client_refuse(w, c, FM_E_PROXY_HEADER, False)
            else:
                fm_bump_u64(&w.errors[<uint32_t> FM_E_PROXY_HEADER], 1)
                client_close(w, c)
            return
        if parsed == 0:
            continue
        c.input.start += <uint32_t> parsed
        if told.family == PP_INET:
            c.peer_address.family = 4
            memcpy(c.peer_address.ip, told.src, 4)
            c.peer_address.port = told.src_port
            if not c.intercepted:  # nobody but the kernel says where that was going
                c.local_address.family = 4
                memcpy(c.local_address.ip, told.dst, 4)
                c.local_address.port = told.dst_port
        elif told.family == PP_INET6:
            address_set_v6(&c.peer_address, told.src, told.src_port)
            if not c.intercepted:
                address_set_v6(&c.local_address, told.dst, told.dst_port)
        conn_set_peer_text(c)
        client_set_trust(c, c.socket.block)
        if pend_len(&c.input) == 0:
            pend_clear(&w.bufs, &c.input)  # an idle connection holds no buffer
        client_start(w, c)
        return


cdef inline int32_t client_admit(worker_t *w, conn_t *c, bint is_http) noexcept nogil:
    """Counts a new client: 0, or why there is no place for it (FM_E_…, positive). Without memory a request is told so, but a
    relay could not even be told."""
    cdef bint has_place = place_for_client(w)
    c.flags |= F_COUNTED
    if fm_add_relaxed_u64(&w.shared.connections, 1) >= w.shared.connection_limit:
        return FM_E_TOO_MANY_CONNECTIONS
    if not has_place or (not is_http and w.strain[RESOURCE_MEMORY] == PRESSURE_FULL):
        return FM_E_OVERLOADED
    return 0


cdef inline void client_turn_away(worker_t *w, conn_t *c, int32_t error) noexcept nogil:
    """There is no place for a new client. It takes none while it reads why."""
    client_uncount(w, c)
    if c.socket.block.protocol == PROTOCOL_HTTP:
        client_refuse(w, c, error, False)
    else:
        fm_bump_u64(&w.errors[<uint32_t> error], 1)
        client_close(w, c)


cdef inline void intercepted_refuse(worker_t *w, socket_t *s, int32_t fd, int32_t error) noexcept nogil:
    """It is reset, and counted where it was accepted."""
    cdef listener_stats_t *stats = listener_stats(w, s.listener_index)
    if stats != NULL:
        fm_bump_u64(&stats.connections_total, 1)
    fm_bump_u64(&w.errors[<uint32_t> error], 1)
    fd_reset(fd)


cdef inline socket_t *intercepted_socket(worker_t *w, socket_t *s, int32_t fd, address_t *destination, uint32_t *scope) noexcept nogil:
    """Whose client an accepted connection is: of the listener within this one that is for its destination, or of this one.
    NULL: it was refused."""
    cdef const destination_t *found
    cdef socket_t *within
    if not destination_ask(fd, destination, scope):
        intercepted_refuse(w, s, fd, FM_E_NOT_REDIRECTED)  # passed on, it would come back for ever
        return NULL
    found = destination_find(s.block, destination)
    if found == NULL or found.listener_index >= w.snap.listener_count or w.snap.listeners[found.listener_index] == NULL:
        return s
    within = within_socket(w, w.snap.listeners[found.listener_index])
    if within == NULL or within.block.draining:
        intercepted_refuse(w, within if within != NULL else s, fd, FM_E_DRAINING if within != NULL else FM_E_NO_MEMORY)
        return NULL
    return within


cdef inline void client_new(worker_t *w, socket_t *s, int32_t fd, const sockaddr_storage *peer) noexcept nogil:
    """A connection was accepted: its record, its first state, its registration."""
    cdef address_t destination
    cdef uint32_t scope = 0
    cdef bint intercepted = s.block.intercepts
    cdef listener_block_t *block
    cdef listener_stats_t *stats
    cdef conn_t *c
    cdef int32_t error
    if fm_unlikely(intercepted):
        s = intercepted_socket(w, s, fd, &destination, &scope)
        if s == NULL:
            return
    block = s.block
    stats = listener_stats(w, s.listener_index)
    c = conn_new(w, fd, CONN_CLIENT, C_HEAD)
    if c == NULL or stats == NULL:
        if c != NULL:
            conn_close(w, c)
        else:
            close(fd)
        return
    c.socket = s
    s.connections += 1
    fm_bump_u64(&stats.connections_active, 1)
    fm_bump_u64(&stats.connections_total, 1)
    c.flags |= F_FRESH
    c.idle_since_ms = <uint32_t> w.now_ms
    error = client_admit(w, c, block.protocol == PROTOCOL_HTTP)
    address_of_sockaddr(&c.peer_address, peer)
    conn_set_peer_text(c)
    client_set_trust(c, block)
    if fm_unlikely(intercepted):
        c.intercepted = 1
        c.local_address = destination
        c.local_scope = scope
    if not conn_register(w, c):
        client_close(w, c)
        return
    if fm_unlikely(error != 0):
        client_turn_away(w, c, error)
        return
    conn_timer(w, c, block.header_ms)
    if block.accept_proxy and c.flags & F_TRUSTED:
        c.state = C_PROXY_HEADER
    elif block.protocol != PROTOCOL_HTTP:
        relay_begin(w, c)


cdef inline void listener_watch(worker_t *w, conn_t *listener) noexcept nogil:
    """Hands the listening socket to the poller. When that has no memory, what waits is looked for now and then, and the
    poller asked again."""
    if conn_register_listener(w, listener, listener.listen_shared):
        listener.flags &= <unsigned short> ~F_UNWATCHED
    else:
        listener.flags |= F_UNWATCHED
        conn_timer(w, listener, ACCEPT_RETRY_MS)


cdef inline bint listener_make_room(worker_t *w) noexcept nogil:
    """No descriptor is left for a client. True: idle connections were closed, and one may be had now."""
    overload_no_descriptor(w)
    return pool_shed(w, SHED_POOLED) > 0 or clients_shed(w, SHED_SCAN_ACCEPT, 1) > 0


cdef inline void listener_wait(worker_t *w, conn_t *listener) noexcept nogil:
    """No descriptor or no memory left: the queue keeps its place, we look again soon. No spinning."""
    fm_bump_u64(&w.errors[<uint32_t> FM_E_TOO_MANY_CONNECTIONS], 1)
    conn_timer(w, listener, ACCEPT_RETRY_MS)


cdef inline void listener_go_on(worker_t *w, conn_t *listener) noexcept nogil:
    """The budget is spent: the rest of the queue in the next turn, or more slowly while something is short."""
    if w.pressure != PRESSURE_NONE and not listener.socket.draining:
        conn_timer(w, listener, ACCEPT_PACE_MS)
    else:
        conn_ready(w, listener)


cdef inline void listener_event(worker_t *w, conn_t *listener) noexcept nogil:
    """Clients have come, or it is the listener's turn; while its timer is armed, they wait for that."""
    if not timer_is_armed(&listener.timer):
        listener_accept(w, listener)


cdef inline void listener_accept(worker_t *w, conn_t *listener) noexcept nogil:
    """Accepts what waits, within the budget."""
    cdef sockaddr_storage peer
    cdef socklen_t length
    cdef uint32_t budget = ACCEPTS_PER_EVENT if w.pressure == PRESSURE_NONE else ACCEPTS_WHEN_SHORT
    cdef int fd
    while listener.flags & F_READABLE:
        if budget == 0:
            listener_go_on(w, listener)
            return
        if fm_unlikely(descriptors_are_out(w)) and not listener_make_room(w):
            listener_wait(w, listener)
            return
        length = sizeof(sockaddr_storage)
        fd = accept4(listener.fd, <sockaddr *> &peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            budget -= 1
            w.turn.accepted += 1
            w.turn.marked = 1
            if length < sizeof(unsigned short):
                memset(&peer, 0, sizeof(peer))
            client_new(w, listener.socket, fd, &peer)
        elif errno == EAGAIN:
            listener.flags &= <unsigned short> ~F_READABLE
        elif (errno == EMFILE or errno == ENFILE) and listener_make_room(w):
            budget -= 1
        elif errno != EINTR and errno != ECONNABORTED and errno != EPROTO:
            listener_wait(w, listener)
            return
