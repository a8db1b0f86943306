"""Policy ``maglev``: the look-up table of the Maglev paper (section 3.4), weighted as Envoy does it.

Each endpoint visits the entries in an order of its own: ``offset + skip * k`` modulo the table's prime size,
with ``offset = XXH64(name, seed 0) % size`` and ``skip = XXH64(name, seed 1) % (size - 1) + 1``. In each
round the heaviest endpoint takes its next free entry, a lighter one does so in as many rounds as its weight
is a part of the heaviest, in the order of names, until the table is full. A key belongs to the entry
``key % size``.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastmesh._native.base.hash cimport hash_xxh64
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.hashed cimport lb_by_name, lb_key_of, lb_named_t, lb_walk
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_state_t, lb_t

cdef enum:
    LB_TABLE_SIZE = 65537
    LB_TABLE_MAX = 5000011  # a prime
    LB_FREE_ENTRY = 0xFFFFFFFF

# How far one endpoint has come in its order.
ctypedef struct lb_visitor_t:
    uint32_t entry  # the next one to try
    uint32_t skip
    double share
    double target


cdef inline uint32_t lb_prime_from(uint32_t size) noexcept nogil:
    """The smallest prime that is not below ``size``."""
    cdef uint32_t divisor
    size = max(size, <uint32_t>2)
    while True:
        divisor = 2
        while divisor * divisor <= size and size % divisor != 0:
            divisor += 1
        if divisor * divisor > size:
            return size
        size += 1


cdef inline void _take_turns(uint32_t *table, uint32_t size, lb_visitor_t *visitors, const lb_named_t *named,
                             uint32_t count, double largest) noexcept nogil:
    cdef uint32_t taken = 0, k
    cdef double turn = 1
    cdef lb_visitor_t *visitor
    while True:
        for k in range(count):
            visitor = &visitors[k]
            if turn * visitor.share < visitor.target:
                continue
            visitor.target += largest
            while table[visitor.entry] != LB_FREE_ENTRY:
                visitor.entry += visitor.skip
                if visitor.entry >= size:
                    visitor.entry -= size
            table[visitor.entry] = named[k].i
            taken += 1
            if taken == size:
                return
        turn += 1


cdef inline bint lb_build_maglev(lb_t *lb, uint32_t table_size) noexcept nogil:
    """Fills the table; False when memory is short. Needs a total weight above 0."""
    cdef uint32_t count, k, size = min(table_size if table_size != 0 else <uint32_t>LB_TABLE_SIZE,
                                       <uint32_t>LB_TABLE_MAX)
    cdef lb_named_t *named = lb_by_name(lb, &count)
    cdef lb_visitor_t *visitors
    cdef const slot_t *slot
    cdef double largest = 0
    if named == NULL:
        return False
    size = lb_prime_from(size)
    visitors = <lb_visitor_t *>malloc((<size_t>count + 1) * sizeof(lb_visitor_t))
    lb.table = <uint32_t *>malloc(<size_t>size * sizeof(uint32_t))
    if visitors != NULL and lb.table != NULL:
        lb.table_size = size
        for k in range(size):
            lb.table[k] = LB_FREE_ENTRY
        for k in range(count):
            slot = named[k].slot
            visitors[k].entry = <uint32_t>(hash_xxh64(slot.name, slot.name_len, 0) % size)
            visitors[k].skip = <uint32_t>(hash_xxh64(slot.name, slot.name_len, 1) % (size - 1)) + 1
            visitors[k].share = named[k].share
            visitors[k].target = 0
            largest = max(largest, named[k].share)
        _take_turns(lb.table, size, visitors, named, count, largest)
    free(visitors)
    free(named)
    return lb.table_size != 0


cdef inline int32_t lb_pick_maglev(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    cdef uint64_t key = lb_key_of(state, ctx)
    if lb.table_size == 0:
        return -1
    return lb_walk(lb, state, ctx, key, lb.table, 1, lb.table_size, <uint32_t>(key % lb.table_size))
