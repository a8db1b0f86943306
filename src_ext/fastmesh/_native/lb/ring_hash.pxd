"""Policy ``ring_hash``: consistent hashing on a ring of points, made like Envoy's and gRPC's.

Point ``j`` of an endpoint is XXH64 of ``<name>_<j>``. The lightest endpoint has ``share * ring_size`` points,
rounded up to a power of two; the others have theirs by weight, running sums rounded up in the order of names.
So the ring has ``ring_size`` points or more, and because of the power of two an endpoint mostly keeps its
number of points when others come and go, which leaves their keys where they are. The ring equals one of
Envoy's whose ``minimum_ring_size`` is the number of points. A key belongs to the first point that is not
below it, the lowest point after the highest.

``ring_size`` is raised to ``LB_POINTS_EACH`` points an endpoint, and points are limited to ``LB_RING_MAX``. A
look-up goes by an index over the top bits, two buckets a point, then a compare or two.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.math cimport ceil
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastmesh._native.base.hash cimport hash_xxh64
from fastmesh._native.base.slot_t cimport SLOT_NAME_BYTES
from fastmesh._native.lb.hashed cimport lb_by_name, lb_key_of, lb_named_t, lb_walk
from fastmesh._native.lb.lb_t cimport lb_ctx_t, lb_point_t, lb_state_t, lb_t

cdef enum:
    LB_RING_SIZE = 1024
    LB_POINTS_EACH = 16
    LB_RING_MAX = 1 << 20
    SORT_BITS = 11


cdef inline uint32_t _write_number(char *out, uint32_t number) noexcept nogil:
    cdef uint32_t digits = 1, rest = number // 10, k
    while rest:
        digits += 1
        rest //= 10
    for k in range(digits):
        out[digits - 1 - k] = 48 + number % 10
        number //= 10
    return digits


cdef inline uint32_t _make_points(const lb_named_t *named, uint32_t count, double scale, lb_point_t *points,
                                  uint32_t capacity) noexcept nogil:
    """Writes the points endpoint by endpoint; how many they are."""
    cdef char text[SLOT_NAME_BYTES + 16]
    cdef double target = 0
    cdef uint32_t made = 0, number, k, length
    for k in range(count):
        target += scale * named[k].share
        length = min(<uint32_t>named[k].slot.name_len, <uint32_t>SLOT_NAME_BYTES)
        memcpy(text, named[k].slot.name, length)
        text[length] = 95  # an underscore
        length += 1
        number = 0
        while <double>made < target and made < capacity:
            points[made].hash = hash_xxh64(text, length + _write_number(text + length, number), 0)
            points[made].owner = named[k].i
            made += 1
            number += 1
    return made


cdef inline lb_point_t *_sort_points(lb_point_t *points, lb_point_t *spare, uint32_t count) noexcept nogil:
    """Sorts by hash, ``SORT_BITS`` a round, keeping the order of equal ones; whichever array it ends in."""
    cdef uint32_t starts[1 << SORT_BITS]
    cdef uint32_t k, sum, shift = 0, digit, mask = (1 << SORT_BITS) - 1
    cdef lb_point_t *swap
    while shift < 64:
        memset(starts, 0, sizeof(starts))
        for k in range(count):
            starts[(points[k].hash >> shift) & mask] += 1
        sum = 0
        for k in range(mask + 1):
            digit = starts[k]
            starts[k] = sum
            sum += digit
        for k in range(count):
            digit = (points[k].hash >> shift) & mask
            spare[starts[digit]] = points[k]
            starts[digit] += 1
        swap = points
        points = spare
        spare = swap
        shift += SORT_BITS
    return points


cdef inline bint _lay_out_ring(lb_t *lb, const lb_point_t *points, uint32_t count) noexcept nogil:
    cdef uint32_t bits = 2, k, bucket = 0
    while (<uint32_t>1 << bits) < 2 * count:
        bits += 1
    lb.ring = <lb_point_t *>malloc(<size_t>count * sizeof(lb_point_t))
    lb.ring_index = <uint32_t *>malloc((<size_t>1 << bits) * sizeof(uint32_t))
    if lb.ring == NULL or lb.ring_index == NULL:
        return False
    memcpy(lb.ring, points, count * sizeof(lb_point_t))
    lb.ring_points = count
    lb.ring_shift = 64 - bits
    for k in range(count):
        while bucket <= points[k].hash >> lb.ring_shift:
            lb.ring_index[bucket] = k
            bucket += 1
    while bucket < <uint32_t>1 << bits:
        lb.ring_index[bucket] = count
        bucket += 1
    return True


cdef inline bint lb_build_ring(lb_t *lb, uint32_t ring_size) noexcept nogil:
    """Fills the ring; False when memory is short. Needs a total weight above 0."""
    cdef uint32_t count, k, lightest = 1
    cdef double size, smallest = 1.0, scale
    cdef lb_named_t *named = lb_by_name(lb, &count)
    cdef lb_point_t *points
    cdef uint32_t made, capacity
    cdef bint done = False
    if named == NULL:
        return False
    size = ring_size if ring_size != 0 else LB_RING_SIZE
    size = min(max(size, <double>LB_POINTS_EACH * count), <double>LB_RING_MAX)
    for k in range(count):
        smallest = min(smallest, named[k].share)
    while lightest < ceil(smallest * size):
        lightest *= 2
    scale = min(<double>lightest / smallest, <double>LB_RING_MAX)
    capacity = <uint32_t>ceil(scale) + 1
    points = <lb_point_t *>malloc(2 * <size_t>capacity * sizeof(lb_point_t))
    if points != NULL:
        made = _make_points(named, count, scale, points, capacity)
        done = _lay_out_ring(lb, _sort_points(points, points + capacity, made), made)
    free(points)
    free(named)
    return done


cdef inline uint32_t lb_ring_find(const lb_t *lb, uint64_t key) noexcept nogil:
    """The position of the first point that is not below the key; past the highest point, 0."""
    cdef uint32_t position = lb.ring_index[key >> lb.ring_shift]
    while position < lb.ring_points and lb.ring[position].hash < key:
        position += 1
    return position if position < lb.ring_points else 0


cdef inline int32_t lb_pick_ring_hash(const lb_t *lb, lb_state_t *state, const lb_ctx_t *ctx) noexcept nogil:
    cdef uint64_t key = lb_key_of(state, ctx)
    if lb.ring_points == 0:
        return -1
    return lb_walk(lb, state, ctx, key, &lb.ring[0].owner, sizeof(lb_point_t) // sizeof(uint32_t),
                   lb.ring_points, lb_ring_find(lb, key))
