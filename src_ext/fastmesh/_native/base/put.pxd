"""Appending text to a buffer that has room: each function writes at ``to`` and returns the place behind. No
NUL, no bound: the caller has made sure of the room that is stated."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

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


cdef inline uint64_t hex_digits(uint32_t value) noexcept nogil:
    """Eight lower-case hexadecimal digits, the first in the lowest byte: all at once, a lane a digit."""
    cdef uint64_t lanes = (<uint64_t> (value & 0xFFFF) << 32) | (value >> 16)
    cdef uint64_t letters
    lanes = ((lanes & <uint64_t> 0x0000FF000000FF00) >> 8) | ((lanes & <uint64_t> 0x000000FF000000FF) << 16)
    lanes = ((lanes & <uint64_t> 0x00F000F000F000F0) >> 4) | ((lanes & <uint64_t> 0x000F000F000F000F) << 8)
    letters = ((lanes + <uint64_t> 0x0606060606060606) >> 4) & <uint64_t> 0x0101010101010101
    return lanes + <uint64_t> 0x3030303030303030 + letters * 39


cdef inline void put_uuid(uint8_t *to, uint64_t high, uint64_t low) noexcept nogil:
    """The 36 characters of a UUID (RFC 9562) from its upper and lower 64 bits."""
    cdef uint64_t middle_high = hex_digits(<uint32_t> high)
    cdef uint64_t middle_low = hex_digits(<uint32_t> (low >> 32))
    cdef uint64_t part = hex_digits(<uint32_t> (high >> 32))
    memcpy(to, &part, 8)
    to[8] = c'-'
    memcpy(to + 9, &middle_high, 4)
    to[13] = c'-'
    memcpy(to + 14, <const uint8_t *> &middle_high + 4, 4)
    to[18] = c'-'
    memcpy(to + 19, &middle_low, 4)
    to[23] = c'-'
    memcpy(to + 24, <const uint8_t *> &middle_low + 4, 4)
    part = hex_digits(<uint32_t> low)
    memcpy(to + 28, &part, 8)
