/* Which branches of the native half an input took, for the fuzzer: a map of edges, as hit counts by power of two.
 *
 * The fuzz build compiles with -fsanitize-coverage=trace-pc, which calls __sanitizer_cov_trace_pc at each basic
 * block. This file, preloaded, counts pairs of blocks; the driver asks after each input whether any pair was new
 * or came in a new order of magnitude. One thread. */
#include <stdint.h>
#include <string.h>

#define EDGES (1u << 16)

static uint8_t hits[EDGES];
static uint8_t seen[EDGES]; /* one bit for each class of count */
static uint32_t previous;

void __sanitizer_cov_trace_pc(void)
{
    uint64_t here = (uint64_t)(uintptr_t)__builtin_return_address(0);
    uint32_t block = (uint32_t)((here * 0x9E3779B97F4A7C15u) >> 48);
    uint8_t *count = &hits[(block ^ previous) & (EDGES - 1)];
    if (*count != 255)
        ++*count;
    previous = block >> 1;
}

void fm_coverage_start(void)
{
    memset(hits, 0, sizeof hits);
    previous = 0;
}

/* How many edges since the start were new, or new in their class of count. */
int fm_coverage_news(void)
{
    int news = 0;
    for (uint32_t i = 0; i < EDGES; i += 8) {
        uint64_t eight;
        memcpy(&eight, hits + i, 8);
        if (!eight)
            continue;
        for (uint32_t k = i; k < i + 8; ++k) {
            if (!hits[k])
                continue;
            uint8_t bit = (uint8_t)(1u << (31 - __builtin_clz((unsigned)hits[k])));
            if (!(seen[k] & bit)) {
                seen[k] |= bit;
                ++news;
            }
        }
    }
    return news;
}
