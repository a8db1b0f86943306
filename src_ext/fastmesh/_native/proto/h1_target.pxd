"""Request targets and hosts (RFC 9112 3.2, RFC 3986 3.2.2). Sans-I/O, any thread."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr

from fastmesh._native.base.errors cimport FM_E_BAD_REQUEST, FM_E_MISDIRECTED
from fastmesh._native.base.field_t cimport slice_t
from fastmesh._native.proto.ctext cimport FM_C_DIGIT, FM_C_HEX, FM_C_HOST, fm_class, fm_equal_nocase
from fastmesh._native.proto.h1_t cimport (
    H1_ABSOLUTE_FORM, H1_ASTERISK_FORM, H1_AUTHORITY_FORM, H1_M_CONNECT, H1_M_OPTIONS, H1_ORIGIN_FORM,
    h1_req_t,
)


cdef inline bint _is_ipv4(const uint8_t *p, uint32_t len) noexcept nogil:
    cdef uint32_t i = 0, parts = 0, value, digits
    while True:
        value = 0
        digits = 0
        while i < len and fm_class[p[i]] & FM_C_DIGIT and digits < 4:
            value = value * 10 + (p[i] - c"0")
            digits += 1
            i += 1
        if digits == 0 or value > 255 or digits > 3:
            return False
        parts += 1
        if i == len:
            return parts == 4
        if p[i] != c"." or parts == 4:
            return False
        i += 1


cdef inline bint _is_ipv6(const uint8_t *p, uint32_t len) noexcept nogil:
    """Eight groups of up to four hex digits, one run of them elided, the last two perhaps as IPv4. No
    zone."""
    cdef uint32_t i = 0, groups = 0, start
    cdef bint elided = False
    while i < len:
        if p[i] == c":":
            if i + 1 >= len or p[i + 1] != c":" or elided:
                return False
            elided = True
            i += 2
            continue
        start = i
        while i < len and fm_class[p[i]] & FM_C_HEX and i - start < 5:
            i += 1
        if i < len and p[i] == c".":
            if not _is_ipv4(p + start, len - start):
                return False
            groups += 2
            break
        if i == start or i - start > 4:
            return False
        groups += 1
        if i == len:
            break
        if p[i] != c":":
            return False
        if i + 1 < len and p[i + 1] == c":":
            continue
        i += 1
        if i == len:
            return False
    return groups <= 7 if elided else groups == 8


cdef inline uint32_t _reg_name_end(const uint8_t *p, uint32_t len) noexcept nogil:
    """Length of the name, which has no empty label but perhaps the last; what stops it is the caller's to
    judge. 0: none, or malformed."""
    cdef uint32_t i = 0
    while i < len:
        if fm_class[p[i]] & FM_C_HOST:
            if p[i] == c"." and (i == 0 or p[i - 1] == c"."):
                return 0
            i += 1
        elif p[i] == c"%":
            if len - i < 3 or not fm_class[p[i + 1]] & fm_class[p[i + 2]] & FM_C_HEX:
                return 0
            i += 3
        else:
            break
    return i


cdef inline bint h1_host(const uint8_t *p, uint32_t len, slice_t *name, bint *has_port) noexcept nogil:
    """Checks `uri-host [":" port]` and gives the host without port and without one trailing dot. An empty
    value is right, and gives an empty name."""
    cdef const uint8_t *bracket
    cdef uint32_t i, digits = 0, port = 0
    name.ptr = p
    name.len = 0
    has_port[0] = False
    if len == 0:
        return True
    if p[0] == c"[":
        bracket = <const uint8_t *>memchr(p, c"]", len)
        if bracket == NULL or not _is_ipv6(p + 1, <uint32_t>(bracket - p) - 1):
            return False
        i = <uint32_t>(bracket - p) + 1
        name.len = i
    else:
        i = _reg_name_end(p, len)
        if i == 0:
            return False
        name.len = i - 1 if p[i - 1] == c"." else i
    if i == len:
        return True
    if p[i] != c":":
        return False
    for i in range(i + 1, len):
        if not fm_class[p[i]] & FM_C_DIGIT:
            return False
        port = port * 10 + (p[i] - c"0")
        digits += 1
        if port > 65535:
            return False
    has_port[0] = digits > 0 and port > 0
    return True


cdef inline void _split_query(h1_req_t *out, const uint8_t *p, uint32_t len) noexcept nogil:
    cdef const uint8_t *mark = <const uint8_t *>memchr(p, c"?", len)
    out.path.ptr = p
    if mark == NULL:
        out.path.len = len
        out.query.ptr = NULL
        out.query.len = 0
    else:
        out.path.len = <uint32_t>(mark - p)
        out.query.ptr = mark + 1
        out.query.len = len - out.path.len - 1


cdef inline void _use_constant(h1_req_t *out, const char *text) noexcept nogil:
    out.path.ptr = <const uint8_t *>text
    out.path.len = 1
    out.target = out.path


cdef inline int _absolute_form(h1_req_t *out, const uint8_t *p, uint32_t len) noexcept nogil:
    cdef uint32_t i = 0, start
    cdef bint has_port = False
    while i < len and (fm_class[p[i]] & FM_C_HOST and p[i] != c"_" and p[i] != c"~"):
        i += 1
    if i == 0 or len - i < 3 or p[i] != c":" or p[i + 1] != c"/" or p[i + 2] != c"/" or (p[0] | 0x20) < c"a" \
            or (p[0] | 0x20) > c"z":
        return -FM_E_BAD_REQUEST
    if i != 4 or not fm_equal_nocase(p, b"http", 4):
        return -FM_E_MISDIRECTED
    start = 7
    i = start
    while i < len and p[i] != c"/" and p[i] != c"?":
        i += 1
    if i == start or not h1_host(p + start, i - start, &out.host_name, &has_port):
        return -FM_E_BAD_REQUEST
    out.form = H1_ABSOLUTE_FORM
    out.host.ptr = p + start
    out.host.len = i - start
    out.target.ptr = p + i
    out.target.len = len - i
    _split_query(out, p + i, len - i)
    if out.path.len == 0:
        if out.query.ptr != NULL:
            out.bare_query = 1
            out.path.ptr = <const uint8_t *>b"/"
            out.path.len = 1
        else:
            _use_constant(out, b"*" if out.method_id == H1_M_OPTIONS else b"/")
    return 0


cdef inline int _authority_form(h1_req_t *out, const uint8_t *p, uint32_t len) noexcept nogil:
    cdef bint has_port = False
    if not h1_host(p, len, &out.host_name, &has_port) or not has_port:
        return -FM_E_BAD_REQUEST
    out.form = H1_AUTHORITY_FORM
    out.host.ptr = p
    out.host.len = len
    out.target = out.host
    out.path = out.host
    out.query.ptr = NULL
    out.query.len = 0
    return 0


cdef inline int h1_target(h1_req_t *out, const uint8_t *p, uint32_t len) noexcept nogil:
    """Takes apart a target of at least one byte, all of its bytes legal; needs `method_id`. 0 or -FM_E_…"""
    out.bare_query = 0
    out.host.ptr = NULL
    out.host.len = 0
    out.host_name = out.host
    if out.method_id == H1_M_CONNECT:
        return _authority_form(out, p, len)
    if p[0] == c"/":
        out.form = H1_ORIGIN_FORM
        out.target.ptr = p
        out.target.len = len
        _split_query(out, p, len)
        return 0
    if p[0] == c"*" and len == 1:
        if out.method_id != H1_M_OPTIONS:
            return -FM_E_BAD_REQUEST
        out.form = H1_ASTERISK_FORM
        out.target.ptr = p
        out.target.len = 1
        _split_query(out, p, 1)
        return 0
    return _absolute_form(out, p, len)
