/* Finding bytes that a log line must not carry as they are, 16 at a time where SSE2 is there. */
#ifndef FM_ESCAPE_H
#define FM_ESCAPE_H
#include <stddef.h>
#include <stdint.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Whether a byte stands for itself in every style of line: printable ASCII apart from `"` and `\`. */
static inline int fm_is_plain(uint8_t c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; }

/* Copies leading plain bytes from `from` to `to` and returns how many there were (at most n). Up to 15 bytes
 * behind from[n - 1] are read, and as many behind to[n - 1] are scribbled over: both must be there. */
static inline size_t fm_copy_plain(uint8_t *to, const uint8_t *from, size_t n)
{
    size_t i = 0;
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), del = _mm_set1_epi8(0x7f);
    const __m128i space = _mm_set1_epi8(0x20);
    for (; i < n; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(from + i));
        _mm_storeu_si128((__m128i *)(void *)(to + i), v);
        /* As signed bytes, 0x80-0xff are negative: one comparison finds them and the control bytes. */
        __m128i bad = _mm_or_si128(_mm_or_si128(_mm_cmplt_epi8(v, space), _mm_cmpeq_epi8(v, del)),
                                   _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash)));
        unsigned mask = (unsigned)_mm_movemask_epi8(bad);
        if (mask) {
            i += (size_t)__builtin_ctz(mask);
            return i < n ? i : n;
        }
    }
    return n;
#else
    for (; i < n && fm_is_plain(from[i]); i++)
        to[i] = from[i];
    return i;
#endif
}

/* The length of the well-formed UTF-8 sequence at p (RFC 3629, n bytes are there), or 0. p[0] >= 0x80. */
static inline size_t fm_utf8_length(const uint8_t *p, size_t n)
{
    uint8_t a = p[0];
    if (a < 0xc2 || a > 0xf4 || n < 2 || (p[1] & 0xc0) != 0x80)
        return 0;
    if (a < 0xe0)
        return 2;
    if (n < 3 || (p[2] & 0xc0) != 0x80)
        return 0;
    if (a < 0xf0)
        return (a == 0xe0 && p[1] < 0xa0) || (a == 0xed && p[1] > 0x9f) ? 0 : 3;
    if (n < 4 || (p[3] & 0xc0) != 0x80)
        return 0;
    return (a == 0xf0 && p[1] < 0x90) || (a == 0xf4 && p[1] > 0x8f) ? 0 : 4;
}
#endif
