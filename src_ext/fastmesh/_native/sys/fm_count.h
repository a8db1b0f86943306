/* Marks for counting instructions, used by the loops of test modules alone.
 *
 * `bench/instructions` runs them under callgrind, which sets its counts to nothing when fm_count_begin is
 * entered and writes them down when fm_count_end is. In any other run they are two empty calls. The texts in
 * the assembly differ so that the compiler cannot fold the two into one.
 *
 * libc's memchr and memcmp take other ways near the end of a page and at odd addresses. What a counted loop reads
 * lies in pages of its own, therefore, so that its count does not depend on what was allocated before. */
#ifndef FM_COUNT_H
#define FM_COUNT_H
#include <stdint.h>
#include <stdlib.h>

static __attribute__((noinline)) void fm_count_begin(void) { __asm__ volatile("# counting begins" ::: "memory"); }
static __attribute__((noinline)) void fm_count_end(void) { __asm__ volatile("# counting ends" ::: "memory"); }

/* Zeroed pages for `size` bytes, to be given back with free(); NULL: no memory. */
static inline uint8_t *fm_count_pages(size_t size)
{
    size_t whole = (size / 4096 + 1) * 4096;
    uint8_t *pages = (uint8_t *)aligned_alloc(4096, whole);
    if (pages)
        for (size_t i = 0; i < whole; i++)
            pages[i] = 0;
    return pages;
}
#endif
