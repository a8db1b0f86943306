# cython: language_level=3
"""For tests: the histogram functions of ``hist.pxd`` with Python arguments."""
from libc.stdint cimport uint64_t
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
