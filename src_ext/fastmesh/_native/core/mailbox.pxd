"""Letters to a worker: listening sockets come and go, idle clients are closed, the end.

Any thread posts (``mailbox_post``, then a write to the eventfd); the worker reads between two turns, oldest first.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastmesh._native.base.errors cimport FM_E_DRAINING
from fastmesh._native.base.slab cimport pend_len
from fastmesh._native.net.conn cimport conn_close, conn_has_unsent, conn_new
from fastmesh._native.net.pool cimport pool_close_all, upstream_close
from fastmesh._native.net.snap_t cimport block_drop, block_take, listener_block_t
from fastmesh._native.net.stats cimport listener_stats
from fastmesh._native.net.within cimport within_forget, within_settle
from fastmesh._native.net.worker_t cimport (
    C_HEAD,
    C_PROXY_HEADER,
    CONN_CLIENT,
    CONN_CLOSED,
    CONN_FREE,
    CONN_LEAF,
    CONN_LISTENER,
    CONN_MAILBOX,
    CONN_RELAY,
    CONN_UNDECIDED,
    CONN_UPSTREAM,
    F_CLIENT_SIDE,
    F_READABLE,
    TABLE_LEAF,
    TABLE_ROOT,
    command_t,
    conn_t,
    endpoint_t,
    listener_stats_t,
    socket_t,
    worker_t,
)
from fastmesh._native.proxy.accept cimport listener_accept, listener_watch
from fastmesh._native.proxy.answer cimport client_close, client_linger, exchange_abort, exchange_fail
from fastmesh._native.proxy.events cimport client_event
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.proxy.relay cimport relay_end
from fastmesh._native.proxy.undecided cimport undecided_part
from fastmesh._native.sys.atomics cimport (
    fm_bump_u64,
    fm_cas_ptr,
    fm_exchange_ptr,
    fm_load_acquire_ptr,
    fm_load_relaxed_ptr,
    fm_load_relaxed_u64,
    fm_store_relaxed_u64,
    fm_store_release_u64,
)
from fastmesh._native.sys.os cimport EPOLL_CTL_DEL, epoll_ctl

cdef enum command_kind_t:
    COMMAND_OPEN_SOCKET = 1  # serve `fd` for listener_index
    COMMAND_MOVE_SOCKET = 2  # the socket `identity` belongs to another listener from now on
    COMMAND_CLOSE_SOCKET = 3  # take what waits, then stop watching it; its descriptor stays the control thread's
    COMMAND_CLOSE_IDLE = 4  # close clients that have waited between two requests for `least_idle_ms`
    COMMAND_CLOSE_GONE = 5  # close idle connections to endpoints that drain, or are in no configuration any more

cdef enum command_flag_t:
    COMMAND_FLAG_SHARED = 1  # one descriptor that all workers watch
    COMMAND_FLAG_LEAVING = 2  # only clients of sockets that were closed
    COMMAND_FLAG_HANDED_ON = 4  # another process serves the socket too: what waits is left to it

cdef enum: LAST_ACCEPTS = 128  # rounds of the accept budget before a socket is closed


cdef inline void mailbox_post(worker_t *w, command_t *command) noexcept nogil:
    cdef void *head
    while True:
        head = fm_load_relaxed_ptr(<void **> &w.mailbox)
        command.next = <command_t *> head
        if fm_cas_ptr(<void **> &w.mailbox, head, command):
            return


# ---------------------------------------------------------------- listening sockets

cdef inline socket_t *socket_find(worker_t *w, uint64_t identity) noexcept nogil:
    cdef socket_t *s = w.sockets
    while s != NULL:
        if s.identity == identity and s.conn != NULL:
            return s
        s = s.next
    return NULL


cdef inline listener_block_t *listener_block(worker_t *w, uint32_t index) noexcept nogil:
    if w.snap == NULL or index >= w.snap.listener_count:
        return NULL
    return w.snap.listeners[index]


cdef inline void socket_open(worker_t *w, const command_t *command) noexcept nogil:
    cdef listener_block_t *block = listener_block(w, command.listener_index)
    cdef socket_t *s
    cdef conn_t *c
    if block == NULL:
        return  # it went again in the meantime
    s = <socket_t *> calloc(1, sizeof(socket_t))
    c = conn_new(w, command.fd, CONN_LISTENER, 0)
    if s == NULL or c == NULL:
        free(s)
        if c != NULL:
            c.fd = -1  # the control thread's
            conn_close(w, c)
        return
    s.identity = command.identity
    s.listener_index = command.listener_index
    s.block = block
    block_take(block.refs, w.index)
    s.conn = c
    c.socket = s
    s.next = w.sockets
    w.sockets = s
    c.listen_shared = command.flags & COMMAND_FLAG_SHARED != 0
    listener_watch(w, c)
    within_settle(w, w.snap)


cdef inline void socket_move(worker_t *w, const command_t *command) noexcept nogil:
    cdef socket_t *s = socket_find(w, command.identity)
    cdef listener_block_t *block = listener_block(w, command.listener_index)
    cdef listener_stats_t *stats
    if s == NULL or block == NULL:
        return
    block_take(block.refs, w.index)
    block_drop(s.block.refs, w.index)
    s.block = block
    if s.listener_index == command.listener_index:
        return
    # Its clients go with it: each will be counted off where the socket then belongs
    stats = listener_stats(w, s.listener_index)
    if stats != NULL:
        fm_bump_u64(&stats.connections_active, -<uint64_t> s.connections)
    stats = listener_stats(w, command.listener_index)
    if stats != NULL:
        fm_bump_u64(&stats.connections_active, s.connections)
    s.listener_index = command.listener_index
    within_settle(w, w.snap)


cdef inline void socket_unwatch(worker_t *w, socket_t *s) noexcept nogil:
    """The descriptor belongs to the control thread, which closes it once every worker has let go."""
    epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, s.conn.fd, NULL)
    s.conn.fd = -1
    conn_close(w, s.conn)
    s.conn = NULL
    s.draining = 1


cdef inline void socket_close(worker_t *w, const command_t *command) noexcept nogil:
    """Clients that wait in the queue are accepted before, so that none of them is reset.

    A socket that is left to another process stops being watched first. The queue is then its, but of a shared socket only
    one watcher is woken for a client (``EPOLLEXCLUSIVE``): if that was this worker, nobody else knows of it."""
    cdef socket_t *s = socket_find(w, command.identity)
    cdef int32_t _round
    if s == NULL:
        return
    s.draining = 1
    if command.flags & COMMAND_FLAG_HANDED_ON:
        epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, s.conn.fd, NULL)
        if not s.conn.listen_shared:
            socket_unwatch(w, s)
            within_settle(w, w.snap)
            return
    s.conn.flags |= F_READABLE
    for _round in range(LAST_ACCEPTS):
        if s.conn.flags & F_READABLE:
            listener_accept(w, s.conn)
    socket_unwatch(w, s)
    within_settle(w, w.snap)


cdef inline void sockets_sweep(worker_t *w) noexcept nogil:
    """Frees the records of closed sockets whose last connection has gone."""
    cdef socket_t **link = &w.sockets
    cdef socket_t *s
    while link[0] != NULL:
        s = link[0]
        if s.conn == NULL and s.connections == 0:
            link[0] = s.next
            within_forget(w, s)
            block_drop(s.block.refs, w.index)
            free(s)
        else:
            link = &s.next


cdef inline void sockets_free(worker_t *w) noexcept nogil:
    cdef socket_t *s
    while w.sockets != NULL:
        s = w.sockets
        w.sockets = s.next
        within_forget(w, s)
        block_drop(s.block.refs, w.index)
        free(s)


# ---------------------------------------------------------------- closing

cdef inline bint client_is_idle(const conn_t *c) noexcept nogil:
    """Nothing of its next request has come, and it has taken its last answer."""
    return (
        (c.state == C_HEAD or c.state == C_PROXY_HEADER) and not c.flags & F_READABLE
        and pend_len(&c.input) == 0 and not conn_has_unsent(c)
    )


cdef inline void close_idle_client(worker_t *w, conn_t *c) noexcept nogil:
    """What has arrived meanwhile is served. Else FIN, and what crosses it on its way is read and dropped: closing over unread
    bytes would be a reset."""
    c.flags |= F_READABLE
    client_event(w, c, False)
    if c.kind == CONN_CLIENT and client_is_idle(c):
        client_linger(w, c)


cdef inline void close_undecided_client(worker_t *w, conn_t *c, uint32_t least_idle_ms) noexcept nogil:
    """Nobody has said anything since it came."""
    if <uint32_t> w.now_ms - c.idle_since_ms >= least_idle_ms:
        undecided_part(w, c)


cdef inline void close_idle_clients(worker_t *w, const command_t *command) noexcept nogil:
    cdef uint32_t i, j
    cdef uint64_t left = 0
    cdef conn_t *c
    for i in range(w.conn_leaf_count):
        for j in range(CONN_LEAF):
            c = &w.conn_leaves[i][j]
            if c.state == CONN_CLOSED or (c.kind != CONN_CLIENT and (c.kind != CONN_UNDECIDED or not c.flags & F_CLIENT_SIDE)):
                continue
            if command.flags & COMMAND_FLAG_LEAVING and not c.socket.draining:
                continue
            if c.kind == CONN_UNDECIDED:
                close_undecided_client(w, c, command.least_idle_ms)
            elif client_is_idle(c) and <uint32_t> w.now_ms - c.idle_since_ms >= command.least_idle_ms:
                close_idle_client(w, c)
            left += (c.kind == CONN_CLIENT or c.kind == CONN_UNDECIDED) and c.state != CONN_CLOSED
    fm_store_relaxed_u64(&w.clients_left, left)


cdef inline void close_gone_endpoints(worker_t *w) noexcept nogil:
    cdef uint32_t i, j
    cdef endpoint_t *ep
    for i in range(TABLE_ROOT):
        if w.endpoints.leaves[i] == NULL:
            continue
        for j in range(TABLE_LEAF):
            ep = <endpoint_t *> w.endpoints.leaves[i][j]
            if ep != NULL and ep.idle_first != NULL and (fm_load_relaxed_u64(&ep.slot.health) >> 33) & 1:
                pool_close_all(w, ep)


cdef inline void close_for_stop(worker_t *w, conn_t *c) noexcept nogil:
    """The worker ends: whatever the connection is doing stops."""
    cdef xchg_t *x = <xchg_t *> c.exchange
    if c.kind == CONN_LISTENER:
        socket_unwatch(w, c.socket)
    elif c.kind == CONN_MAILBOX:
        c.fd = -1  # the engine's
        conn_close(w, c)
    elif x != NULL and (c.kind == CONN_RELAY or c.kind == CONN_UNDECIDED):
        relay_end(w, x, FM_E_DRAINING)
    elif x != NULL and x.waits and x.attempts == 0:
        exchange_fail(w, x, FM_E_DRAINING)  # nothing of it was sent: it can be told so
        client_close(w, c)
    elif x != NULL:
        exchange_abort(w, x, FM_E_DRAINING)
    elif c.kind == CONN_UPSTREAM:
        upstream_close(w, c)
    elif c.kind == CONN_CLIENT:
        client_close(w, c)


# ---------------------------------------------------------------- reading the letters

cdef inline void mailbox_do(worker_t *w, const command_t *command) noexcept nogil:
    if command.kind == COMMAND_OPEN_SOCKET:
        socket_open(w, command)
    elif command.kind == COMMAND_MOVE_SOCKET:
        socket_move(w, command)
    elif command.kind == COMMAND_CLOSE_SOCKET:
        socket_close(w, command)
    elif command.kind == COMMAND_CLOSE_IDLE:
        close_idle_clients(w, command)
    elif command.kind == COMMAND_CLOSE_GONE:
        close_gone_endpoints(w)


cdef inline uint32_t mailbox_run(worker_t *w) noexcept nogil:
    """Does what all the letters say; how many there were."""
    cdef command_t *command
    cdef command_t *reversed_ = NULL
    cdef command_t *following
    cdef uint32_t count = 0
    if fm_load_acquire_ptr(<void **> &w.mailbox) == NULL:
        return 0
    command = <command_t *> fm_exchange_ptr(<void **> &w.mailbox, NULL)
    while command != NULL:
        following = command.next
        command.next = reversed_
        reversed_ = command
        command = following
    while reversed_ != NULL:
        following = reversed_.next
        mailbox_do(w, reversed_)
        count += 1
        free(reversed_)
        fm_store_release_u64(&w.commands_done, w.commands_done + 1)
        reversed_ = following
    sockets_sweep(w)
    return count
