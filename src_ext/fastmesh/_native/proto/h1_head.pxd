"""What the request and the response parser share: resuming a head that arrives in pieces, numbers, lists.

Sans-I/O, any thread. A head is parsed whole, in one pass. When its end is missing the parser leaves a mark in
the caller's `scan` and later calls only look at new bytes for something that makes another pass worth while:
the blank line, the end of the first line, or a control character. So a head that arrives one byte a packet
costs linear time, and the result is that of one packet, because every error depends only on the bytes before
it.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastmesh._native.base.field_t cimport field_t
from fastmesh._native.proto.ctext cimport FM_C_TOKEN, fm_class, fm_name_id, fm_token_end, fm_value_end
from fastmesh._native.proto.h1_t cimport (
    H1_F_DROP, H1_H_CONTENT_LENGTH, H1_H_EXPECT, H1_H_HOST, H1_H_OTHER, H1_H_TRANSFER_ENCODING,
)

cdef enum:
    H1_SCAN_OFFSET = 0x7fffffff  # the top bit of `scan` says that the first line is complete
    H1_CONNECTION_TOKENS_MAX = 64  # names in Connection fields; bounds the work of looking each one up
    H1_NAME_BYTES_MAX = 65535  # field_t.name_len

# Bits of h1_connection_tokens.
cdef enum:
    H1_CONN_CLOSE = 1
    H1_CONN_KEEP_ALIVE = 2
    H1_CONN_UPGRADE = 4
    H1_CONN_FRAMING = 8  # names a field that frames or addresses the message
    H1_CONN_TOO_MANY = 16
    H1_CONN_DROPPED = 32  # some field got H1_F_DROP


cdef inline bint h1_scan_due(const uint8_t *buf, uint32_t len, uint32_t *scan) noexcept nogil:
    """Looks at bytes from the mark on; true when the head must be parsed again, else the mark has moved."""
    cdef uint32_t line_done = scan[0] & ~<uint32_t>H1_SCAN_OFFSET
    cdef const uint8_t *end = buf + len
    cdef const uint8_t *p = buf + (scan[0] & H1_SCAN_OFFSET)
    while True:
        p = fm_value_end(p, end)
        if p == end:
            break
        if p[0] != c"\r":
            return True
        if end - p < 2:
            break
        if p[1] != c"\n" or not line_done:
            return True
        if end - p < 3:
            break
        if p[2] == c"\r":
            if end - p < 4:
                break
            return True
        p += 2
    scan[0] = <uint32_t>(p - buf) | line_done
    return False


cdef inline void h1_scan_mark(
    const uint8_t *buf, uint32_t len, uint32_t *scan, bint line_done,
) noexcept nogil:
    """Leaves the mark after a pass that ended for want of input: as late as no line end is missed."""
    cdef uint32_t at = len - 3 if len > 3 else 0
    if at > 0 and buf[at] == c"\n":
        at += 1  # its CR lies before the mark; alone it would look like a bare LF
    scan[0] = at | (~<uint32_t>H1_SCAN_OFFSET if line_done else 0)


cdef inline int h1_length(const uint8_t *p, uint32_t len, uint64_t *out) noexcept nogil:
    """Reads 1*DIGIT up to 2^63-1. 0: canonical, 1: has leading zeros, -1: no such number."""
    cdef uint64_t n = 0
    cdef uint32_t i, digit
    if len == 0:
        return -1
    for i in range(len):
        digit = <uint32_t>p[i] - c"0"
        if digit > 9 or n > 922337203685477580u or (n == 922337203685477580u and digit > 7):
            return -1
        n = n * 10 + digit
    out[0] = n
    return 1 if len > 1 and p[0] == c"0" else 0


cdef inline bint h1_list_next(
    const uint8_t **cursor, const uint8_t *end, const uint8_t **item, uint32_t *item_len,
) noexcept nogil:
    """Steps through a comma-separated list; white space (also that of folded lines) around elements is left
    out, and empty elements are. False at the end."""
    cdef const uint8_t *p = cursor[0]
    cdef const uint8_t *last
    while p < end and (p[0] == c"," or p[0] == c" " or p[0] == c"\t" or p[0] == c"\r" or p[0] == c"\n"):
        p += 1
    if p == end:
        return False
    item[0] = p
    while p < end and p[0] != c",":
        p += 1
    cursor[0] = p
    last = p
    while (last - 1)[0] == c" " or (last - 1)[0] == c"\t" or (last - 1)[0] == c"\r" or (last - 1)[0] == c"\n":
        last -= 1
    item_len[0] = <uint32_t>(last - item[0])
    return True


cdef inline bint h1_same_name(const uint8_t *a, const uint8_t *b, uint32_t len) noexcept nogil:
    """Compares two field names without regard to case (RFC 9110 5.1)."""
    cdef uint32_t i
    cdef uint8_t x, y
    for i in range(len):
        x = a[i]
        y = b[i]
        if x != y:
            if (x ^ y) != 0x20 or (x | 0x20) < c"a" or (x | 0x20) > c"z":
                return False
    return True


cdef inline uint32_t h1_drop_named(
    field_t *fields, uint32_t n, const uint8_t *name, uint32_t len,
) noexcept nogil:
    """Marks the fields of that name as hop-by-hop."""
    cdef uint32_t i, result = 0
    for i in range(n):
        if fields[i].name_len == len and h1_same_name(fields[i].name, name, len):
            fields[i].flags |= H1_F_DROP
            result = H1_CONN_DROPPED
    return result


cdef inline uint32_t h1_connection_token(
    field_t *fields, uint32_t n, const uint8_t *item, uint32_t len,
) noexcept nogil:
    """What one element of Connection says (RFC 9110 7.6.1). Fields that the proxy itself writes or that are
    always hop-by-hop are not looked up: a client cannot have them removed."""
    cdef uint32_t id
    if len == 5 and h1_same_name(item, b"close", 5):
        return H1_CONN_CLOSE
    if len == 10 and h1_same_name(item, b"keep-alive", 10):
        return H1_CONN_KEEP_ALIVE
    if len == 7 and h1_same_name(item, b"upgrade", 7):
        return H1_CONN_UPGRADE
    if fm_token_end(item, item + len) != item + len:
        return 0
    id = fm_name_id(item, len)
    if id == H1_H_CONTENT_LENGTH or id == H1_H_TRANSFER_ENCODING or id == H1_H_HOST or id == H1_H_EXPECT:
        return H1_CONN_FRAMING
    if id != H1_H_OTHER:
        return 0
    return h1_drop_named(fields, n, item, len)


cdef inline uint32_t h1_connection_tokens(field_t *fields, uint32_t n, uint32_t connection_id) noexcept nogil:
    """Applies all Connection fields; H1_CONN_… bits."""
    cdef uint32_t i, item_len = 0, tokens = 0, result = 0
    cdef const uint8_t *p
    cdef const uint8_t *end
    cdef const uint8_t *item = NULL
    for i in range(n):
        if fields[i].id != connection_id:
            continue
        p = fields[i].value
        end = p + fields[i].value_len
        while h1_list_next(&p, end, &item, &item_len):
            tokens += 1
            if tokens > H1_CONNECTION_TOKENS_MAX:
                return result | H1_CONN_TOO_MANY
            result |= h1_connection_token(fields, n, item, item_len)
    return result


cdef inline bint h1_list_has(
    const field_t *fields, uint32_t n, uint32_t id, const char *lower, uint32_t len,
) noexcept nogil:
    """Whether a field of that id lists the token, parameters and a `/version` aside."""
    cdef uint32_t i, item_len = 0
    cdef const uint8_t *p
    cdef const uint8_t *end
    cdef const uint8_t *item = NULL
    for i in range(n):
        if fields[i].id != id:
            continue
        p = fields[i].value
        end = p + fields[i].value_len
        while h1_list_next(&p, end, &item, &item_len):
            if item_len >= len and h1_same_name(item, <const uint8_t *>lower, len):
                if item_len == len or not fm_class[item[len]] & FM_C_TOKEN:
                    return True
    return False
