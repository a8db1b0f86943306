"""Relaxed, acquire and release accesses (see ``fm_atomics.h``). No logic."""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "fm_atomics.h" nogil:
    uint32_t fm_load_relaxed_u32(const uint32_t *p)
    uint32_t fm_load_acquire_u32(const uint32_t *p)
    void fm_store_relaxed_u32(uint32_t *p, uint32_t v)
    void fm_store_release_u32(uint32_t *p, uint32_t v)
    uint32_t fm_add_relaxed_u32(uint32_t *p, uint32_t v)
    uint32_t fm_add_acq_rel_u32(uint32_t *p, uint32_t v)
    uint32_t fm_exchange_u32(uint32_t *p, uint32_t v)
    bint fm_cas_u32(uint32_t *p, uint32_t expected, uint32_t v)
    void fm_bump_u32(uint32_t *p, uint32_t v)
    uint64_t fm_load_relaxed_u64(const uint64_t *p)
    uint64_t fm_load_acquire_u64(const uint64_t *p)
    void fm_store_relaxed_u64(uint64_t *p, uint64_t v)
    void fm_store_release_u64(uint64_t *p, uint64_t v)
    uint64_t fm_add_relaxed_u64(uint64_t *p, uint64_t v)
    uint64_t fm_add_acq_rel_u64(uint64_t *p, uint64_t v)
    uint64_t fm_exchange_u64(uint64_t *p, uint64_t v)
    bint fm_cas_u64(uint64_t *p, uint64_t expected, uint64_t v)
    void fm_bump_u64(uint64_t *p, uint64_t v)
    void *fm_load_acquire_ptr(void **p)
    void *fm_load_relaxed_ptr(void **p)
    void fm_store_relaxed_ptr(void **p, void *v)
    void fm_store_release_ptr(void **p, void *v)
    void *fm_exchange_ptr(void **p, void *v)
    bint fm_cas_ptr(void **p, void *expected, void *v)
    uint32_t fm_bit_width_u64(uint64_t v)  # v > 0
    uint32_t fm_lowest_bit_u64(uint64_t v)  # v > 0
    bint fm_likely(bint x)
    bint fm_unlikely(bint x)
    void fm_prefetch(const void *p)
