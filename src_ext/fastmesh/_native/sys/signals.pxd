"""Masking signals in a thread of the data plane. No logic."""

cdef extern from "fm_signals.h" nogil:
    void fm_block_signals()
