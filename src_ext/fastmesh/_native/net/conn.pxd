"""Connections: the worker's table of them, reading, writing, the ready list, deferred destruction.

A descriptor is registered once, edge-triggered, for everything. So what an edge told must be remembered:
``F_READABLE`` stays set until a read came up short. ``conn_send`` sends at once and keeps the unsent rest in
``out``; an EPOLLOUT edge flushes it.

A closed connection stays in memory until the end of the turn (``deferred``): functions further up the stack may still
look at its state, and see CONN_CLOSED.

All functions: owner worker only.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from fastmesh._native.base.limits cimport PIPES_MAX
from fastmesh._native.base.slab cimport pend_append, pend_clear, pend_len
from fastmesh._native.base.timers cimport timer_cancel, timer_set
from fastmesh._native.net.worker_t cimport (
    CONN_CLOSED,
    CONN_FREE,
    CONN_LEAF,
    F_EOF,
    F_ERROR,
    F_RDHUP,
    F_READABLE,
    F_READY,
    F_WRITE_SHUT,
    conn_t,
    pipe_t,
    worker_t,
)
from fastmesh._native.sys.atomics cimport fm_add_relaxed_u64, fm_bump_u64, fm_likely, fm_unlikely
from fastmesh._native.sys.os cimport (
    EAGAIN,
    EINTR,
    ENOTCONN,
    EPOLL_CTL_ADD,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    MSG_NOSIGNAL,
    SHUT_WR,
    SIOCOUTQ,
    SO_ERROR,
    SO_LINGER,
    SOL_SOCKET,
    close,
    epoll_ctl,
    epoll_event,
    errno,
    getsockopt,
    ioctl,
    linger,
    recv,
    send,
    setsockopt,
    shutdown,
    socklen_t,
)

cdef enum:
    IO_AGAIN = -1  # would block
    IO_FAILED = -2  # the connection is broken


# ---------------------------------------------------------------- the table

cdef inline bint conn_table_grow(worker_t *w) noexcept nogil:
    cdef conn_t **leaves
    cdef conn_t *leaf
    cdef uint32_t i, old = w.conn_leaf_count
    leaf = <conn_t *> calloc(CONN_LEAF, sizeof(conn_t))
    if leaf == NULL:
        return False
    leaves = <conn_t **> realloc(w.conn_leaves, (old + 1) * sizeof(conn_t *))
    if leaves == NULL:
        free(leaf)
        return False
    w.conn_leaves = leaves
    w.conn_leaves[old] = leaf
    w.conn_leaf_count = old + 1
    i = CONN_LEAF
    while i > 0:
        i -= 1
        leaf[i].index = old * CONN_LEAF + i
        leaf[i].fd = -1
        leaf[i].ready_next = w.conn_free
        w.conn_free = &leaf[i]
    return True


cdef inline void descriptors_count(worker_t *w, uint64_t by) noexcept nogil:
    """So many more are in use (or fewer: modulo 2^64)."""
    if w.shared.workers == 1:
        fm_bump_u64(&w.shared.descriptors, by)
    else:
        fm_add_relaxed_u64(&w.shared.descriptors, by)


cdef inline conn_t *conn_of(worker_t *w, uint64_t event_data) noexcept nogil:
    """The connection of an event, or NULL when it has gone since."""
    cdef uint32_t index = <uint32_t> event_data
    cdef conn_t *c = &w.conn_leaves[index >> 8][index & (CONN_LEAF - 1)]
    if fm_unlikely(c.generation != <uint32_t> (event_data >> 32)) or c.kind == CONN_FREE:
        return NULL
    return c


cdef inline conn_t *conn_new(worker_t *w, int32_t fd, uint8_t kind, uint8_t state) noexcept nogil:
    """A connection that is not registered yet, or NULL. The descriptor stays the caller's until then."""
    cdef conn_t *c
    cdef uint32_t index, generation
    if w.conn_free == NULL and not conn_table_grow(w):
        return NULL
    c = w.conn_free
    w.conn_free = c.ready_next
    index = c.index
    generation = c.generation
    memset(c, 0, sizeof(conn_t))
    c.index = index
    c.generation = generation
    c.fd = fd
    c.kind = kind
    c.state = state
    fm_bump_u64(&w.conns_live, 1)
    descriptors_count(w, 1)
    return c


