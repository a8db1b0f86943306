"""Reading what the workers count: sums over the workers, taken while they run. The base class of ``Engine``.

Any thread. A number is read by one relaxed load, so sums of several are of about the same moment.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastmesh._native.base.errors cimport FM_ERROR_LIMIT, fm_error_info
from fastmesh._native.base.hist cimport HIST_COUNTS, SMALL_HIST_COUNTS
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.net.health cimport health_tell, told_t
from fastmesh._native.net.overload cimport memory_measure
from fastmesh._native.net.table cimport table_get
from fastmesh._native.net.turn_t cimport SLOW_TURNS_KEPT, TURN_PHASES, slow_turn_t
from fastmesh._native.net.worker_t cimport (
    RESOURCES,
    TABLE_LEAF,
    TABLE_ROOT,
    endpoint_t,
    listener_stats_t,
    pair_stats_t,
    service_stats_t,
    worker_t,
)
from fastmesh._native.sys.atomics cimport (
    fm_load_acquire_ptr,
    fm_load_acquire_u32,
    fm_load_acquire_u64,
    fm_load_relaxed_u32,
    fm_load_relaxed_u64,
)
from fastmesh._native.sys.os cimport CLOCK_MONOTONIC, clock_gettime, timespec


cdef uint32_t clock_ms() noexcept nogil:
    """The workers' clock, as health words have it."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint32_t> (<uint64_t> now.tv_sec * 1000 + <uint64_t> now.tv_nsec // 1000000)


