"""poll(2), and sending without a signal. No logic."""

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    enum: POLLIN
    enum: POLLOUT
