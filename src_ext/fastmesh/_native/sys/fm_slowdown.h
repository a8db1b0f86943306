/* A worker that is made slower on purpose, for the benchmark suite to prove that it would see it.
 *
 * FM_SLOWDOWN_NS is set by setup.py (FASTMESH_SLOWDOWN_NS) in a build of its own and is 0 in every other, where
 * fm_slow_down is empty. It burns the time instead of sleeping, as slower code would: CPU time is what the
 * suite judges by. */
#ifndef FM_SLOWDOWN_H
#define FM_SLOWDOWN_H

#ifndef FM_SLOWDOWN_NS
#define FM_SLOWDOWN_NS 0
#endif

#if FM_SLOWDOWN_NS > 0
#include <time.h>

static inline long long fm_slowdown_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* not the CPU clock: reading that one is a system call */
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static inline void fm_slow_down(void)
{
    long long end = fm_slowdown_clock() + FM_SLOWDOWN_NS;
    while (fm_slowdown_clock() < end)
        ;
}
#else
static inline void fm_slow_down(void) {}
#endif
#endif
