"""What the workers count, for Python to read."""
from libc.stdint cimport uint32_t

from fastmesh._native.net.worker_t cimport shared_t, worker_t


cdef uint32_t clock_ms() noexcept nogil


cdef class Counters:
    cdef shared_t shared
    cdef worker_t **workers
    cdef readonly uint32_t worker_count
