"""What the ``put_…`` functions write. For tests only."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._native.base.put cimport fm_put, put_decimal, put_digits, put_hex_byte, put_uuid


def decimal(uint64_t value):
    cdef uint8_t room[20]
    return (<const char *> room)[:put_decimal(room, value) - room]


def digits(uint64_t value, uint32_t width):
    cdef uint8_t room[20]
    if width > sizeof(room):
        raise ValueError(width)
    return (<const char *> room)[:put_digits(room, value, width) - room]


def hex_byte(uint8_t value):
    cdef uint8_t room[2]
    return (<const char *> room)[:put_hex_byte(room, value) - room]


def uuid(uint64_t high, uint64_t low):
    cdef uint8_t room[36]
    put_uuid(room, high, low)
    return (<const char *> room)[:36]


def literal():
    cdef uint8_t room[8]
    return (<const char *> room)[:fm_put(room, "null") - room]
