"""Appending text to a buffer that has room: each function writes at ``to`` and returns the place behind. No
NUL, no bound: the caller has made sure of the room that is stated."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "fm_put.h" nogil:
    uint8_t *fm_put(uint8_t *to, const char *literal)  # a literal only: its length is found when compiling


cdef inline uint8_t *put_digits(uint8_t *to, uint64_t value, uint32_t width) noexcept nogil:
    """The last ``width`` decimal digits, with leading zeros."""
    cdef uint32_t i = width
    while i > 0:
        i -= 1
        to[i] = <uint8_t> (48 + value % 10)
        value = value // 10
    return to + width


cdef inline uint8_t *put_decimal(uint8_t *to, uint64_t value) noexcept nogil:
    """A number without leading zeros; at most 20 bytes."""
    cdef uint32_t width = 1
    cdef uint64_t rest = value
    while rest >= 10:
        rest = rest // 10
        width += 1
    return put_digits(to, value, width)


cdef inline uint8_t *put_hex_byte(uint8_t *to, uint8_t value) noexcept nogil:
    """Two lower-case hexadecimal digits."""
    cdef uint8_t high = value >> 4
    cdef uint8_t low = value & 15
    to[0] = high + (48 if high < 10 else 87)
    to[1] = low + (48 if low < 10 else 87)
    return to + 2
