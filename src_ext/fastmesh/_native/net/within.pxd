"""Listeners within another: they have no descriptors, but their clients need what a listening socket is to a client.

Each has one ``socket_t`` a worker, made for its first client and freed with its last. It drains with its listener, and when
none of the sockets is open any more from which its clients come. Owner worker only.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc

from fastmesh._native.net.snap_t cimport WITHIN_NONE, block_take, listener_block_t, snap_t
from fastmesh._native.net.stats cimport listener_stats
from fastmesh._native.net.table cimport table_get
from fastmesh._native.net.worker_t cimport listener_stats_t, socket_t, worker_t


cdef inline socket_t *within_socket(worker_t *w, listener_block_t *block) noexcept nogil:
    """The one of the listener; NULL: no memory."""
    cdef listener_stats_t *stats = listener_stats(w, block.index)
    cdef socket_t *s
    if stats == NULL or stats.within != NULL:
        return stats.within if stats != NULL else NULL
    s = <socket_t *> calloc(1, sizeof(socket_t))
    if s == NULL:
        return NULL
    s.is_within = 1
    s.listener_index = block.index
    s.block = block
    block_take(block.refs, w.index)
    s.draining = block.draining
    s.next = w.sockets
    w.sockets = s
    stats.within = s
    return s


cdef inline bint within_is_fed(const worker_t *w, const socket_t *within) noexcept nogil:
    """Whether clients can still come to it."""
    cdef const socket_t *s = w.sockets
    if within.block.within == WITHIN_NONE:
        return False  # it has got sockets of its own, and its clients go as those of any closed socket
    while s != NULL:
        if s.conn != NULL and s.listener_index == within.block.within and not s.draining:
            return True
        s = s.next
    return False


cdef inline void within_settle(worker_t *w, const snap_t *snap) noexcept nogil:
    """Configuration or sockets have changed: which of them drain now."""
    cdef socket_t *s = w.sockets
    cdef bint gone
    while s != NULL:
        if s.is_within:
            gone = s.listener_index >= snap.listener_count or snap.listeners[s.listener_index] == NULL
            s.draining = gone or s.block.draining or not within_is_fed(w, s)
        s = s.next


cdef inline void within_forget(worker_t *w, const socket_t *s) noexcept nogil:
    """Before its record is freed."""
    cdef listener_stats_t *stats
    if s.is_within:
        stats = <listener_stats_t *> table_get(&w.listeners, s.listener_index)
        stats.within = NULL
