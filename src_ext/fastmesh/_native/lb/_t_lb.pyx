"""Tests' door to load balancing: slots, blocks and states as objects; picks as numbers."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from fastmesh._native.base.hash cimport hash_mix, hash_xxh64, rng_below, rng_next
from fastmesh._native.base.slot_t cimport SLOT_NAME_BYTES, slot_t
from fastmesh._native.lb.lb cimport (
    lb_adopt, lb_condition_at, lb_del, lb_new, lb_pick, lb_state_free, lb_state_init, lb_usable_count,
    lb_wants_total,
)
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_options_t, lb_state_t, lb_t
from fastmesh._native.lb.round_robin cimport lb_shift_turns, lb_turn_nodes
from fastmesh._native.sys.count cimport fm_count_begin, fm_count_end


def xxh64(bytes data, uint64_t seed=0):
    return hash_xxh64(<const uint8_t *><const char *>data, len(data), seed)


def random_words(uint64_t state, uint32_t count):
    return [rng_next(&state) for _ in range(count)]


def random_below(uint64_t state, uint32_t limit, uint32_t count):
    return [rng_below(&state, limit) for _ in range(count)]


def mix(uint64_t value):
    return hash_mix(value)


cdef class Slots:
    """Endpoint slots by slot index."""
    cdef slot_t *slots
    cdef readonly uint32_t count

    def __cinit__(self, list names):
        cdef uint32_t k
        self.count = <uint32_t>len(names)
        self.slots = <slot_t *>calloc(self.count + 1, sizeof(slot_t))
        if self.slots == NULL:
            raise MemoryError
        for k in range(self.count):
            name = names[k].encode()
            assert len(name) <= SLOT_NAME_BYTES
            memcpy(self.slots[k].name, <const char *>name, len(name))
            self.slots[k].name_len = <unsigned short>len(name)
            self.slots[k].index = k

    def __dealloc__(self):
        free(self.slots)

    def set_health(self, uint32_t slot, uint64_t word):
        self.slots[slot].health = word

    def set_in_flight(self, uint32_t slot, uint32_t value):
        self.slots[slot].in_flight = value


cdef class Block:
    """One ``lb_t`` over ``members`` (slot indices) of ``slots``."""
    cdef lb_t *lb
    cdef readonly Slots slots
    cdef readonly list members

    def __cinit__(self, int policy, Slots slots, list members, list weights, uint32_t ring_size=0,
                  uint32_t table_size=0, uint32_t bounded_load=0, list priorities=None):
        cdef uint32_t n = <uint32_t>len(members), k
        cdef lb_options_t options = lb_options_t(ring_size, table_size, bounded_load)
        cdef slot_t **pointers = <slot_t **>malloc((n + 1) * sizeof(slot_t *))
        cdef uint32_t *values = <uint32_t *>malloc((n + 1) * sizeof(uint32_t))
        cdef bytes numbers = bytes(priorities or ())
        cdef const uint8_t *levels = <const uint8_t *><const char *>numbers if priorities is not None else NULL
        self.slots = slots
        self.members = members
        for k in range(n):
            assert members[k] < slots.count
            pointers[k] = &slots.slots[<uint32_t>members[k]]
            values[k] = weights[k]
        with nogil:
            self.lb = lb_new(policy, n, pointers, values, levels, &options)
        free(pointers)
        free(values)
        if self.lb == NULL:
            raise ValueError("lb_new")

    def __dealloc__(self):
        lb_del(self.lb)

    def ring(self):
        """(hash, slot index) of each point."""
        cdef uint32_t k
        return [
            (self.lb.ring[k].hash, self.members[self.lb.ring[k].owner])
            for k in range(self.lb.ring_points)
        ]

    def table(self):
        """Slot index of each entry."""
        cdef uint32_t k
        return [self.members[self.lb.table[k]] for k in range(self.lb.table_size)]

    def condition_at(self, uint32_t index, uint32_t now_ms=0):
        return <int>lb_condition_at(self.lb, index, now_ms)

    def usable_count(self, uint32_t now_ms=0):
        return lb_usable_count(self.lb, now_ms)

    def wants_total(self):
        return lb_wants_total(self.lb)


cdef class State:
    """One worker's ``lb_state_t``; keeps the adopted block alive."""
    cdef lb_state_t state
    cdef Block block

    def __cinit__(self, uint64_t seed, uint32_t worker_index=0, uint32_t workers=1):
        lb_state_init(&self.state, seed, worker_index, workers)

    def __dealloc__(self):
        lb_state_free(&self.state)

    def adopt(self, Block block, bint from_start=False):
        cdef const lb_t *old = NULL
        if self.block is not None and not from_start:
            old = self.block.lb
        cdef int status = lb_adopt(&self.state, old, block.lb)
        if status != 0:
            raise MemoryError
        self.block = block

    def age(self, uint64_t by):
        """Moves the virtual time of round robin on, as very many picks would; ``by`` in units of a key."""
        by = by >> self.block.lb.group_bits << self.block.lb.group_bits
        lb_shift_turns(&self.state, lb_turn_nodes(self.block.lb), by)

    def pick(self, Block block, uint32_t now_ms=0, key=None, object tried=(), uint32_t total_in_flight=0):
        """The slot index, or -1."""
        cdef lb_ctx_t ctx
        cdef uint32_t tried_slots[16]
        cdef uint32_t k
        cdef int32_t chosen
        assert len(tried) <= 16
        for k in range(<uint32_t>len(tried)):
            tried_slots[k] = tried[k]
        ctx.now_ms = now_ms
        ctx.ntried = <uint32_t>len(tried)
        ctx.tried = tried_slots
        ctx.has_key = key is not None
        ctx.key = key if key is not None else 0
        ctx.total_in_flight = total_in_flight
        with nogil:
            chosen = lb_pick(block.lb, &self.state, &ctx)
        return block.members[chosen] if chosen >= 0 else -1

    def pick_often(self, Block block, uint32_t count, bint keyed=False, uint32_t now_ms=0):
        """Sum of ``count`` picks, for timing and counting; ``keyed`` draws a key for each."""
        cdef lb_ctx_t ctx
        cdef uint32_t _k
        cdef uint64_t keys = 1
        cdef int64_t sum = 0
        ctx.now_ms = now_ms
        ctx.ntried = 0
        ctx.tried = NULL
        ctx.has_key = keyed
        ctx.key = 0
        ctx.total_in_flight = 0
        with nogil:
            fm_count_begin()
            for _k in range(count):
                if keyed:
                    ctx.key = rng_next(&keys)
                sum += lb_pick(block.lb, &self.state, &ctx)
            fm_count_end()
        return sum

    def hold(self, Block block, uint32_t count):
        """Picks ``count`` times and leaves each request in flight; how many each member has."""
        cdef lb_ctx_t ctx
        cdef uint32_t _k
        cdef int32_t chosen
        ctx.now_ms = 0
        ctx.ntried = 0
        ctx.tried = NULL
        ctx.has_key = False
        ctx.key = 0
        ctx.total_in_flight = 0
        for _k in range(count):
            chosen = lb_pick(block.lb, &self.state, &ctx)
            block.lb.slots[chosen].in_flight += 1
            ctx.total_in_flight += 1
        return [block.lb.slots[k].in_flight for k in range(block.lb.n)]
