"""Addresses carried by the PROXY protocol. Types only.

proxyproto.pxd (all ``cdef inline … noexcept nogil``):
    int32_t  pp_parse(const uint8_t *buf, uint32_t len, pp_addr_t *out)
                 # v1 or v2; > 0 consumed, 0 more input, -FM_E_PROXY_HEADER
    uint32_t pp_emit_v1(const pp_addr_t *a, uint8_t *out)  # length; `out` has PP_V1_MAX bytes
    uint32_t pp_emit_v2(const pp_addr_t *a, uint8_t *out)  # length; `out` has PP_V2_EMIT_MAX bytes
"""
from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    PP_V1_MAX = 107
    PP_V2_MAX = 536  # the longest header that is accepted, TLVs included
    PP_V2_EMIT_MAX = 232  # 16 + two Unix addresses

cdef enum:
    PP_NONE = 0  # LOCAL or UNKNOWN: the addresses of the socket hold
    PP_INET = 1
    PP_INET6 = 2
    PP_UNIX = 3

ctypedef struct pp_addr_t:
    uint8_t family
    uint8_t src[108]  # network order: 4 or 16 bytes; a Unix path as in sockaddr_un.sun_path
    uint8_t dst[108]
    uint16_t src_port  # host order
    uint16_t dst_port
