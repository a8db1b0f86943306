"""Chunked bodies (RFC 9112 7.1): a push decoder that keeps the data and drops the framing, and size lines to
send.

Sans-I/O; one chunk_t belongs to one message. Strict: sizes are 1 to 16 hex digits below 2^63, line ends are
CRLF, nothing stands between a size and its `;` or CRLF. Extensions are checked and dropped. Any number of
bytes may be given at a time; the result does not depend on how the input is cut.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memmove

from fastmesh._native.base.errors cimport FM_E_BAD_REQUEST
from fastmesh._native.proto.chunked_t cimport (
    CHUNK_DIGITS_MAX, CHUNK_EXTENSIONS_MAX, CHUNK_LINE_EXTENSION_MAX, CHUNK_S_DATA, CHUNK_S_DATA_CR,
    CHUNK_S_DATA_LF, CHUNK_S_DONE, CHUNK_S_EXT_END, CHUNK_S_EXT_ESCAPE, CHUNK_S_EXT_NAME, CHUNK_S_EXT_QUOTED,
    CHUNK_S_EXT_START, CHUNK_S_EXT_TOKEN, CHUNK_S_EXT_VALUE_START, CHUNK_S_FINAL_LF, CHUNK_S_SIZE,
    CHUNK_S_SIZE_LF, CHUNK_S_SIZE_START, CHUNK_S_TRAILER_LF, CHUNK_S_TRAILER_NAME, CHUNK_S_TRAILER_START,
    CHUNK_S_TRAILER_VALUE, CHUNK_TRAILERS_MAX, chunk_t,
)
from fastmesh._native.proto.ctext cimport FM_C_TOKEN, fm_class, fm_forbidden_trailer, fm_hex


cdef inline void chunk_init(chunk_t *c, uint8_t *trailers, uint32_t trailers_cap) noexcept nogil:
    """Starts a message. With `trailers` NULL its trailer section is checked and dropped."""
    c.remaining = 0
    c.trailers = trailers
    c.trailers_cap = trailers_cap
    c.trailers_len = 0
    c.trailer_bytes = 0
    c.line_start = 0
    c.extension_bytes = 0
    c.line_extension_bytes = 0
    c.state = CHUNK_S_SIZE_START
    c.digits = 0
    c.done = 0
    c.drop_line = 0


cdef inline int _size_byte(chunk_t *c, uint8_t byte) noexcept nogil:
    """Size digits and what may end them."""
    cdef uint8_t value = fm_hex(byte)
    if value < 16:
        if c.digits == CHUNK_DIGITS_MAX or c.remaining >> 59:
            return -1
        c.remaining = c.remaining << 4 | value
        c.digits += 1
        c.state = CHUNK_S_SIZE
    elif c.digits == 0:
        return -1
    elif byte == c"\r":
        c.state = CHUNK_S_SIZE_LF
    elif byte == c";":
        c.line_extension_bytes = 0
        c.state = CHUNK_S_EXT_START
    else:
        return -1
    return 0


cdef inline int _extension_state(uint8_t state, uint8_t byte) noexcept nogil:
    """The state after one byte of an extension (RFC 9112 7.1.1), or -1. Blanks are borne behind `;` and `=`
    only."""
    cdef bint token = fm_class[byte] & FM_C_TOKEN
    cdef bint blank = byte == c" " or byte == c"\t"
    if state == CHUNK_S_EXT_QUOTED or state == CHUNK_S_EXT_ESCAPE:
        if (byte < 0x20 and not blank) or byte == 0x7f:
            return -1
        if state == CHUNK_S_EXT_ESCAPE:
            return CHUNK_S_EXT_QUOTED
        if byte == c"\"":
            return CHUNK_S_EXT_END
        return CHUNK_S_EXT_ESCAPE if byte == c"\\" else CHUNK_S_EXT_QUOTED
    if state == CHUNK_S_EXT_START or state == CHUNK_S_EXT_VALUE_START:
        if blank:
            return state
        if token:
            return CHUNK_S_EXT_NAME if state == CHUNK_S_EXT_START else CHUNK_S_EXT_TOKEN
        return CHUNK_S_EXT_QUOTED if byte == c"\"" and state == CHUNK_S_EXT_VALUE_START else -1
    if byte == c"\r":
        return CHUNK_S_SIZE_LF
    if byte == c";":
        return CHUNK_S_EXT_START
    if state == CHUNK_S_EXT_NAME and byte == c"=":
        return CHUNK_S_EXT_VALUE_START
    return state if token and state != CHUNK_S_EXT_END else -1


cdef inline int _extension_byte(chunk_t *c, uint8_t byte) noexcept nogil:
    cdef int state = _extension_state(c.state, byte)
    c.line_extension_bytes += 1
    c.extension_bytes += 1
    if state < 0 or c.line_extension_bytes > CHUNK_LINE_EXTENSION_MAX:
        return -1
    if c.extension_bytes > CHUNK_EXTENSIONS_MAX:
        return -1
    c.state = <uint8_t>state
    return 0


cdef inline void _collect(chunk_t *c, uint8_t byte) noexcept nogil:
    if c.trailers == NULL or c.drop_line:
        return
    if c.trailers_len == c.trailers_cap:
        c.drop_line = 1
        c.trailers_len = c.line_start
        return
    c.trailers[c.trailers_len] = byte
    c.trailers_len += 1


cdef inline int _trailer_start(chunk_t *c, uint8_t byte) noexcept nogil:
    if byte == c"\r":
        c.state = CHUNK_S_FINAL_LF
        return 0
    if not fm_class[byte] & FM_C_TOKEN:
        return -1
    c.line_start = c.trailers_len
    c.drop_line = 0
    c.state = CHUNK_S_TRAILER_NAME
    _collect(c, byte)
    return 0


cdef inline int _trailer_byte(chunk_t *c, uint8_t byte) noexcept nogil:
    c.trailer_bytes += 1
    if c.trailer_bytes > CHUNK_TRAILERS_MAX:
        return -1
    if c.state == CHUNK_S_TRAILER_START:
        return _trailer_start(c, byte)
    if c.state == CHUNK_S_TRAILER_NAME:
        if byte == c":":
            c.state = CHUNK_S_TRAILER_VALUE
            if c.trailers != NULL and not c.drop_line and fm_forbidden_trailer(
                c.trailers + c.line_start, c.trailers_len - c.line_start
            ):
                c.drop_line = 1
                c.trailers_len = c.line_start
        elif not fm_class[byte] & FM_C_TOKEN:
            return -1
    elif c.state == CHUNK_S_TRAILER_VALUE:
        if byte == c"\r":
            c.state = CHUNK_S_TRAILER_LF
        elif (byte < 0x20 and byte != c"\t") or byte == 0x7f:
            return -1
    else:  # CHUNK_S_TRAILER_LF
        if byte != c"\n":
            return -1
        c.state = CHUNK_S_TRAILER_START
    _collect(c, byte)
    return 0


cdef inline int _framing_byte(chunk_t *c, uint8_t byte) noexcept nogil:
    """Any byte that is not data; 0 or -1."""
    if c.state <= CHUNK_S_SIZE:
        return _size_byte(c, byte)
    if c.state == CHUNK_S_SIZE_LF:
        if byte != c"\n":
            return -1
        c.state = CHUNK_S_DATA if c.remaining else CHUNK_S_TRAILER_START
        c.digits = 0
        return 0
    if c.state == CHUNK_S_DATA_CR:
        c.state = CHUNK_S_DATA_LF
        return 0 if byte == c"\r" else -1
    if c.state == CHUNK_S_DATA_LF:
        c.state = CHUNK_S_SIZE_START
        return 0 if byte == c"\n" else -1
    if c.state <= CHUNK_S_EXT_END:
        return _extension_byte(c, byte)
    if c.state == CHUNK_S_FINAL_LF:
        if byte != c"\n":
            return -1
        c.state = CHUNK_S_DONE
        c.done = 1
        return 0
    return _trailer_byte(c, byte)


cdef inline int64_t chunk_decode(
    chunk_t *c, const uint8_t *in_, uint32_t in_len, uint8_t *out, uint32_t *out_len,
) noexcept nogil:
    """Writes the data bytes of `in_` to `out` (which may be `in_`, else has room for in_len bytes) and their
    number to `out_len`. Gives the bytes consumed, fewer than in_len only when `done`, or -FM_E_BAD_REQUEST;
    data before an error has been written and counted, the decoder is not to be used again."""
    cdef uint32_t i = 0, n, written = 0
    while i < in_len and not c.done:
        if c.state != CHUNK_S_DATA:
            if _framing_byte(c, in_[i]) < 0:
                out_len[0] = written
                return -FM_E_BAD_REQUEST
            i += 1
            continue
        n = in_len - i
        if c.remaining < n:
            n = <uint32_t>c.remaining
        if out + written != in_ + i:
            memmove(out + written, in_ + i, n)
        i += n
        written += n
        c.remaining -= n
        if c.remaining == 0:
            c.state = CHUNK_S_DATA_CR
    out_len[0] = written
    return i


cdef inline uint32_t chunk_head(uint8_t *out, uint64_t n) noexcept nogil:
    """Writes the size line of a chunk of n bytes; its length, at most CHUNK_HEAD_MAX."""
    cdef const char *hexdigits = b"0123456789abcdef"
    cdef int shift = 0
    cdef uint32_t at = 0
    while shift < 60 and n >> (shift + 4):
        shift += 4
    while shift >= 0:
        out[at] = <uint8_t>hexdigits[(n >> shift) & 15]
        at += 1
        shift -= 4
    out[at] = c"\r"
    out[at + 1] = c"\n"
    return at + 2
