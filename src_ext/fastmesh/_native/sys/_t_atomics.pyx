"""The atomic accesses, used by several threads at once with the GIL released. For tests only."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastmesh._native.sys.atomics cimport (
    fm_add_relaxed_u32,
    fm_add_relaxed_u64,
    fm_bump_u64,
    fm_cas_u32,
    fm_exchange_u64,
    fm_load_acquire_ptr,
    fm_load_acquire_u32,
    fm_load_relaxed_u32,
    fm_load_relaxed_u64,
    fm_store_relaxed_u32,
    fm_store_release_ptr,
    fm_store_release_u32,
)


cdef uint64_t watch(uint64_t *counter, uint64_t until) noexcept nogil:
    """Reads until the counter reaches ``until``; returns how often it seemed to go down."""
    cdef uint64_t last = 0, now = 0, backwards = 0
    while now < until:
        now = fm_load_relaxed_u64(counter)
        if now < last:
            backwards += 1
        last = now
    return backwards


cdef uint64_t receive(void **published, uint64_t messages) noexcept nogil:
    """Takes each published block as it comes; returns how many held something else than was written."""
    cdef uint64_t wrong = 0
    cdef uint64_t *seen
    cdef uint64_t last = 0
    while last < messages:
        seen = <uint64_t *> fm_load_acquire_ptr(published)
        if seen == NULL or seen[0] == last:
            continue
        if seen[1] != seen[0] * 3 or seen[0] < last:
            wrong += 1
        last = seen[0]
    return wrong


cdef class Shared:
    """Cells that several threads use at once."""
    cdef uint32_t small
    cdef uint64_t large
    cdef uint64_t single_writer
    cdef uint32_t lock
    cdef uint64_t guarded
    cdef void *published
    cdef uint64_t *blocks

    def __dealloc__(self):
        free(self.blocks)

    def add(self, uint32_t times):
        cdef uint32_t _i
        with nogil:
            for _i in range(times):
                fm_add_relaxed_u32(&self.small, 1)
                fm_add_relaxed_u64(&self.large, 3)

    def bump(self, uint32_t times):
        cdef uint32_t _i
        with nogil:
            for _i in range(times):
                fm_bump_u64(&self.single_writer, 1)

    def watch(self, uint64_t until):
        cdef uint64_t backwards
        with nogil:
            backwards = watch(&self.single_writer, until)
        return backwards

    def add_under_lock(self, uint32_t times):
        cdef uint32_t _i
        with nogil:
            for _i in range(times):
                while not fm_cas_u32(&self.lock, 0, 1):
                    pass
                self.guarded += 1  # a plain access: acquire and release of the lock order it
                fm_store_release_u32(&self.lock, 0)

    def publish(self, uint32_t messages):
        """Writes ``messages`` blocks one after the other and publishes each."""
        cdef uint64_t i
        cdef uint64_t *block
        self.blocks = <uint64_t *> calloc(messages, 2 * sizeof(uint64_t))
        if self.blocks == NULL:
            raise MemoryError
        with nogil:
            for i in range(messages):
                block = self.blocks + 2 * i
                block[0] = i + 1
                block[1] = (i + 1) * 3
                fm_store_release_ptr(&self.published, block)

    def receive(self, uint64_t messages):
        cdef uint64_t wrong
        with nogil:
            wrong = receive(&self.published, messages)
        return wrong

    def values(self):
        return (
            fm_load_relaxed_u32(&self.small),
            fm_load_relaxed_u64(&self.large),
            fm_load_relaxed_u64(&self.single_writer),
            self.guarded,
        )


def exchange(uint64_t before, uint64_t after):
    cdef uint64_t cell = before
    return fm_exchange_u64(&cell, after), cell


def compare_and_swap(uint32_t cell, uint32_t expected, uint32_t value):
    cdef bint done = fm_cas_u32(&cell, expected, value)
    return done, cell


def store_and_load(uint32_t value):
    cdef uint32_t relaxed = 0, released = 0
    fm_store_relaxed_u32(&relaxed, value)
    fm_store_release_u32(&released, value)
    return fm_load_relaxed_u32(&relaxed), fm_load_acquire_u32(&released)
