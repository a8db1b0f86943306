"""Whether a client's first bytes are HTTP/1: said as soon as it is certain. No state, no I/O."""
from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef enum sniff_t:
    SNIFF_MORE = 0
    SNIFF_HTTP = 1
    SNIFF_OTHER = 2

cdef enum:
    SNIFF_METHOD_LEAST = 3
    SNIFF_METHOD_MOST = 32


cdef inline int32_t sniff_text(const uint8_t *data, uint32_t size, const uint8_t *text, uint32_t length) noexcept nogil:
    """Whether the bytes begin with the text, in lower or upper case."""
    cdef uint32_t i
    for i in range(length):
        if i == size:
            return SNIFF_MORE
        if (data[i] | 0x20) != text[i]:
            return SNIFF_OTHER
    return SNIFF_HTTP


cdef inline int32_t sniff_target(const uint8_t *data, uint32_t size) noexcept nogil:
    """What follows the method (RFC 9112 3.2): a path, `*` with the version (HTTP/2's preface and RTSP have it too), or a URL
    of http or https. The `host:port` of CONNECT is a tunnel in any case."""
    cdef int32_t found
    if size == 0:
        return SNIFF_MORE
    if data[0] == c'/':
        return SNIFF_HTTP
    if data[0] == c'*':
        return sniff_text(data + 1, size - 1, <const uint8_t *> b" http/1.", 8)
    found = sniff_text(data, size, <const uint8_t *> b"http", 4)
    if found != SNIFF_HTTP:
        return found
    if size > 4 and (data[4] | 0x20) == c's':
        return sniff_text(data + 5, size - 5, <const uint8_t *> b"://", 3)
    return sniff_text(data + 4, size - 4, <const uint8_t *> b"://", 3)


cdef inline int32_t sniff_request(const uint8_t *data, uint32_t size) noexcept nogil:
    """Whether the bytes begin a request line: a method of capital letters and hyphens, a space, a target."""
    cdef uint32_t i = 0
    while i < size and i <= SNIFF_METHOD_MOST:
        if c'A' <= data[i] <= c'Z' or (data[i] == c'-' and i != 0):
            i += 1
        elif data[i] == c' ' and i >= SNIFF_METHOD_LEAST:
            return sniff_target(data + i + 1, size - i - 1)
        else:
            return SNIFF_OTHER
    return SNIFF_MORE if i <= SNIFF_METHOD_MOST else SNIFF_OTHER
