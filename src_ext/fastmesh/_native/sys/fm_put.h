/* Appending a literal to a buffer: the length is known when compiling, so it becomes a few stores. */
#ifndef FM_PUT_H
#define FM_PUT_H
#include <stdint.h>
#include <string.h>

static inline __attribute__((always_inline)) uint8_t *fm_put(uint8_t *to, const char *literal)
{
    size_t n = __builtin_strlen(literal);
    memcpy(to, literal, n);
    return to + n;
}
#endif
