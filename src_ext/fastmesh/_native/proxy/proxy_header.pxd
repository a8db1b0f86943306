"""The PROXY protocol on connections: the header we send to an endpoint, the one we read from a trusted peer."""
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from fastmesh._native.base.slab cimport pend_append
from fastmesh._native.net.worker_t cimport address_t, conn_t, worker_t
from fastmesh._native.proto.proxyproto cimport pp_emit_v1, pp_emit_v2
from fastmesh._native.proto.proxyproto_t cimport PP_INET, PP_INET6, PP_NONE, PP_V2_EMIT_MAX, pp_addr_t


cdef inline bint proxy_header_prepend(worker_t *w, conn_t *u, conn_t *client, uint8_t version) noexcept nogil:
    """Puts the header of ``version`` (1 or 2) in front of everything that is sent to the endpoint. False: no memory.

    The destination is the address that the client connected to."""
    cdef pp_addr_t address
    cdef uint8_t header[PP_V2_EMIT_MAX]
    cdef uint32_t length
    cdef const address_t *src = &client.peer_address
    cdef const address_t *dst = &client.local_address
    memset(&address, 0, sizeof(address))
    address.family = PP_NONE
    if src.family == dst.family and src.family == 4:
        address.family = PP_INET
        memcpy(address.src, src.ip, 4)
        memcpy(address.dst, dst.ip, 4)
    elif src.family == dst.family and src.family == 6:
        address.family = PP_INET6
        memcpy(address.src, src.ip, 16)
        memcpy(address.dst, dst.ip, 16)
    address.src_port = src.port
    address.dst_port = dst.port
    if version == 1:
        length = pp_emit_v1(&address, header)
    else:
        length = pp_emit_v2(&address, header)
    return pend_append(&w.bufs, &u.out, header, length)
