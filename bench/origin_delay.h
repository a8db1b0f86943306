/*
 * Delays drawn from a distribution, and the requests that wait for theirs to pass, the next one due on top.
 *
 * The logarithm and exponential are our own, to 1e-14, so that the program needs no library beside libc.
 */
#ifndef ORIGIN_DELAY_H
#define ORIGIN_DELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum delay_shape { DELAY_NONE, DELAY_FIXED, DELAY_EXPONENTIAL, DELAY_LOGNORMAL, DELAY_UNIFORM };

static const double DELAY_LONGEST_NS = 3600e9;  /* also the bound of what is drawn */

struct delay {
    enum delay_shape shape;
    double first;       /* ns: the value, the mean, the median, or the least */
    double second;      /* sigma, or ns: the most */
};

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- random numbers: splitmix64 (Steele, Lea, Flood 2014) ---------------------------------------------- */

static inline uint64_t next_random(uint64_t *state)
{
    uint64_t mixed = *state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

/* From 0, which can occur, to 1, which cannot. */
static inline double random_share(uint64_t *state)
{
    return (double)(next_random(state) >> 11) * 0x1p-53;
}

/* ---- distributions ------------------------------------------------------------------------------------- */

static const double LN_2 = 0.693147180559945309;

/* Of a number above 0: x = m * 2^n with m in [0.7, 1.4], and ln m = 2 artanh((m - 1) / (m + 1)). */
static inline double natural_log(double x)
{
    int exponent = 0;
    double ratio, square, sum = 0;
    for (; x > 1.4; x /= 2)
        exponent++;
    for (; x < 0.7; x *= 2)
        exponent--;
    ratio = (x - 1) / (x + 1);
    square = ratio * ratio;
    for (int i = 23; i > 0; i -= 2)
        sum = sum * square + 1.0 / i;
    return 2 * ratio * sum + exponent * LN_2;
}

/* e^x = 2^n * e^r with |r| below ln 2; what is out of bounds becomes 0 or infinity. */
static inline double exponential(double x)
{
    double result = 1;
    int doublings;
    if (x < -700 || x > 700)
        return x < 0 ? 0 : __builtin_inf();
    doublings = (int)(x / LN_2);
    x -= doublings * LN_2;
    for (int i = 20; i > 0; i--)
        result = 1 + x / i * result;
    for (; doublings > 0; doublings--)
        result *= 2;
    for (; doublings < 0; doublings++)
        result /= 2;
    return result;
}

/* Mean 0, deviation 1, by Marsaglia's polar method: u * sqrt(-2 ln s / s). */
static inline double random_normal(uint64_t *state)
{
    double u, v, s;
    do {
        u = 2 * random_share(state) - 1;
        v = 2 * random_share(state) - 1;
        s = u * u + v * v;
    } while (s >= 1 || s <= 0 || u == 0);
    return (u < 0 ? -1 : 1) * exponential(natural_log(u * u * -2 * natural_log(s) / s) / 2);
}

/* ns */
static inline uint64_t draw_delay(const struct delay *delay, uint64_t *state)
{
    double drawn = delay->first;
    if (delay->shape == DELAY_EXPONENTIAL)
        drawn *= -natural_log(1 - random_share(state));
    else if (delay->shape == DELAY_LOGNORMAL)
        drawn *= exponential(delay->second * random_normal(state));
    else if (delay->shape == DELAY_UNIFORM)
        drawn += (delay->second - delay->first) * random_share(state);
    return (uint64_t)(drawn < DELAY_LONGEST_NS ? drawn : DELAY_LONGEST_NS);
}

/* ---- what is due when: a binary heap ------------------------------------------------------------------- */

struct due {
    uint64_t at;        /* ns */
    void *item;
};

struct due_heap {
    struct due *entries;
    size_t count, room;
};

/* False: out of memory. */
static inline bool due_push(struct due_heap *heap, uint64_t at, void *item)
{
    size_t place = heap->count;
    if (heap->count == heap->room) {
        size_t room = heap->room ? heap->room * 2 : 64;
        struct due *larger = reallocarray(heap->entries, room, sizeof *larger);
        if (!larger)
            return false;
        heap->entries = larger;
        heap->room = room;
    }
    heap->count++;
    for (; place && heap->entries[(place - 1) / 2].at > at; place = (place - 1) / 2)
        heap->entries[place] = heap->entries[(place - 1) / 2];
    heap->entries[place] = (struct due){.at = at, .item = item};
    return true;
}

/* Takes the first one due off a heap that is not empty. */
static inline struct due due_pop(struct due_heap *heap)
{
    struct due first = heap->entries[0], last = heap->entries[--heap->count];
    size_t place = 0, child;
    while ((child = 2 * place + 1) < heap->count) {
        if (child + 1 < heap->count && heap->entries[child + 1].at < heap->entries[child].at)
            child++;
        if (heap->entries[child].at >= last.at)
            break;
        heap->entries[place] = heap->entries[child];
        place = child;
    }
    heap->entries[place] = last;
    return first;
}

#endif
