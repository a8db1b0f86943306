# cython: language_level=3
"""For tests: the histogram functions of ``hist.pxd`` with Python arguments."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastmesh._native.base.hist cimport (
    HIST_COUNTS,
    HIST_HIGHEST,
    SMALL_HIST_COUNTS,
    hist_copy,
    hist_index,
    hist_record,
    hist_value,
    small_hist_index,
    small_hist_lower,
    small_hist_record,
    small_hist_upper,
)
from fastmesh._native.sys.count cimport fm_count_begin, fm_count_end

COUNTS = HIST_COUNTS
HIGHEST = HIST_HIGHEST
SMALL_COUNTS = SMALL_HIST_COUNTS


def index(uint64_t micros):
    return hist_index(micros)


def value(unsigned int place):
    return hist_value(place)


def small_index(uint64_t micros):
    return small_hist_index(micros)


def small_lower(unsigned int place):
    return small_hist_lower(place)


def small_upper(unsigned int place):
    return small_hist_upper(place)


def recorded(bint small, values):
    """Records all values into fresh counts and returns a copy, as little-endian bytes."""
    cdef unsigned int length = SMALL_HIST_COUNTS if small else HIST_COUNTS
    cdef uint64_t *counts = <uint64_t *> calloc(2 * length, sizeof(uint64_t))
    cdef uint64_t micros
    if counts == NULL:
        raise MemoryError
    try:
        for micros in values:
            if small:
                small_hist_record(counts, micros)
            else:
                hist_record(counts, micros)
        hist_copy(counts + length, counts, length)
        return (<char *> (counts + length))[: length * sizeof(uint64_t)]
    finally:
        free(counts)


def record_often(bint small, uint32_t count):
    """Records ``count`` values from 0 to 65,535 µs, for counting; how many buckets were hit."""
    cdef unsigned int length = SMALL_HIST_COUNTS if small else HIST_COUNTS
    cdef uint64_t *counts = <uint64_t *> calloc(length, sizeof(uint64_t))
    cdef uint32_t i
    if counts == NULL:
        raise MemoryError
    with nogil:
        fm_count_begin()
        for i in range(count):
            if small:
                small_hist_record(counts, (i * <uint32_t> 40503) & 0xFFFF)
            else:
                hist_record(counts, (i * <uint32_t> 40503) & 0xFFFF)
        fm_count_end()
    hit = sum(1 for place in range(length) if counts[place])
    free(counts)
    return hit
