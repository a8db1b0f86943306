"""An exchange: one request and its response, or one relayed TCP connection. Types only.

An exchange is not a connection. It makes one or more attempts; each leases a connection to an endpoint. The request
as it goes upstream stays in ``request`` from its first byte while a further attempt is possible (``whole``), and an
attempt reads it by its cursor ``sent``. Once replay is ruled out, ``request`` holds only what still has to be sent.

Owner worker only. The blocks are held by reference until no further pick can happen; a tunnel holds none.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastmesh._native.base.limits cimport TRIED_MAX
from fastmesh._native.base.slab cimport pend_t
from fastmesh._native.net.snap_t cimport action_t, listener_block_t, service_t
from fastmesh._native.net.worker_t cimport conn_t, endpoint_t, listener_stats_t, pair_stats_t, service_stats_t
from fastmesh._native.proto.chunked_t cimport chunk_t

cdef enum wait_t:
    WAIT_NONE = 0
    WAIT_BACKOFF = 1  # until `wait_until_ms`, then the next attempt; all others until then at most
    WAIT_BUDGET = 2
    WAIT_QUEUE = 3

cdef enum counted_t:
    COUNTED_NOWHERE = 0
    COUNTED_AT_ENDPOINT = 1  # a tunnel: a request no more
    COUNTED = 2  # at its service as well

cdef enum undecided_t:
    UNDECIDED_NOT = 0
    UNDECIDED = 1
    UNDECIDED_HTTP = 2  # it is, and its endpoint is still being connected

ctypedef struct xchg_t

ctypedef struct xchg_t:
    conn_t *client  # borrows
    conn_t *up  # borrows; the leased connection of the current attempt
    listener_block_t *listener  # holds a reference, or NULL
    service_t *service  # holds a reference, or NULL
    action_t *action  # borrows from listener
    endpoint_t *endpoint  # borrows; of the current or last attempt
    pair_stats_t *pair  # borrows
    service_stats_t *service_stats  # borrows
    listener_stats_t *listener_stats  # borrows
    # picks
    uint64_t key
    uint32_t tried[TRIED_MAX]
    uint8_t has_key
    uint8_t tried_count
    uint8_t attempts
    uint8_t counted  # COUNTED_…: where the current attempt is counted as in flight
    uint8_t retrying  # counted in the retries in flight
    uint8_t repaired  # a pooled connection that broke was replaced, which is no retry
    uint8_t probing  # the current attempt finds out whether a half-open endpoint is back
    uint32_t half_open_ms  # since when it is, of the endpoint that is probed
    uint8_t good_head  # the endpoint's answer is a good one if it gets whole
    uint8_t gave_up  # the client did, while the endpoint was slow
    # waiting between two attempts, or for the first
    uint8_t waits  # WAIT_…
    uint8_t wait_error  # what the client gets if it is in vain
    uint64_t wait_until_ms
    uint64_t queued_us
    xchg_t *wait_next
    xchg_t *wait_prev
    # request
    pend_t request
    uint32_t sent  # bytes of `request` that this attempt has sent
    uint8_t sent_any  # this attempt handed at least one byte to the kernel
    uint8_t whole  # `request` still holds all that was received
    uint8_t write_broken  # the endpoint takes no more bytes; its answer may still come
    uint8_t request_body  # H1_BODY_…
    uint8_t request_complete
    uint8_t idempotent
    uint8_t is_head
    uint8_t minor
    uint8_t asked  # H1_ASKED_… for the response parser
    uint8_t te_trailers
    uint64_t request_left
    uint64_t body_bytes  # of the request body so far
    chunk_t request_chunk
    # response
    uint8_t upstream_bytes  # a byte of the response was received
    uint8_t head_done  # the final response head was parsed and sent
    uint8_t response_in  # H1_BODY_…
    uint8_t response_out
    uint8_t response_keep  # the endpoint keeps its connection
    uint8_t close_client
    uint8_t client_asked_close
    uint8_t tunnel
    uint8_t undecided  # UNDECIDED_…: a relay, unless the client turns out to speak HTTP
    uint8_t outlives  # counted in `tunnels` of what it counts by
    uint8_t spliced  # the rest of the body goes through a pipe
    uint64_t response_left
    chunk_t response_chunk
    uint8_t *trailers  # owns: CHUNK_TRAILERS_MAX bytes, or NULL
    uint32_t trailers_capacity
    # time-outs
    uint32_t response_ms
    uint32_t try_ms  # the same for this attempt
    uint32_t idle_ms
    uint32_t tunnel_idle_ms
    uint64_t deadline_ms  # of the whole exchange; 0: none
    # what is told afterwards
    uint64_t start_us
    uint64_t start_wall_us
    uint64_t attempt_us
    uint64_t upstream_us  # until the response was complete; UINT64_MAX: no endpoint was asked
    uint64_t bytes_received
    uint64_t bytes_sent
    uint16_t status
    uint8_t error
    uint8_t *log  # owns: access_t and the bytes it points to, or NULL
    uint32_t log_capacity
