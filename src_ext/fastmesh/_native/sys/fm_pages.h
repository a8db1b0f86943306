/* Memory by whole pages, which goes back to the system at once when it is freed. malloc keeps what lies below
 * something that lives, and so, after a few thousand slow clients, nearly all of it. Under AddressSanitizer it is
 * malloc's all the same, which then watches the bytes around it. */
#ifndef FM_PAGES_H
#define FM_PAGES_H
#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#include <stdlib.h>

static inline void *fm_pages_new(size_t size)
{
    return malloc(size);
}

static inline void fm_pages_del(void *pages, size_t size)
{
    (void)size;
    free(pages);
}
#else
#include <sys/mman.h>

static inline void *fm_pages_new(size_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

static inline void fm_pages_del(void *pages, size_t size)
{
    if (munmap(pages, size) != 0) /* it would split a mapping, and there are too many (vm.max_map_count) */
        madvise(pages, size, MADV_DONTNEED);
}
#endif
#endif
