"""A ring of byte records between two threads: one producer (a worker), one consumer (the writer thread).

The memory is the caller's, a power of two. A record is an 8-byte header (its length) and its bytes, padded to
8, always in one piece: where the rest of the memory is too short, a header ``RING_SKIP`` sends the reader
back to the start. ``head`` and ``tail`` count bytes and never wrap (64 bits); the place is
``position & mask``.

Producer::

    place = ring_reserve(ring, most)   # NULL: full; the record is dropped and counted in ``dropped``
    ... write at most ``most`` bytes ...
    ring_commit(ring, used)            # used <= most
    if ring_should_wake(ring):         # once, after one or more commits, at the end of a turn
        write(eventfd)

Consumer::

    while (record = ring_peek(ring, &length)) != NULL:
        ... read ...
        ring_release(ring)
    ring_announce(ring, RING_ASLEEP)
    if ring_peek(ring, &length) == NULL: poll(eventfd)
    ring_announce(ring, RING_AWAKE), and again

Ordering
--------
*The bytes.* The producer writes them before its release store of ``tail``; the consumer reads them
after its acquire load of ``tail``. It has done with them before its release store of ``head``; the producer
reuses the place after its acquire load of ``head``. So no byte is touched by both at a time.

*No lost wake-up.* The consumer goes to sleep with A1: ``exchange(state, ASLEEP)``, A2: load ``tail``. The
producer does B1: store ``tail``, B2: ``fetch_add(state, 0)``. Plain stores and loads could pass each other
here (each thread's store still in its buffer while its load runs), and both would see the old world. But A1
and B2 are read-modify-write operations with acquire and release order on one word, and such operations on one
word have one order:

- A1 before B2: B2 reads what A1 wrote, the producer sees ``ASLEEP`` and wakes the consumer;
- B2 before A1: A1 reads from B2 or from a later operation. ``state`` is only ever changed by
  read-modify-writes, so A1 continues B2's release sequence and synchronises with it: A2 comes after B1 and
  sees the record.

No fence is used, so ThreadSanitizer (which does not know fences) checks exactly what runs. The producer pays
for one locked instruction in a turn, not in a record.

``RING_NAPPING`` is the state of a consumer that will look again by itself in a few milliseconds: it is woken
only when the ring is half full. So a busy worker hardly ever writes to the eventfd, and lines are written in
batches.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._native.sys.atomics cimport (
    fm_add_acq_rel_u32,
    fm_bump_u64,
    fm_cas_u32,
    fm_exchange_u32,
    fm_load_acquire_u64,
    fm_load_relaxed_u64,
    fm_store_release_u64,
    fm_unlikely,
)

cdef enum:
    RING_HEADER_BYTES = 8
    RING_SKIP = 0xFFFFFFFF
    RING_SMALLEST = 64

cdef enum ring_state_t:
    RING_AWAKE = 0
    RING_ASLEEP = 1
    RING_NAPPING = 2

ctypedef struct ring_t:
    # set once; read by both
    uint8_t *bytes  # borrows; 8-byte aligned
    uint64_t capacity
    uint64_t mask
    uint8_t pad_set_once[40]
    # producer: its own cache line
    uint64_t tail  # shared, written by the producer
    uint64_t head_seen  # producer only: the last ``head`` that it read
    uint64_t reserved_at  # producer only: where the reserved record's header goes
    uint64_t dropped  # shared, written by the producer: records that found no room
    uint8_t pad_producer[32]
    # consumer: its own cache line
    uint64_t head  # shared, written by the consumer
    uint64_t tail_seen  # consumer only: the last ``tail`` that it read
    uint64_t peeked_end  # consumer only: where the peeked record ends
    uint8_t pad_consumer[40]
    # both change it, by read-modify-write only: its own cache line
    uint32_t state
    uint8_t pad_state[60]


cdef inline bint ring_init(ring_t *ring, uint8_t *memory, uint64_t capacity) noexcept nogil:
    """Before any other thread knows the ring. False: the capacity is not a power of two, below
    ``RING_SMALLEST`` or above 1 GiB, or the memory is not aligned to 8 bytes."""
    if capacity < RING_SMALLEST or capacity > (1 << 30) or capacity & (capacity - 1):
        return False
    if memory == NULL or <uint64_t> memory & 7:
        return False
    ring.bytes = memory
    ring.capacity = capacity
    ring.mask = capacity - 1
    ring.tail = ring.head_seen = ring.reserved_at = ring.dropped = 0
    ring.head = ring.tail_seen = ring.peeked_end = 0
    ring.state = RING_AWAKE
    return True


cdef inline uint64_t ring_padded(uint64_t size) noexcept nogil:
    return (size + RING_HEADER_BYTES + 7) & ~(<uint64_t> 7)


cdef inline uint8_t *ring_reserve(ring_t *ring, uint64_t most) noexcept nogil:
    """Producer: room for a record of at most ``most`` bytes, or NULL, which is counted in ``dropped``. A
    record of more than half the capacity never fits. Nothing is visible before ``ring_commit``; reserving
    again forgets the first."""
    cdef uint64_t need = ring_padded(most)
    cdef uint64_t at = ring.tail
    cdef uint64_t to_end = ring.capacity - (at & ring.mask)
    cdef uint64_t whole = need
    if fm_unlikely(most > ring.capacity // 2 - RING_HEADER_BYTES):
        fm_bump_u64(&ring.dropped, 1)
        return NULL
    if need > to_end:
        whole += to_end
    if at + whole - ring.head_seen > ring.capacity:
        ring.head_seen = fm_load_acquire_u64(&ring.head)
        if at + whole - ring.head_seen > ring.capacity:
            fm_bump_u64(&ring.dropped, 1)
            return NULL
    if need > to_end:
        (<uint32_t *> (ring.bytes + (at & ring.mask)))[0] = RING_SKIP
        at += to_end
    ring.reserved_at = at
    return ring.bytes + (at & ring.mask) + RING_HEADER_BYTES


cdef inline void ring_commit(ring_t *ring, uint64_t used) noexcept nogil:
    """Producer: publishes the reserved record, of which ``used`` bytes count."""
    (<uint32_t *> (ring.bytes + (ring.reserved_at & ring.mask)))[0] = <uint32_t> used
    fm_store_release_u64(&ring.tail, ring.reserved_at + ring_padded(used))


cdef inline bint ring_should_wake(ring_t *ring) noexcept nogil:
    """Producer, after its commits: whether it must write to the consumer's eventfd now. True once for each
    sleep."""
    cdef uint32_t state = fm_add_acq_rel_u32(&ring.state, 0)
    if state == RING_AWAKE:
        return False
    if state == RING_NAPPING and ring.tail - fm_load_relaxed_u64(&ring.head) < ring.capacity // 2:
        return False
    # Where this fails the consumer has just changed the word itself, and looks at the ring before it sleeps.
    return fm_cas_u32(&ring.state, state, RING_AWAKE)


cdef inline const uint8_t *ring_peek(ring_t *ring, uint32_t *length) noexcept nogil:
    """Consumer: the oldest record and its length, or NULL when there is none. It stays in place until
    ``ring_release``."""
    cdef uint64_t at = ring.head
    cdef uint32_t size
    if at == ring.tail_seen:
        ring.tail_seen = fm_load_acquire_u64(&ring.tail)
        if at == ring.tail_seen:
            return NULL
    size = (<uint32_t *> (ring.bytes + (at & ring.mask)))[0]
    if size == RING_SKIP:
        at += ring.capacity - (at & ring.mask)
        size = (<uint32_t *> (ring.bytes + (at & ring.mask)))[0]
    ring.peeked_end = at + ring_padded(size)
    length[0] = size
    return ring.bytes + (at & ring.mask) + RING_HEADER_BYTES


cdef inline void ring_release(ring_t *ring) noexcept nogil:
    """Consumer: gives the place of the peeked record back."""
    fm_store_release_u64(&ring.head, ring.peeked_end)


cdef inline void ring_announce(ring_t *ring, ring_state_t state) noexcept nogil:
    """Consumer: says what it is about to do; after ASLEEP or NAPPING it must look at the ring once more
    before it waits."""
    fm_exchange_u32(&ring.state, <uint32_t> state)


cdef inline uint64_t ring_filled(ring_t *ring) noexcept nogil:
    """Consumer: how many bytes the records take that are there now."""
    return fm_load_acquire_u64(&ring.tail) - ring.head


cdef inline uint64_t ring_dropped(const ring_t *ring) noexcept nogil:
    """Any thread: how many records found no room."""
    return fm_load_relaxed_u64(&ring.dropped)
