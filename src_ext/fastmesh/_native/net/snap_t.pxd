"""A snapshot: the immutable configuration that a worker serves from, built of refcounted blocks.

The control thread builds blocks and a root, and publishes the root with one release store a worker. A worker
adopts it between two turns. Blocks that did not change are shared by consecutive roots. A block is freed by the
control thread once it is in no current root, every worker has adopted a later generation, and no worker holds
a reference: ``block_t.refs[i]`` is written by worker ``i`` alone, so taking one is a plain addition.

Services and listeners are named by their index, which the control thread keeps for as long as the name lives.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastmesh._native.lb.lb_t cimport lb_t
from fastmesh._native.proto.h1_t cimport h1_limits_t
from fastmesh._native.route.route_t cimport route_table_t
from fastmesh._native.sys.atomics cimport fm_store_release_u64

cdef enum:
    NO_TIMEOUT = 0
    UNSET_MS = 0xFFFFFFFF
    MAX_WORKERS = 256

cdef enum: UNLIMITED = 0xFFFFFFFF

cdef enum: WITHIN_NONE = 0xFFFFFFFF

cdef enum retry_on_t:
    RETRY_ON_CONNECT = 1  # no connection: nothing was sent
    RETRY_ON_RESET = 2  # it broke, ended or made no sense before the response's head was whole
    RETRY_ON_TIMEOUT = 4

cdef enum action_kind_t:
    ACTION_FORWARD = 0
    ACTION_REDIRECT = 1
    ACTION_RESPOND = 2

cdef enum hash_key_kind_t:
    KEY_SOURCE_IP = 0
    KEY_PATH = 1
    KEY_HEADER = 2
    KEY_COOKIE = 3
    KEY_QUERY = 4

cdef enum protocol_t:
    PROTOCOL_HTTP = 0
    PROTOCOL_TCP = 1
    PROTOCOL_AUTO = 2  # whoever speaks first decides

cdef enum forwarded_bits_t:
    FORWARDED_FOR = 1
    FORWARDED_PROTO = 2
    FORWARDED_HOST = 4
    FORWARDED_REQUEST_ID = 8

ctypedef struct block_ref_t:
    # owner worker only; read by the control thread. One cache line each.
    uint64_t count
    uint8_t pad[56]

ctypedef struct text_t:
    # Owned by the block that holds it
    char *ptr
    uint32_t len

ctypedef struct hash_key_t:
    uint8_t kind
    text_t name

ctypedef struct service_t:
    block_ref_t *refs  # owns; one a worker
    uint32_t index
    text_t name
    lb_t *lb  # owns
    uint32_t connect_ms
    uint32_t response_ms
    uint32_t idle_ms  # bodies
    uint32_t tunnel_idle_ms  # TCP relays and tunnels
    uint32_t total_ms
    uint32_t pool_idle_ms
    uint32_t keepalive  # idle connections kept per endpoint and worker
    uint32_t key_count
    hash_key_t *keys  # owns
    uint8_t needs_key
    uint8_t send_proxy  # 0, 1 or 2
    uint8_t draining  # takes no new requests; what has begun or waits may still be sent and sent again
    # retries
    uint8_t retry_on  # RETRY_ON_… bits
    uint8_t retry_unsafe
    uint16_t retry_attempts
    uint32_t retry_budget  # 1/1000 of the requests in flight; UNLIMITED: none
    uint32_t per_try_ms
    uint8_t retry_codes[25]  # a bit for each status from 400 to 599
    # leaving endpoints out
    uint32_t eject_5xx  # so many in a row; 0: off
    uint32_t eject_gateway
    uint32_t eject_base_ms
    uint32_t eject_max_ms
    uint32_t eject_most  # 1/1000 of the endpoints
    uint32_t slow_start_ms
    uint32_t max_age_ms  # of a connection to an endpoint
    # limits over all workers; UNLIMITED: none
    uint8_t limited  # any of them is set
    uint32_t limit_requests
    uint32_t limit_connections
    uint32_t limit_endpoint_requests
    uint32_t limit_endpoint_connections
    uint32_t limit_queue
    uint32_t queue_ms

ctypedef struct target_t:
    uint32_t service_index
    uint32_t pair_index  # the statistics of (listener, service)
    uint32_t weight_up_to  # running sum of the weights

ctypedef struct action_t:
    uint8_t kind
    uint16_t status
    uint32_t target_count
    target_t *targets  # owns
    uint32_t weight_total
    uint32_t response_ms  # UNSET_MS: the service's
    bint has_rewrite
    uint32_t prefix_len
    text_t rewrite
    text_t location
    text_t body

ctypedef struct range_t:
    # An address range; IPv4 as ::ffff:a.b.c.d
    uint8_t address[16]
    uint32_t prefix_bits

ctypedef struct destination_t:
    # Which listener within another a connection to this place belongs to
    uint8_t ip[16]  # IPv4 as ::ffff:a.b.c.d; all zero: any address
    uint16_t port  # host order; 0: this place of the table is empty
    uint32_t order  # of the listener in the configuration: the lower one wins
    uint32_t listener_index

ctypedef struct listener_block_t:
    block_ref_t *refs  # owns
    uint32_t index
    text_t name
    uint8_t protocol
    uint8_t accept_proxy
    uint8_t forwarded
    uint8_t upgrade_websocket
    uint32_t own_pair_index  # statistics of what the proxy answers itself
    uint32_t header_ms
    uint32_t client_idle_ms
    uint64_t body_limit  # 0: none
    uint32_t min_rate  # bytes a second, of a body that comes and of an answer that is taken; 0: any
    h1_limits_t limits
    route_table_t *routes  # owns
    uint32_t action_count
    action_t *actions  # owns
    uint32_t trusted_count
    range_t *trusted  # owns
    # interception
    uint8_t intercepts  # its connections were redirected, and the kernel knows where they were going
    uint8_t draining  # of a listener within another: it takes no new connections, and answers carry Connection: close
    uint32_t within  # number of the listener that it takes its connections from; WITHIN_NONE
    uint32_t destination_mask  # places in the table, a power of two, less one
    destination_t *destinations  # owns; NULL: none

ctypedef struct snap_t:
    uint64_t generation
    uint32_t listener_count
    listener_block_t **listeners  # by index; NULL where an index is not in use
    uint32_t service_count
    service_t **services  # by index; NULL where an index is not in use


cdef inline void block_take(block_ref_t *refs, uint32_t worker) noexcept nogil:
    fm_store_release_u64(&refs[worker].count, refs[worker].count + 1)


cdef inline void block_drop(block_ref_t *refs, uint32_t worker) noexcept nogil:
    fm_store_release_u64(&refs[worker].count, refs[worker].count - 1)
