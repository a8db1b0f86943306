"""Whether a client keeps pace while we wait for it: for more of its body, or for it to take what we have for it.

Silence for as long as ``idle`` ends the waiting, and so does less than the listener's ``min_rate`` over a window of that
length. Only the time counts in which nobody but the client could do anything.

What has come of a body is known. What a reader has taken is not: the kernel's buffer may hold megabytes, and the poller
says nothing until a third of them has gone. So the kernel is asked what the peer has acknowledged, by the connection's
timer only, PACE_LOOKS times in a window. Owner worker only.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._native.base.limits cimport PACE_LOOKS
from fastmesh._native.net.conn cimport conn_in_kernel, conn_unsent
from fastmesh._native.net.worker_t cimport F_FILLED, conn_t, worker_t

cdef enum pace_t:
    PACE_FREE = 0  # nobody waits for it
    PACE_BODY = 1  # for more of its body
    PACE_BODY_LATER = 2  # its body is not whole, but it is not its turn: the window stands still
    PACE_READING = 3  # to take what we have for it; the kernel was not asked yet
    PACE_LOOKED = 4  # the same, and the window has begun


cdef inline void pace_free(conn_t *c) noexcept nogil:
    c.pace = PACE_FREE


cdef inline void pace_body(worker_t *w, conn_t *c, uint64_t received) noexcept nogil:
    """Its body is waited for, of which bytes may just have come: ``received`` in all."""
    cdef uint32_t now_ms = <uint32_t> w.now_ms
    if c.pace == PACE_BODY_LATER:
        c.window_ms = now_ms - c.window_ms
    elif c.pace != PACE_BODY:
        c.window_ms = now_ms
        c.window_bytes = received
    c.pace = PACE_BODY
    c.moved_ms = now_ms


cdef inline void pace_reading(conn_t *c) noexcept nogil:
    """It has to take what waits for it. Whoever has taken all of it has kept pace: nothing is summed up over waits."""
    c.flags |= F_FILLED
    if c.pace != PACE_LOOKED:
        c.pace = PACE_READING


cdef inline void pace_pause(worker_t *w, conn_t *c) noexcept nogil:
    """It is somebody else's turn."""
    if c.pace == PACE_BODY:
        c.pace = PACE_BODY_LATER
        c.window_ms = <uint32_t> w.now_ms - c.window_ms
    elif c.pace != PACE_BODY_LATER:
        c.pace = PACE_FREE


cdef inline uint64_t pace_until_ms(worker_t *w, const conn_t *c, uint32_t idle_ms, bint judged) noexcept nogil:
    """When to look at it again, which may be over; 0: never. ``judged``: a slow body is not borne for ever."""
    cdef uint32_t now_ms = <uint32_t> w.now_ms
    cdef uint32_t since_ms
    if idle_ms == 0 or c.pace == PACE_FREE or c.pace == PACE_BODY_LATER:
        return 0
    if c.pace != PACE_BODY:
        return w.now_ms + idle_ms // PACE_LOOKS + 1
    since_ms = now_ms - c.moved_ms
    if judged and c.socket.block.min_rate and now_ms - c.window_ms > since_ms:
        since_ms = now_ms - c.window_ms
    return w.now_ms - since_ms + idle_ms


cdef inline bint pace_window_lost(worker_t *w, conn_t *c, uint32_t idle_ms, uint64_t bytes_) noexcept nogil:
    """At the end of a window: whether less than the least came of it, ``bytes_`` since the beginning. The next begins."""
    cdef uint32_t now_ms = <uint32_t> w.now_ms
    cdef uint64_t moved = bytes_ - c.window_bytes
    if now_ms - c.window_ms < idle_ms:
        return False
    c.window_ms = now_ms
    c.window_bytes = bytes_
    return moved < <uint64_t> c.socket.block.min_rate * idle_ms // 1000


cdef inline bint pace_body_lost(worker_t *w, conn_t *c, uint32_t idle_ms, uint64_t received, bint judged) noexcept nogil:
    """The timer has fired: whether the client is too slow with its body. Without ``judged`` only silence counts."""
    if idle_ms == 0:
        return False
    if <uint32_t> w.now_ms - c.moved_ms >= idle_ms:
        return True
    return judged and pace_window_lost(w, c, idle_ms, received)


cdef inline bint pace_reading_lost(worker_t *w, conn_t *c, uint32_t idle_ms, uint64_t given) noexcept nogil:
    """The timer has fired: whether the client is too slow to take what it was ``given`` (bytes, counted from anywhere)."""
    cdef uint32_t now_ms = <uint32_t> w.now_ms
    # Modulo 2^64, for earlier answers may be in the kernel yet: what counts are differences
    cdef uint64_t taken = given - conn_unsent(c) - conn_in_kernel(c)
    if c.pace != PACE_LOOKED:
        c.pace = PACE_LOOKED
        c.window_ms = now_ms
        c.window_bytes = taken
        c.moved_ms = now_ms
    elif taken != c.taken_bytes:
        c.moved_ms = now_ms
    c.taken_bytes = taken
    return idle_ms and (now_ms - c.moved_ms >= idle_ms or pace_window_lost(w, c, idle_ms, taken))
