"""The life of an exchange: begin, references, statistics, end. Owner worker only."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastmesh._native.base.errors cimport fm_error_info
from fastmesh._native.base.field_t cimport slice_t
from fastmesh._native.base.hist cimport hist_record, small_hist_record
from fastmesh._native.base.slot_t cimport SLOT_NAME_BYTES
from fastmesh._native.base.slab cimport buf_del, buf_new, pend_clear, slab_del, slab_new
from fastmesh._native.net.address cimport put_endpoint
from fastmesh._native.net.health cimport health_probe_release
from fastmesh._native.net.pool cimport flight_begin, flight_end, slot_is_original
from fastmesh._native.net.snap_t cimport block_drop, block_take, listener_block_t, service_t
from fastmesh._native.net.stats cimport listener_stats
from fastmesh._native.net.worker_t cimport conn_t, pair_stats_t, worker_t
from fastmesh._native.proto.h1_find cimport h1_find_field
from fastmesh._native.proto.h1_t cimport h1_req_t
from fastmesh._native.proxy.access cimport access_encode, access_keep
from fastmesh._native.proxy.access_t cimport (
    ACCESS_BYTES_MOST,
    ACCESS_CLIENT,
    ACCESS_ENDPOINT,
    ACCESS_FIELDS,
    ACCESS_HOST,
    ACCESS_HTTP_1_0,
    ACCESS_HTTP_1_1,
    ACCESS_LISTENER,
    ACCESS_METHOD,
    ACCESS_REFERER,
    ACCESS_REQUEST_ID,
    ACCESS_SERVICE,
    ACCESS_TARGET,
    ACCESS_TCP,
    ACCESS_USER_AGENT,
    access_t,
)
from fastmesh._native.proxy.exchange_t cimport COUNTED, COUNTED_AT_ENDPOINT, COUNTED_NOWHERE, xchg_t
from fastmesh._native.proxy.waiting cimport budget_give_back, waiting_leave
from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_load_relaxed_u32, fm_store_release_u64, fm_unlikely
from fastmesh._native.sys.os cimport CLOCK_MONOTONIC, clock_gettime, timespec
from fastmesh._native.sys.slowdown cimport fm_slow_down


cdef inline uint64_t clock_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t> now.tv_sec * 1000000 + <uint64_t> now.tv_nsec // 1000


cdef inline slice_t slice_of(const void *ptr, uint32_t length) noexcept nogil:
    cdef slice_t s
    s.ptr = <const uint8_t *> ptr
    s.len = length
    return s


cdef inline xchg_t *exchange_new(worker_t *w, conn_t *client, listener_block_t *listener) noexcept nogil:
    """An exchange of ``client`` under ``listener``, which it takes a reference on; NULL: no memory."""
    cdef xchg_t *x = <xchg_t *> slab_new(&w.exchanges)
    if x == NULL:
        return NULL
    fm_slow_down()  # nothing, but in a build for the benchmarks
    memset(x, 0, sizeof(xchg_t))
    x.client = client
    x.listener = listener
    block_take(listener.refs, w.index)
    x.listener_stats = listener_stats(w, listener.index)
    x.start_us = w.now_us
    x.start_wall_us = w.wall_us
    x.upstream_us = <uint64_t> -1
    x.whole = 1
    client.exchange = x
    fm_bump_u64(&w.busy, 1)
    return x


cdef inline void exchange_take_service(worker_t *w, xchg_t *x, service_t *service) noexcept nogil:
    x.service = service
    block_take(service.refs, w.index)


cdef inline void exchange_renew_service(worker_t *w, xchg_t *x) noexcept nogil:
    """A request that has not begun yet follows the configuration: its service is as the newest snapshot has it."""
    cdef service_t *before = x.service
    cdef service_t *now = w.snap.services[before.index] if before.index < w.snap.service_count else NULL
    if now != NULL and now != before:
        exchange_take_service(w, x, now)
        block_drop(before.refs, w.index)


cdef inline void exchange_drop_blocks(worker_t *w, xchg_t *x) noexcept nogil:
    """No further pick can happen: the configuration that the exchange came from may go."""
    if x.service != NULL:
        block_drop(x.service.refs, w.index)
        x.service = NULL
    if x.listener != NULL:
        block_drop(x.listener.refs, w.index)
        x.listener = NULL
    x.action = NULL


cdef inline void exchange_count_tunnel(xchg_t *x, uint64_t by) noexcept nogil:
    # Release: the control thread may see 0 now and give the number away
    if x.pair != NULL:
        fm_store_release_u64(&x.pair.tunnels, x.pair.tunnels + by)
    if x.service_stats != NULL:
        fm_store_release_u64(&x.service_stats.tunnels, x.service_stats.tunnels + by)
    if x.listener_stats != NULL:
        fm_store_release_u64(&x.listener_stats.tunnels, x.listener_stats.tunnels + by)


cdef inline void exchange_outlive_blocks(worker_t *w, xchg_t *x) noexcept nogil:
    """A relay has begun, and may go on for days: the configuration that it came from may go. The numbers that it will count
    by at its end stay taken; for all other exchanges the blocks see to that."""
    exchange_count_tunnel(x, 1)
    budget_give_back(x)
    if x.counted == COUNTED:  # what the limits and the budget of retries count are requests
        fm_bump_u64(&x.service_stats.in_flight, <uint64_t> -1)
        x.counted = COUNTED_AT_ENDPOINT
    x.outlives = 1
    exchange_drop_blocks(w, x)


cdef inline void exchange_count_in(worker_t *w, xchg_t *x) noexcept nogil:
    """The attempt counts as in flight, at its endpoint and at its service, until it is detached."""
    flight_begin(w, x.endpoint)
    fm_bump_u64(&x.service_stats.in_flight, 1)
    x.counted = COUNTED


cdef inline void exchange_log_endpoint(xchg_t *x) noexcept nogil:
    """Copies the endpoint's name behind what ``exchange_log_keep`` copied: once the attempt is no longer counted in
    flight, the slot may be given to another endpoint at any moment."""
    cdef access_t *log = <access_t *> x.log
    cdef uint8_t *place = x.log + sizeof(access_t) + ACCESS_BYTES_MOST + ACCESS_FIELDS - SLOT_NAME_BYTES
    log.fields[ACCESS_ENDPOINT].ptr = place
    if fm_unlikely(slot_is_original(x.endpoint.slot)) and x.client.intercepted:  # it is wherever the client was going
        log.fields[ACCESS_ENDPOINT].len = put_endpoint(<char *> place, &x.client.local_address)
        return
    log.fields[ACCESS_ENDPOINT].len = x.endpoint.slot.name_len
    memcpy(place, x.endpoint.slot.name, x.endpoint.slot.name_len)


cdef inline void exchange_detach_up(worker_t *w, xchg_t *x) noexcept nogil:
    """The attempt is over: its connection is no longer the exchange's. Nothing reads the slot after this."""
    if x.up != NULL:
        x.up.exchange = NULL
        x.up.peer = NULL
        x.up = NULL
    if fm_unlikely(x.probing):  # it says nothing about the endpoint: another request may be the probe
        x.probing = 0
        health_probe_release(x.endpoint.slot, <uint32_t> w.now_ms, x.half_open_ms)
    if x.counted:
        if x.log != NULL:
            exchange_log_endpoint(x)
        if x.counted == COUNTED:
            fm_bump_u64(&x.service_stats.in_flight, <uint64_t> -1)
        x.counted = COUNTED_NOWHERE
        flight_end(w, x.endpoint)


