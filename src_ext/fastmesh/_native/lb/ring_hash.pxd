"""Policy ``ring_hash``: consistent hashing on a ring of points, the same ring as Envoy's and gRPC's.

Point ``j`` of an endpoint is XXH64 of ``<name>_<j>``. The lightest endpoint has a whole number of points,
``ceil(share * ring_size)``; the others have theirs by weight, running sums rounded up in the order of names. So
the ring has ``ring_size`` points or more. A key belongs to the first point that is not below it, the lowest point
after the highest. ``ring_size`` is raised to ``LB_POINTS_EACH`` points an endpoint, and points are limited to
``LB_RING_MAX``. A look-up goes by an index over the top bits, then a few compares.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.math cimport ceil
from libc.stdlib cimport free, malloc
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from fastmesh._native.base.hash cimport hash_xxh64
from fastmesh._native.base.slot_t cimport SLOT_NAME_BYTES
from fastmesh._native.lb.hashed cimport lb_by_name, lb_key_of, lb_named_t, lb_walk
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_state_t, lb_t

cdef enum:
    LB_RING_SIZE = 1024
    LB_POINTS_EACH = 32
    LB_RING_MAX = 1 << 20

ctypedef struct lb_point_t:
    uint64_t hash
    uint32_t owner


cdef inline uint64_t lb_point_hash(const lb_named_t *named, uint32_t number) noexcept nogil:
    cdef char text[SLOT_NAME_BYTES + 16]
    cdef uint32_t length = min(<uint32_t>named.slot.name_len, <uint32_t>SLOT_NAME_BYTES)
    memcpy(text, named.slot.name, length)
    length += snprintf(text + length, 16, b"_%u", number)
    return hash_xxh64(text, length, 0)


cdef inline uint32_t _make_points(const lb_named_t *named, uint32_t count, double scale, lb_point_t *points,
                                  uint32_t capacity) noexcept nogil:
    """Writes the points endpoint by endpoint; how many they are."""
    cdef double target = 0
    cdef uint32_t made = 0, number, k
    for k in range(count):
        target += scale * named[k].share
        number = 0
        while <double>made < target and made < capacity:
            points[made].hash = lb_point_hash(&named[k], number)
            points[made].owner = named[k].i
            made += 1
            number += 1
    return made


cdef inline lb_point_t *_sort_points(lb_point_t *points, lb_point_t *spare, uint32_t count) noexcept nogil:
    """Sorts by hash, 16 bits a round, keeping the order of equal ones; whichever of the two arrays it ends in."""
    cdef uint32_t *starts = <uint32_t *>malloc(65536 * sizeof(uint32_t))
    cdef uint32_t k, sum, shift, digit
    cdef lb_point_t *swap
    if starts == NULL:
        return NULL
    for shift in range(0, 64, 16):
        memset(starts, 0, 65536 * sizeof(uint32_t))
        for k in range(count):
            starts[(points[k].hash >> shift) & 0xFFFF] += 1
        sum = 0
        for k in range(65536):
            digit = starts[k]
            starts[k] = sum
            sum += digit
        for k in range(count):
            digit = (points[k].hash >> shift) & 0xFFFF
            spare[starts[digit]] = points[k]
            starts[digit] += 1
        swap = points
        points = spare
        spare = swap
    free(starts)
    return points


cdef inline bint _lay_out_ring(lb_t *lb, const lb_point_t *points, uint32_t count) noexcept nogil:
    cdef uint32_t bits = 1, k, bucket = 0
    while (<uint32_t>1 << bits) < count:
        bits += 1
    lb.ring_hashes = <uint64_t *>malloc(<size_t>count * sizeof(uint64_t))
    lb.ring_owners = <uint32_t *>malloc(<size_t>count * sizeof(uint32_t))
    lb.ring_index = <uint32_t *>malloc((<size_t>1 << bits) * sizeof(uint32_t))
    if lb.ring_hashes == NULL or lb.ring_owners == NULL or lb.ring_index == NULL:
        return False
    lb.ring_points = count
    lb.ring_shift = 64 - bits
    for k in range(count):
        lb.ring_hashes[k] = points[k].hash
        lb.ring_owners[k] = points[k].owner
        while bucket <= points[k].hash >> lb.ring_shift:
            lb.ring_index[bucket] = k
            bucket += 1
    while bucket < <uint32_t>1 << bits:
        lb.ring_index[bucket] = count
        bucket += 1
    return True


cdef inline bint lb_build_ring(lb_t *lb, uint32_t ring_size) noexcept nogil:
    """Fills the ring; False when memory is short. Needs a total weight above 0."""
    cdef uint32_t count, k
    cdef double size, smallest = 1.0, scale
    cdef lb_named_t *named = lb_by_name(lb, &count)
    cdef lb_point_t *points
    cdef lb_point_t *sorted
    cdef uint32_t made, capacity
    cdef bint done = False
    if named == NULL:
        return False
    size = ring_size if ring_size != 0 else LB_RING_SIZE
    size = min(max(size, <double>LB_POINTS_EACH * count), <double>LB_RING_MAX)
    for k in range(count):
        smallest = min(smallest, named[k].share)
    scale = min(ceil(smallest * size) / smallest, <double>LB_RING_MAX)
    capacity = <uint32_t>ceil(scale) + 1
    points = <lb_point_t *>malloc(2 * <size_t>capacity * sizeof(lb_point_t))
    if points != NULL:
        made = _make_points(named, count, scale, points, capacity)
        sorted = _sort_points(points, points + capacity, made)
        done = sorted != NULL and _lay_out_ring(lb, sorted, made)
    free(points)
    free(named)
    return done


cdef inline uint32_t lb_ring_find(const lb_t *lb, uint64_t key) noexcept nogil:
    """The position of the first point that is not below the key; past the highest point, 0."""
    cdef uint32_t position = lb.ring_index[key >> lb.ring_shift]
    while position < lb.ring_points and lb.ring_hashes[position] < key:
        position += 1
    return position if position < lb.ring_points else 0


cdef inline int32_t lb_pick_ring_hash(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    cdef uint64_t key = lb_key_of(state, ctx)
    if lb.ring_points == 0:
        return -1
    return lb_walk(lb, state, ctx, key, lb.ring_owners, lb.ring_points, lb_ring_find(lb, key))