cdef class Counters:
    def connections(self):
        """Clients' connections, those of tunnels and relays among them."""
        return fm_load_relaxed_u64(&self.shared.connections)

    def tunnels(self):
        """Tunnels and relays whose endpoint is connected."""
        cdef uint32_t i, j, k
        cdef void **leaf
        cdef void *stats  # its first field is `tunnels`
        total = 0
        for i in range(self.worker_count):
            for j in range(TABLE_ROOT):
                leaf = <void **> fm_load_acquire_ptr(<void **> &self.workers[i].listeners.leaves[j])
                for k in range(TABLE_LEAF if leaf != NULL else 0):
                    stats = fm_load_acquire_ptr(&leaf[k])
                    if stats != NULL:
                        total += fm_load_relaxed_u64(<uint64_t *> stats)
        return total

    def busy(self):
        """Exchanges, tunnels and relays in progress."""
        cdef uint32_t i
        total = 0
        for i in range(self.worker_count):
            total += fm_load_relaxed_u64(&self.workers[i].busy)
        return total

    def health_changes(self):
        """How often endpoints were marked down or up again, over all workers and all time."""
        cdef uint32_t i
        changes = 0
        for i in range(self.worker_count):
            changes += fm_load_relaxed_u64(&self.workers[i].health_changes)
        return changes

    def slow_turns(self, uint32_t index):
        """(how many turns of a worker took over 100 ms, how many of them the watchdog told of while they lasted)"""
        return fm_load_acquire_u64(&self.workers[index].slow_turns), fm_load_relaxed_u64(&self.workers[index].turn.stalls)

    def slow_turn(self, uint32_t index, uint64_t number):
        """What slow turn ``number`` of a worker (the first is 0) did: (µs, µs of each phase by ``turn_phase_t``, events,
        accepted, ready, timers, letters). None when others have taken its place."""
        cdef worker_t *w = self.workers[index]
        cdef slow_turn_t *slow = &w.turn.slow[number % SLOW_TURNS_KEPT]
        cdef uint32_t i
        phases = tuple([fm_load_relaxed_u32(&slow.phase_us[i]) for i in range(TURN_PHASES)])
        found = (fm_load_relaxed_u64(&slow.took_us), phases, fm_load_relaxed_u32(&slow.events),
                 fm_load_relaxed_u32(&slow.accepted), fm_load_relaxed_u32(&slow.ready),
                 fm_load_relaxed_u32(&slow.timers), fm_load_relaxed_u32(&slow.letters))
        # The next one that takes the place may be written just now, before it is counted
        return found if fm_load_acquire_u64(&w.slow_turns) < number + SLOW_TURNS_KEPT else None

    def overload(self):
        """Of connections, descriptors, memory, control group: (used, limit); of the first three: (level, how often it rose
        from 0); clients and connections to endpoints that were closed to make room. A limit of 0 is none."""
        cdef uint32_t i, resource, strains
        cdef uint64_t closed_clients = 0, closed_pooled = 0
        cdef uint64_t times[RESOURCES]
        cdef uint32_t levels[RESOURCES]
        cdef char work[16384]
        cdef timespec now
        clock_gettime(CLOCK_MONOTONIC, &now)
        memory_measure(&self.shared, <uint64_t> now.tv_sec * 1000 + <uint64_t> now.tv_nsec // 1000000, work, sizeof(work))
        memset(times, 0, sizeof(times))
        memset(levels, 0, sizeof(levels))
        for i in range(self.worker_count):
            strains = fm_load_relaxed_u32(&self.workers[i].strains)
            for resource in range(RESOURCES):
                levels[resource] = max(levels[resource], (strains >> (8 * resource)) & 0xFF)
                times[resource] += fm_load_relaxed_u64(&self.workers[i].shortages[resource])
            closed_clients += fm_load_relaxed_u64(&self.workers[i].shed_clients)
            closed_pooled += fm_load_relaxed_u64(&self.workers[i].shed_pooled)
        return (
            (
                (fm_load_relaxed_u64(&self.shared.connections), self.shared.connection_limit),
                (fm_load_relaxed_u64(&self.shared.descriptors), self.shared.descriptor_limit),
                (fm_load_relaxed_u64(&self.shared.memory_used), fm_load_relaxed_u64(&self.shared.memory_limit)),
                (fm_load_relaxed_u64(&self.shared.group_used), fm_load_relaxed_u64(&self.shared.group_limit)),
            ),
            tuple([(levels[i], times[i]) for i in range(RESOURCES)]),
            (closed_clients, closed_pooled),
        )

    def pair(self, uint32_t index):
        """(codes, counts) of a (listener, service) pair, or None before its first request."""
        cdef uint32_t i, code
        cdef pair_stats_t *pair
        cdef uint64_t codes[600]
        cdef uint64_t sums[HIST_COUNTS]
        found = False
        memset(codes, 0, sizeof(codes))
        memset(sums, 0, sizeof(sums))
        for i in range(self.worker_count):
            pair = <pair_stats_t *> table_get(&self.workers[i].pairs, index)
            if pair == NULL:
                continue
            found = True
            for code in range(600):
                codes[code] += fm_load_relaxed_u64(&pair.codes[code])
            for code in range(HIST_COUNTS):
                sums[code] += fm_load_relaxed_u64(&pair.duration[code])
        if not found:
            return None
        return {code: codes[code] for code in range(600) if codes[code]}, (<char *> sums)[:sizeof(sums)]

    def service(self, uint32_t index):
        """The counts of a service's upstream durations, or None before its first request."""
        cdef uint32_t i, j
        cdef service_stats_t *stats
        cdef uint64_t sums[HIST_COUNTS]
        found = False
        memset(sums, 0, sizeof(sums))
        for i in range(self.worker_count):
            stats = <service_stats_t *> table_get(&self.workers[i].services, index)
            if stats == NULL:
                continue
            found = True
            for j in range(HIST_COUNTS):
                sums[j] += fm_load_relaxed_u64(&stats.upstream_duration[j])
        return (<char *> sums)[:sizeof(sums)] if found else None

    def endpoint(self, uint32_t index):
        """(health word, in flight, connections, idle, requests, failures, answers of 5xx, latency counts) of a slot."""
        cdef uint32_t i, j
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        cdef endpoint_t *ep
        cdef uint64_t sums[SMALL_HIST_COUNTS]
        cdef uint64_t requests = 0, failures = 0, connections = 0, idle = 0, in_flight = 0, answers_5xx = 0
        memset(sums, 0, sizeof(sums))
        for i in range(self.worker_count):
            ep = <endpoint_t *> table_get(&self.workers[i].endpoints, index)
            if ep == NULL or fm_load_acquire_u32(&ep.generation) != slot.generation:
                continue
            answers_5xx += fm_load_relaxed_u64(&ep.answers_5xx)
            connections += fm_load_relaxed_u32(&ep.connections)
            idle += fm_load_relaxed_u32(&ep.idle)
            requests += fm_load_relaxed_u64(&ep.requests)
            failures += fm_load_relaxed_u64(&ep.failures)
            in_flight += fm_load_relaxed_u64(&ep.in_flight)
            for j in range(SMALL_HIST_COUNTS):
                sums[j] += fm_load_relaxed_u64(&ep.latency[j])
        return (fm_load_relaxed_u64(&slot.health), in_flight, connections, idle, requests, failures, answers_5xx,
                (<char *> sums)[:sizeof(sums)])

    def slot_health(self, uint32_t index):
        """The slot's health word (see ``base/slot_t.pxd``)."""
        return fm_load_relaxed_u64(&(<slot_t *> table_get(&self.shared.slots, index)).health)

    def ejection(self, uint32_t index):
        """(how often the slot's endpoint was left out, when last in worker-clock ms, for how many ms, why: an FM_E_… or
        REASON_… of ``net/health.pxd``)"""
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        return (fm_load_relaxed_u32(&slot.ejected_total), fm_load_relaxed_u32(&slot.ejected_ms),
                fm_load_relaxed_u32(&slot.ejected_for_ms), fm_load_relaxed_u32(&slot.reason))

    def slot_tell(self, uint32_t index):
        """What is known of the endpoint beside active checks, as durations, which any process understands: a dict of the
        fields of ``told_t``, or None if there is nothing to tell."""
        cdef told_t told
        if not health_tell(<slot_t *> table_get(&self.shared.slots, index), clock_ms(), &told):
            return None
        return told

    def service_use(self, uint32_t index):
        """(retries, retries that the budget refused, requests that a limit refused, in flight, retrying, queued,
        connections) of a service"""
        cdef uint32_t i
        cdef service_stats_t *stats
        cdef uint64_t retries = 0, refused = 0, limited = 0, in_flight = 0, retrying = 0, queued = 0, connections = 0
        for i in range(self.worker_count):
            stats = <service_stats_t *> table_get(&self.workers[i].services, index)
            if stats != NULL:
                retries += fm_load_relaxed_u64(&stats.retries)
                refused += fm_load_relaxed_u64(&stats.retries_refused)
                limited += fm_load_relaxed_u64(&stats.limited)
                in_flight += fm_load_relaxed_u64(&stats.in_flight)
                retrying += fm_load_relaxed_u64(&stats.retrying)
                queued += fm_load_relaxed_u64(&stats.queued)
                connections += fm_load_relaxed_u64(&stats.connections)
        return retries, refused, limited, in_flight, retrying, queued, connections

    def listener(self, uint32_t index):
        """(active, total, bytes received, bytes sent)"""
        cdef uint32_t i
        cdef listener_stats_t *stats
        active = total = received = sent = 0
        for i in range(self.worker_count):
            stats = <listener_stats_t *> table_get(&self.workers[i].listeners, index)
            if stats != NULL:
                active += fm_load_relaxed_u64(&stats.connections_active)
                total += fm_load_relaxed_u64(&stats.connections_total)
                received += fm_load_relaxed_u64(&stats.bytes_received)
                sent += fm_load_relaxed_u64(&stats.bytes_sent)
        return active, total, received, sent

    def errors(self):
        """Counts by public error code."""
        cdef uint32_t i, error
        counts = {}
        for error in range(FM_ERROR_LIMIT):
            if fm_error_info[error].public_name == NULL:
                continue
            name = (<bytes> fm_error_info[error].public_name).decode()
            total = counts.get(name, 0)
            for i in range(self.worker_count):
                total += fm_load_relaxed_u64(&self.workers[i].errors[error])
            counts[name] = total
        return counts

    def error(self, str name):
        """How often the errors of one public code happened."""
        cdef uint32_t i, error
        total = 0
        for error in range(FM_ERROR_LIMIT):
            if fm_error_info[error].public_name != NULL and (<bytes> fm_error_info[error].public_name).decode() == name:
                for i in range(self.worker_count):
                    total += fm_load_relaxed_u64(&self.workers[i].errors[error])
        return total

    def worker(self, uint32_t index):
        """(connections, exchanges, turns, longest turn in µs, generation, ledger)"""
        cdef worker_t *w = self.workers[index]
        ledger = {
            "connections": fm_load_relaxed_u64(&w.conns_live) - 1,  # without the mailbox
            "exchanges": fm_load_relaxed_u64(&w.exchanges.live),
            "buffers": fm_load_relaxed_u64(&w.bufs.live),
            "pipes": fm_load_relaxed_u64(&w.pipes_live),
        }
        return (ledger["connections"], fm_load_relaxed_u64(&w.busy), fm_load_relaxed_u64(&w.turns),
                fm_load_relaxed_u64(&w.longest_turn_us), fm_load_acquire_u64(&w.adopted_generation), ledger)