# ---------------------------------------------------------------- access records

cdef inline void exchange_log_field(xchg_t *x, uint32_t field, const void *ptr, uint32_t length) noexcept nogil:
    (<access_t *> x.log).fields[field] = slice_of(ptr, length)


cdef inline bint exchange_log_begin(worker_t *w, xchg_t *x) noexcept nogil:
    """Makes room for the record when the access log is on. The fields are copied by ``exchange_log_keep``."""
    cdef access_t *log
    if not fm_load_relaxed_u32(&w.shared.access_on):
        return False
    x.log = buf_new(&w.bufs, sizeof(access_t) + ACCESS_BYTES_MOST + ACCESS_FIELDS, &x.log_capacity)
    if x.log == NULL:
        return False
    log = <access_t *> x.log
    memset(log, 0, sizeof(access_t))
    log.protocol = ACCESS_TCP
    exchange_log_field(x, ACCESS_LISTENER, x.listener.name.ptr, x.listener.name.len)
    exchange_log_field(x, ACCESS_CLIENT, &x.client.client_ip[0], x.client.client_ip_len)
    if x.service != NULL:
        exchange_log_field(x, ACCESS_SERVICE, x.service.name.ptr, x.service.name.len)
    return True


cdef inline void exchange_log_keep(xchg_t *x) noexcept nogil:
    access_keep(<access_t *> x.log, 0, ACCESS_FIELDS - 1, x.log + sizeof(access_t),
                x.log_capacity - sizeof(access_t))


