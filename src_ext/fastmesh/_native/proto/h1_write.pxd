"""Writing pieces of heads: bytes, numbers, runs of kept fields. The callers have checked that there is
room."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastmesh._native.base.field_t cimport field_t, slice_t
from fastmesh._native.proto.h1_t cimport H1_F_DROP

cdef enum:
    H1_NUMBER_BYTES_MAX = 20


cdef inline uint8_t *h1_put(uint8_t *p, const void *bytes, size_t n) noexcept nogil:
    memcpy(p, bytes, n)
    return p + n


cdef inline uint8_t *h1_put_slice(uint8_t *p, slice_t s) noexcept nogil:
    if s.len:
        memcpy(p, s.ptr, s.len)
    return p + s.len


cdef inline uint8_t *h1_put_number(uint8_t *p, uint64_t n) noexcept nogil:
    cdef uint8_t digits[H1_NUMBER_BYTES_MAX]
    cdef uint32_t at = H1_NUMBER_BYTES_MAX
    while True:
        at -= 1
        digits[at] = <uint8_t>(c"0" + n % 10)
        n = n / 10
        if n == 0:
            break
    return h1_put(p, digits + at, H1_NUMBER_BYTES_MAX - at)


cdef inline uint8_t *h1_put_length(uint8_t *p, uint64_t n) noexcept nogil:
    """A Content-Length field; at most 40 bytes."""
    p = h1_put_number(h1_put(p, b"Content-Length: ", 16), n)
    return h1_put(p, b"\r\n", 2)


cdef inline uint8_t *h1_put_chunked(uint8_t *p) noexcept nogil:
    return h1_put(p, b"Transfer-Encoding: chunked\r\n", 28)


cdef inline uint8_t *_put_mended(uint8_t *p, const field_t *field) noexcept nogil:
    """A field line with the irregular white space taken out: none before the colon, one space for each fold
    and the white space around it (RFC 9112 5.1, 5.2)."""
    cdef uint32_t i
    cdef uint8_t c
    cdef bint folding = False
    p = h1_put(h1_put(p, field.name, field.name_len), b": ", 2)
    for i in range(field.value_len):
        c = field.value[i]
        if c == c"\r" or c == c"\n":
            folding = True
            while (p - 1)[0] == c" " or (p - 1)[0] == c"\t":
                p -= 1
        elif not folding or (c != c" " and c != c"\t"):
            if folding:
                p[0] = c" "
                p += 1
                folding = False
            p[0] = c
            p += 1
    return h1_put(p, b"\r\n", 2)


cdef inline uint8_t *h1_put_fields(
    uint8_t *p, const field_t *fields, uint32_t n, uint32_t without, const uint8_t *fields_end,
) noexcept nogil:
    """Copies the field lines that are neither marked H1_F_DROP nor of an id in `without`; lines that stand
    together are copied as one run. `fields_end` is where the blank line starts."""
    cdef const uint8_t *run = NULL
    cdef const field_t *field
    cdef uint32_t i
    for i in range(n):
        field = &fields[i]
        if not field.flags and not (without >> field.id) & 1:
            if run == NULL:
                run = field.name
            continue
        if run != NULL:
            p = h1_put(p, run, field.name - run)
            run = NULL
        if field.flags and not field.flags & H1_F_DROP and not (without >> field.id) & 1:
            p = _put_mended(p, field)
    if run != NULL:
        p = h1_put(p, run, fields_end - run)
    return p
