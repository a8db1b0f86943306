"""Memory of one worker: slabs of equal objects, and byte buffers in four size classes.

Used by the owning worker only; the counters of live objects are read by the control thread (the leak ledger).
Invariants: ``live`` = allocations - releases; an object on a free list is poisoned in its first word only.
Error convention: NULL when memory is exhausted (or when failure injection says so).
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastmesh._native.sys.atomics cimport fm_bump_u64, fm_unlikely
from fastmesh._native.sys.pages cimport fm_pages_del, fm_pages_new

cdef enum:
    SLAB_CHUNK_BYTES = 32768
    BUF_CLASSES = 4
    BUF_PAGED = 2  # from this class on: of whole pages
    BUF_CACHED_BYTES = 1 << 20  # what each class may keep on its free list before it gives memory back
    BUF_MAX = 1 << 17  # the largest buffer that exists: nothing on the data path is ever longer

ctypedef struct slab_t:
    # set once
    uint32_t object_bytes
    uint32_t per_chunk
    # owner worker only
    void *free_list
    void *chunks  # each chunk's first word links to the next
    int64_t fail_after  # failure injection: fails when it reaches 0; negative: never
    # shared, atomic (one writer)
    uint64_t live

ctypedef struct bufpool_t:
    # owner worker only
    void *free_lists[BUF_CLASSES]
    uint32_t cached[BUF_CLASSES]
    int64_t fail_after
    # shared, atomic (one writer)
    uint64_t live

ctypedef struct pend_t:
    # Bytes that wait: data[start:end). Owns ``data``; empty means data is NULL or start == end.
    uint8_t *data
    uint32_t start
    uint32_t end
    uint32_t capacity


cdef inline void slab_init(slab_t *slab, uint32_t object_bytes) noexcept nogil:
    slab.object_bytes = (object_bytes + 15) & ~<uint32_t> 15
    slab.per_chunk = (SLAB_CHUNK_BYTES - 16) // slab.object_bytes
    if slab.per_chunk == 0:
        slab.per_chunk = 1
    slab.free_list = NULL
    slab.chunks = NULL
    slab.fail_after = -1
    slab.live = 0


cdef inline void slab_free(slab_t *slab) noexcept nogil:
    cdef void *next_chunk
    while slab.chunks != NULL:
        next_chunk = (<void **> slab.chunks)[0]
        free(slab.chunks)
        slab.chunks = next_chunk
    slab.free_list = NULL


cdef inline bint slab_grow(slab_t *slab) noexcept nogil:
    cdef uint8_t *chunk = <uint8_t *> malloc(16 + <size_t> slab.per_chunk * slab.object_bytes)
    cdef uint32_t i
    cdef void **item
    if chunk == NULL:
        return False
    (<void **> chunk)[0] = slab.chunks
    slab.chunks = chunk
    i = slab.per_chunk
    while i > 0:  # lowest address first on the list
        i -= 1
        item = <void **> (chunk + 16 + <size_t> i * slab.object_bytes)
        item[0] = slab.free_list
        slab.free_list = item
    return True


cdef inline void *slab_new(slab_t *slab) noexcept nogil:
    """An object with undefined contents, or NULL."""
    cdef void *item
    if fm_unlikely(slab.fail_after >= 0):
        if slab.fail_after == 0:
            return NULL
        slab.fail_after -= 1
    if fm_unlikely(slab.free_list == NULL) and not slab_grow(slab):
        return NULL
    item = slab.free_list
    slab.free_list = (<void **> item)[0]
    fm_bump_u64(&slab.live, 1)
    return item


cdef inline void slab_del(slab_t *slab, void *item) noexcept nogil:
    (<void **> item)[0] = slab.free_list
    slab.free_list = item
    fm_bump_u64(&slab.live, <uint64_t> -1)


# ---------------------------------------------------------------- byte buffers

cdef inline uint32_t buf_class_bytes(uint32_t index) noexcept nogil:
    # 1 KiB holds nearly every request head; the largest holds a full read of the scratch and its framing
    if index == 0:
        return 1024
    if index == 1:
        return 8192
    if index == 2:
        return 36864
    return BUF_MAX


cdef inline uint32_t buf_class_of(uint32_t size) noexcept nogil:
    if size <= 1024:
        return 0
    if size <= 8192:
        return 1
    if size <= 36864:
        return 2
    return 3


cdef inline void *buf_take(uint32_t index) noexcept nogil:
    return fm_pages_new(buf_class_bytes(index)) if index >= BUF_PAGED else malloc(buf_class_bytes(index))


cdef inline void buf_drop(uint32_t index, void *item) noexcept nogil:
    if index >= BUF_PAGED:
        fm_pages_del(item, buf_class_bytes(index))
    else:
        free(item)


cdef inline void bufpool_init(bufpool_t *pool) noexcept nogil:
    cdef uint32_t i
    for i in range(BUF_CLASSES):
        pool.free_lists[i] = NULL
        pool.cached[i] = 0
    pool.fail_after = -1
    pool.live = 0


cdef inline void bufpool_free(bufpool_t *pool) noexcept nogil:
    cdef uint32_t i
    cdef void *next_item
    for i in range(BUF_CLASSES):
        while pool.free_lists[i] != NULL:
            next_item = (<void **> pool.free_lists[i])[0]
            buf_drop(i, pool.free_lists[i])
            pool.free_lists[i] = next_item
        pool.cached[i] = 0


cdef inline uint8_t *buf_new(bufpool_t *pool, uint32_t size, uint32_t *capacity) noexcept nogil:
    """A buffer of at least ``size`` bytes (at most BUF_MAX), its real size in ``capacity``; or NULL."""
    cdef uint32_t index = buf_class_of(size)
    cdef void *item
    if fm_unlikely(size > BUF_MAX):
        return NULL
    if fm_unlikely(pool.fail_after >= 0):
        if pool.fail_after == 0:
            return NULL
        pool.fail_after -= 1
    item = pool.free_lists[index]
    if item != NULL:
        pool.free_lists[index] = (<void **> item)[0]
        pool.cached[index] -= 1
    else:
        item = buf_take(index)
        if item == NULL:
            return NULL
    capacity[0] = buf_class_bytes(index)
    fm_bump_u64(&pool.live, 1)
    return <uint8_t *> item


cdef inline void buf_del(bufpool_t *pool, uint8_t *data, uint32_t capacity) noexcept nogil:
    cdef uint32_t index = buf_class_of(capacity)
    fm_bump_u64(&pool.live, <uint64_t> -1)
    if pool.cached[index] * buf_class_bytes(index) >= BUF_CACHED_BYTES:
        buf_drop(index, data)
        return
    (<void **> data)[0] = pool.free_lists[index]
    pool.free_lists[index] = data
    pool.cached[index] += 1


# ---------------------------------------------------------------- bytes that wait

cdef inline void pend_init(pend_t *pend) noexcept nogil:
    pend.data = NULL
    pend.start = 0
    pend.end = 0
    pend.capacity = 0


cdef inline uint32_t pend_len(const pend_t *pend) noexcept nogil:
    return pend.end - pend.start


cdef inline void pend_clear(bufpool_t *pool, pend_t *pend) noexcept nogil:
    if pend.data != NULL:
        buf_del(pool, pend.data, pend.capacity)
        pend.data = NULL
    pend.start = 0
    pend.end = 0
    pend.capacity = 0


cdef inline bint pend_reserve(bufpool_t *pool, pend_t *pend, uint32_t more) noexcept nogil:
    """Makes room for ``more`` bytes after ``end``; False when memory or BUF_MAX is exhausted."""
    cdef uint32_t held = pend.end - pend.start
    cdef uint32_t capacity = 0
    cdef uint8_t *data
    if pend.data != NULL and more <= pend.capacity - pend.end:
        return True
    if more > BUF_MAX - held:
        return False
    if pend.data != NULL and held + more <= pend.capacity and pend.start >= held:
        memcpy(pend.data, pend.data + pend.start, held)
    else:
        data = buf_new(pool, held + more, &capacity)
        if data == NULL:
            return False
        if held:
            memcpy(data, pend.data + pend.start, held)
        if pend.data != NULL:
            buf_del(pool, pend.data, pend.capacity)
        pend.data = data
        pend.capacity = capacity
    pend.start = 0
    pend.end = held
    return True


cdef inline bint pend_append(bufpool_t *pool, pend_t *pend, const uint8_t *data, uint32_t size) noexcept nogil:
    if size == 0:
        return True
    if not pend_reserve(pool, pend, size):
        return False
    memcpy(pend.data + pend.end, data, size)
    pend.end += size
    return True
