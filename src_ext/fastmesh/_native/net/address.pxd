"""Addresses of connections: from what the kernel says to what headers and rules need. No allocation."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from fastmesh._native.base.put cimport put_decimal
from fastmesh._native.net.snap_t cimport range_t
from fastmesh._native.net.worker_t cimport address_t, conn_t
from fastmesh._native.sys.os cimport (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    getsockname,
    htons,
    ntohs,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    sockaddr_storage,
    socklen_t,
)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *source, char *target, unsigned int size)

cdef extern from "<string.h>" nogil:
    size_t strlen(const char *text)


cdef enum: IP_TEXT_BYTES = 47  # INET6_ADDRSTRLEN, and the place for a zone


cdef inline bint is_mapped_v4(const uint8_t *ip) noexcept nogil:
    cdef uint32_t i
    for i in range(10):
        if ip[i]:
            return False
    return ip[10] == 0xFF and ip[11] == 0xFF


cdef inline void address_set_v6(address_t *address, const uint8_t *ip, uint16_t port) noexcept nogil:
    """An IPv4 address that came as ::ffff:a.b.c.d is an IPv4 address."""
    address.port = port
    if is_mapped_v4(ip):
        address.family = 4
        memcpy(address.ip, ip + 12, 4)
    else:
        address.family = 6
        memcpy(address.ip, ip, 16)


cdef inline void address_of_sockaddr(address_t *address, const sockaddr_storage *from_kernel) noexcept nogil:
    cdef const sockaddr_in *v4
    cdef const sockaddr_in6 *v6
    address.family = 0
    address.port = 0
    if from_kernel.ss_family == AF_INET:
        v4 = <const sockaddr_in *> from_kernel
        address.family = 4
        address.port = ntohs(v4.sin_port)
        memcpy(address.ip, &v4.sin_addr, 4)
    elif from_kernel.ss_family == AF_INET6:
        v6 = <const sockaddr_in6 *> from_kernel
        address_set_v6(address, <const uint8_t *> &v6.sin6_addr, ntohs(v6.sin6_port))
    elif from_kernel.ss_family == AF_UNIX:
        address.family = 1


cdef inline socklen_t sockaddr_of_address(sockaddr_storage *out, const address_t *address, uint32_t scope) noexcept nogil:
    """The way back: how many bytes connect(2) takes; 0 for what is no IP address. ``scope``: the interface of a link-local
    one."""
    cdef sockaddr_in *v4 = <sockaddr_in *> out
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *> out
    memset(out, 0, sizeof(sockaddr_storage))
    if address.family == 4:
        v4.sin_family = AF_INET
        v4.sin_port = htons(address.port)
        memcpy(&v4.sin_addr, address.ip, 4)
        return sizeof(sockaddr_in)
    if address.family == 6:
        v6.sin6_family = AF_INET6
        v6.sin6_port = htons(address.port)
        v6.sin6_scope_id = scope
        memcpy(&v6.sin6_addr, address.ip, 16)
        return sizeof(sockaddr_in6)
    return 0


cdef inline uint8_t put_octet(char *out, uint8_t value) noexcept nogil:
    cdef uint8_t n = 0
    if value >= 100:
        out[0] = <char> (c'0' + value // 100)
        n = 1
    if value >= 10:
        out[n] = <char> (c'0' + value // 10 % 10)
        n += 1
    out[n] = <char> (c'0' + value % 10)
    return n + 1


cdef inline uint8_t put_ip(char *out, const address_t *address) noexcept nogil:
    """Writes the IP address, up to IP_TEXT_BYTES; 0 bytes for a Unix peer."""
    cdef uint8_t n = 0
    cdef uint32_t i
    if address.family == 4:
        for i in range(4):
            n += put_octet(&out[n], address.ip[i])
            if i < 3:
                out[n] = c'.'
                n += 1
    elif address.family == 6:
        if inet_ntop(AF_INET6, &address.ip[0], out, IP_TEXT_BYTES) != NULL:
            n = <uint8_t> strlen(out)
    return n


cdef inline uint8_t put_endpoint(char *out, const address_t *address) noexcept nogil:
    """Writes `ip:port` or `[ip]:port`, up to IP_TEXT_BYTES + 8."""
    cdef uint8_t n = 0
    if address.family == 6:
        out[0] = c'['
        n = 1
    n += put_ip(out + n, address)
    if address.family == 6:
        out[n] = c']'
        n += 1
    out[n] = c':'
    return <uint8_t> (put_decimal(<uint8_t *> out + n + 1, address.port) - <uint8_t *> out)


cdef inline void conn_set_peer_text(conn_t *c) noexcept nogil:
    """Writes ``client_ip`` from ``peer_address``; empty for a Unix peer."""
    c.client_ip_len = put_ip(&c.client_ip[0], &c.peer_address)


cdef inline void conn_learn_local(conn_t *c) noexcept nogil:
    """Fills ``local_address``: the address that the client connected to. Asked of the kernel once."""
    cdef sockaddr_storage local
    cdef socklen_t length = sizeof(sockaddr_storage)
    if c.local_address.family == 0 and getsockname(c.fd, <sockaddr *> &local, &length) == 0:
        address_of_sockaddr(&c.local_address, &local)


cdef inline bint bits_equal(const uint8_t *a, const uint8_t *b, uint32_t bits) noexcept nogil:
    cdef uint32_t whole = bits >> 3
    cdef uint32_t rest = bits & 7
    cdef uint8_t mask
    if memcmp(a, b, whole) != 0:
        return False
    if rest == 0:
        return True
    mask = <uint8_t> (0xFF << (8 - rest))
    return (a[whole] & mask) == (b[whole] & mask)


cdef inline bint address_in_ranges(const address_t *address, const range_t *ranges, uint32_t count) noexcept nogil:
    """Whether one of the ranges (IPv4 as ::ffff:a.b.c.d, prefix lengths counted in 128 bits) holds the address."""
    cdef uint8_t ip[16]
    cdef uint32_t i
    if count == 0 or address.family < 4:
        return False
    if address.family == 4:
        for i in range(10):
            ip[i] = 0
        ip[10] = 0xFF
        ip[11] = 0xFF
        memcpy(&ip[12], address.ip, 4)
    else:
        memcpy(ip, address.ip, 16)
    for i in range(count):
        if address.family == 4 and ranges[i].prefix_bits < 96:
            continue  # `::/0` and the like speak of IPv6 only, though a mapped address lies in them
        if bits_equal(ip, ranges[i].address, ranges[i].prefix_bits):
            return True
    return False
