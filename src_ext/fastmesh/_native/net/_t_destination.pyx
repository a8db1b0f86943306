"""Addresses that connections were going to, and the table of them. For tests only."""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from fastmesh._native.net.address cimport IP_TEXT_BYTES, address_of_sockaddr, put_endpoint, sockaddr_of_address
from fastmesh._native.net.destination cimport destination_find, destinations_begin, destinations_put
from fastmesh._native.net.snap_t cimport destination_t, listener_block_t
from fastmesh._native.net.worker_t cimport address_t
from fastmesh._native.sys.os cimport sockaddr_storage, socklen_t


def there_and_back(bytes packed not None, uint32_t scope):
    """(sockaddr, text) of the address that a sockaddr tells."""
    cdef sockaddr_storage from_kernel
    cdef sockaddr_storage again
    cdef address_t address
    cdef char text[IP_TEXT_BYTES + 8]
    cdef socklen_t length
    memset(&from_kernel, 0, sizeof(from_kernel))
    memset(&address, 0, sizeof(address))
    memcpy(&from_kernel, <const char *> packed, len(packed))
    address_of_sockaddr(&address, &from_kernel)
    length = sockaddr_of_address(&again, &address, scope)
    return (<char *> &again)[:length], text[:put_endpoint(text, &address)].decode()


def find_destinations(list destinations not None, list wanted not None):
    """The listeners of the ``wanted`` sockaddrs in a table of ``destinations``, as blocks have it; None where there is none."""
    cdef listener_block_t block
    cdef sockaddr_storage from_kernel
    cdef address_t address
    cdef const destination_t *found
    memset(&block, 0, sizeof(block))
    listeners = []
    if destinations and not destinations_begin(&block, <uint32_t> len(destinations)):
        raise MemoryError
    for order, (packed, port, index) in enumerate(destinations):
        destinations_put(&block, <const uint8_t *> <const char *> (<bytes> packed), port, order, index)
    try:
        for packed in wanted:
            memset(&from_kernel, 0, sizeof(from_kernel))
            memcpy(&from_kernel, <const char *> (<bytes> packed), len(packed))
            address_of_sockaddr(&address, &from_kernel)
            found = destination_find(&block, &address)
            listeners.append(found.listener_index if found != NULL else None)
    finally:
        free(block.destinations)
    return listeners
