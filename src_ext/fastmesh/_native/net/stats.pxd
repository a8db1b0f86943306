"""A worker's statistics records: found by number, allocated at first use. Owner worker writes, any thread reads."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastmesh._native.base.hist cimport HIST_COUNTS, SMALL_HIST_COUNTS
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.lb cimport lb_state_init
from fastmesh._native.net.table cimport table_get, table_set
from fastmesh._native.net.worker_t cimport (
    endpoint_t,
    listener_stats_t,
    pair_stats_t,
    service_stats_t,
    worker_t,
)
from fastmesh._native.sys.atomics cimport (
    fm_likely,
    fm_load_relaxed_u64,
    fm_store_relaxed_u64,
    fm_store_release_ptr,
    fm_store_release_u32,
)

ctypedef struct usage_t:
    # Of a service, over all workers; each worker's numbers are of a moment, so that a limit can be overshot by what
    # the other workers begin just then
    uint64_t in_flight
    uint64_t retrying
    uint64_t queued
    uint64_t connections


cdef inline pair_stats_t *pair_stats(worker_t *w, uint32_t index) noexcept nogil:
    """NULL when memory is exhausted: the caller then counts nothing."""
    cdef pair_stats_t *pair = <pair_stats_t *> table_get(&w.pairs, index)
    if fm_likely(pair != NULL):
        return pair
    pair = <pair_stats_t *> calloc(1, sizeof(pair_stats_t) + HIST_COUNTS * sizeof(uint64_t))
    if pair != NULL and not table_set(&w.pairs, index, pair):
        free(pair)
        return NULL
    return pair


cdef inline listener_stats_t *listener_stats(worker_t *w, uint32_t index) noexcept nogil:
    cdef listener_stats_t *stats = <listener_stats_t *> table_get(&w.listeners, index)
    if fm_likely(stats != NULL):
        return stats
    stats = <listener_stats_t *> calloc(1, sizeof(listener_stats_t))
    if stats != NULL and not table_set(&w.listeners, index, stats):
        free(stats)
        return NULL
    return stats


cdef inline service_stats_t *service_stats(worker_t *w, uint32_t index) noexcept nogil:
    cdef service_stats_t *stats = <service_stats_t *> table_get(&w.services, index)
    if fm_likely(stats != NULL):
        return stats
    stats = <service_stats_t *> calloc(1, sizeof(service_stats_t))
    if stats == NULL:
        return NULL
    stats.upstream_duration = <uint64_t *> calloc(HIST_COUNTS, sizeof(uint64_t))
    if stats.upstream_duration == NULL:
        free(stats)
        return NULL
    lb_state_init(&stats.lb_state, w.rng ^ index, w.index, w.shared.workers)
    if not table_set(&w.services, index, stats):
        free(stats.upstream_duration)
        free(stats)
        return NULL
    return stats


cdef inline usage_t service_usage(worker_t *w, uint32_t service_index) noexcept nogil:
    cdef usage_t usage
    cdef service_stats_t *stats
    cdef uint32_t i
    usage.in_flight = usage.retrying = usage.queued = usage.connections = 0
    for i in range(w.shared.workers):
        stats = <service_stats_t *> table_get(&w.shared.all[i].services, service_index)
        if stats != NULL:
            usage.in_flight += fm_load_relaxed_u64(&stats.in_flight)
            usage.retrying += fm_load_relaxed_u64(&stats.retrying)
            usage.queued += fm_load_relaxed_u64(&stats.queued)
            usage.connections += fm_load_relaxed_u64(&stats.connections)
    return usage


cdef inline endpoint_t *endpoint_of(worker_t *w, slot_t *slot) noexcept nogil:
    """The worker's record of a slot; NULL when memory is exhausted. A slot that was given to another endpoint since
    starts anew: the control thread reuses a slot only when no worker has a connection to it."""
    cdef endpoint_t *ep = <endpoint_t *> table_get(&w.endpoints, slot.index)
    cdef uint32_t i
    if fm_likely(ep != NULL):
        if fm_likely(ep.generation == slot.generation):
            return ep
        ep.speaks_http10 = 0
        ep.idle_limit_ms = 0
        ep.seen_idle_ms = 0
        # The control thread may be reading: it takes these for the endpoint's when it sees the generation
        fm_store_relaxed_u64(&ep.requests, 0)
        fm_store_relaxed_u64(&ep.failures, 0)
        fm_store_relaxed_u64(&ep.answers_5xx, 0)
        fm_store_relaxed_u64(&ep.in_flight, 0)
        for i in range(SMALL_HIST_COUNTS):
            fm_store_relaxed_u64(&ep.latency[i], 0)
        fm_store_release_u32(&ep.generation, slot.generation)
        return ep
    ep = <endpoint_t *> calloc(1, sizeof(endpoint_t) + SMALL_HIST_COUNTS * sizeof(uint64_t))
    if ep == NULL:
        return NULL
    ep.latency = <uint64_t *> (ep + 1)
    ep.slot = slot
    ep.generation = slot.generation
    if not table_set(&w.endpoints, slot.index, ep):
        free(ep)
        return NULL
    return ep
