"""Hash functions and the small random generator that routing and balancing share. Any thread; no state but
the caller's. All of it is arithmetic on whole words, so results are the same on every machine.

``hash_xxh64``  the XXH64 algorithm (public description, any seed): keys and table points, so that rings and
                Maglev tables agree with those of Envoy and gRPC.
``hash_mix``    one cheap bijective scramble of 64 bits (the finaliser of splitmix64).
``rng_next``    splitmix64: one word of state, any seed is good, period 2**64.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef inline uint64_t _rotl64(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef inline uint64_t _load64(const uint8_t *p) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, p, 8)
    return word


cdef inline uint32_t _load32(const uint8_t *p) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, p, 4)
    return word


cdef inline uint64_t hash_mix(uint64_t z) noexcept nogil:
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline uint64_t rng_next(uint64_t *state) noexcept nogil:
    state[0] += <uint64_t>0x9E3779B97F4A7C15
    return hash_mix(state[0])


cdef inline uint32_t rng_below(uint64_t *state, uint32_t limit) noexcept nogil:
    """A number in ``[0, limit)``; the bias is below ``limit / 2**32``."""
    return <uint32_t>(((rng_next(state) >> 32) * limit) >> 32)


cdef inline uint64_t _xxh_round(uint64_t acc, uint64_t lane) noexcept nogil:
    acc += lane * <uint64_t>0xC2B2AE3D27D4EB4F
    return _rotl64(acc, 31) * <uint64_t>0x9E3779B185EBCA87


cdef inline uint64_t _xxh_merge(uint64_t acc, uint64_t lane) noexcept nogil:
    acc ^= _xxh_round(0, lane)
    return acc * <uint64_t>0x9E3779B185EBCA87 + <uint64_t>0x85EBCA77C2B2AE63


cdef inline uint64_t hash_xxh64(const void *data, size_t length, uint64_t seed) noexcept nogil:
    """XXH64 of ``length`` bytes. The lanes are read as little-endian words (fastmesh runs on such machines)."""
    cdef const uint8_t *p = <const uint8_t *>data
    cdef const uint8_t *end = p + length
    cdef uint64_t h, v1, v2, v3, v4
    if length >= 32:
        v1 = seed + <uint64_t>0x9E3779B185EBCA87 + <uint64_t>0xC2B2AE3D27D4EB4F
        v2 = seed + <uint64_t>0xC2B2AE3D27D4EB4F
        v3 = seed
        v4 = seed - <uint64_t>0x9E3779B185EBCA87
        while end - p >= 32:
            v1 = _xxh_round(v1, _load64(p))
            v2 = _xxh_round(v2, _load64(p + 8))
            v3 = _xxh_round(v3, _load64(p + 16))
            v4 = _xxh_round(v4, _load64(p + 24))
            p += 32
        h = _rotl64(v1, 1) + _rotl64(v2, 7) + _rotl64(v3, 12) + _rotl64(v4, 18)
        h = _xxh_merge(h, v1)
        h = _xxh_merge(h, v2)
        h = _xxh_merge(h, v3)
        h = _xxh_merge(h, v4)
    else:
        h = seed + <uint64_t>0x27D4EB2F165667C5
    h += <uint64_t>length
    while end - p >= 8:
        h ^= _xxh_round(0, _load64(p))
        h = _rotl64(h, 27) * <uint64_t>0x9E3779B185EBCA87 + <uint64_t>0x85EBCA77C2B2AE63
        p += 8
    if end - p >= 4:
        h ^= <uint64_t>_load32(p) * <uint64_t>0x9E3779B185EBCA87
        h = _rotl64(h, 23) * <uint64_t>0xC2B2AE3D27D4EB4F + <uint64_t>0x165667B19E3779F9
        p += 4
    while p < end:
        h ^= <uint64_t>p[0] * <uint64_t>0x27D4EB2F165667C5
        h = _rotl64(h, 11) * <uint64_t>0x9E3779B185EBCA87
        p += 1
    h = (h ^ (h >> 33)) * <uint64_t>0xC2B2AE3D27D4EB4F
    h = (h ^ (h >> 29)) * <uint64_t>0x165667B19E3779F9
    return h ^ (h >> 32)
