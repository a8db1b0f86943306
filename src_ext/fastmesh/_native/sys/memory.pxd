"""Handing free memory back to the system. No logic."""

cdef extern from "fm_memory.h" nogil:
    void fm_memory_give_back()
