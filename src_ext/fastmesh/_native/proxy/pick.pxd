"""Which endpoint an attempt goes to: the policy's choice, probes of half-open endpoints, the limits of the service.

The limits count over all workers without a lock: two workers that begin a request at the same moment can overshoot by one.
Connections that are idle on other workers are not counted. Owner worker only.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastmesh._native.base.errors cimport (
    FM_E_DRAINING,
    FM_E_NO_ENDPOINT,
    FM_E_NO_MEMORY,
    FM_E_TOO_MANY_CONNECTIONS,
    FM_E_TOO_MANY_REQUESTS,
)
from fastmesh._native.base.hash cimport rng_below
from fastmesh._native.base.limits cimport (
    PROBE_LATE_MS,
    PROBE_LEASE_MOST_MS,
    PROBE_PATIENCE_MS,
    PROBE_SKIPS,
    SLOW_TIMES,
    TRIED_MAX,
)
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.candidate cimport LB_USABLE, lb_condition, lb_condition_of
from fastmesh._native.lb.lb cimport lb_adopt, lb_pick, lb_wants_total
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_t
from fastmesh._native.net.health cimport (
    health_is_half_open,
    health_probe_claim,
    health_probe_release,
    health_ramp_step,
)
from fastmesh._native.net.pool cimport upstream_close
from fastmesh._native.net.snap_t cimport UNLIMITED, block_drop, block_take, service_t
from fastmesh._native.net.stats cimport endpoint_of, service_stats, service_usage, usage_t
from fastmesh._native.net.table cimport table_get
from fastmesh._native.net.worker_t cimport conn_t, endpoint_t, service_stats_t, worker_t
from fastmesh._native.proxy.exchange_t cimport COUNTED, xchg_t
from fastmesh._native.sys.atomics cimport (
    fm_likely,
    fm_load_acquire_u32,
    fm_load_relaxed_u32,
    fm_load_relaxed_u64,
    fm_unlikely,
)


cdef inline void service_adopt(worker_t *w, service_stats_t *stats, service_t *service) noexcept nogil:
    """The worker's state follows the newest block; what it knew of the old one is carried over."""
    cdef service_t *old = stats.adopted
    if lb_adopt(&stats.lb_state, old.lb if old != NULL else NULL, service.lb) != 0:
        return  # no memory: picks go on without the memory of turns
    block_take(service.refs, w.index)
    stats.adopted = service
    if old != NULL:
        block_drop(old.refs, w.index)


cdef inline bint attempt_may_probe(const xchg_t *x, uint64_t health, uint32_t now_ms) noexcept nogil:
    """Whether this request may find out if a half-open endpoint is back: one that can be repeated elsewhere; after a
    while any, or a service that is only written to would never get its endpoint back."""
    return x.idempotent or x.tunnel or now_ms - <uint32_t> health >= PROBE_LATE_MS


cdef inline bint attempt_claim_probe(xchg_t *x, slot_t *slot, uint64_t health, uint32_t now_ms) noexcept nogil:
    """Makes the attempt the probe of a half-open endpoint; False: it must not, or another one is."""
    if not attempt_may_probe(x, health, now_ms) or not health_probe_claim(slot, now_ms, attempt_lease_ms(x)):
        return False
    x.probing = 1
    x.half_open_ms = <uint32_t> health
    return True


cdef inline void attempt_release_probe(worker_t *w, xchg_t *x) noexcept nogil:
    """The attempt is not made now: if it would have been a probe, another request may be it."""
    if fm_unlikely(x.probing):
        x.probing = 0
        health_probe_release(x.endpoint.slot, <uint32_t> w.now_ms, x.half_open_ms)


cdef inline int32_t attempt_pick_half_open(worker_t *w, xchg_t *x, lb_ctx_t *ctx, int32_t index) noexcept nogil:
    """The pick fell on an endpoint with something to its health word. Moves a slow start on; of the requests that meet a
    half-open endpoint one becomes its probe, the others go elsewhere. The endpoint's index."""
    cdef service_t *service = x.service
    cdef uint32_t now_ms = ctx.now_ms
    cdef uint32_t tried[TRIED_MAX + PROBE_SKIPS]
    cdef uint32_t k, _turn
    cdef uint64_t word
    cdef slot_t *slot
    for k in range(ctx.ntried):
        tried[k] = x.tried[k]
    ctx.tried = &tried[0]
    for _turn in range(PROBE_SKIPS):
        slot = service.lb.slots[index]
        word = fm_load_relaxed_u64(&slot.health)
        health_ramp_step(slot, now_ms)
        if not health_is_half_open(word, now_ms):
            return index
        if attempt_claim_probe(x, slot, word, now_ms):
            return index
        tried[ctx.ntried] = slot.index
        ctx.ntried += 1
        index = lb_pick(service.lb, &x.service_stats.lb_state, ctx)
        if index < 0:
            return index
    return index


