"""Slabs, byte buffers and pending bytes. Objects are named by their address. For tests only."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uintptr_t
from libc.string cimport memset

from fastmesh._native.base.slab cimport (
    buf_del,
    buf_new,
    bufpool_free,
    bufpool_init,
    bufpool_t,
    pend_append,
    pend_clear,
    pend_init,
    pend_len,
    pend_reserve,
    pend_t,
    slab_del,
    slab_free,
    slab_init,
    slab_new,
    slab_t,
)


cdef class Slab:
    cdef slab_t slab

    def __cinit__(self, uint32_t object_bytes):
        slab_init(&self.slab, object_bytes)

    def __dealloc__(self):
        slab_free(&self.slab)

    def new(self):
        """The address of an object whose every byte was written, or None."""
        cdef void *item = slab_new(&self.slab)
        if item == NULL:
            return None
        memset(item, 0xA5, self.slab.object_bytes)
        return <uintptr_t> item

    def delete(self, uintptr_t item):
        slab_del(&self.slab, <void *> item)

    def fail_after(self, int64_t count):
        self.slab.fail_after = count

    @property
    def live(self):
        return self.slab.live

    @property
    def object_bytes(self):
        return self.slab.object_bytes

    @property
    def per_chunk(self):
        return self.slab.per_chunk


cdef class Buffers:
    cdef bufpool_t pool

    def __cinit__(self):
        bufpool_init(&self.pool)

    def __dealloc__(self):
        bufpool_free(&self.pool)

    def new(self, uint32_t size):
        """(address, capacity) of a buffer whose every byte was written, or None."""
        cdef uint32_t capacity = 0
        cdef uint8_t *data = buf_new(&self.pool, size, &capacity)
        if data == NULL:
            return None
        memset(data, 0xA5, capacity)
        return <uintptr_t> data, capacity

    def delete(self, uintptr_t data, uint32_t capacity):
        buf_del(&self.pool, <uint8_t *> data, capacity)

    def fail_after(self, int64_t count):
        self.pool.fail_after = count

    @property
    def live(self):
        return self.pool.live

    @property
    def cached(self):
        return tuple(self.pool.cached[i] for i in range(4))


cdef class Pending:
    """Bytes that wait, in a buffer of ``buffers``."""
    cdef pend_t pend
    cdef Buffers buffers

    def __cinit__(self, Buffers buffers not None):
        self.buffers = buffers
        pend_init(&self.pend)

    def __dealloc__(self):
        pend_clear(&self.buffers.pool, &self.pend)

    def append(self, const uint8_t[::1] data not None):
        cdef uint32_t size = <uint32_t> data.shape[0]
        return pend_append(&self.buffers.pool, &self.pend, &data[0] if size else NULL, size)

    def reserve(self, uint32_t more):
        return pend_reserve(&self.buffers.pool, &self.pend, more)

    def take(self, uint32_t size):
        """The first ``size`` bytes, which wait no longer."""
        if size > pend_len(&self.pend):
            raise ValueError(size)
        taken = (<const char *> self.pend.data)[self.pend.start:self.pend.start + size] if size else b""
        self.pend.start += size
        return taken

    def clear(self):
        pend_clear(&self.buffers.pool, &self.pend)

    @property
    def room(self):
        return self.pend.capacity - self.pend.end

    def __len__(self):
        return pend_len(&self.pend)
