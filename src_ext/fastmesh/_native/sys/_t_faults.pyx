# cython: language_level=3
"""For tests: mistakes made on purpose, to see that a sanitizer build reports them."""
from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc

cdef uint64_t shared_plain = 0


def write_behind_an_allocation(int32_t size):
    cdef uint8_t *memory = <uint8_t *> malloc(size)
    (<volatile uint8_t *> memory)[size] = 1
    free(memory)


def shift_too_far(int32_t places):
    cdef int32_t shifted
    with nogil:
        shifted = (<int32_t> 1) << places
    return shifted


def bump_without_order(uint64_t times):
    """Without the GIL: adds to one plain word, a volatile access at a time."""
    cdef uint64_t _i
    with nogil:
        for _i in range(times):
            (<volatile uint64_t *> &shared_plain)[0] = (<volatile uint64_t *> &shared_plain)[0] + 1
