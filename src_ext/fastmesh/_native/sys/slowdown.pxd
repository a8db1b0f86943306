"""Burning CPU time for a benchmark of a slower build; nothing in any other. No logic."""

cdef extern from "fm_slowdown.h" nogil:
    enum: FM_SLOWDOWN_NS
    void fm_slow_down()