cdef inline void exchange_log_request(worker_t *w, xchg_t *x, const h1_req_t *req, slice_t request_id) noexcept nogil:
    cdef access_t *log
    cdef uint32_t i
    if not exchange_log_begin(w, x):
        return
    log = <access_t *> x.log
    log.protocol = ACCESS_HTTP_1_1 if req.minor else ACCESS_HTTP_1_0
    log.fields[ACCESS_METHOD] = req.method
    log.fields[ACCESS_TARGET] = req.target
    log.fields[ACCESS_HOST] = req.host
    log.fields[ACCESS_REQUEST_ID] = request_id
    for i in range(req.nfields):
        if req.fields[i].name_len == 10 and (req.fields[i].name[0] | 0x20) == c'u':
            if h1_find_field(&req.fields[i], 1, <const uint8_t *> b"user-agent", 10) != NULL:
                log.fields[ACCESS_USER_AGENT] = slice_of(req.fields[i].value, req.fields[i].value_len)
        elif req.fields[i].name_len == 7 and (req.fields[i].name[0] | 0x20) == c'r':
            if h1_find_field(&req.fields[i], 1, <const uint8_t *> b"referer", 7) != NULL:
                log.fields[ACCESS_REFERER] = slice_of(req.fields[i].value, req.fields[i].value_len)
    exchange_log_keep(x)


cdef inline void exchange_log_end(worker_t *w, xchg_t *x, uint64_t duration_us) noexcept nogil:
    cdef access_t *log = <access_t *> x.log
    log.started_us = x.start_wall_us
    log.duration_us = duration_us
    log.upstream_us = x.upstream_us
    log.bytes_received = x.bytes_received
    log.bytes_sent = x.bytes_sent
    log.status = x.status
    log.error = x.error
    if access_encode(&w.access, log):
        w.access_encoded += 1


cdef inline void refusal_log(worker_t *w, conn_t *c, int32_t error, uint32_t bytes_sent) noexcept nogil:
    """The record of a request whose head could not be read, or did not come: there is no exchange. What came of
    the head is not counted."""
    cdef access_t log
    cdef listener_block_t *block = c.socket.block
    if not fm_load_relaxed_u32(&w.shared.access_on):
        return
    memset(&log, 0, sizeof(log))
    log.protocol = ACCESS_HTTP_1_1
    log.started_us = w.wall_us
    log.upstream_us = <uint64_t> -1
    log.bytes_sent = bytes_sent
    log.status = fm_error_info[error].status
    log.error = <uint8_t> error
    log.fields[ACCESS_LISTENER] = slice_of(block.name.ptr, block.name.len)
    log.fields[ACCESS_CLIENT] = slice_of(&c.client_ip[0], c.client_ip_len)
    if access_encode(&w.access, &log):
        w.access_encoded += 1


# ---------------------------------------------------------------- the end

cdef inline void exchange_free(worker_t *w, xchg_t *x) noexcept nogil:
    pend_clear(&w.bufs, &x.request)
    if x.log != NULL:
        buf_del(&w.bufs, x.log, x.log_capacity)
    if x.trailers != NULL:
        buf_del(&w.bufs, x.trailers, x.trailers_capacity)
    exchange_drop_blocks(w, x)
    if x.client != NULL:
        x.client.exchange = NULL
    fm_bump_u64(&w.busy, <uint64_t> -1)
    slab_del(&w.exchanges, x)


cdef inline void exchange_end(worker_t *w, xchg_t *x) noexcept nogil:
    """Statistics and the access record, then the memory. The connections were dealt with by the caller."""
    cdef uint64_t duration
    cdef uint64_t now = clock_us()
    duration = now - x.start_us
    exchange_detach_up(w, x)
    if x.waits:
        waiting_leave(x)
    budget_give_back(x)
    if x.pair != NULL:
        if x.status < 600:
            fm_bump_u64(&x.pair.codes[x.status], 1)
        hist_record(x.pair.duration, duration)
    if x.error:
        fm_bump_u64(&w.errors[x.error], 1)
    if x.listener_stats != NULL:
        fm_bump_u64(&x.listener_stats.bytes_received, x.bytes_received)
        fm_bump_u64(&x.listener_stats.bytes_sent, x.bytes_sent)
    if x.endpoint != NULL and x.upstream_us != <uint64_t> -1:
        if x.service_stats != NULL:
            hist_record(x.service_stats.upstream_duration, x.upstream_us)
        small_hist_record(x.endpoint.latency, x.upstream_us)
    if x.log != NULL:
        exchange_log_end(w, x, duration)
    if x.outlives:
        exchange_count_tunnel(x, <uint64_t> -1)
    exchange_free(w, x)


cdef inline void exchange_discard(worker_t *w, xchg_t *x) noexcept nogil:
    """It was none after all: nothing of it is counted or written. Its connections stay the caller's."""
    exchange_detach_up(w, x)
    if x.outlives:
        exchange_count_tunnel(x, <uint64_t> -1)
    exchange_free(w, x)


cdef inline void exchange_upstream_done(xchg_t *x) noexcept nogil:
    """The response is complete: from the attempt's start until now."""
    x.upstream_us = clock_us() - x.attempt_us
