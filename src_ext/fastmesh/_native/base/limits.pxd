"""Every budget and bound of the data plane, in one place. Each loop has one; none is configurable."""

cdef enum:
    EVENTS_PER_TURN = 512
    ACCEPTS_PER_EVENT = 64  # then the listener goes to the ready list
    READS_PER_EVENT = 8  # reads of one connection a visit, then it goes to the ready list
    READY_PER_TURN = 1024
    TIMERS_PER_TURN = 1024

    SCRATCH_BYTES = 65536  # one read
    SCRATCH_HEADROOM = 64  # a chunk-size line is written in front of the data
    OUT_BYTES = 131072  # a head and a whole scratch behind it

    REPLAY_BYTES = 65536  # a request larger than this is not kept for a second attempt
    TRIED_MAX = 4
    LINGER_MS = 2000  # a staged close waits this long for the peer's FIN
    LINGER_BYTES = 16777216  # an upload in full flight must get to read why it was refused
    ACCEPT_RETRY_MS = 100  # after EMFILE

    DOWN_FIRST_MS = 1000  # passive down-marking: 1 s, 2 s, 4 s ... 30 s
    DOWN_MAX_MS = 30000

    PIPE_BYTES = 1048576  # asked for; the kernel may give less
    PIPES_MAX = 64  # a worker
    # One splice: 64 KiB pieces cost more calls, 1 MiB pieces leave the cache; see docs/performance.md
    SPLICE_BYTES = 262144
    SPLICE_MIN_BYTES = 262144  # what must be left of a body, or have passed a relay in one direction
    PROXY_HEADER_BYTES = 536
    SLOW_TURN_US = 100000  # counted, and logged by the control thread
