"""Building the blocks of a snapshot from Python values, and freeing them (see ``net/snap_t.pxd``).

The values are dicts that ``fastmesh.engine.compile`` writes; nothing else calls this. Names are bytes, times whole
milliseconds (0: no limit).
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.stdlib cimport posix_memalign

from fastmesh._native.base.limits cimport TRIED_MAX
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.lb cimport lb_del, lb_new
from fastmesh._native.lb.lb_t cimport LB_MAGLEV, LB_RING_HASH, lb_options_t
from fastmesh._native.net.destination cimport destinations_begin, destinations_put
from fastmesh._native.net.snap_t cimport (
    UNLIMITED,
    action_t,
    block_ref_t,
    hash_key_t,
    listener_block_t,
    range_t,
    service_t,
    target_t,
    text_t,
)
from fastmesh._native.net.table cimport table_get
from fastmesh._native.net.worker_t cimport table_t
from fastmesh._native.route.build cimport route_table_del, route_table_new


cdef void *zeroed(size_t count, size_t size) except NULL:
    cdef void *memory = calloc(count if count else 1, size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef block_ref_t *refs_new(unsigned int workers) except NULL:
    cdef void *memory = NULL
    cdef unsigned int i
    if posix_memalign(&memory, 64, workers * sizeof(block_ref_t)):
        raise MemoryError
    for i in range(workers):
        (<block_ref_t *> memory)[i].count = 0
    return <block_ref_t *> memory


cdef int text_set(text_t *text, bytes value) except -1:
    text.ptr = <char *> malloc(len(value) + 1)
    if text.ptr == NULL:
        raise MemoryError
    memcpy(text.ptr, <const char *> value, len(value) + 1)
    text.len = <uint32_t> len(value)
    return 0


# ---------------------------------------------------------------- services

cdef int service_fill_keys(service_t *service, list keys) except -1:
    """``keys``: (kind, name) pairs."""
    cdef uint32_t i
    service.keys = <hash_key_t *> zeroed(len(keys), sizeof(hash_key_t))
    for i, (kind, name) in enumerate(keys):
        service.keys[i].kind = kind
        service.key_count = i + 1
        text_set(&service.keys[i].name, name)
    return 0


cdef int service_fill_lb(service_t *service, dict spec, table_t *slots) except -1:
    """``endpoints``: (slot index, weight, priority) triples."""
    cdef list endpoints = spec["endpoints"]
    cdef uint32_t n = <uint32_t> len(endpoints)
    cdef slot_t **pointers = <slot_t **> zeroed(n, sizeof(slot_t *))
    cdef uint32_t *weights = NULL
    cdef uint8_t *priorities = NULL
    cdef uint32_t i
    cdef lb_options_t options
    cdef int policy = spec["policy"]
    try:
        weights = <uint32_t *> zeroed(n, sizeof(uint32_t))
        priorities = <uint8_t *> zeroed(n, 1)
        for i, (index, weight, priority) in enumerate(endpoints):
            pointers[i] = <slot_t *> table_get(slots, <uint32_t> index)
            if pointers[i] == NULL:
                raise ValueError(f"slot {index} is not defined")
            weights[i] = weight
            priorities[i] = priority
        options.ring_size = spec["ring_size"]
        options.table_size = spec["table_size"]
        options.bounded_load = spec["bounded_load"]
        with nogil:
            service.lb = lb_new(policy, n, pointers, weights, priorities, &options)
        if service.lb == NULL:
            raise MemoryError
    finally:
        free(pointers)
        free(weights)
        free(priorities)
    service.needs_key = policy == LB_RING_HASH or policy == LB_MAGLEV
    return 0


cdef int service_fill_failures(service_t *service, dict spec) except -1:
    """Retries and the leaving out of endpoints. ``retry_codes``: statuses from 400 to 599."""
    service.retry_attempts = min(spec["retry_attempts"], TRIED_MAX - 2)  # the first send and a repaired one
    service.retry_on = spec["retry_on"]
    service.retry_unsafe = spec["retry_unsafe"]
    service.retry_budget = spec["retry_budget"]
    service.per_try_ms = spec["per_try_ms"]
    for code in spec["retry_codes"]:
        service.retry_codes[(code - 400) >> 3] |= 1 << (code & 7)
    service.eject_5xx = spec["eject_5xx"]
    service.eject_gateway = spec["eject_gateway"]
    service.eject_base_ms = spec["eject_base_ms"]
    service.eject_max_ms = spec["eject_max_ms"]
    service.eject_most = spec["eject_most"]
    service.slow_start_ms = spec["slow_start_ms"]
    return 0


cdef int service_fill_limits(service_t *service, dict spec) except -1:
    service.limit_requests = spec["limit_requests"]
    service.limit_connections = spec["limit_connections"]
    service.limit_endpoint_requests = spec["limit_endpoint_requests"]
    service.limit_endpoint_connections = spec["limit_endpoint_connections"]
    service.limit_queue = spec["limit_queue"]
    service.queue_ms = spec["queue_ms"]
    service.limited = (
        service.limit_requests != UNLIMITED or service.limit_connections != UNLIMITED
        or service.limit_endpoint_requests != UNLIMITED or service.limit_endpoint_connections != UNLIMITED
    )
    return 0


cdef service_t *service_new(dict spec, table_t *slots, unsigned int workers) except NULL:
    """A service's block; raises MemoryError or ValueError, and leaves nothing behind."""
    cdef service_t *service = <service_t *> zeroed(1, sizeof(service_t))
    try:
        service.refs = refs_new(workers)
        service.index = spec["index"]
        text_set(&service.name, spec["name"])
        service.connect_ms = spec["connect_ms"]
        service.response_ms = spec["response_ms"]
        service.idle_ms = spec["idle_ms"]
        service.tunnel_idle_ms = spec["tunnel_idle_ms"]
        service.total_ms = spec["total_ms"]
        service.pool_idle_ms = spec["pool_idle_ms"]
        service.keepalive = spec["keepalive"]
        service.send_proxy = spec["send_proxy"]
        service.draining = spec["draining"]
        service.max_age_ms = spec["max_age_ms"]
        service_fill_failures(service, spec)
        service_fill_limits(service, spec)
        service_fill_keys(service, spec["keys"])
        service_fill_lb(service, spec, slots)
    except BaseException:
        service_free(service)
        raise
    return service