cdef inline bint conn_register(worker_t *w, conn_t *c) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.u64 = (<uint64_t> c.generation << 32) | c.index
    return epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, c.fd, &event) == 0


cdef inline bint conn_register_listener(worker_t *w, conn_t *c, bint shared) noexcept nogil:
    """``shared``: several workers watch the same descriptor, and one of them is woken for each client."""
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLET | (EPOLLEXCLUSIVE if shared else 0)
    event.data.u64 = (<uint64_t> c.generation << 32) | c.index
    return epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, c.fd, &event) == 0


cdef inline void pipe_give_back(worker_t *w, pipe_t *pipe) noexcept nogil:
    """An empty pipe goes back to the worker's pool; one with bytes in it is closed."""
    cdef uint32_t number = <uint32_t> (pipe - &w.pipes[0])
    if pipe.held:
        close(pipe.read_fd)
        close(pipe.write_fd)
        pipe.read_fd = -1
        pipe.write_fd = -1
        pipe.held = 0
        fm_bump_u64(&w.pipes_live, <uint64_t> -1)
        descriptors_count(w, <uint64_t> -2)
    w.pipe_free[w.pipe_free_count] = number
    w.pipe_free_count += 1


cdef inline void conn_close(worker_t *w, conn_t *c) noexcept nogil:
    """Closes the descriptor now and frees the memory at the end of the turn. Does nothing when closed already."""
    if c.state == CONN_CLOSED:
        return
    c.state = CONN_CLOSED
    timer_cancel(&w.wheel, &c.timer)
    descriptors_count(w, <uint64_t> -1)
    if c.fd >= 0:
        close(c.fd)
        c.fd = -1
    pend_clear(&w.bufs, &c.out)
    pend_clear(&w.bufs, &c.input)
    if c.pipe != NULL:
        pipe_give_back(w, c.pipe)
        c.pipe = NULL
    c.idle_next = w.deferred  # a closed connection is in no pool
    w.deferred = c


cdef inline void fd_reset_on_close(int fd) noexcept nogil:
    cdef linger option
    option.l_onoff = 1
    option.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &option, sizeof(option))


cdef inline void fd_reset(int fd) noexcept nogil:
    """Closes what has no record with RST."""
    fd_reset_on_close(fd)
    close(fd)


cdef inline void conn_reset(worker_t *w, conn_t *c) noexcept nogil:
    """Closes with RST, so that the peer cannot take what it has for the whole."""
    if c.state == CONN_CLOSED:
        return
    fd_reset_on_close(c.fd)
    conn_close(w, c)


cdef inline void conn_free_deferred(worker_t *w) noexcept nogil:
    """The end of a turn: what was closed in it is freed, unless it still stands on the ready list."""
    cdef conn_t *c = w.deferred
    cdef conn_t *following
    cdef conn_t *kept = NULL
    while c != NULL:
        following = c.idle_next
        if c.flags & F_READY:
            c.idle_next = kept
            kept = c
        else:
            c.kind = CONN_FREE
            c.generation += 1
            c.ready_next = w.conn_free
            w.conn_free = c
            fm_bump_u64(&w.conns_live, <uint64_t> -1)
        c = following
    w.deferred = kept


cdef inline void conn_ready(worker_t *w, conn_t *c) noexcept nogil:
    """Puts it on the ready list: it is visited again in this turn or the next, without an event."""
    if c.flags & F_READY:
        return
    c.flags |= F_READY
    c.ready_next = NULL
    if w.ready_last == NULL:
        w.ready_first = c
    else:
        w.ready_last.ready_next = c
    w.ready_last = c
    w.ready_count += 1


cdef inline void conn_timer(worker_t *w, conn_t *c, uint32_t after_ms) noexcept nogil:
    """Arms the connection's one timer; 0 disarms it."""
    if after_ms == 0:
        timer_cancel(&w.wheel, &c.timer)
    else:
        timer_set(&w.wheel, &c.timer, w.now_ms, after_ms)


