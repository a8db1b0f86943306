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
    TRIED_MAX = 12  # and so 10 retries at most
    LINGER_MS = 2000  # a staged close waits this long for the peer's FIN
    LINGER_BYTES = 16777216  # an upload in full flight must get to read why it was refused
    ACCEPT_RETRY_MS = 100  # after EMFILE
    PACE_LOOKS = 4  # so often in an idle time the kernel is asked what a slow reader has taken

    LOOK_MS = 100  # how often a worker looks at what is used, at most
    LOOK_GROUP_MS = 1000  # the kernel adds up a control group's memory anew for each look
    SHORT_FROM = 92  # percent of a resource; it ends 2 below
    FULL_FROM = 97
    LEVEL_MARGIN = 2
    SHORTAGE_MS = 1000  # so long descriptors count as short after there was none
    ACCEPTS_WHEN_SHORT = 16  # each ACCEPT_PACE_MS
    ACCEPT_PACE_MS = 20
    SHED_SCAN = 4096  # connections that one look passes over, in search of those to close
    SHED_MOST = 256  # closed by one look
    SHED_SCAN_ACCEPT = 256  # the same for one new client
    SHED_IDLE_MS = 1000  # clients that are idle for less are left
    SHED_HEAD_MS = 2000  # the time for a head
    SHED_POOLED = 64  # idle connections to endpoints, closed by one look
    TRIM_MS = 1000

    UNDECIDED_GRACE_MS = 100  # for a first byte of HTTP, when there is no endpoint to wait with
    UNDECIDED_PART_MS = 1000  # for the next byte of what may become a request line
    RETRIES_LEAST = 3  # in flight, whatever the budget
    RETRY_WAIT_MS = 250  # for the budget, while another endpoint is left; and RETRY_WAIT_TIMES the usual time
    RETRY_WAIT_TIMES = 4
    RETRY_WAIT_MOST_MS = 10000
    BACKOFF_FIRST_MS = 25  # full jitter: anything up to it, then up to twice as long …
    BACKOFF_MAX_MS = 250
    WAITING_PER_TURN = 256
    WAITING_POLL_MS = 8  # what other workers give back is looked for as often
    POOLED_GRACE_MS = 1000  # a pooled connection that breaks sooner was closed while it was idle
    UNACKNOWLEDGED_MS = 5000  # an endpoint whose kernel acknowledges nothing for so long is gone
    PROBE_PATIENCE_MS = 100  # a half-open endpoint gets this and SLOW_TIMES the usual time to begin its answer
    PROBE_LEASE_MOST_MS = 10000  # a probe that long without a result: another one
    PROBE_SKIPS = 4  # half-open endpoints that one pick passes over
    PROBE_LATE_MS = 1000  # so long only requests that can be repeated probe; then any
    SLOW_TIMES = 8  # so many times the usual time is slow
    SLOW_LEAST_MS = 100
    SLOW_STREAK = 3  # clients in a row that give up on one endpoint and no other
    RAMP_FIRST_SHARE = 26  # of 255: a slow start begins with a tenth
    IDLE_SEEN_LEAST_MS = 1000  # younger idle connections that an endpoint closes say nothing
    IDLE_SEEN_APART_MS = 250
    IDLE_LIMIT_VALID_MS = 60000
    IDLE_MARGIN_MS = 500  # idle connections go so long before the endpoint would close them, or an eighth of its time

    PIPE_BYTES = 1048576  # asked for; the kernel may give less
    PIPES_MAX = 64  # a worker
    # One splice: 64 KiB pieces cost more calls, 1 MiB pieces leave the cache; see docs/performance.md
    SPLICE_BYTES = 262144
    SPLICE_MIN_BYTES = 262144  # what must be left of a body, or have passed a relay in one direction
    PROXY_HEADER_BYTES = 536
    SLOW_TURN_US = 100000  # counted, and logged by the control thread
    WATCHDOG_MS = 250  # how often the watchdog looks
    STALLED_MS = 1000  # a worker that is in one turn for so long is told of while it lasts
    CONTROL_LATE_MS = 5000  # the control plane, which beats each second
    CONTROL_STACKS_MS = 10000  # then its stacks are shown
    REPORTS_PER_MINUTE = 6  # of stalled workers