cdef void service_free(service_t *service) noexcept nogil:
    cdef uint32_t i
    if service.keys != NULL:
        for i in range(service.key_count):
            free(service.keys[i].name.ptr)
    free(service.keys)
    free(service.name.ptr)
    free(service.refs)
    if service.lb != NULL:
        lb_del(service.lb)
    free(service)


# ---------------------------------------------------------------- listeners

cdef int action_fill(action_t *action, dict spec) except -1:
    """``targets``: (service index, pair index, weight) triples."""
    cdef list targets = spec["targets"]
    cdef uint32_t i, total = 0
    action.kind = spec["kind"]
    action.status = spec["status"]
    action.response_ms = spec["response_ms"]
    action.prefix_len = spec["prefix_len"]
    action.has_rewrite = spec["rewrite"] is not None
    text_set(&action.rewrite, spec["rewrite"] or b"")
    text_set(&action.location, spec["location"])
    text_set(&action.body, spec["body"])
    action.targets = <target_t *> zeroed(len(targets), sizeof(target_t))
    for i, (service_index, pair_index, weight) in enumerate(targets):
        total += <uint32_t> weight
        action.targets[i].service_index = service_index
        action.targets[i].pair_index = pair_index
        action.targets[i].weight_up_to = total
    action.target_count = <uint32_t> len(targets)
    action.weight_total = total
    return 0


cdef int listener_fill_trusted(listener_block_t *block, list ranges) except -1:
    """``ranges``: (16 bytes of an IPv6 or mapped IPv4 address, prefix bits) pairs."""
    cdef uint32_t i
    cdef const char *address
    block.trusted = <range_t *> zeroed(len(ranges), sizeof(range_t))
    for i, (packed, bits) in enumerate(ranges):
        address = <bytes> packed
        memcpy(block.trusted[i].address, address, 16)
        block.trusted[i].prefix_bits = bits
    block.trusted_count = <uint32_t> len(ranges)
    return 0


cdef int listener_fill_destinations(listener_block_t *block, list destinations) except -1:
    """``destinations``: (16 bytes of an IPv6 or mapped IPv4 address, or of zeros for any; port; number of the listener), the
    one that wins first."""
    cdef uint32_t order
    cdef const char *address
    if destinations and not destinations_begin(block, <uint32_t> len(destinations)):
        raise MemoryError
    for order, (packed, port, listener_index) in enumerate(destinations):
        address = <bytes> packed
        destinations_put(block, <const uint8_t *> address, port, order, listener_index)
    return 0


cdef listener_block_t *listener_new(dict spec, unsigned int workers) except NULL:
    """A listener's block; raises MemoryError or ValueError, and leaves nothing behind."""
    cdef listener_block_t *block = <listener_block_t *> zeroed(1, sizeof(listener_block_t))
    cdef list actions = spec["actions"]
    cdef uint32_t i
    try:
        block.refs = refs_new(workers)
        block.index = spec["index"]
        text_set(&block.name, spec["name"])
        block.protocol = spec["protocol"]
        block.accept_proxy = spec["accept_proxy"]
        block.forwarded = spec["forwarded"]
        block.upgrade_websocket = spec["upgrade_websocket"]
        block.own_pair_index = spec["own_pair_index"]
        block.header_ms = spec["header_ms"]
        block.client_idle_ms = spec["client_idle_ms"]
        block.body_limit = spec["body_limit"]
        block.min_rate = spec["min_rate"]
        block.limits.header_bytes = spec["header_bytes"]
        block.limits.header_count = spec["header_count"]
        block.limits.target_bytes = spec["target_bytes"]
        block.limits.method_bytes = spec["method_bytes"]
        block.actions = <action_t *> zeroed(len(actions), sizeof(action_t))
        for i in range(<uint32_t> len(actions)):
            block.action_count = i + 1
            action_fill(&block.actions[i], actions[i])
        listener_fill_trusted(block, spec["trusted"])
        block.routes = route_table_new(spec["routes"])
        block.intercepts = spec["intercepts"]
        block.draining = spec["draining"]
        block.within = spec["within"]
        listener_fill_destinations(block, spec["destinations"])
    except BaseException:
        listener_free(block)
        raise
    return block


cdef void listener_free(listener_block_t *block) noexcept nogil:
    cdef uint32_t i
    if block.actions != NULL:
        for i in range(block.action_count):
            free(block.actions[i].rewrite.ptr)
            free(block.actions[i].location.ptr)
            free(block.actions[i].body.ptr)
            free(block.actions[i].targets)
    free(block.actions)
    free(block.trusted)
    free(block.destinations)
    free(block.name.ptr)
    free(block.refs)
    if block.routes != NULL:
        route_table_del(block.routes)
    free(block)