cdef inline uint32_t attempt_patience_ms(const xchg_t *x) noexcept nogil:
    """How long a probe may take to answer."""
    return PROBE_PATIENCE_MS + <uint32_t> (x.service_stats.typical_us * SLOW_TIMES // 1000)


cdef inline uint32_t attempt_lease_ms(const xchg_t *x) noexcept nogil:
    """How long a probe may stay without a result before another request becomes it."""
    cdef uint32_t connect_ms = x.service.connect_ms
    if connect_ms == 0 or connect_ms > PROBE_LEASE_MOST_MS:
        connect_ms = PROBE_LEASE_MOST_MS
    return connect_ms + attempt_patience_ms(x)


cdef inline int32_t attempt_no_pick(const service_t *service) noexcept nogil:
    """Why no endpoint can be picked: -FM_E_DRAINING when all that have a share drain."""
    cdef int32_t error = FM_E_NO_ENDPOINT
    cdef uint32_t i
    for i in range(service.lb.n):
        if service.lb.weights[i] == 0:
            continue
        if not (fm_load_relaxed_u64(&service.lb.slots[i].health) >> 33) & 1:
            return -FM_E_NO_ENDPOINT
        error = FM_E_DRAINING
    return -error


cdef inline int32_t attempt_pick(worker_t *w, xchg_t *x) noexcept nogil:
    """Chooses ``x.endpoint``; 0, or -FM_E_…"""
    cdef service_t *service = x.service
    cdef lb_ctx_t ctx
    cdef int32_t index
    cdef slot_t *slot
    if x.service_stats == NULL:
        x.service_stats = service_stats(w, service.index)
        if x.service_stats == NULL:
            return -FM_E_NO_MEMORY
    if fm_unlikely(x.service_stats.adopted != service) and service.index < w.snap.service_count \
            and w.snap.services[service.index] == service:
        service_adopt(w, x.service_stats, service)
    x.probing = 0
    ctx.now_ms = <uint32_t> w.now_ms
    ctx.ntried = x.tried_count
    ctx.tried = &x.tried[0]
    ctx.key = x.key
    ctx.has_key = x.has_key
    ctx.total_in_flight = <uint32_t> service_usage(w, service.index).in_flight if lb_wants_total(service.lb) else 0
    index = lb_pick(service.lb, &x.service_stats.lb_state, &ctx)
    if fm_likely(index >= 0) and fm_unlikely(fm_load_relaxed_u64(&service.lb.slots[index].health) != 0):
        index = attempt_pick_half_open(w, x, &ctx, index)
    if index < 0:
        return attempt_no_pick(service)
    slot = service.lb.slots[index]
    x.endpoint = endpoint_of(w, slot)
    if x.endpoint == NULL:
        x.probing = 0
        return -FM_E_NO_MEMORY
    return 0


cdef inline bint attempt_goes_ahead(worker_t *w, xchg_t *x) noexcept nogil:
    """The first request of a client for which a connection was opened ahead, before it was known to speak HTTP: True when that
    is still an endpoint to choose, and now ``x.endpoint``. The policy has chosen it; a second pick would not be its turn."""
    cdef endpoint_t *ep = x.client.endpoint
    x.client.endpoint = NULL
    if x.service.needs_key or ep.slot.service_index != x.service.index or ep.generation != ep.slot.generation \
            or lb_condition_of(fm_load_relaxed_u64(&ep.slot.health), <uint32_t> w.now_ms) != LB_USABLE:
        return False
    x.service_stats = service_stats(w, x.service.index)
    if x.service_stats == NULL:
        return False
    x.endpoint = ep
    return True


cdef inline bint attempt_was_tried(const xchg_t *x) noexcept nogil:
    cdef uint32_t i
    for i in range(x.tried_count):
        if x.tried[i] == x.endpoint.slot.index:
            return True
    return False


cdef inline bint attempt_is_usable(worker_t *w, const xchg_t *x) noexcept nogil:
    return x.probing or lb_condition_of(fm_load_relaxed_u64(&x.endpoint.slot.health), <uint32_t> w.now_ms) == LB_USABLE


cdef inline bint attempt_has_alternative(worker_t *w, const xchg_t *x) noexcept nogil:
    """Whether an endpoint is usable beside that of the attempt."""
    cdef const lb_t *lb = x.service.lb
    cdef uint32_t i
    for i in range(lb.n):
        if lb.slots[i] != x.endpoint.slot and lb_condition(lb, i, <uint32_t> w.now_ms) == LB_USABLE:
            return True
    return False


cdef inline void attempt_set_patience(worker_t *w, xchg_t *x) noexcept nogil:
    """Less time to answer than `response`: by `per_try`, and for a probe whose request could go elsewhere at once."""
    cdef uint32_t most_ms = x.service.per_try_ms
    if x.probing and x.idempotent and x.attempts <= x.service.retry_attempts and attempt_has_alternative(w, x):
        most_ms = attempt_patience_ms(x) if most_ms == 0 else min(most_ms, attempt_patience_ms(x))
    if most_ms and (x.try_ms == 0 or most_ms < x.try_ms):
        x.try_ms = most_ms


# ---------------------------------------------------------------- limits

cdef inline bint attempt_reuses(const xchg_t *x) noexcept nogil:
    """Whether the attempt takes an idle connection where there is one."""
    return x.attempts == 0 and not x.tunnel and not x.service.send_proxy


cdef inline bint endpoint_is_full(worker_t *w, const xchg_t *x, slot_t *slot) noexcept nogil:
    """Whether the service's limits for one endpoint are reached."""
    cdef service_t *service = x.service
    cdef endpoint_t *ep
    cdef uint32_t i
    cdef uint64_t connections = 0
    if not x.tunnel and service.limit_endpoint_requests != UNLIMITED \
            and fm_load_relaxed_u32(&slot.in_flight) >= service.limit_endpoint_requests:
        return True
    if service.limit_endpoint_connections == UNLIMITED:
        return False
    ep = <endpoint_t *> table_get(&w.endpoints, slot.index)
    if ep != NULL and ep.generation == slot.generation and ep.idle and attempt_reuses(x):
        return False
    for i in range(w.shared.workers):
        ep = <endpoint_t *> table_get(&w.shared.all[i].endpoints, slot.index)
        if ep != NULL and fm_load_acquire_u32(&ep.generation) == slot.generation:
            connections += fm_load_relaxed_u32(&ep.connections)
            if i != w.index:
                connections -= fm_load_relaxed_u32(&ep.idle)  # of no use to this worker, and may go any time
    return connections >= service.limit_endpoint_connections


cdef inline bint attempt_pick_not_full(worker_t *w, xchg_t *x) noexcept nogil:
    """Another usable endpoint whose limits are not reached becomes ``x.endpoint``; False: there is none."""
    cdef service_t *service = x.service
    cdef uint32_t n = service.lb.n
    cdef uint32_t now_ms = <uint32_t> w.now_ms
    cdef uint32_t i = rng_below(&w.rng, n)
    cdef uint32_t _k
    cdef uint64_t word
    cdef endpoint_t *ep
    attempt_release_probe(w, x)
    for _k in range(n):
        i = i + 1 if i + 1 < n else 0
        if lb_condition(service.lb, i, now_ms) != LB_USABLE or endpoint_is_full(w, x, service.lb.slots[i]):
            continue
        ep = endpoint_of(w, service.lb.slots[i])
        if ep == NULL:
            return False
        x.endpoint = ep
        if attempt_was_tried(x):
            continue
        word = fm_load_relaxed_u64(&ep.slot.health)
        if not health_is_half_open(word, now_ms) or attempt_claim_probe(x, ep.slot, word, now_ms):
            return True
    return False


cdef inline uint64_t idle_elsewhere(worker_t *w, const service_t *service) noexcept nogil:
    """Idle connections of the service on other workers."""
    cdef uint64_t idle = 0
    cdef endpoint_t *ep
    cdef uint32_t i, k
    for i in range(w.shared.workers):
        for k in range(service.lb.n if i != w.index else 0):
            ep = <endpoint_t *> table_get(&w.shared.all[i].endpoints, service.lb.slots[k].index)
            if ep != NULL:
                idle += fm_load_relaxed_u32(&ep.idle)
    return idle


cdef inline bint pool_close_oldest(worker_t *w, const service_t *service) noexcept nogil:
    """Makes room for a connection: closes the one of the service that has been idle for longest on this worker."""
    cdef conn_t *oldest = NULL
    cdef endpoint_t *ep
    cdef uint32_t i
    for i in range(service.lb.n):
        ep = <endpoint_t *> table_get(&w.endpoints, service.lb.slots[i].index)
        if ep != NULL and ep.idle_last != NULL and (
                oldest == NULL or <int32_t> (ep.idle_last.idle_since_ms - oldest.idle_since_ms) < 0):
            oldest = ep.idle_last
    if oldest == NULL:
        return False
    upstream_close(w, oldest)
    return True


cdef inline int32_t limits_refuse(worker_t *w, xchg_t *x) noexcept nogil:
    cdef service_t *service = x.service
    cdef usage_t usage = service_usage(w, service.index)
    # A request that is sent again because of its answer is counted still
    if not x.tunnel and service.limit_requests != UNLIMITED \
            and usage.in_flight >= <uint64_t> service.limit_requests + (x.counted == COUNTED):
        return FM_E_TOO_MANY_REQUESTS
    if endpoint_is_full(w, x, x.endpoint.slot) and not attempt_pick_not_full(w, x):
        return FM_E_TOO_MANY_REQUESTS
    if service.limit_connections != UNLIMITED and usage.connections >= service.limit_connections \
            and not (x.endpoint.idle and attempt_reuses(x)) \
            and usage.connections - idle_elsewhere(w, service) >= service.limit_connections \
            and not pool_close_oldest(w, service):
        return FM_E_TOO_MANY_CONNECTIONS
    return 0


cdef inline int32_t attempt_admit(worker_t *w, xchg_t *x) noexcept nogil:
    """Whether the service's limits have room for this request, perhaps at another endpoint: 0, or FM_E_… (positive)."""
    cdef int32_t error = limits_refuse(w, x)
    if error:
        attempt_release_probe(w, x)
    return error
