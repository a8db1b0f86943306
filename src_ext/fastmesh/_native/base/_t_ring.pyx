# cython: language_level=3
"""For tests: ``ring.pxd`` step by step, and a producer and a consumer that run without the GIL."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign
from posix.unistd cimport read, write

from fastmesh._native.base.ring cimport (
    RING_ASLEEP,
    RING_AWAKE,
    RING_HEADER_BYTES,
    RING_NAPPING,
    ring_announce,
    ring_commit,
    ring_dropped,
    ring_init,
    ring_peek,
    ring_release,
    ring_reserve,
    ring_should_wake,
    ring_state_t,
    ring_t,
)
from fastmesh._native.sys.atomics cimport fm_load_acquire_u64, fm_load_relaxed_u32, fm_store_relaxed_u32
from fastmesh._native.sys.poll cimport POLLIN, poll, pollfd


cdef extern from "sched.h" nogil:
    int sched_yield()


cdef inline uint32_t numbered_length(uint64_t number) noexcept nogil:
    return 8 + <uint32_t> (((number * 2654435761u) >> 7) % 57)


cdef inline bint numbered(const uint8_t *record, uint32_t length, uint64_t number) noexcept nogil:
    """Whether the record is the one that ``produce`` makes for this number."""
    cdef uint32_t i
    if length != numbered_length(number) or (<const uint64_t *> record)[0] != number:
        return False
    for i in range(8, length):
        if record[i] != number & 0xFF:
            return False
    return True


AWAKE = RING_AWAKE
ASLEEP = RING_ASLEEP
NAPPING = RING_NAPPING
HEADER_BYTES = RING_HEADER_BYTES


cdef class Ring:
    """One ring with its memory. ``produce`` and ``consume`` may run in two threads at once."""
    cdef ring_t *ring
    cdef uint8_t *memory
    cdef uint32_t abandoned  # atomic: the consumer gave up

    def __cinit__(self, uint64_t capacity):
        self.ring = NULL
        self.abandoned = 0
        self.memory = NULL
        if posix_memalign(<void **> &self.ring, 64, sizeof(ring_t)):
            raise MemoryError
        if posix_memalign(<void **> &self.memory, 64, capacity if capacity else 8):
            raise MemoryError
        if not ring_init(self.ring, self.memory, capacity):
            raise ValueError("capacity")

    def __dealloc__(self):
        free(self.ring)
        free(self.memory)

    @property
    def dropped(self):
        return ring_dropped(self.ring)

    @property
    def layout(self):
        """Offsets of the first word of each group: they must be on different cache lines."""
        cdef uint64_t base = <uint64_t> self.ring
        return (
            <uint64_t> &self.ring.bytes - base,
            <uint64_t> &self.ring.tail - base,
            <uint64_t> &self.ring.head - base,
            <uint64_t> &self.ring.state - base,
            sizeof(ring_t),
        )

    def put(self, bytes record, reserve=None):
        """Reserves ``reserve`` bytes (the record's length unless told), writes and commits. False: full."""
        cdef uint64_t most = len(record) if reserve is None else reserve
        cdef uint8_t *place = ring_reserve(self.ring, most)
        if place == NULL:
            return False
        if place < self.memory or place + most > self.memory + self.ring.capacity or <uint64_t> place & 7:
            raise AssertionError("the reserved place is outside of the memory or not aligned")
        memcpy(place, <const char *> record, len(record))
        ring_commit(self.ring, len(record))
        return True

    def reserve(self, uint64_t most):
        """Reserves and forgets."""
        return ring_reserve(self.ring, most) != NULL

    def get(self):
        cdef uint32_t length
        cdef const uint8_t *record = ring_peek(self.ring, &length)
        if record == NULL:
            return None
        taken = record[:length]
        ring_release(self.ring)
        return taken

    def peek(self):
        cdef uint32_t length
        cdef const uint8_t *record = ring_peek(self.ring, &length)
        return None if record == NULL else record[:length]

    def announce(self, int state):
        ring_announce(self.ring, <ring_state_t> state)

    def should_wake(self):
        return bool(ring_should_wake(self.ring))

    def produce(self, uint64_t count, int wake_fd, uint32_t turn):
        """Without the GIL: sends ``count`` numbered records of changing length, ``turn`` of them between two
        wake-up checks, spinning where the ring is full. Returns (wake-ups sent, times full)."""
        cdef uint64_t sent = 0, wakes = 0, full = 0, one = 1
        cdef uint32_t in_turn = 0, length
        cdef uint8_t *place
        with nogil:
            while sent < count:
                length = numbered_length(sent)
                place = ring_reserve(self.ring, length)
                if place == NULL:
                    full += 1
                    in_turn = turn
                    if fm_load_relaxed_u32(&self.abandoned):
                        break
                    sched_yield()
                else:
                    memset(place, <int> (sent & 0xFF), length)
                    (<uint64_t *> place)[0] = sent
                    ring_commit(self.ring, length)
                    sent += 1
                    in_turn += 1
                if in_turn >= turn or sent == count:
                    in_turn = 0
                    if ring_should_wake(self.ring):
                        wakes += 1
                        write(wake_fd, &one, sizeof(one))
        return wakes, full

    def produce_in_step(self, uint64_t count, int wake_fd):
        """Without the GIL: sends each numbered record only when the one before was taken, a varying moment
        later, so that each meets a consumer that is about to sleep. A wake-up that is lost stops both.
        Returns the records sent."""
        cdef uint64_t sent = 0, one = 1, _spin
        cdef uint32_t length
        cdef uint8_t *place
        with nogil:
            while sent < count:
                while fm_load_acquire_u64(&self.ring.head) != self.ring.tail:
                    if fm_load_relaxed_u32(&self.abandoned):
                        break
                if fm_load_relaxed_u32(&self.abandoned):
                    break
                for _spin in range(sent % 50):
                    fm_load_acquire_u64(&self.ring.head)
                length = numbered_length(sent)
                place = ring_reserve(self.ring, length)
                memset(place, <int> (sent & 0xFF), length)
                (<uint64_t *> place)[0] = sent
                ring_commit(self.ring, length)
                sent += 1
                if ring_should_wake(self.ring):
                    write(wake_fd, &one, sizeof(one))
        return sent

    def consume(self, uint64_t count, int wake_fd, bint nap, int timeout_ms):
        """Without the GIL: takes ``count`` records and checks each byte. Sleeps in poll when there is none;
        with ``nap``, after a nap of 1 ms. Returns (records taken, wrong ones, announcements of a sleep or
        nap, whether a sleep timed out)."""
        cdef uint64_t taken = 0, wrong = 0, announced = 0, ignored
        cdef uint32_t length
        cdef bint napping = nap, timed_out = False
        cdef const uint8_t *record
        cdef pollfd waited
        waited.fd = wake_fd
        waited.events = POLLIN
        with nogil:
            while taken < count and not timed_out:
                record = ring_peek(self.ring, &length)
                if record != NULL:
                    wrong += not numbered(record, length, taken)
                    ring_release(self.ring)
                    taken += 1
                    napping = nap
                    continue
                ring_announce(self.ring, RING_NAPPING if napping else RING_ASLEEP)
                announced += 1
                if ring_peek(self.ring, &length) == NULL:
                    waited.revents = 0
                    if poll(&waited, 1, 1 if napping else timeout_ms) > 0:
                        read(wake_fd, &ignored, sizeof(ignored))
                    elif not napping:
                        timed_out = True
                        fm_store_relaxed_u32(&self.abandoned, 1)
                    napping = False
                ring_announce(self.ring, RING_AWAKE)
        return taken, wrong, announced, timed_out
