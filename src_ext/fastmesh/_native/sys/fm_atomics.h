/* Thin names over the compiler's __atomic builtins, so that Cython code can say which order it means.
 * Cython has no stdatomic.pxd; see docs/architecture.md, "Shared memory". */
#ifndef FM_ATOMICS_H
#define FM_ATOMICS_H
#include <stdint.h>

#define FM_ATOMIC_OPS(T, N)                                                                                    \
    static inline T fm_load_relaxed_##N(const T *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }           \
    static inline T fm_load_acquire_##N(const T *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }           \
    static inline void fm_store_relaxed_##N(T *p, T v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }           \
    static inline void fm_store_release_##N(T *p, T v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }           \
    static inline T fm_add_relaxed_##N(T *p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }       \
    static inline T fm_add_acq_rel_##N(T *p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }       \
    static inline T fm_exchange_##N(T *p, T v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }         \
    static inline int fm_cas_##N(T *p, T expected, T v)                                                        \
    {                                                                                                          \
        return __atomic_compare_exchange_n(p, &expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);            \
    }                                                                                                          \
    /* For a value with ONE writer: no locked instruction, readers on other threads see whole values. */       \
    static inline void fm_bump_##N(T *p, T v)                                                                  \
    {                                                                                                          \
        __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + v, __ATOMIC_RELAXED);                       \
    }

FM_ATOMIC_OPS(uint32_t, u32)
FM_ATOMIC_OPS(uint64_t, u64)

static inline void *fm_load_acquire_ptr(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void *fm_load_relaxed_ptr(void *const *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void fm_store_relaxed_ptr(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void fm_store_release_ptr(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void *fm_exchange_ptr(void **p, void *v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
static inline int fm_cas_ptr(void **p, void *expected, void *v)
{
    return __atomic_compare_exchange_n(p, &expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* How many bits the value needs; v > 0. */
static inline uint32_t fm_bit_width_u64(uint64_t v) { return 64 - (uint32_t)__builtin_clzll(v); }
static inline uint32_t fm_lowest_bit_u64(uint64_t v) { return (uint32_t)__builtin_ctzll(v); }

#define fm_likely(x) __builtin_expect(!!(x), 1)
#define fm_unlikely(x) __builtin_expect(!!(x), 0)
#define fm_prefetch(p) __builtin_prefetch(p)
#endif
