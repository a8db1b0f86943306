"""How much is used of what the process may use, and how hard that presses: ``w.pressure``.

Three resources: client connections, descriptors, memory. Each is short from SHORT_FROM percent of its limit on and full
from FULL_FROM; a level ends LEVEL_MARGIN below where it began. Connections and descriptors are counted, so a look at them
is exact at any moment. Memory is measured at most every LOOK_MS, by whichever thread comes first, for all: what is resident
against ``memory_limit``, and what the control group uses against ``group_limit``, without the page cache, which the
kernel takes back when it needs it. 0 as a limit: none.

The functions with a worker: owner worker only. Those with ``shared_t``: any thread.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport strlen, strstr

from fastmesh._native.base.limits cimport (
    FULL_FROM,
    LEVEL_MARGIN,
    LOOK_GROUP_MS,
    LOOK_MS,
    SCRATCH_BYTES,
    SHORT_FROM,
    SHORTAGE_MS,
    TRIM_MS,
)
from fastmesh._native.base.slab cimport bufpool_free
from fastmesh._native.net.worker_t cimport (
    PRESSURE_FULL,
    PRESSURE_NONE,
    PRESSURE_SHORT,
    RESOURCE_CONNECTIONS,
    RESOURCE_DESCRIPTORS,
    RESOURCE_MEMORY,
    RESOURCES,
    shared_t,
    worker_t,
)
from fastmesh._native.sys.atomics cimport (
    fm_bump_u64,
    fm_cas_u64,
    fm_likely,
    fm_load_relaxed_u64,
    fm_store_relaxed_u32,
    fm_store_relaxed_u64,
)
from fastmesh._native.sys.memory cimport fm_memory_give_back
from fastmesh._native.sys.os cimport eventfd_write, pread


cdef inline void overload_init(shared_t *shared) noexcept nogil:
    """Nothing but connections is looked at."""
    shared.statm_fd = -1
    shared.group_used_fd = -1
    shared.group_stat_fd = -1


# ---------------------------------------------------------------- measuring memory

cdef inline bint text_read(int32_t fd, char *into, uint32_t size) noexcept nogil:
    """The beginning of a file of /proc or of a control group, with a 0 behind it. False: it cannot be read."""
    cdef ssize_t n = pread(fd, into, size - 1, 0) if fd >= 0 else -1
    if n <= 0:
        return False
    into[n] = 0
    return True


cdef inline uint64_t text_number(const char *text) noexcept nogil:
    """The decimal number that ``text`` begins with; 0 when there is none."""
    cdef uint64_t number = 0
    while c'0' <= text[0] <= c'9':
        number = number * 10 + <uint64_t> (text[0] - c'0')
        text += 1
    return number


cdef inline uint64_t text_value(const char *text, const char *key) noexcept nogil:
    """The number behind ``key``, which has the line feed before it and the blank behind it; 0: it is not there."""
    cdef const char *found = strstr(text, key)
    return text_number(found + strlen(key)) if found != NULL else 0


cdef inline uint64_t resident_bytes(const shared_t *shared, char *work, uint32_t size) noexcept nogil:
    """The second number of /proc/self/statm (proc_pid_statm(5)) is the resident pages. 0: not known."""
    cdef const char *second
    if not text_read(shared.statm_fd, work, size):
        return 0
    second = strstr(work, b" ")
    return text_number(second + 1) * shared.page_bytes if second != NULL else 0


cdef inline uint64_t group_bytes(const shared_t *shared, char *work, uint32_t size) noexcept nogil:
    """What the control group uses and the kernel cannot simply take back; 0: not known. Version 1 has the sums over the
    groups below in lines of their own."""
    cdef uint64_t used, spare
    if not text_read(shared.group_used_fd, work, size):
        return 0
    used = text_number(work)
    if not text_read(shared.group_stat_fd, work, size):
        return used
    if shared.group_is_v1:
        spare = text_value(work, b"\ntotal_inactive_file ") + text_value(work, b"\ntotal_active_file ")
    else:
        spare = text_value(work, b"\ninactive_file ") + text_value(work, b"\nactive_file ")
        spare += text_value(work, b"\nslab_reclaimable ")
    return used - spare if spare < used else 0


cdef inline bint is_due(uint64_t *at_ms, uint64_t now_ms, uint64_t every_ms) noexcept nogil:
    """Whether so long has passed; of several threads one is told so, and the time begins anew."""
    cdef uint64_t last = fm_load_relaxed_u64(at_ms)
    if last != 0 and now_ms < last + every_ms:
        return False
    return fm_cas_u64(at_ms, last, now_ms)


cdef inline void memory_measure(shared_t *shared, uint64_t now_ms, char *work, uint32_t size) noexcept nogil:
    """``work``: space for the text of a file."""
    if is_due(&shared.memory_at_ms, now_ms, LOOK_MS):
        fm_store_relaxed_u64(&shared.memory_used, resident_bytes(shared, work, size))
    if shared.group_used_fd >= 0 and is_due(&shared.group_at_ms, now_ms, LOOK_GROUP_MS):
        fm_store_relaxed_u64(&shared.group_used, group_bytes(shared, work, size))


# ---------------------------------------------------------------- levels

cdef inline uint64_t share_of(uint64_t limit, uint32_t percent) noexcept nogil:
    """So many percent, rounded up: of a small number it may be all."""
    return limit - limit * (100 - percent) // 100


cdef inline uint8_t level_of(uint64_t used, uint64_t limit, uint8_t before) noexcept nogil:
    if limit == 0:
        return PRESSURE_NONE
    if used >= share_of(limit, FULL_FROM if before < PRESSURE_FULL else FULL_FROM - LEVEL_MARGIN):
        return PRESSURE_FULL
    if used >= share_of(limit, SHORT_FROM if before < PRESSURE_SHORT else SHORT_FROM - LEVEL_MARGIN):
        return PRESSURE_SHORT
    return PRESSURE_NONE


cdef inline uint64_t overload_excess(uint64_t used, uint64_t limit) noexcept nogil:
    """How many fewer would be enough."""
    cdef uint64_t enough = share_of(limit, SHORT_FROM - LEVEL_MARGIN)
    return used - enough + 1 if limit != 0 and used >= enough else 0


cdef inline void overload_wake_others(worker_t *w) noexcept nogil:
    """A worker that sleeps has idle clients too, whose places are wanted now."""
    cdef uint32_t i
    for i in range(w.shared.workers):
        if i != w.index:
            eventfd_write(w.shared.all[i].event_fd, 1)


cdef inline void strain_set(worker_t *w, uint32_t resource, uint8_t level) noexcept nogil:
    if w.strain[resource] == PRESSURE_NONE and level != PRESSURE_NONE:
        fm_bump_u64(&w.shortages[resource], 1)
    w.strain[resource] = level


cdef inline void overload_settle(worker_t *w) noexcept nogil:
    """Sets the levels by what is counted now and what memory was when it was measured last."""
    cdef shared_t *shared = w.shared
    cdef uint8_t before = w.pressure
    cdef uint8_t level
    cdef uint32_t resource
    strain_set(w, RESOURCE_CONNECTIONS, level_of(fm_load_relaxed_u64(&shared.connections), shared.connection_limit,
                                                 w.strain[RESOURCE_CONNECTIONS]))
    level = level_of(fm_load_relaxed_u64(&shared.descriptors), shared.descriptor_limit, w.strain[RESOURCE_DESCRIPTORS])
    if level == PRESSURE_NONE and w.now_ms < w.shortage_ms:
        level = PRESSURE_SHORT
    strain_set(w, RESOURCE_DESCRIPTORS, level)
    strain_set(w, RESOURCE_MEMORY, max(
        level_of(fm_load_relaxed_u64(&shared.memory_used), fm_load_relaxed_u64(&shared.memory_limit),
                 w.strain[RESOURCE_MEMORY]),
        level_of(fm_load_relaxed_u64(&shared.group_used), fm_load_relaxed_u64(&shared.group_limit),
                 w.strain[RESOURCE_MEMORY])))
    w.pressure = PRESSURE_NONE
    for resource in range(RESOURCES):
        w.pressure = max(w.pressure, w.strain[resource])
    if fm_likely(w.pressure == PRESSURE_NONE and before == PRESSURE_NONE):
        return
    fm_store_relaxed_u32(&w.strains, w.strain[RESOURCE_CONNECTIONS] | <uint32_t> w.strain[RESOURCE_DESCRIPTORS] << 8
                         | <uint32_t> w.strain[RESOURCE_MEMORY] << 16)
    if w.pressure > before:
        overload_wake_others(w)


cdef inline void overload_look(worker_t *w) noexcept nogil:
    """Measures and settles, and gives memory back that is only kept for later when it is short."""
    w.looked_ms = w.now_ms
    memory_measure(w.shared, w.now_ms, <char *> w.scratch, SCRATCH_BYTES)
    overload_settle(w)
    if w.strain[RESOURCE_MEMORY] != PRESSURE_NONE:
        bufpool_free(&w.bufs)
        if is_due(&w.shared.trimmed_ms, w.now_ms, TRIM_MS):
            fm_memory_give_back()


# ---------------------------------------------------------------- descriptors

cdef inline bint descriptors_are_out(const worker_t *w) noexcept nogil:
    """Whether the workers have all that they may: the rest is the control plane's."""
    return w.shared.descriptor_limit != 0 and fm_load_relaxed_u64(&w.shared.descriptors) >= w.shared.descriptor_limit


cdef inline void overload_no_descriptor(worker_t *w) noexcept nogil:
    """One could not be had: they are short from now on, for a while at least."""
    w.shortage_ms = w.now_ms + SHORTAGE_MS
    overload_settle(w)
