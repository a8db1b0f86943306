"""The watchdog: one thread that sees workers and the control plane stand still (see ``watchdog.pxd``)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._native.net.worker_t cimport worker_t

ctypedef struct watchdog_t:
    # set once, before the thread starts
    worker_t **workers  # borrows; they outlive the thread
    uint32_t worker_count
    int wake_fd  # an eventfd, non-blocking; whoever stops the thread writes to it
    int out_fd  # where entries go
    int stacks_fd  # a file that the control thread's signal handler writes Python's stacks to; -1: none
    uint8_t *bytes  # borrows; REPORT_BYTES
    # shared: any thread stores, the watchdog loads
    uint32_t stop
    uint32_t json  # relaxed
    uint32_t control_tid  # of the thread that beat last
    uint64_t beat_ms  # monotonic; 0: the control plane is not watched
    # written by the watchdog, read by any (relaxed)
    uint64_t control_stalls
    uint64_t left_out  # stalls that were counted and not told
    # the watchdog only
    uint64_t awake_ms  # since then this process has not stood still as a whole
    uint64_t minute_ms  # when the minute began in which `told` entries were written
    uint32_t told
    uint8_t control_late  # it was told of
    uint8_t control_shown  # and its stacks
