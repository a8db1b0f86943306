"""The PROXY protocol, versions 1 (text) and 2 (binary), as its specification of 2020/03/05 has it. Sans-I/O.

A header is accepted whole or not at all: a byte that cannot belong to one is an error at once, so that a
client that sends none is not waited for. Nothing of what follows the header is read.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, strlen

from fastmesh._native.base.errors cimport FM_E_PROXY_HEADER
from fastmesh._native.proto.h1_write cimport h1_put, h1_put_number
from fastmesh._native.proto.proxyproto_t cimport (
    PP_INET, PP_INET6, PP_NONE, PP_UNIX, PP_V1_MAX, PP_V2_MAX, pp_addr_t,
)

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET
    int AF_INET6
    int inet_pton(int family, const char *text, void *out)
    const char *inet_ntop(int family, const void *address, char *out, uint32_t size)

cdef enum:
    _PP_V2_FIXED = 16
    _PP_SIGNATURE = 12
    _PP_UNIX_BYTES = 108
    _PP_TEXT_MAX = 46  # an IPv6 address as text, with its NUL


cdef inline const char *_pp_signature() noexcept nogil:
    return b"\r\n\r\n\0\r\nQUIT\n"


cdef inline const uint8_t *_pp_word(const uint8_t **cursor, const uint8_t *end, uint32_t *len) noexcept nogil:
    """The bytes up to the next single space or the end; NULL for none."""
    cdef const uint8_t *start = cursor[0]
    cdef const uint8_t *p = start
    while p < end and p[0] != c" ":
        p += 1
    len[0] = <uint32_t>(p - start)
    cursor[0] = p + 1 if p < end else p
    # A space that ends the line would have to start another word.
    if p == start or (p < end and p + 1 == end):
        return NULL
    return start


cdef inline bint _pp_address(
    const uint8_t **cursor, const uint8_t *end, int family, uint8_t *out,
) noexcept nogil:
    cdef char text[_PP_TEXT_MAX]
    cdef uint32_t len = 0
    cdef const uint8_t *word = _pp_word(cursor, end, &len)
    if word == NULL or len >= _PP_TEXT_MAX or memchr(word, 0, len) != NULL:
        return False
    memcpy(text, word, len)
    text[len] = 0
    return inet_pton(family, text, out) == 1


cdef inline bint _pp_port(const uint8_t **cursor, const uint8_t *end, uint16_t *out) noexcept nogil:
    cdef uint32_t len = 0, i, digit, port = 0
    cdef const uint8_t *word = _pp_word(cursor, end, &len)
    if word == NULL or len > 5 or (len > 1 and word[0] == c"0"):
        return False
    for i in range(len):
        digit = <uint32_t>word[i] - c"0"
        if digit > 9:
            return False
        port = port * 10 + digit
    out[0] = <uint16_t>port
    return port <= 65535


cdef inline bint _pp_v1_line(const uint8_t *p, const uint8_t *end, pp_addr_t *out) noexcept nogil:
    """What stands between `PROXY ` and CRLF."""
    cdef int family
    if end - p >= 7 and memcmp(p, b"UNKNOWN", 7) == 0 and (end - p == 7 or p[7] == c" "):
        out.family = PP_NONE
        return True
    if end - p < 5 or memcmp(p, b"TCP", 3) != 0 or (p[3] != c"4" and p[3] != c"6") or p[4] != c" ":
        return False
    family = AF_INET if p[3] == c"4" else AF_INET6
    out.family = PP_INET if p[3] == c"4" else PP_INET6
    p += 5
    return (
        _pp_address(&p, end, family, out.src) and _pp_address(&p, end, family, out.dst)
        and _pp_port(&p, end, &out.src_port) and _pp_port(&p, end, &out.dst_port) and p == end
    )


cdef inline int32_t _pp_parse_v1(const uint8_t *buf, uint32_t len, pp_addr_t *out) noexcept nogil:
    cdef uint32_t seen = len if len < PP_V1_MAX else PP_V1_MAX
    cdef const uint8_t *cr
    if memcmp(buf, b"PROXY ", seen if seen < 6 else 6) != 0:
        return -FM_E_PROXY_HEADER
    cr = <const uint8_t *>memchr(buf, c"\r", seen)
    if cr == NULL:
        return -FM_E_PROXY_HEADER if seen == PP_V1_MAX or memchr(buf, c"\n", seen) != NULL else 0
    if cr + 1 == buf + seen:
        return -FM_E_PROXY_HEADER if seen == PP_V1_MAX or memchr(buf, c"\n", seen) != NULL else 0
    if cr[1] != c"\n" or cr - buf < 6 or memchr(buf, c"\n", cr - buf) != NULL:
        return -FM_E_PROXY_HEADER
    if not _pp_v1_line(buf + 6, cr, out):
        return -FM_E_PROXY_HEADER
    return <int32_t>(cr + 2 - buf)


cdef inline bint _pp_v2_addresses(
    const uint8_t *p, uint32_t len, uint8_t family, pp_addr_t *out,
) noexcept nogil:
    """The address block of a PROXY command; TLVs after it are passed over."""
    cdef uint32_t size
    if family == 1:
        size = 4
        out.family = PP_INET
    elif family == 2:
        size = 16
        out.family = PP_INET6
    elif family == 3:
        if len < 2 * _PP_UNIX_BYTES:
            return False
        out.family = PP_UNIX
        out.src_port = 0
        out.dst_port = 0
        memcpy(out.src, p, _PP_UNIX_BYTES)
        memcpy(out.dst, p + _PP_UNIX_BYTES, _PP_UNIX_BYTES)
        return True
    else:
        return False
    if len < 2 * size + 4:
        return False
    memcpy(out.src, p, size)
    memcpy(out.dst, p + size, size)
    p += 2 * size
    out.src_port = <uint16_t>(p[0] << 8 | p[1])
    out.dst_port = <uint16_t>(p[2] << 8 | p[3])
    return True


cdef inline int32_t _pp_parse_v2(const uint8_t *buf, uint32_t len, pp_addr_t *out) noexcept nogil:
    cdef uint32_t size, family, transport
    if memcmp(buf, _pp_signature(), len if len < _PP_SIGNATURE else _PP_SIGNATURE) != 0:
        return -FM_E_PROXY_HEADER
    if len > 12 and buf[12] != 0x20 and buf[12] != 0x21:
        return -FM_E_PROXY_HEADER
    if len < _PP_V2_FIXED:
        return 0
    size = <uint32_t>buf[14] << 8 | buf[15]
    family = buf[13] >> 4
    transport = buf[13] & 15
    if size > PP_V2_MAX - _PP_V2_FIXED:
        return -FM_E_PROXY_HEADER
    if buf[12] == 0x21 and (family > 3 or transport > 2):
        return -FM_E_PROXY_HEADER
    if len < _PP_V2_FIXED + size:
        return 0
    if buf[12] == 0x20 or family == 0 or transport == 0:
        out.family = PP_NONE
    elif not _pp_v2_addresses(buf + _PP_V2_FIXED, size, <uint8_t>family, out):
        return -FM_E_PROXY_HEADER
    return <int32_t>(_PP_V2_FIXED + size)


cdef inline int32_t pp_parse(const uint8_t *buf, uint32_t len, pp_addr_t *out) noexcept nogil:
    """Reads a header of either version: > 0 bytes consumed, 0 more input, -FM_E_PROXY_HEADER. With family
    PP_NONE (LOCAL, UNKNOWN) the addresses are not set, those of the socket hold."""
    if len == 0:
        return 0
    if buf[0] == c"P":
        return _pp_parse_v1(buf, len, out)
    return _pp_parse_v2(buf, len, out)


cdef inline uint8_t *_pp_put_text(uint8_t *p, int family, const uint8_t *address) noexcept nogil:
    cdef char text[_PP_TEXT_MAX]
    inet_ntop(family, address, text, _PP_TEXT_MAX)
    p = h1_put(p, text, strlen(text))
    p[0] = c" "
    return p + 1


cdef inline uint32_t pp_emit_v1(const pp_addr_t *a, uint8_t *out) noexcept nogil:
    """Writes a version 1 header; `out` has PP_V1_MAX bytes. Unix and absent addresses become UNKNOWN."""
    cdef uint8_t *p
    cdef int family = AF_INET if a.family == PP_INET else AF_INET6
    if a.family != PP_INET and a.family != PP_INET6:
        memcpy(out, b"PROXY UNKNOWN\r\n", 15)
        return 15
    p = h1_put(out, b"PROXY TCP4 " if a.family == PP_INET else b"PROXY TCP6 ", 11)
    p = _pp_put_text(p, family, a.src)
    p = h1_put_number(_pp_put_text(p, family, a.dst), a.src_port)
    p[0] = c" "
    p = h1_put_number(p + 1, a.dst_port)
    return <uint32_t>(h1_put(p, b"\r\n", 2) - out)


cdef inline uint32_t pp_emit_v2(const pp_addr_t *a, uint8_t *out) noexcept nogil:
    """Writes a version 2 header; `out` has PP_V2_EMIT_MAX bytes. Without addresses it is a LOCAL command."""
    cdef uint32_t size = 4 if a.family == PP_INET else 16 if a.family == PP_INET6 else _PP_UNIX_BYTES
    cdef uint32_t body = 2 * size + (0 if a.family == PP_UNIX else 4)
    cdef uint8_t *p
    memcpy(out, _pp_signature(), _PP_SIGNATURE)
    if a.family == PP_NONE:
        memcpy(out + 12, b"\x20\0\0\0", 4)
        return _PP_V2_FIXED
    out[12] = 0x21
    out[13] = <uint8_t>(a.family << 4 | 1)
    out[14] = 0
    out[15] = <uint8_t>body
    p = h1_put(h1_put(out + _PP_V2_FIXED, a.src, size), a.dst, size)
    if a.family != PP_UNIX:
        p[0] = <uint8_t>(a.src_port >> 8)
        p[1] = <uint8_t>(a.src_port & 255)
        p[2] = <uint8_t>(a.dst_port >> 8)
        p[3] = <uint8_t>(a.dst_port & 255)
    return _PP_V2_FIXED + body
