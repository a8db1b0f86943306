"""State of a chunked-body decoder (RFC 9112 7.1). Types only.

chunked.pxd (all ``cdef inline … noexcept nogil``):
    void     chunk_init(chunk_t *c, uint8_t *trailers, uint32_t trailers_cap)
                 # trailers NULL: checked and dropped
    int64_t  chunk_decode(chunk_t *c, const uint8_t *in, uint32_t in_len, uint8_t *out, uint32_t *out_len)
                 # bytes consumed (>= 0) or -FM_E_BAD_REQUEST; `out` may be `in`, else needs in_len bytes;
                 # stops after the final CRLF (`done`), so consumed < in_len: another message follows
    uint32_t chunk_head(uint8_t *out, uint64_t n)  # writes `<hex>\\r\\n`, at most CHUNK_HEAD_MAX bytes
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

# chunk_t.state
cdef enum:
    CHUNK_S_SIZE_START = 0  # first digit of a size
    CHUNK_S_SIZE = 1
    CHUNK_S_EXT_START = 2  # after `;`
    CHUNK_S_EXT_NAME = 3
    CHUNK_S_EXT_VALUE_START = 4  # after `=`
    CHUNK_S_EXT_TOKEN = 5
    CHUNK_S_EXT_QUOTED = 6
    CHUNK_S_EXT_ESCAPE = 7  # after a backslash in a quoted string
    CHUNK_S_EXT_END = 8  # after a quoted string
    CHUNK_S_SIZE_LF = 9
    CHUNK_S_DATA = 10
    CHUNK_S_DATA_CR = 11
    CHUNK_S_DATA_LF = 12
    CHUNK_S_TRAILER_START = 13  # first byte of a trailer line, or the final CR
    CHUNK_S_TRAILER_NAME = 14
    CHUNK_S_TRAILER_VALUE = 15
    CHUNK_S_TRAILER_LF = 16
    CHUNK_S_FINAL_LF = 17
    CHUNK_S_DONE = 18

cdef enum:
    CHUNK_HEAD_MAX = 18
    CHUNK_DIGITS_MAX = 16
    CHUNK_LINE_EXTENSION_MAX = 256  # bytes after the size on one size line
    CHUNK_EXTENSIONS_MAX = 16384  # the same, over a message
    CHUNK_TRAILERS_MAX = 4096  # trailer section, line ends included

ctypedef struct chunk_t:
    uint64_t remaining  # data bytes of this chunk that are still to come
    uint8_t *trailers  # borrows; lines as received with their ends, without fields that may not be trailers
    uint32_t trailers_cap
    uint32_t trailers_len
    uint32_t trailer_bytes  # read so far
    uint32_t line_start  # of the trailer line being collected, in `trailers`
    uint32_t extension_bytes  # of this message
    uint16_t line_extension_bytes
    uint8_t state
    uint8_t digits
    uint8_t done  # the final CRLF was read
    uint8_t drop_line  # this trailer line is not collected