cdef inline void conn_timer_at(worker_t *w, conn_t *c, uint64_t at_ms) noexcept nogil:
    """The same for a time of the worker's clock; 0 disarms it. One that is over is soon, however often this is called:
    counted from now on, as by ``conn_timer``, it would be put off by each event."""
    if at_ms == 0:
        timer_cancel(&w.wheel, &c.timer)
    else:
        timer_set(&w.wheel, &c.timer, at_ms, 0)


# ---------------------------------------------------------------- reading and writing

cdef inline int64_t conn_recv(conn_t *c, uint8_t *into, uint32_t size) noexcept nogil:
    """Bytes read, 0 at the peer's FIN, IO_AGAIN or IO_FAILED. Keeps F_READABLE true to what may be left."""
    cdef ssize_t n
    while True:
        n = recv(c.fd, into, size, 0)
        if fm_likely(n > 0):
            # A short read took all there was; but a FIN behind it makes no further edge
            if n < size and not c.flags & (F_RDHUP | F_ERROR):
                c.flags &= <uint16_t> ~F_READABLE
            return n
        if n == 0:
            c.flags = (c.flags | F_EOF) & <uint16_t> ~F_READABLE
            return 0
        if errno == EAGAIN:
            c.flags &= <uint16_t> ~F_READABLE
            return IO_AGAIN
        if errno != EINTR:
            c.flags = (c.flags | F_ERROR) & <uint16_t> ~F_READABLE
            return IO_FAILED


cdef inline int64_t conn_write(conn_t *c, const uint8_t *data, uint32_t size) noexcept nogil:
    """What the kernel took (0 when it takes nothing now), or IO_FAILED."""
    cdef ssize_t n
    while True:
        n = send(c.fd, data, size, MSG_NOSIGNAL)
        if fm_likely(n >= 0):
            return n
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            return IO_FAILED


cdef inline int32_t conn_flush(worker_t *w, conn_t *c) noexcept nogil:
    """Sends what waits in ``out``. 1: all of it has gone; 0: some waits; IO_FAILED."""
    cdef int64_t n
    while pend_len(&c.out):
        n = conn_write(c, c.out.data + c.out.start, pend_len(&c.out))
        if n < 0:
            return IO_FAILED
        if n == 0:
            return 0
        c.out.start += <uint32_t> n
    if c.out.data != NULL:
        pend_clear(&w.bufs, &c.out)
    return 1


cdef inline bint conn_has_unsent(const conn_t *c) noexcept nogil:
    """Whether bytes wait for this side: in ``out``, or spliced, in a pipe."""
    return pend_len(&c.out) != 0 or c.pipe != NULL


cdef inline uint32_t conn_unsent(const conn_t *c) noexcept nogil:
    """How many bytes wait for this side."""
    return pend_len(&c.out) + (c.pipe.held if c.pipe != NULL else 0)


cdef inline uint32_t conn_in_kernel(const conn_t *c) noexcept nogil:
    """How many bytes that the kernel took the peer has not acknowledged; 0 when the connection broke.

    Of a Unix socket: what they take of the kernel's memory, in pieces of up to 36 KiB as they were sent."""
    cdef int number = 0
    cdef socklen_t length = sizeof(int)
    if getsockopt(c.fd, SOL_SOCKET, SO_ERROR, &number, &length) != 0 or number != 0:
        return 0
    if ioctl(c.fd, SIOCOUTQ, &number) != 0 or number < 0:
        return 0
    return <uint32_t> number


cdef inline int32_t conn_send(worker_t *w, conn_t *c, const uint8_t *data, uint32_t size) noexcept nogil:
    """Sends now and keeps the rest. 1: all has gone; 0: some waits; IO_FAILED (broken, or no memory for the rest)."""
    cdef int64_t n = 0
    if fm_unlikely(c.out.data != NULL):
        return 0 if pend_append(&w.bufs, &c.out, data, size) else IO_FAILED
    n = conn_write(c, data, size)
    if fm_likely(n == size):
        return 1
    if n < 0:
        return IO_FAILED
    return 0 if pend_append(&w.bufs, &c.out, data + n, size - <uint32_t> n) else IO_FAILED


cdef inline void conn_shut_write(conn_t *c) noexcept nogil:
    if not c.flags & F_WRITE_SHUT:
        c.flags |= F_WRITE_SHUT
        shutdown(c.fd, SHUT_WR)
