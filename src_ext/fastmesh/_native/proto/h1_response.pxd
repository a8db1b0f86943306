"""Response heads (RFC 9112 4); see ``h1_parse.pxd``, which is what to import. Lenient only where an
intermediary must or may mend: white space before a colon, folded lines, a missing reason."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from fastmesh._native.base.errors cimport FM_E_UPSTREAM_MALFORMED
from fastmesh._native.base.field_t cimport field_t
from fastmesh._native.proto.ctext cimport (
    FM_C_DIGIT, fm_class, fm_equal_nocase, fm_name_id, fm_token_end, fm_value_end,
)
from fastmesh._native.proto.h1_head cimport (
    H1_CONN_CLOSE, H1_CONN_DROPPED, H1_CONN_KEEP_ALIVE, H1_CONN_TOO_MANY, H1_CONN_UPGRADE, H1_NAME_BYTES_MAX,
    H1_SCAN_OFFSET, h1_connection_tokens, h1_length, h1_list_has, h1_list_next, h1_scan_due, h1_scan_mark,
)
from fastmesh._native.proto.h1_t cimport (
    H1_ASKED_CONNECT, H1_ASKED_HEAD, H1_ASKED_UPGRADE, H1_BODY_CHUNKED, H1_BODY_LENGTH, H1_BODY_NONE,
    H1_BODY_UNTIL_CLOSE, H1_F_DROP, H1_F_FOLDED, H1_F_RESPACE, H1_H_CONNECTION, H1_H_CONTENT_LENGTH,
    H1_H_HTTP2_SETTINGS, H1_H_KEEP_ALIVE, H1_H_PROXY_CONNECTION, H1_H_TE, H1_H_TRANSFER_ENCODING,
    H1_H_UPGRADE, H1_MAX_FIELDS, H1_UPGRADE_WEBSOCKET, h1_limits_t, h1_resp_t,
)


cdef inline int32_t _status_line(const uint8_t *buf, const uint8_t *end, h1_resp_t *out) noexcept nogil:
    """Offset of the first field line, 0 for more input, -1 for an error."""
    cdef const char *pattern = b"HTTP/1.0 000"
    cdef const uint8_t *p
    cdef int32_t i
    for i in range(12):
        if buf + i == end:
            return 0
        if i == 7 or i >= 9:
            if not fm_class[buf[i]] & FM_C_DIGIT:
                return -1
        elif buf[i] != <uint8_t>pattern[i]:
            return -1
    out.minor = buf[7] - c"0"
    out.status = (buf[9] - c"0") * 100 + (buf[10] - c"0") * 10 + (buf[11] - c"0")
    if out.status < 100:
        return -1
    p = buf + 12
    if p == end:
        return 0
    out.plain_line = p[0] == c" " and out.minor == 1
    if p[0] == c" ":
        p += 1
    elif p[0] != c"\r":
        return -1
    out.reason.ptr = p
    p = fm_value_end(p, end)
    if end - p < 2:
        return 0 if p == end or p[0] == c"\r" else -1
    if p[0] != c"\r" or p[1] != c"\n":
        return -1
    out.reason.len = <uint32_t>(p - out.reason.ptr)
    return <int32_t>(p + 2 - buf)


cdef inline bint _forbids_framing(const h1_resp_t *out) noexcept nogil:
    """1xx and 204 have neither body nor framing fields, whatever they say (RFC 9112 6.3, RFC 9110 8.6)."""
    return out.status < 200 or out.status == 204


cdef inline int _response_field(h1_resp_t *out, field_t *field, uint32_t asked) noexcept nogil:
    """Judges one known field; 0 or -1."""
    cdef bint again = (out.seen >> field.id) & 1
    cdef int rc
    if field.id == H1_H_CONTENT_LENGTH:
        if _forbids_framing(out):
            field.flags |= H1_F_DROP
            out.drops = 1
            return 0
        rc = h1_length(field.value, field.value_len, &out.content_length)
        if again or rc < 0:
            return -1
        out.has_length = 1
        if rc:
            out.respell_framing = 1
    elif field.id == H1_H_TRANSFER_ENCODING:
        if _forbids_framing(out):
            field.flags |= H1_F_DROP
            out.drops = 1
            return 0
        if again or out.minor == 0 or field.value_len != 7 or not fm_equal_nocase(field.value, b"chunked", 7):
            return -1
        if memcmp(field.value, b"chunked", 7) != 0:
            out.respell_framing = 1
    elif field.id == H1_H_CONNECTION or field.id == H1_H_KEEP_ALIVE or field.id == H1_H_PROXY_CONNECTION \
            or field.id == H1_H_TE or field.id == H1_H_UPGRADE or field.id == H1_H_HTTP2_SETTINGS:
        field.flags |= H1_F_DROP
        out.drops = 1
    return 0


cdef inline const uint8_t *_folded_value(
    const uint8_t *p, const uint8_t *end, field_t *field, bint *wrong,
) noexcept nogil:
    """Scans a value over its continuation lines. Gives its CRLF, or NULL for more input or, with `wrong`, an
    error."""
    while True:
        p = fm_value_end(p, end)
        if p == end:
            return NULL
        if p[0] != c"\r":
            wrong[0] = True
            return NULL
        if end - p < 2:
            return NULL
        if p[1] != c"\n":
            wrong[0] = True
            return NULL
        if end - p < 3:
            return NULL
        if p[2] != c" " and p[2] != c"\t":
            return p
        field.flags |= H1_F_FOLDED
        p += 3


cdef inline int32_t _response_fields(
    const uint8_t *buf, const uint8_t *p, const uint8_t *end, const h1_limits_t *limits, uint32_t asked,
    h1_resp_t *out,
) noexcept nogil:
    """Reads field lines up to and with the blank line; bytes from `buf` to there, 0, or -1."""
    cdef uint32_t n = 0, most = limits.header_count if limits.header_count < H1_MAX_FIELDS else H1_MAX_FIELDS
    cdef bint wrong = False
    cdef field_t *field
    while True:
        if p == end:
            return 0
        if p[0] == c"\r":
            if end - p < 2:
                return 0
            if p[1] != c"\n":
                return -1
            out.nfields = n
            return <int32_t>(p + 2 - buf)
        if n == most:
            return -1
        field = &out.fields[n]
        field.name = p
        field.flags = 0
        p = fm_token_end(p, end)
        if p == end:
            return 0
        if p == field.name or p - field.name > H1_NAME_BYTES_MAX:
            return -1
        field.name_len = <uint16_t>(p - field.name)
        while p < end and (p[0] == c" " or p[0] == c"\t"):
            field.flags = H1_F_RESPACE
            p += 1
        if p == end:
            return 0
        if p[0] != c":":
            return -1
        p += 1
        while p < end and (p[0] == c" " or p[0] == c"\t"):
            p += 1
        field.value = p
        p = _folded_value(p, end, field, &wrong)
        if p == NULL:
            return -1 if wrong else 0
        _trim_folded(field, p)
        p += 2
        if field.flags:
            out.respell = 1
        field.id = <uint8_t>fm_name_id(field.name, field.name_len)
        if field.id:
            if _response_field(out, field, asked) < 0:
                return -1
            out.seen |= <uint32_t>1 << field.id
        n += 1


cdef inline bint _is_blank(uint8_t c) noexcept nogil:
    return c == c" " or c == c"\t" or c == c"\r" or c == c"\n"


cdef inline void _trim_folded(field_t *field, const uint8_t *value_end) noexcept nogil:
    """Takes white space off both ends, line ends of folds included."""
    while value_end > field.value and _is_blank((value_end - 1)[0]):
        value_end -= 1
    while field.value < value_end and _is_blank(field.value[0]):
        field.value += 1
    field.value_len = <uint32_t>(value_end - field.value)


cdef inline int32_t _keepalive_timeout(const h1_resp_t *out) noexcept nogil:
    """Seconds of `Keep-Alive: timeout=…`, -1 when there is none."""
    cdef const uint8_t *p
    cdef const uint8_t *end
    cdef const uint8_t *item = NULL
    cdef uint32_t i, k, len = 0, digit
    cdef int32_t seconds
    for i in range(out.nfields):
        if out.fields[i].id != H1_H_KEEP_ALIVE:
            continue
        p = out.fields[i].value
        end = p + out.fields[i].value_len
        while h1_list_next(&p, end, &item, &len):
            if len < 9 or not fm_equal_nocase(item, b"timeout=", 8):
                continue
            seconds = 0
            for k in range(8, len):
                digit = <uint32_t>item[k] - c"0"
                if digit > 9:
                    break
                if seconds < 100000000:
                    seconds = seconds * 10 + <int32_t>digit
            return seconds
    return -1


cdef inline int _response_whole(h1_resp_t *out, uint32_t asked) noexcept nogil:
    """Framing (RFC 9112 6.3) and persistence, once all fields are known; 0 or -1."""
    cdef uint32_t options = 0
    cdef bint no_body = (
        _forbids_framing(out) or out.status == 304 or asked & H1_ASKED_HEAD != 0
    )
    cdef bint tunnel = asked & H1_ASKED_CONNECT != 0 and out.status >= 200 and out.status < 300
    cdef bint chunked = (out.seen >> H1_H_TRANSFER_ENCODING) & 1 and not _forbids_framing(out)
    if chunked and out.has_length:
        return -1
    if (out.seen >> H1_H_CONNECTION) & 1:
        options = h1_connection_tokens(out.fields, out.nfields, H1_H_CONNECTION)
        if options & H1_CONN_TOO_MANY:
            return -1
        if options & H1_CONN_DROPPED:
            out.drops = 1
    out.upgrade = 0
    if out.status == 101:
        if (
            not asked & H1_ASKED_UPGRADE or not options & H1_CONN_UPGRADE
            or not h1_list_has(out.fields, out.nfields, H1_H_UPGRADE, b"websocket", 9)
        ):
            return -1
        out.upgrade = H1_UPGRADE_WEBSOCKET
    out.informational = out.status < 200 and out.status != 101
    if no_body or tunnel:
        out.body = H1_BODY_NONE
    elif chunked:
        out.body = H1_BODY_CHUNKED
    elif not out.has_length:
        out.body = H1_BODY_UNTIL_CLOSE
    else:
        out.body = H1_BODY_LENGTH if out.content_length > 0 else H1_BODY_NONE
    if tunnel:
        out.has_length = 0
    out.keep_alive = (
        not options & H1_CONN_CLOSE and (out.minor > 0 or options & H1_CONN_KEEP_ALIVE != 0)
        and out.body != H1_BODY_UNTIL_CLOSE and out.status != 101 and not tunnel
    )
    out.keepalive_timeout_s = _keepalive_timeout(out) if (out.seen >> H1_H_KEEP_ALIVE) & 1 else -1
    return 0


cdef inline int32_t _response_head(
    const uint8_t *buf, const uint8_t *end, const h1_limits_t *limits, uint32_t asked, h1_resp_t *out,
    bint *line_done,
) noexcept nogil:
    cdef int32_t offset = _status_line(buf, end, out)
    if offset <= 0:
        return offset
    line_done[0] = True
    out.head = buf
    out.seen = 0
    out.drops = 0
    out.respell = 0
    out.respell_framing = 0
    out.has_length = 0
    out.content_length = 0
    offset = _response_fields(buf, buf + offset, end, limits, asked, out)
    if offset <= 0:
        return offset
    out.head_len = <uint32_t>offset
    return -1 if _response_whole(out, asked) < 0 else offset


cdef inline int32_t h1_parse_response(
    const uint8_t *buf, uint32_t len, uint32_t *scan, const h1_limits_t *limits, uint32_t asked,
    h1_resp_t *out,
) noexcept nogil:
    """Parses the response head at `buf`; `asked` has the H1_ASKED_… bits of its request. Of the limits the
    size of the head and the number of fields hold."""
    cdef uint32_t seen = len if len < limits.header_bytes else limits.header_bytes
    cdef bint line_done = False
    cdef int32_t rc
    if scan[0] != 0 and len < limits.header_bytes and not h1_scan_due(buf, seen, scan):
        return 0
    rc = _response_head(buf, buf + seen, limits, asked, out, &line_done)
    if rc < 0:
        return -FM_E_UPSTREAM_MALFORMED
    if rc == 0:
        if len >= limits.header_bytes:
            return -FM_E_UPSTREAM_MALFORMED
        h1_scan_mark(buf, seen, scan, line_done)
    return rc
