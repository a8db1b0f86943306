"""Marks around a loop whose instructions are counted, and memory for what it reads. No logic; for test modules alone."""
from libc.stdint cimport uint8_t

cdef extern from "fm_count.h" nogil:
    void fm_count_begin()
    void fm_count_end()
    uint8_t *fm_count_pages(size_t size)  # free() them; NULL: no memory
