"""Request and response heads (RFC 9112), parsed strictly; every decision of the acceptance list that needs no
more than the head is made here. Sans-I/O, any thread, nothing is allocated.

Return value: > 0 bytes consumed, blank line included; 0 more input is needed; < 0 an -FM_E_… after which the
connection cannot be read on. A caller zeroes `scan` before the first call for a message, and passes the same
(perhaps moved, always whole) buffer with more bytes the next time. `out` may be a different struct at every
call. A response has the one error -FM_E_UPSTREAM_MALFORMED.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastmesh._native.base.errors cimport (
    FM_E_BAD_REQUEST, FM_E_CODING_UNSUPPORTED, FM_E_EXPECTATION_FAILED, FM_E_HEADER_TOO_LARGE,
    FM_E_METHOD_NOT_ALLOWED, FM_E_METHOD_UNSUPPORTED, FM_E_TARGET_TOO_LONG, FM_E_VERSION_UNSUPPORTED,
)
from fastmesh._native.base.field_t cimport field_t, slice_t
from fastmesh._native.proto.ctext cimport (
    FM_C_DIGIT, fm_class, fm_equal_nocase, fm_is_http11_line, fm_method_id, fm_name_id, fm_target_end,
    fm_token_end, fm_value_end,
)
from fastmesh._native.proto.h1_head cimport (
    H1_CONN_CLOSE, H1_CONN_DROPPED, H1_CONN_FRAMING, H1_CONN_KEEP_ALIVE, H1_CONN_TOO_MANY, H1_CONN_UPGRADE,
    H1_NAME_BYTES_MAX, H1_SCAN_OFFSET, h1_connection_tokens, h1_length, h1_list_has, h1_list_next,
    h1_scan_due, h1_scan_mark,
)
from fastmesh._native.proto.h1_response cimport h1_parse_response
from fastmesh._native.proto.h1_t cimport (
    H1_ABSOLUTE_FORM, H1_BODY_CHUNKED, H1_BODY_LENGTH, H1_BODY_NONE, H1_F_DROP, H1_F_RESPACE, H1_H_CONNECTION,
    H1_H_CONTENT_LENGTH, H1_H_EXPECT, H1_H_HOST, H1_H_HTTP2_SETTINGS, H1_H_KEEP_ALIVE, H1_H_MAX_FORWARDS,
    H1_H_PROXY_CONNECTION, H1_H_TE, H1_H_TRAILER, H1_H_TRANSFER_ENCODING, H1_H_UPGRADE, H1_M_CONNECT,
    H1_M_DELETE, H1_M_GET, H1_M_HEAD, H1_M_OPTIONS, H1_M_PUT, H1_M_TRACE, H1_MAX_FIELDS, H1_UPGRADE_WEBSOCKET,
    h1_limits_t, h1_req_t,
)
from fastmesh._native.proto.h1_target cimport h1_host, h1_target

cdef enum:
    H1_LEADING_LINES_MAX = 2  # empty lines before a request line that are passed over (RFC 9112 2.2)
    H1_REQUEST_LINE_REST = 16  # leading lines, two spaces and the version: what a request line has besides


cdef inline int32_t _version(const uint8_t *p, const uint8_t *end, uint8_t *minor) noexcept nogil:
    """Reads `HTTP/1.x CRLF`, as much of it as is there. 10, 0 for more input, or an error."""
    cdef const char *pattern = b"HTTP/0.0\r\n"
    cdef int32_t i
    for i in range(10):
        if p + i == end:
            return 0
        if i == 5 or i == 7:
            if not fm_class[p[i]] & FM_C_DIGIT:
                return -FM_E_BAD_REQUEST
        elif p[i] != <uint8_t>pattern[i]:
            return -FM_E_BAD_REQUEST
    if p[5] != c"1":
        return -FM_E_VERSION_UNSUPPORTED
    minor[0] = p[7] - c"0"
    return 10


cdef inline int32_t _request_line(
    const uint8_t *buf, const uint8_t *end, const h1_limits_t *limits, h1_req_t *out,
) noexcept nogil:
    """Offset of the first field line, 0 for more input, or an error."""
    cdef const uint8_t *p = buf
    cdef const uint8_t *start
    cdef const uint8_t *limit
    cdef int32_t rc
    while p < end and p[0] == c"\r":
        if end - p < 2:
            return 0
        if p[1] != c"\n" or p - buf == 2 * H1_LEADING_LINES_MAX:
            return -FM_E_BAD_REQUEST
        p += 2
    out.head_start = <uint32_t>(p - buf)
    start = p
    limit = end if <size_t>(end - p) <= limits.method_bytes else p + limits.method_bytes + 1
    p = fm_token_end(p, limit)
    if <size_t>(p - start) > limits.method_bytes:
        return -FM_E_METHOD_UNSUPPORTED
    if p == end:
        return 0
    if p[0] != c" " or p == start:
        return -FM_E_BAD_REQUEST
    out.method.ptr = start
    out.method.len = <uint32_t>(p - start)
    out.method_id = fm_method_id(start, out.method.len)
    p += 1
    start = p
    limit = end if <size_t>(end - p) <= limits.target_bytes else p + limits.target_bytes + 1
    p = fm_target_end(p, limit)
    if <size_t>(p - start) > limits.target_bytes:
        return -FM_E_TARGET_TOO_LONG
    if p == end:
        return 0
    if p[0] != c" " or p == start:
        return -FM_E_BAD_REQUEST
    rc = h1_target(out, start, <uint32_t>(p - start))
    if rc < 0:
        return rc
    p += 1
    if end - p >= 10 and fm_is_http11_line(p):
        out.minor = 1
    else:
        rc = _version(p, end, &out.minor)
        if rc <= 0:
            return rc
    return <int32_t>(p + 10 - buf)


cdef inline int _request_coding(h1_req_t *out, field_t *field) noexcept nogil:
    """Transfer-Encoding (RFC 9112 6.1, 6.3): exactly `chunked`. A well-formed list whose last coding is
    chunked, or that has a coding nobody knows, gets 501, anything else 400."""
    cdef const uint8_t *p = field.value
    cdef const uint8_t *end = p + field.value_len
    cdef const uint8_t *item
    cdef bint chunked = False, unknown = False
    if out.minor == 0 or (out.seen >> H1_H_TRANSFER_ENCODING) & 1:
        return -FM_E_BAD_REQUEST
    if field.value_len == 7 and fm_equal_nocase(p, b"chunked", 7):
        if memcmp(p, b"chunked", 7) != 0:
            out.respell_framing = 1
        return 0
    while True:
        item = p
        p = fm_token_end(p, end)
        if p == item or chunked:
            return -FM_E_BAD_REQUEST  # an empty element, a byte of no token, or something after chunked
        chunked = p - item == 7 and fm_equal_nocase(item, b"chunked", 7)
        if not chunked and not _known_coding(item, <uint32_t>(p - item)):
            unknown = True
        while p < end and (p[0] == c" " or p[0] == c"\t"):
            p += 1
        if p == end:
            return -FM_E_CODING_UNSUPPORTED if chunked or unknown else -FM_E_BAD_REQUEST
        if p[0] != c",":
            return -FM_E_BAD_REQUEST
        p += 1
        while p < end and (p[0] == c" " or p[0] == c"\t"):
            p += 1


cdef inline bint _known_coding(const uint8_t *p, uint32_t len) noexcept nogil:
    if len == 4:
        return fm_equal_nocase(p, b"gzip", 4)
    if len == 6:
        return fm_equal_nocase(p, b"x-gzip", 6)
    if len == 7:
        return fm_equal_nocase(p, b"deflate", 7)
    if len == 8:
        return fm_equal_nocase(p, b"compress", 8) or fm_equal_nocase(p, b"identity", 8)
    return len == 10 and fm_equal_nocase(p, b"x-compress", 10)


cdef inline int _request_field(h1_req_t *out, field_t *field) noexcept nogil:
    """Judges one known field; 0 or an error. Runs in the order of the fields, before `seen` has this one."""
    cdef uint64_t number = 0
    cdef slice_t name
    cdef bint has_port = False, again = (out.seen >> field.id) & 1
    cdef int rc
    if field.id == H1_H_HOST:
        if again or not h1_host(field.value, field.value_len, &name, &has_port):
            return -FM_E_BAD_REQUEST
        if out.form != H1_ABSOLUTE_FORM:
            out.host.ptr = field.value
            out.host.len = field.value_len
            out.host_name = name
    elif field.id == H1_H_CONTENT_LENGTH:
        rc = h1_length(field.value, field.value_len, &out.content_length)
        if again or rc < 0:
            return -FM_E_BAD_REQUEST
        out.has_length = 1
        if rc:
            out.respell_framing = 1
    elif field.id == H1_H_TRANSFER_ENCODING:
        return _request_coding(out, field)
    elif field.id == H1_H_EXPECT:
        if out.minor == 0:
            field.flags |= H1_F_DROP  # RFC 9110 10.1.1
            out.drops = 1
        elif again or field.value_len != 12 or not fm_equal_nocase(field.value, b"100-continue", 12):
            return -FM_E_EXPECTATION_FAILED
    elif field.id == H1_H_MAX_FORWARDS:
        if out.method_id == H1_M_OPTIONS:
            if again or h1_length(field.value, field.value_len, &number) < 0:
                return -FM_E_BAD_REQUEST
            out.max_forwards = <int32_t>number if number < 0x7fffffff else 0x7fffffff
    elif field.id == H1_H_CONNECTION or field.id == H1_H_KEEP_ALIVE or field.id == H1_H_PROXY_CONNECTION \
            or field.id == H1_H_TE or field.id == H1_H_TRAILER or field.id == H1_H_UPGRADE \
            or field.id == H1_H_HTTP2_SETTINGS:
        field.flags |= H1_F_DROP
        out.drops = 1
    return 0


cdef inline int32_t _request_fields(
    const uint8_t *buf, const uint8_t *p, const uint8_t *end, const h1_limits_t *limits, h1_req_t *out,
) noexcept nogil:
    """Reads field lines up to and with the blank line; bytes from `buf` to there, 0 or an error."""
    cdef uint32_t n = 0, most = limits.header_count if limits.header_count < H1_MAX_FIELDS else H1_MAX_FIELDS
    cdef const uint8_t *value
    cdef const uint8_t *value_end
    cdef field_t *field
    cdef int rc
    while True:
        if p == end:
            return 0
        if p[0] == c"\r":
            if end - p < 2:
                return 0
            if p[1] != c"\n":
                return -FM_E_BAD_REQUEST
            out.nfields = n
            return <int32_t>(p + 2 - buf)
        if n == most:
            return -FM_E_HEADER_TOO_LARGE
        field = &out.fields[n]
        field.name = p
        p = fm_token_end(p, end)
        if p == end:
            return 0
        if p[0] != c":" or p == field.name:
            return -FM_E_BAD_REQUEST
        if p - field.name > H1_NAME_BYTES_MAX:
            return -FM_E_HEADER_TOO_LARGE
        field.name_len = <uint16_t>(p - field.name)
        value = p + 1
        while value < end and (value[0] == c" " or value[0] == c"\t"):
            value += 1
        p = fm_value_end(value, end)
        if end - p < 2:
            return 0 if p == end or p[0] == c"\r" else -FM_E_BAD_REQUEST
        if p[0] != c"\r" or p[1] != c"\n":
            return -FM_E_BAD_REQUEST
        value_end = p
        field.flags = 0
        while value_end > value and ((value_end - 1)[0] == c" " or (value_end - 1)[0] == c"\t"):
            value_end -= 1
            field.flags = H1_F_RESPACE  # some parsers take it for a part of the value
            out.drops = 1
        p += 2
        field.value = value
        field.value_len = <uint32_t>(value_end - value)
        field.id = <uint8_t>fm_name_id(field.name, field.name_len)
        if field.id:
            rc = _request_field(out, field)
            if rc < 0:
                return rc
            out.seen |= <uint32_t>1 << field.id
        n += 1


cdef inline int _request_connection(h1_req_t *out) noexcept nogil:
    """Connection, TE and Upgrade, once all fields are known."""
    cdef uint32_t options = 0
    if (out.seen >> H1_H_CONNECTION) & 1:
        options = h1_connection_tokens(out.fields, out.nfields, H1_H_CONNECTION)
        if options & (H1_CONN_FRAMING | H1_CONN_TOO_MANY):
            return -FM_E_BAD_REQUEST
        if options & H1_CONN_DROPPED:
            out.drops = 1
    out.keep_alive = not options & H1_CONN_CLOSE and (out.minor > 0 or options & H1_CONN_KEEP_ALIVE != 0)
    out.te_trailers = (
        (out.seen >> H1_H_TE) & 1 and h1_list_has(out.fields, out.nfields, H1_H_TE, b"trailers", 8)
    )
    out.upgrade = 0
    if (
        options & H1_CONN_UPGRADE and (out.seen >> H1_H_UPGRADE) & 1
        and out.minor > 0 and out.method_id == H1_M_GET and out.body == H1_BODY_NONE
        and h1_list_has(out.fields, out.nfields, H1_H_UPGRADE, b"websocket", 9)
    ):
        out.upgrade = H1_UPGRADE_WEBSOCKET
    return 0


cdef inline int _request_whole(h1_req_t *out) noexcept nogil:
    """What depends on more than one field."""
    cdef uint32_t framing = out.seen & ((1 << H1_H_CONTENT_LENGTH) | (1 << H1_H_TRANSFER_ENCODING))
    if not out.seen & (1 << H1_H_HOST) and out.minor > 0:
        return -FM_E_BAD_REQUEST
    if framing == ((1 << H1_H_CONTENT_LENGTH) | (1 << H1_H_TRANSFER_ENCODING)):
        return -FM_E_BAD_REQUEST
    out.body = H1_BODY_NONE
    if framing & (1 << H1_H_TRANSFER_ENCODING):
        out.body = H1_BODY_CHUNKED
    elif out.content_length > 0:
        out.body = H1_BODY_LENGTH
    out.expect_continue = (
        (out.seen >> H1_H_EXPECT) & 1 and out.minor > 0 and out.body != H1_BODY_NONE
    )
    out.is_head = out.method_id == H1_M_HEAD
    out.is_idempotent = (
        out.method_id == H1_M_GET or out.method_id == H1_M_HEAD or out.method_id == H1_M_OPTIONS
        or out.method_id == H1_M_PUT or out.method_id == H1_M_DELETE or out.method_id == H1_M_TRACE
    )
    if out.method_id == H1_M_TRACE or out.method_id == H1_M_CONNECT:
        return -FM_E_METHOD_NOT_ALLOWED
    return _request_connection(out)


cdef inline int32_t _request_head(
    const uint8_t *buf, const uint8_t *end, const h1_limits_t *limits, h1_req_t *out, bint *line_done,
) noexcept nogil:
    cdef int32_t offset = _request_line(buf, end, limits, out)
    cdef int rc
    if offset <= 0:
        return offset
    line_done[0] = True
    out.seen = 0
    out.drops = 0
    out.has_length = 0
    out.respell_framing = 0
    out.content_length = 0
    out.max_forwards = -1
    offset = _request_fields(buf, buf + offset, end, limits, out)
    if offset <= 0:
        return offset
    out.head_len = <uint32_t>offset
    rc = _request_whole(out)
    return rc if rc < 0 else offset


cdef inline int32_t h1_parse_request(
    const uint8_t *buf, uint32_t len, uint32_t *scan, const h1_limits_t *limits, h1_req_t *out,
) noexcept nogil:
    """Parses the request head at `buf`: -FM_E_BAD_REQUEST, _METHOD_UNSUPPORTED, _METHOD_NOT_ALLOWED (TRACE,
    CONNECT), _TARGET_TOO_LONG, _HEADER_TOO_LARGE, _VERSION_UNSUPPORTED, _CODING_UNSUPPORTED, _MISDIRECTED or
    _EXPECTATION_FAILED."""
    cdef uint32_t seen = len if len < limits.header_bytes else limits.header_bytes
    cdef bint line_done = scan[0] > H1_SCAN_OFFSET
    cdef int32_t rc
    if scan[0] != 0 and len < limits.header_bytes and not h1_scan_due(buf, seen, scan):
        if line_done or seen <= limits.method_bytes + limits.target_bytes + H1_REQUEST_LINE_REST:
            return 0
    line_done = False
    rc = _request_head(buf, buf + seen, limits, out, &line_done)
    if rc == 0:
        if len >= limits.header_bytes:
            return -FM_E_HEADER_TOO_LARGE
        h1_scan_mark(buf, seen, scan, line_done)
    return rc
