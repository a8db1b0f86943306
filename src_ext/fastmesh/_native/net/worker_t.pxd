"""A worker and what lives on it: connections, listening sockets, endpoint records, statistics.

One worker is one thread. A connection lives on one worker from accept to close. What the control thread may read is
marked; everything else is touched by the owning worker only.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastmesh._native.base.ring cimport ring_t
from fastmesh._native.base.slab cimport bufpool_t, pend_t, slab_t
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.base.timers cimport timer_t, wheel_t
from fastmesh._native.lb.lb_t cimport lb_state_t
from fastmesh._native.net.snap_t cimport listener_block_t, service_t, snap_t
from fastmesh._native.net.turn_t cimport turn_t
from fastmesh._native.proto.h1_t cimport h1_limits_t, h1_req_t, h1_resp_t
from fastmesh._native.sys.os cimport epoll_event

cdef enum:
    TABLE_ROOT = 1024
    TABLE_LEAF = 256
    CONN_LEAF = 256

cdef enum:  # RESOURCE_…
    RESOURCE_CONNECTIONS = 0  # of clients
    RESOURCE_DESCRIPTORS = 1
    RESOURCE_MEMORY = 2
    RESOURCES = 3

cdef enum:  # PRESSURE_…
    PRESSURE_NONE = 0
    PRESSURE_SHORT = 1
    PRESSURE_FULL = 2

cdef enum conn_kind_t:
    CONN_FREE = 0
    CONN_LISTENER = 1
    CONN_CLIENT = 2  # HTTP, from a client
    CONN_UPSTREAM = 3  # HTTP, to an endpoint
    CONN_RELAY = 4  # either side of a TCP relay or of a tunnel
    CONN_MAILBOX = 5
    CONN_UNDECIDED = 6  # either side of what will be HTTP or a relay: nobody has spoken yet

cdef enum conn_state_t:
    # clients
    C_PROXY_HEADER = 0  # waits for the PROXY protocol header
    C_HEAD = 1  # waits for a request head, or is idle
    C_EXCHANGE = 2  # an exchange runs
    C_LINGER = 3  # our side is shut down; reads and drops until the peer's FIN
    # upstreams
    U_CONNECTING = 4
    U_ACTIVE = 5
    U_IDLE = 6  # in the pool
    # relays
    R_CONNECTING = 7
    R_OPEN = 8
    CONN_CLOSED = 9  # on the deferred list

cdef enum conn_flag_t:
    F_READABLE = 1  # an edge was seen and not yet read to its end
    F_RDHUP = 2  # the peer's FIN is in the receive queue, or behind it
    F_ERROR = 4  # EPOLLERR or EPOLLHUP was seen
    F_EOF = 8  # read returned 0
    F_READY = 16  # on the ready list
    F_FRESH = 32  # client: no request was read yet; upstream: no response was read yet
    F_WRITE_SHUT = 64  # we sent FIN
    F_SHUT_AFTER_FLUSH = 128
    F_CLIENT_SIDE = 256  # relay: the side that was accepted
    F_TRUSTED = 512  # the peer's forwarding headers are believed
    F_FILLED = 1024  # client: its kernel buffer was full once, and has grown since
    F_LINGER_AFTER_FLUSH = 2048
    F_HEAD_BEGUN = 4096  # client: a part of a request head is in `input`
    F_COUNTED = 16384  # upstream: counted in its service's connections; client: in those of all clients
    F_UNWATCHED = 32768  # listening sockets: the poller did not take it, for lack of memory
    F_OWED = 8192  # client: the end of an answer waits in `out`, which counts as busy

ctypedef struct address_t:
    # An address as the PROXY protocol and the forwarding headers need it
    uint8_t family  # 0 none, 4, 6, 1 unix
    uint8_t ip[16]
    uint16_t port  # host order

ctypedef struct pipe_t:
    int32_t read_fd
    int32_t write_fd
    uint32_t held  # bytes in it

ctypedef struct conn_t:
    timer_t timer  # first: a timer is its connection
    # set when it opens
    uint32_t index  # in the worker's table
    uint32_t generation  # changes when it is freed, so that a stale event is recognised
    int32_t fd
    uint8_t kind
    uint8_t state
    uint16_t flags
    # owner worker only
    conn_t *ready_next
    conn_t *peer  # borrows: the other side of the exchange, relay or tunnel
    void *exchange  # borrows: xchg_t of proxy
    pend_t out  # written, not yet taken by the kernel
    pend_t input  # read, not yet parsed
    uint32_t scan  # resume hint of the head parser
    uint16_t served  # requests on this connection, saturating
    uint8_t listen_shared  # listening sockets: one descriptor for all workers
    uint8_t intercepted  # client: it was redirected; `local_address` is where it was going
    pipe_t *pipe  # owns while bytes are in it: spliced, on their way to this connection
    uint64_t passed  # relay: bytes read from this side
    # clients, relays' client side, listening sockets
    socket_t *socket  # borrows
    address_t peer_address
    address_t local_address
    uint32_t local_scope  # of `local_address` of an intercepted client, if it is link-local
    uint8_t client_ip_len
    char client_ip[47]
    uint32_t idle_since_ms  # in the pool; a client: since the accept or its last answer, its head has begun, or it lingers
    # clients that we wait for (proxy/pace.pxd)
    uint8_t pace  # PACE_…
    uint32_t moved_ms  # when it was last seen to send or to take something; or since when we wait
    uint32_t window_ms  # when the window began; of one that stands still, how much of it has passed
    uint64_t window_bytes  # sent or taken when the window began
    uint64_t taken_bytes  # when the kernel was last asked
    # upstreams
    endpoint_t *endpoint  # borrows; counted in its `connections`. A client: where its first request goes if it can, or NULL
    uint32_t since_ms  # opened, in worker-clock milliseconds
    conn_t *idle_next
    conn_t *idle_prev

ctypedef struct endpoint_t:
    # A worker's own record of one endpoint slot, allocated at its first use
    # owner worker only
    slot_t *slot
    uint32_t generation  # of the slot when this was filled
    conn_t *idle_first  # most recently used first
    conn_t *idle_last
    uint8_t speaks_http10
    uint32_t idle_limit_ms  # what the endpoint allows idle connections, as it said or showed; 0: not known
    uint32_t idle_learned_ms
    uint32_t seen_idle_ms  # how old the last idle connection was that it closed, and when that was
    uint32_t seen_close_ms
    # one writer, read by the control thread
    uint32_t idle
    uint32_t connections
    uint64_t in_flight
    uint64_t requests
    uint64_t failures
    uint64_t answers_5xx
    uint64_t *latency  # small histogram

ctypedef struct socket_t:
    # A listening socket on one worker; or, without a descriptor, what stands for one to clients of a listener within another
    # owner worker only
    socket_t *next
    uint32_t listener_index
    listener_block_t *block  # holds a reference
    conn_t *conn  # the registered descriptor; NULL once closed
    uint32_t connections
    uint8_t draining  # answers carry Connection: close
    uint64_t identity  # given by the control thread
    uint8_t is_within  # it has no descriptor; `listener_stats_t.within` is it

# Statistics by number begin with how many tunnels will still count there: until then, the number is not given again.

ctypedef struct pair_stats_t:
    # one writer, read by the control thread: (listener, service)
    uint64_t tunnels  # first
    uint64_t codes[600]
    uint64_t duration[1]  # HIST_COUNTS of them follow

ctypedef struct service_stats_t:
    uint64_t tunnels  # first; one writer, read by the control thread
    lb_state_t lb_state  # owner worker only
    service_t *adopted  # holds a reference: the block that lb_state follows
    uint64_t typical_us  # until the head of a response; owner worker only
    # exchanges (xchg_t) that wait, oldest first; owner worker only
    void *queue_first  # for a request in flight to end
    void *queue_last
    void *budget_first  # for the budget of retries
    void *budget_last
    service_stats_t *next_waiting
    uint8_t is_waiting  # in the worker's list
    # one writer, read by the control thread
    uint64_t *upstream_duration
    uint64_t retries
    uint64_t retries_refused  # the budget was spent
    uint64_t limited  # refused, or given up in the queue
    # one writer, read by all workers
    uint64_t in_flight
    uint64_t retrying
    uint64_t queued
    uint64_t queue_since_us  # of the oldest in the queue; 0: it is empty
    uint64_t connections

ctypedef struct listener_stats_t:
    # one writer, read by the control thread
    uint64_t tunnels  # first
    uint64_t connections_active
    uint64_t connections_total
    uint64_t bytes_received
    uint64_t bytes_sent
    socket_t *within  # owner worker only: the socket of a listener within another, or NULL

ctypedef struct table_t:
    # index -> pointer, in two levels; leaves and entries appear and never move
    void **leaves[TABLE_ROOT]

ctypedef struct command_t:
    # A letter to a worker; the worker owns it once it is posted
    command_t *next
    uint32_t kind
    int32_t fd
    uint32_t listener_index
    uint32_t flags
    uint32_t least_idle_ms
    uint64_t identity

ctypedef struct worker_t

ctypedef struct shared_t:
    # What all workers of an engine see
    uint32_t workers
    worker_t **all  # set once; a worker reads other workers' counters only
    table_t slots  # slot_t by slot number; written by the control thread before publication
    int32_t access_event_fd
    uint32_t access_on  # shared, atomic
    uint32_t draining  # shared, atomic
    # What may be used: see net/overload.pxd. Set before the workers run; a descriptor below 0 is not there
    uint64_t connection_limit
    uint64_t descriptor_limit  # of the workers; 0: none
    int32_t statm_fd
    int32_t group_used_fd
    int32_t group_stat_fd
    uint32_t page_bytes
    uint8_t group_is_v1
    # shared, atomic: control thread -> workers; 0: none
    uint64_t memory_limit
    uint64_t group_limit
    # shared, atomic, and written so often that they stand apart from what each request reads
    uint64_t _apart[8]
    uint64_t connections
    uint64_t descriptors  # of connections and pipes
    uint64_t memory_used
    uint64_t memory_at_ms  # when it was measured
    uint64_t group_used
    uint64_t group_at_ms
    uint64_t trimmed_ms

ctypedef struct worker_t:
    # set once
    uint32_t index
    shared_t *shared
    int32_t epoll_fd
    int32_t event_fd
    # shared, atomic: control thread -> worker
    snap_t *published
    command_t *mailbox
    uint32_t stop
    # shared, atomic: worker -> control thread
    uint64_t adopted_generation
    uint64_t turns
    uint64_t longest_turn_us
    uint64_t slow_turns  # over SLOW_TURN_US; the last of them are in `turn.slow`
    uint64_t health_changes  # endpoints marked down or up again by this worker
    uint64_t busy  # exchanges, tunnels and relays, and clients that have not taken all of their last answer
    uint64_t errors[64]
    uint64_t commands_done
    uint64_t clients_left  # clients of HTTP that were still open after the last letter to close idle ones
    uint64_t conns_live
    uint64_t pipes_live
    turn_t turn
    uint64_t now_us  # CLOCK_MONOTONIC of this turn
    uint32_t strains  # `strain`, 8 bits each
    uint64_t shortages[3]  # how often each resource became short
    uint64_t shed_clients  # connections that were closed to make room
    uint64_t shed_pooled
    # owner worker only
    uint8_t pressure  # PRESSURE_…: the highest of `strain`
    uint8_t strain[3]  # of each RESOURCE_…
    uint32_t shed_cursor
    uint32_t pool_cursor
    uint64_t pool_bare_ms  # until then there is nothing to find in the pools
    uint64_t shortage_ms  # until then descriptors are short, whatever the count says
    uint64_t looked_ms
    snap_t *snap
    uint64_t now_ms
    uint64_t wall_us  # CLOCK_REALTIME of this turn
    uint64_t date_second
    char date[32]
    wheel_t wheel
    uint64_t rng
    bufpool_t bufs
    slab_t exchanges
    conn_t **conn_leaves
    uint32_t conn_leaf_count
    conn_t *conn_free
    conn_t *ready_first
    conn_t *ready_last
    uint32_t ready_count
    service_stats_t *waiting  # services with exchanges that wait
    conn_t *deferred
    socket_t *sockets
    pipe_t pipes[64]
    uint32_t pipe_free[64]
    uint32_t pipe_free_count
    ring_t access
    uint8_t *access_memory
    uint32_t access_encoded
    # statistics; read by the control thread
    table_t endpoints  # endpoint_t by slot
    table_t pairs  # pair_stats_t
    table_t services  # service_stats_t
    table_t listeners  # listener_stats_t
    # work space
    uint8_t *scratch  # SCRATCH_HEADROOM + SCRATCH_BYTES + SCRATCH_HEADROOM
    uint8_t *out  # OUT_BYTES
    h1_req_t request
    h1_resp_t response
    h1_limits_t response_limits
    epoll_event *events
