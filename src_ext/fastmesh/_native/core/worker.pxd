"""The worker: one thread, one epoll, one loop. ``worker_turn`` shows a turn of it whole.

Threads: ``worker_init`` and ``worker_free`` on the control thread while the worker does not run; ``worker_post`` and
``worker_wake`` on any thread; everything else on the worker.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastmesh._native.base.limits cimport (
    EVENTS_PER_TURN,
    LOOK_MS,
    OUT_BYTES,
    READY_PER_TURN,
    SCRATCH_BYTES,
    SCRATCH_HEADROOM,
    TIMERS_PER_TURN,
    WAITING_POLL_MS,
)
from fastmesh._native.base.ring cimport ring_init, ring_should_wake
from fastmesh._native.base.slab cimport bufpool_free, bufpool_init, slab_free, slab_init
from fastmesh._native.base.timers cimport timer_t, wheel_advance, wheel_init, wheel_pop_due, wheel_wait_ms
from fastmesh._native.core.access_writer cimport access_writer_wake
from fastmesh._native.core.mailbox cimport close_for_stop, mailbox_run, sockets_free, sockets_sweep
from fastmesh._native.core.turn cimport timespec_us, turn_begin, turn_end, turn_phase
from fastmesh._native.lb.lb cimport lb_adopt, lb_state_free
from fastmesh._native.net.conn cimport conn_free_deferred, conn_new, conn_of, conn_register
from fastmesh._native.net.pool cimport pool_saw_close, upstream_close
from fastmesh._native.net.snap_t cimport block_drop, block_take, listener_block_t, service_t, snap_t
from fastmesh._native.net.splice cimport pipes_close, pipes_init
from fastmesh._native.net.turn_t cimport (
    TURN_ADOPT,
    TURN_EVENTS,
    TURN_FREEING,
    TURN_LETTERS,
    TURN_READY,
    TURN_TIMERS,
    TURN_WAITING,
)
from fastmesh._native.net.within cimport within_settle
from fastmesh._native.net.worker_t cimport (
    CONN_CLOSED,
    CONN_FREE,
    CONN_LEAF,
    CONN_MAILBOX,
    CONN_UPSTREAM,
    F_ERROR,
    F_RDHUP,
    F_READABLE,
    F_READY,
    PRESSURE_NONE,
    TABLE_LEAF,
    TABLE_ROOT,
    U_IDLE,
    command_t,
    conn_t,
    service_stats_t,
    shared_t,
    socket_t,
    table_t,
    worker_t,
)
from fastmesh._native.proxy.admission cimport waiting_run
from fastmesh._native.proxy.events cimport conn_event, conn_timeout
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.proxy.shed cimport worker_look
from fastmesh._native.sys.atomics cimport (
    fm_likely,
    fm_load_acquire_ptr,
    fm_load_acquire_u32,
    fm_store_relaxed_ptr,
    fm_store_relaxed_u64,
    fm_store_release_u64,
    fm_unlikely,
)
from fastmesh._native.sys.os cimport (
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    clock_gettime,
    epoll_event,
    epoll_wait,
    read,
    timespec,
)

cdef extern from *:
    """
    #include <time.h>
    #include <stdio.h>
    #include <string.h>
    /* IMF-fixdate of RFC 9110 5.6.7, 29 bytes, without the locale that strftime would ask */
    static inline void fm_http_date(long long second, char *out)
    {
        static const char days[] = "SunMonTueWedThuFriSat";
        static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
        time_t t = (time_t)second;
        struct tm tm;
        char text[64];
        gmtime_r(&t, &tm);
        snprintf(text, sizeof(text), "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + 3 * tm.tm_wday, tm.tm_mday,
                 months + 3 * tm.tm_mon, tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
        memcpy(out, text, 29);
    }
    """
    void fm_http_date(long long second, char *out) noexcept nogil

cdef enum: ACCESS_RING_BYTES = 1048576


# ---------------------------------------------------------------- adopting a snapshot

cdef inline bint socket_part(worker_t *w, socket_t *s, listener_block_t *block) noexcept nogil:
    """The listener begins to intercept, or no longer does. Who was accepted before has another kind of destination than the
    new block expects: they stay with the old one, as clients of a closed socket. False: no memory."""
    cdef socket_t *fresh = <socket_t *> calloc(1, sizeof(socket_t))
    if fresh == NULL:
        return False
    fresh.identity = s.identity
    fresh.listener_index = s.listener_index
    fresh.block = block
    block_take(block.refs, w.index)
    fresh.draining = s.draining
    fresh.conn = s.conn
    fresh.conn.socket = fresh
    fresh.next = w.sockets
    w.sockets = fresh
    s.conn = NULL
    s.draining = 1
    return True


cdef inline void adopt_sockets(worker_t *w, snap_t *snap) noexcept nogil:
    """Listening sockets serve the newest block of their listener; one whose listener has gone keeps its last."""
    cdef socket_t *s = w.sockets
    cdef listener_block_t *block
    while s != NULL:
        block = NULL
        if (s.conn != NULL or s.is_within) and s.listener_index < snap.listener_count:
            block = snap.listeners[s.listener_index]
        if block != NULL and s.conn != NULL and block.intercepts != s.block.intercepts and socket_part(w, s, block):
            block = NULL
        if block != NULL and block != s.block:
            block_take(block.refs, w.index)
            block_drop(s.block.refs, w.index)
            s.block = block
        s = s.next


cdef inline void adopt_services(worker_t *w, snap_t *snap) noexcept nogil:
    """Picking goes on where it stood. The state of a service that has gone lets go of its block."""
    cdef uint32_t i, j
    cdef service_stats_t *stats
    cdef service_t *service
    for i in range(TABLE_ROOT):
        if w.services.leaves[i] == NULL:
            continue
        for j in range(TABLE_LEAF):
            stats = <service_stats_t *> w.services.leaves[i][j]
            if stats == NULL or stats.adopted == NULL:
                continue
            service = NULL
            if i * TABLE_LEAF + j < snap.service_count:
                service = snap.services[i * TABLE_LEAF + j]
            if service == stats.adopted:
                continue
            if service != NULL and lb_adopt(&stats.lb_state, stats.adopted.lb, service.lb) == 0:
                block_take(service.refs, w.index)
            else:
                service = NULL
            block_drop(stats.adopted.refs, w.index)
            stats.adopted = service


cdef inline void worker_adopt(worker_t *w) noexcept nogil:
    """Between two turns: the newest snapshot, whole. Generations in between are skipped, and freed all the same."""
    cdef snap_t *snap = <snap_t *> fm_load_acquire_ptr(<void **> &w.published)
    if fm_likely(snap == w.snap):
        return
    turn_phase(w, TURN_ADOPT)
    adopt_sockets(w, snap)
    within_settle(w, snap)
    adopt_services(w, snap)
    sockets_sweep(w)
    w.snap = snap
    fm_store_release_u64(&w.adopted_generation, snap.generation)
    turn_phase(w, TURN_EVENTS)


# ---------------------------------------------------------------- the loop

cdef inline void worker_clock(worker_t *w) noexcept nogil:
    """The turn's clock: read once, used by every timer and start time of the turn."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    fm_store_relaxed_u64(&w.now_us, timespec_us(&t))  # the watchdog reads it
    w.now_ms = w.now_us // 1000
    clock_gettime(CLOCK_REALTIME, &t)
    w.wall_us = timespec_us(&t)
    if fm_unlikely(<uint64_t> t.tv_sec != w.date_second):
        w.date_second = <uint64_t> t.tv_sec
        fm_http_date(t.tv_sec, w.date)


cdef inline void worker_note(worker_t *w, const epoll_event *event) noexcept nogil:
    """First pass over the events: remembers what the edge told, and closes idle connections to endpoints on which
    something happened, before any pick of this turn could choose them."""
    cdef conn_t *c = conn_of(w, event.data.u64)
    cdef uint32_t bits = event.events
    if c == NULL:
        return
    if bits & EPOLLIN:
        c.flags |= F_READABLE
    if bits & EPOLLRDHUP:
        c.flags |= F_RDHUP | F_READABLE
    if bits & (EPOLLERR | EPOLLHUP):
        c.flags |= F_ERROR | F_READABLE
    if c.kind == CONN_UPSTREAM and c.state == U_IDLE and c.flags & F_READABLE:
        pool_saw_close(w, c)
        upstream_close(w, c)


cdef inline void worker_dispatch(worker_t *w, const epoll_event *event) noexcept nogil:
    cdef conn_t *c = conn_of(w, event.data.u64)
    cdef uint64_t drained
    if c == NULL:
        return
    if fm_unlikely(c.kind == CONN_MAILBOX):
        read(w.event_fd, &drained, sizeof(drained))
        return
    fm_store_relaxed_ptr(&w.turn.at, c)
    conn_event(w, c, event.events & EPOLLOUT)


cdef inline void worker_run_ready(worker_t *w) noexcept nogil:
    """Connections whose turn has come without an event; what they add waits for the next turn."""
    cdef uint32_t budget = READY_PER_TURN
    cdef conn_t *c
    if budget > w.ready_count:
        budget = w.ready_count
    if w.ready_first == NULL:
        return
    turn_phase(w, TURN_READY)
    w.turn.ready = budget
    while budget > 0 and w.ready_first != NULL:
        budget -= 1
        c = w.ready_first
        w.ready_first = c.ready_next
        if w.ready_first == NULL:
            w.ready_last = NULL
        w.ready_count -= 1
        c.ready_next = NULL
        c.flags &= <unsigned short> ~F_READY
        if c.state != CONN_CLOSED:
            fm_store_relaxed_ptr(&w.turn.at, c)
            conn_event(w, c, False)


cdef inline void worker_run_timers(worker_t *w) noexcept nogil:
    cdef uint32_t budget = TIMERS_PER_TURN
    cdef timer_t *timer
    wheel_advance(&w.wheel, w.now_ms)
    while budget > 0:
        timer = wheel_pop_due(&w.wheel)
        if timer == NULL:
            return
        if w.turn.timers == 0:
            turn_phase(w, TURN_TIMERS)
        w.turn.timers += 1
        budget -= 1
        fm_store_relaxed_ptr(&w.turn.at, timer)
        conn_timeout(w, <conn_t *> timer)


cdef inline void worker_turn(worker_t *w) noexcept nogil:
    """Poll, ready, timers, what waits, mailbox, deferred destroy."""
    cdef int32_t wait_ms = 0 if w.ready_count else wheel_wait_ms(&w.wheel, w.now_ms)
    cdef int32_t count, i
    if w.waiting != NULL and w.shared.workers > 1 and (wait_ms < 0 or wait_ms > WAITING_POLL_MS):
        wait_ms = WAITING_POLL_MS
    if fm_unlikely(w.pressure != PRESSURE_NONE) and (wait_ms < 0 or wait_ms > LOOK_MS):
        wait_ms = LOOK_MS  # without a client that stirs, its end would not be noticed
    count = epoll_wait(w.epoll_fd, w.events, EVENTS_PER_TURN, wait_ms)
    worker_clock(w)
    turn_begin(w, count if count > 0 else 0)
    worker_adopt(w)
    for i in range(count):
        worker_note(w, &w.events[i])
    if fm_unlikely(w.now_ms - w.looked_ms >= LOOK_MS):
        worker_look(w)
    for i in range(count):
        worker_dispatch(w, &w.events[i])
    worker_run_ready(w)
    worker_run_timers(w)
    if fm_unlikely(w.waiting != NULL):
        turn_phase(w, TURN_WAITING)
        waiting_run(w)
    if fm_unlikely(fm_load_acquire_ptr(<void **> &w.mailbox) != NULL):
        turn_phase(w, TURN_LETTERS)
        w.turn.letters = mailbox_run(w)
    if w.deferred != NULL:
        turn_phase(w, TURN_FREEING)
        conn_free_deferred(w)
    if w.access_encoded:
        w.access_encoded = 0
        if ring_should_wake(&w.access):
            access_writer_wake(w.shared.access_event_fd)
    turn_end(w)


cdef inline void worker_run(worker_t *w) noexcept nogil:
    """The thread's body, until ``stop`` is set. What is still open then is closed."""
    worker_clock(w)
    wheel_init(&w.wheel, w.now_ms)
    while not fm_load_acquire_u32(&w.stop):
        worker_turn(w)
    mailbox_run(w)
    worker_close_everything(w)


# ---------------------------------------------------------------- beginning and end

cdef inline bint worker_init(worker_t *w, shared_t *shared, uint32_t index, int epoll_fd, int event_fd, uint64_t seed) noexcept nogil:
    """``w`` is zeroed memory, aligned to a cache line. False: no memory, or the eventfd cannot be registered."""
    cdef conn_t *c
    w.index = index
    w.shared = shared
    w.epoll_fd = epoll_fd
    w.event_fd = event_fd
    w.rng = seed
    wheel_init(&w.wheel, 0)
    bufpool_init(&w.bufs)
    slab_init(&w.exchanges, sizeof(xchg_t))
    pipes_init(w)
    w.response_limits.header_bytes = SCRATCH_BYTES - 1024
    w.response_limits.header_count = 256
    w.response_limits.target_bytes = 0
    w.response_limits.method_bytes = 0
    w.scratch = <uint8_t *> malloc(SCRATCH_BYTES + 2 * SCRATCH_HEADROOM)
    w.out = <uint8_t *> malloc(OUT_BYTES + SCRATCH_BYTES)
    w.events = <epoll_event *> malloc(EVENTS_PER_TURN * sizeof(epoll_event))
    w.access_memory = <uint8_t *> malloc(ACCESS_RING_BYTES)
    if w.scratch == NULL or w.out == NULL or w.events == NULL or w.access_memory == NULL:
        return False
    if not ring_init(&w.access, w.access_memory, ACCESS_RING_BYTES):
        return False
    c = conn_new(w, event_fd, CONN_MAILBOX, 0)
    return c != NULL and conn_register(w, c)


cdef inline void worker_close_everything(worker_t *w) noexcept nogil:
    """The end of the thread: every connection, every reference."""
    cdef uint32_t i, j
    cdef conn_t *c
    cdef service_stats_t *stats
    for i in range(w.conn_leaf_count):
        for j in range(CONN_LEAF):
            c = &w.conn_leaves[i][j]
            if c.kind != CONN_FREE and c.state != CONN_CLOSED:
                close_for_stop(w, c)
    while w.ready_first != NULL:
        w.ready_first.flags &= <unsigned short> ~F_READY
        w.ready_first = w.ready_first.ready_next
    w.ready_last = NULL
    w.ready_count = 0
    conn_free_deferred(w)
    sockets_free(w)
    for i in range(TABLE_ROOT):
        if w.services.leaves[i] == NULL:
            continue
        for j in range(TABLE_LEAF):
            stats = <service_stats_t *> w.services.leaves[i][j]
            if stats != NULL and stats.adopted != NULL:
                block_drop(stats.adopted.refs, w.index)
                stats.adopted = NULL
    pipes_close(w)
    if ring_should_wake(&w.access):
        access_writer_wake(w.shared.access_event_fd)


cdef inline void table_free_all(table_t *table) noexcept nogil:
    cdef uint32_t i, j
    for i in range(TABLE_ROOT):
        if table.leaves[i] != NULL:
            for j in range(TABLE_LEAF):
                free(table.leaves[i][j])
            free(table.leaves[i])
            table.leaves[i] = NULL


cdef inline void worker_free(worker_t *w) noexcept nogil:
    """After the thread was joined, or was never started. Everything that the worker allocated goes."""
    cdef uint32_t i, j
    cdef service_stats_t *stats
    cdef command_t *letter
    for i in range(TABLE_ROOT):
        if w.services.leaves[i] == NULL:
            continue
        for j in range(TABLE_LEAF):
            stats = <service_stats_t *> w.services.leaves[i][j]
            if stats != NULL:
                lb_state_free(&stats.lb_state)
                free(stats.upstream_duration)
    table_free_all(&w.services)
    table_free_all(&w.endpoints)
    table_free_all(&w.pairs)
    table_free_all(&w.listeners)
    while w.mailbox != NULL:  # letters to a worker that never ran
        letter = w.mailbox
        w.mailbox = letter.next
        free(letter)
    for i in range(w.conn_leaf_count):
        free(w.conn_leaves[i])
    free(w.conn_leaves)
    slab_free(&w.exchanges)
    bufpool_free(&w.bufs)
    free(w.scratch)
    free(w.out)
    free(w.events)
    free(w.access_memory)
