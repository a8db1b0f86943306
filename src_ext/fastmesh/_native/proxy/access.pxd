"""Access records on the worker: an ``access_t`` goes into the worker's ring (see ``access_t.pxd``).

Threads: the worker that produces into the ring. Nothing here allocates, formats or enters the kernel.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastmesh._native.base.ring cimport ring_commit, ring_reserve, ring_t
from fastmesh._native.proxy.access_t cimport (
    ACCESS_FIELD_MOST,
    ACCESS_FIELDS,
    ACCESS_PADDING,
    ACCESS_TARGET,
    ACCESS_TARGET_MOST,
    access_record_t,
    access_t,
)
from fastmesh._native.sys.atomics cimport fm_unlikely


cdef inline uint32_t access_field_most(uint32_t field) noexcept nogil:
    return ACCESS_TARGET_MOST if field == ACCESS_TARGET else ACCESS_FIELD_MOST


cdef inline uint32_t access_cut(const uint8_t *text, uint32_t most) noexcept nogil:
    """Where to cut a text that is longer than ``most``: there, or up to three bytes before, so that no UTF-8
    sequence is halved."""
    cdef uint32_t cut = most
    while cut + 3 > most:
        if text[cut] & 0xC0 != 0x80:
            return cut
        cut -= 1
    return cut if text[cut] & 0xC0 != 0x80 else most


cdef inline bint access_encode(ring_t *ring, const access_t *access) noexcept nogil:
    """Puts one record into the ring. False: the ring is full; the record is dropped and counted in
    ``ring.dropped``.

    Call ``ring_should_wake(ring)`` once at the end of a turn in which records were encoded."""
    cdef uint32_t field, length
    cdef uint32_t size = sizeof(access_record_t) + ACCESS_PADDING
    cdef uint16_t lengths[ACCESS_FIELDS]
    cdef uint16_t truncated = 0
    cdef access_record_t *record
    cdef uint8_t *place
    for field in range(ACCESS_FIELDS):
        length = access.fields[field].len
        if fm_unlikely(length > ACCESS_FIELD_MOST) and length > access_field_most(field):
            length = access_cut(access.fields[field].ptr, access_field_most(field))
            truncated |= <uint16_t> (1 << field)
        lengths[field] = <uint16_t> length
        size += length
    place = ring_reserve(ring, size)
    if fm_unlikely(place == NULL):
        return False
    record = <access_record_t *> place
    record.started_us = access.started_us
    record.duration_us = access.duration_us
    record.upstream_us = access.upstream_us
    record.bytes_received = access.bytes_received
    record.bytes_sent = access.bytes_sent
    record.status = access.status
    record.error = access.error
    record.protocol = access.protocol
    record.truncated = truncated
    memcpy(record.lengths, lengths, sizeof(lengths))
    place += sizeof(access_record_t)
    for field in range(ACCESS_FIELDS):
        length = lengths[field]
        if length:
            memcpy(place, access.fields[field].ptr, length)
            place += length
    ring_commit(ring, size)
    return True


cdef inline int64_t access_keep(
    access_t *access, uint32_t first, uint32_t last, uint8_t *memory, uint64_t capacity
) noexcept nogil:
    """Copies the fields ``first`` to ``last`` (inclusive) into ``memory`` and lets the slices point there, so
    that the view outlives the request head. A field is cut one byte above its bound, so that
    ``access_encode`` still marks it. Returns the bytes used, or -1 when ``capacity`` is too small (then
    nothing was changed)."""
    cdef uint32_t field, length
    cdef uint64_t size = 0
    for field in range(first, last + 1):
        length = access.fields[field].len
        size += length if length <= access_field_most(field) else access_field_most(field) + 1
    if size > capacity:
        return -1
    for field in range(first, last + 1):
        length = access.fields[field].len
        if length > access_field_most(field):
            length = access_field_most(field) + 1
        if length:
            memcpy(memory, access.fields[field].ptr, length)
        access.fields[field].ptr = memory
        access.fields[field].len = length
        memory += length
    return <int64_t> size
