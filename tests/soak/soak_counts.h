/*
 * What the load of the soak run counts: a record for each kind of traffic in a mapped file, which is read while it
 * runs. All fields are u64, in the order of `struct counts`; `programs.py` reads them by that.
 */
#ifndef SOAK_COUNTS_H
#define SOAK_COUNTS_H

#include "soak_wire.h"

enum { NAME_BYTES = 24, CAUSES = 24, STEP_SHIFT = 2, STEPS = 1 << STEP_SHIFT, LATENCY_SLOTS = 40 * STEPS };

enum result { OK, WRONG, CORRUPT, PROTOCOL, STATUS, TRUNCATED, RESET, TIMEOUT, CONNECT, RESULTS };
static const char *const result_names[RESULTS] = {
    "ok", "wrong", "corrupt", "protocol", "status", "truncated", "reset", "timeout", "connect",
};

struct cause {
    char name[NAME_BYTES];
    u64 count;
};

struct counts {
    char name[NAME_BYTES];
    u64 active;         /* connections with something in progress */
    u64 sent;           /* requests, and messages in tunnels and relays */
    u64 ok;
    u64 mismatched;     /* answers that were not those of their requests */
    u64 failed;         /* requests that were not answered as they should be */
    u64 left;           /* given up by the client, on purpose or since the connection was announced to end */
    u64 late;           /* not begun when they should have: too many were in progress */
    u64 bytes_sent, bytes_received;
    struct cause causes[CAUSES];
    u64 latency[LATENCY_SLOTS];     /* of what is ok, in us, STEPS steps for each power of two */
};

static inline struct counts *counts_map(const char *path, size_t kinds)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    struct counts *counts;
    if (fd < 0 || ftruncate(fd, (off_t)(kinds * sizeof *counts)) < 0)
        die(path);
    counts = mmap(NULL, kinds * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (counts == MAP_FAILED)
        die("mmap");
    close(fd);
    return counts;
}

static inline void count_latency(struct counts *counts, u64 us)
{
    int shift = 63 - STEP_SHIFT - __builtin_clzll(us | (2 * STEPS - 1));
    int slot = shift * STEPS + (int)(us >> shift);
    counts->latency[slot < LATENCY_SLOTS ? slot : LATENCY_SLOTS - 1]++;
}

/* The last place takes what there is no place for. */
static inline void count_cause(struct counts *counts, const char *name, size_t length)
{
    struct cause *cause = counts->causes;
    if (length >= NAME_BYTES)
        length = NAME_BYTES - 1;
    while (cause < counts->causes + CAUSES - 1 && cause->count
           && (strlen(cause->name) != length || memcmp(cause->name, name, length) != 0))
        cause++;
    if (!cause->count)
        memcpy(cause->name, name, length);
    cause->count++;
}

#endif
