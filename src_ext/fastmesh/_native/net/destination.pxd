"""Where intercepted connections were going: asked of the kernel, and found in the table of a listener that intercepts.

iptables REDIRECT rewrites the destination, and connection tracking keeps the first one (SO_ORIGINAL_DST of
netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST). The table is open addressing with linear probing, at most half full.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy, memset

from fastmesh._native.base.hash cimport hash_xxh64
from fastmesh._native.net.address cimport address_of_sockaddr
from fastmesh._native.net.snap_t cimport destination_t, listener_block_t
from fastmesh._native.net.worker_t cimport address_t
from fastmesh._native.sys.os cimport (
    AF_INET6,
    IP6T_SO_ORIGINAL_DST,
    SO_ORIGINAL_DST,
    SOL_IP,
    SOL_IPV6,
    getsockname,
    getsockopt,
    sockaddr,
    sockaddr_in6,
    sockaddr_storage,
    socklen_t,
)


cdef inline bint address_equal(const address_t *a, const address_t *b) noexcept nogil:
    return a.family == b.family and a.port == b.port and memcmp(a.ip, b.ip, 4 if a.family == 4 else 16) == 0


cdef inline bint destination_ask(int fd, address_t *destination, uint32_t *scope) noexcept nogil:
    """Where the client of an accepted connection wanted to go. False: nobody redirected it, it was made to this socket.

    ``scope`` is the interface's number when the address is link-local, else 0."""
    cdef sockaddr_storage found
    cdef address_t local
    cdef socklen_t length = sizeof(sockaddr_storage)
    scope[0] = 0
    if getsockname(fd, <sockaddr *> &found, &length) != 0:
        return False
    address_of_sockaddr(&local, &found)
    memset(&found, 0, sizeof(found))
    length = sizeof(sockaddr_storage)
    # A socket of both families has IPv4 connections too, and those are known to IPv4's tracking
    if local.family == 4:
        if getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, &found, &length) != 0:
            return False
    elif local.family != 6 or getsockopt(fd, SOL_IPV6, IP6T_SO_ORIGINAL_DST, &found, &length) != 0:
        return False
    address_of_sockaddr(destination, &found)
    if found.ss_family == AF_INET6:
        scope[0] = (<const sockaddr_in6 *> &found).sin6_scope_id
    return destination.family >= 4 and not address_equal(destination, &local)


cdef inline destination_t *destination_place(destination_t *table, uint32_t mask, const uint8_t *ip, uint16_t port) noexcept nogil:
    """The entry for the address and port, or the empty place (port 0) where it belongs."""
    cdef uint8_t key[18]
    cdef uint32_t i
    memcpy(key, ip, 16)
    memcpy(key + 16, &port, 2)
    i = <uint32_t> hash_xxh64(key, 18, 0) & mask
    while table[i].port and (table[i].port != port or memcmp(table[i].ip, ip, 16) != 0):
        i = (i + 1) & mask
    return &table[i]


cdef inline const destination_t *destination_find(const listener_block_t *block, const address_t *address) noexcept nogil:
    """The first listener's entry for the address and port, or for the port alone; NULL: none."""
    cdef uint8_t ip[16]
    cdef const destination_t *by_port
    cdef const destination_t *by_address
    if block.destinations == NULL or address.port == 0:
        return NULL
    memset(ip, 0, 16)
    by_port = destination_place(block.destinations, block.destination_mask, ip, address.port)
    if address.family == 4:
        ip[10] = 0xFF
        ip[11] = 0xFF
        memcpy(ip + 12, address.ip, 4)
    else:
        memcpy(ip, address.ip, 16)
    by_address = destination_place(block.destinations, block.destination_mask, ip, address.port)
    if by_address.port == 0 or (by_port.port != 0 and by_port.order < by_address.order):
        by_address = by_port
    return by_address if by_address.port else NULL


cdef inline bint destinations_begin(listener_block_t *block, uint32_t count) noexcept nogil:
    """An empty table for so many places. False: no memory."""
    cdef uint32_t size = 2
    while size < 2 * count:
        size *= 2
    block.destinations = <destination_t *> calloc(size, sizeof(destination_t))
    block.destination_mask = size - 1
    return block.destinations != NULL


cdef inline void destinations_put(listener_block_t *block, const uint8_t *ip, uint16_t port, uint32_t order, uint32_t listener_index) noexcept nogil:
    """``ip``: 16 bytes, IPv4 mapped, all zero for any. Whoever is put first has the place."""
    cdef destination_t *place = destination_place(block.destinations, block.destination_mask, ip, port)
    if place.port:
        return
    memcpy(place.ip, ip, 16)
    place.port = port
    place.order = order
    place.listener_index = listener_index
