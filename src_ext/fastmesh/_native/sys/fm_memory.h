/* Handing free memory back to the system. */
#ifndef FM_MEMORY_H
#define FM_MEMORY_H
#include <stdlib.h> /* says which libc it is */
#ifdef __GLIBC__
#include <malloc.h>
#endif

/* Free pages of all heaps go back, those between used ones too. Takes milliseconds. musl keeps none of that size. */
static inline void fm_memory_give_back(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}
#endif
