"""Clients that hold a place and do nothing with it are closed while places are short. Owner worker only.

Those are clients between two requests for SHED_IDLE_MS, ones that do not close after their last answer, and ones that
have not sent the whole of a head for SHED_HEAD_MS; never one that has not taken all of its last answer. A cursor goes round the worker's connections, so that each look costs a bounded time and all come
up in turn.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._native.base.errors cimport FM_E_HEADER_TIMEOUT
from fastmesh._native.base.limits cimport (
    SHED_HEAD_MS,
    SHED_IDLE_MS,
    SHED_MOST,
    SHED_POOLED,
    SHED_SCAN,
    SHED_SCAN_ACCEPT,
)
from fastmesh._native.base.slab cimport pend_len
from fastmesh._native.net.conn cimport conn_has_unsent, conn_in_kernel
from fastmesh._native.net.overload cimport overload_excess, overload_look, overload_settle
from fastmesh._native.net.pool cimport pool_is_closed, pool_shed
from fastmesh._native.net.splice cimport pipes_shed
from fastmesh._native.net.worker_t cimport (
    C_HEAD,
    C_LINGER,
    C_PROXY_HEADER,
    CONN_CLIENT,
    CONN_LEAF,
    F_FRESH,
    F_HEAD_BEGUN,
    F_READABLE,
    PRESSURE_FULL,
    PRESSURE_NONE,
    RESOURCE_CONNECTIONS,
    RESOURCE_DESCRIPTORS,
    RESOURCE_MEMORY,
    conn_t,
    worker_t,
)
from fastmesh._native.proxy.answer cimport client_close, client_refuse
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_load_relaxed_u64
from fastmesh._native.sys.os cimport MSG_DONTWAIT, MSG_PEEK, recv


cdef inline bint client_has_sent(const conn_t *c) noexcept nogil:
    """Whether bytes of it wait in the kernel, of which no event has told yet."""
    cdef uint8_t byte
    return c.flags & F_READABLE or recv(c.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0


cdef inline bint client_shed(worker_t *w, conn_t *c) noexcept nogil:
    """Closes the client if it only holds its place. False: it stays."""
    cdef uint32_t since_ms = <uint32_t> w.now_ms - c.idle_since_ms
    if c.kind != CONN_CLIENT or since_ms < SHED_IDLE_MS or conn_has_unsent(c):
        return False
    if c.state == C_LINGER:
        # It holds no place any more (F_COUNTED), only a descriptor and some memory
        if w.strain[RESOURCE_DESCRIPTORS] == PRESSURE_NONE and w.strain[RESOURCE_MEMORY] == PRESSURE_NONE:
            return False
        if conn_in_kernel(c):
            return False
        client_close(w, c)
        return True
    if c.state == C_HEAD and not c.flags & (F_FRESH | F_HEAD_BEGUN):
        # While it reads its last answer from the kernel's buffer, a request that it sends meanwhile would cut that off
        if pend_len(&c.input) or client_has_sent(c) or conn_in_kernel(c):
            return False
        client_close(w, c)
        return True
    if (c.state != C_HEAD and c.state != C_PROXY_HEADER) or since_ms < SHED_HEAD_MS or client_has_sent(c):
        return False
    if c.flags & F_HEAD_BEGUN:
        client_refuse(w, c, FM_E_HEADER_TIMEOUT, False)
    else:
        client_close(w, c)  # who has asked nothing is answered nothing
    return True


cdef inline uint32_t clients_shed(worker_t *w, uint32_t scan, uint32_t most) noexcept nogil:
    """Passes over ``scan`` connections at most and closes up to ``most``. How many."""
    cdef uint32_t size = w.conn_leaf_count * CONN_LEAF
    cdef uint32_t i = w.shed_cursor
    cdef uint32_t closed = 0
    if scan > size:
        scan = size
    while scan > 0 and closed < most:
        scan -= 1
        if i >= size:
            i = 0
        closed += client_shed(w, &w.conn_leaves[i // CONN_LEAF][i % CONN_LEAF])
        i += 1
    w.shed_cursor = i
    fm_bump_u64(&w.shed_clients, closed)
    return closed


cdef inline uint32_t shed_share(worker_t *w) noexcept nogil:
    """How many this worker should close now to end the shortage. Not its part of them only: another worker may have no
    idle clients at all. Each look counts anew, so that together they close few too many."""
    cdef uint64_t most
    if w.strain[RESOURCE_MEMORY] != PRESSURE_NONE:
        return SHED_MOST
    most = max(
        overload_excess(fm_load_relaxed_u64(&w.shared.connections), w.shared.connection_limit),
        overload_excess(fm_load_relaxed_u64(&w.shared.descriptors), w.shared.descriptor_limit),
    )
    return <uint32_t> min(most + 1, <uint64_t> SHED_MOST)


cdef inline void worker_look(worker_t *w) noexcept nogil:
    """Once in LOOK_MS: what is used, and what follows from it when it is much."""
    overload_look(w)
    if w.pressure == PRESSURE_NONE:
        return
    clients_shed(w, SHED_SCAN, shed_share(w))
    if pool_is_closed(w):
        pool_shed(w, SHED_POOLED)
    if w.strain[RESOURCE_DESCRIPTORS] != PRESSURE_NONE:
        pipes_shed(w)


cdef inline bint place_for_client(worker_t *w) noexcept nogil:
    """Whether one more client may come: connections and descriptors suffice, or one that holds an idle place gave it up."""
    overload_settle(w)
    if w.strain[RESOURCE_DESCRIPTORS] == PRESSURE_FULL and pool_shed(w, SHED_POOLED):
        overload_settle(w)
    if w.strain[RESOURCE_CONNECTIONS] != PRESSURE_FULL and w.strain[RESOURCE_DESCRIPTORS] != PRESSURE_FULL:
        return True
    return clients_shed(w, SHED_SCAN_ACCEPT, 1) > 0
