"""Latency histograms in microseconds: two layouts of plain ``uint64_t`` counts, one writer each.

**hdr** is HdrHistogram's layout with a lowest value of 1 µs and 2 significant digits: 20 rows of 128 counts,
exactly 20 KiB, values to 2^26 - 1 µs (67.1 s). Its indexes are those of the ``hdrh`` package made with
``HdrHistogram(1, HIST_HIGHEST, 2)``, so that its counts can be handed over one to one.

**small** is log-linear with 4 buckets an octave: 100 counts, 800 bytes, the same highest value. A bucket is
at most a quarter of its lower bound wide.

Threads: only the owner records. It bumps one count with relaxed accesses; any other thread may copy the
counts with ``hist_copy`` meanwhile. Counts only grow, so a reader takes deltas, and derives the total from
the counts. A value above the highest is recorded as the highest.

Invariants: ``hist_value(i) <= v <= hist_value(i + 1) - 1`` for ``i = hist_index(v)`` and every
``v <= HIST_HIGHEST``; the same for ``small_hist_lower/upper`` (both bounds inclusive).
``fastmesh/model/histogram.py`` says the same to Python; a test compares them.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._native.sys.atomics cimport fm_bit_width_u64, fm_bump_u64, fm_load_relaxed_u64

cdef enum:
    HIST_COUNTS = 2560
    HIST_HALF_BITS = 7  # a row has 2^7 counts; the first two rows hold the values below 256 one by one
    HIST_HIGHEST = 67108863
    SMALL_HIST_COUNTS = 100
    SMALL_HIST_BITS = 2  # 2^2 counts an octave; the values below 4 one by one


cdef inline uint32_t hist_index(uint64_t micros) noexcept nogil:
    """The index of the count for a value; ``micros`` may be anything."""
    cdef uint32_t row
    if micros > HIST_HIGHEST:
        micros = HIST_HIGHEST
    row = fm_bit_width_u64(micros | 255) - (HIST_HALF_BITS + 1)
    # HdrHistogram: ((row + 1) << 7) + ((micros >> row) - 128)
    return (row << HIST_HALF_BITS) + <uint32_t> (micros >> row)


cdef inline uint64_t hist_value(uint32_t index) noexcept nogil:
    """The lowest value that is counted at ``index``."""
    cdef uint32_t row = index >> HIST_HALF_BITS
    cdef uint32_t place = index & ((1 << HIST_HALF_BITS) - 1)
    if row == 0:
        return place
    return <uint64_t> (place + (1 << HIST_HALF_BITS)) << (row - 1)


cdef inline void hist_record(uint64_t *counts, uint64_t micros) noexcept nogil:
    """Counts one value. ``counts`` has ``HIST_COUNTS`` entries and this thread is their only writer."""
    fm_bump_u64(&counts[hist_index(micros)], 1)


cdef inline uint32_t small_hist_index(uint64_t micros) noexcept nogil:
    """The index of the count for a value in the small layout; ``micros`` may be anything."""
    cdef uint32_t octave
    if micros > HIST_HIGHEST:
        micros = HIST_HIGHEST
    octave = fm_bit_width_u64(micros | 7) - (SMALL_HIST_BITS + 1)
    return (octave << SMALL_HIST_BITS) + <uint32_t> (micros >> octave)


cdef inline uint64_t small_hist_lower(uint32_t index) noexcept nogil:
    """The lowest value that is counted at ``index`` in the small layout."""
    cdef uint32_t octave = index >> SMALL_HIST_BITS
    cdef uint32_t place = index & ((1 << SMALL_HIST_BITS) - 1)
    if octave == 0:
        return place
    return <uint64_t> (place + (1 << SMALL_HIST_BITS)) << (octave - 1)


cdef inline uint64_t small_hist_upper(uint32_t index) noexcept nogil:
    """The highest value that is counted at ``index`` in the small layout."""
    return small_hist_lower(index + 1) - 1


cdef inline void small_hist_record(uint64_t *counts, uint64_t micros) noexcept nogil:
    """Counts one value. ``counts`` has ``SMALL_HIST_COUNTS`` entries and this thread is their only writer."""
    fm_bump_u64(&counts[small_hist_index(micros)], 1)


cdef inline void hist_copy(uint64_t *target, const uint64_t *counts, uint32_t length) noexcept nogil:
    """Any thread: copies either layout's counts while the owner goes on recording. Each count is whole;
    together they are not of one instant."""
    cdef uint32_t i
    for i in range(length):
        target[i] = fm_load_relaxed_u64(&counts[i])
