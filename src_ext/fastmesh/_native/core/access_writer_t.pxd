"""The access log's writer: one thread that drains the workers' rings, formats and writes (see
``access_writer.pxd``)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._native.base.ring cimport ring_t
from fastmesh._native.proxy.access_t cimport access_clock_t

cdef enum:
    ACCESS_BUFFER_BYTES = 65536

ctypedef struct access_writer_t:
    # set once, before the thread starts
    ring_t **rings  # borrows; the array and the rings outlive the thread
    uint32_t ring_count
    int wake_fd  # an eventfd, non-blocking; workers write to it, and whoever stops the thread
    int out_fd  # where lines go; may be exchanged by dup2 onto the same number at any time
    # shared: any thread stores, the writer loads
    uint32_t style  # ACCESS_JSON or ACCESS_COMBINED; relaxed, for the lines that are formatted from then on
    uint32_t stop
    # written by the writer's thread, read by any (relaxed)
    uint64_t lines_written
    uint64_t lines_lost  # formatted, but the file or pipe did not take them
    uint64_t bytes_written
    uint64_t write_errors  # failed write(2) calls, EINTR and EAGAIN apart
    uint32_t last_errno
    # the writer's thread only
    uint32_t filled
    uint32_t pending  # lines in the buffer
    uint64_t give_up_at_ms  # monotonic; 0: no stop met a blocked file yet
    bint mid_line  # the last byte that was written is not the end of a line
    access_clock_t clock
    uint8_t *buffer  # borrows; ACCESS_BUFFER_BYTES
