/*
 * Ids: 16 bytes, "id" and a number in 14 hex digits, whose lowest bit is 1 for a POST. The body that belongs to an
 * id is the line "<id>\n" again and again, cut at its length: a byte of another exchange is seen wherever it is.
 *
 * A table file has a byte for each number: how often it was received, at most 255. Programs share it by mapping.
 */
#ifndef CHAOS_ID_H
#define CHAOS_ID_H

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../bench/origin_die.h"

enum { ID_BYTES = 16, ID_LINE = ID_BYTES + 1 };

static inline void id_write(char *to, uint64_t number)
{
    memcpy(to, "id", 2);
    for (int i = ID_BYTES - 1; i >= 2; i--, number >>= 4)
        to[i] = "0123456789abcdef"[number & 15];
}

/* False: the 16 bytes are no id. */
static inline bool id_read(const char *from, uint64_t *number)
{
    *number = 0;
    if (memcmp(from, "id", 2) != 0)
        return false;
    for (int i = 2; i < ID_BYTES; i++) {
        char c = from[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        *number = *number << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

static inline void id_body_write(char *to, uint64_t number, size_t bytes)
{
    char line[ID_LINE];
    id_write(line, number);
    line[ID_BYTES] = '\n';
    for (size_t at = 0; at < bytes; at += ID_LINE)
        memcpy(to + at, line, bytes - at < ID_LINE ? bytes - at : ID_LINE);
}

enum body_verdict { BODY_RIGHT, BODY_CORRUPT, BODY_OF_ANOTHER };

/* Looks at `bytes` of a body that begin `offset` bytes behind its start. */
static inline enum body_verdict id_body_check(const char *body, size_t offset, size_t bytes, uint64_t number)
{
    char line[ID_LINE];
    uint64_t other;
    id_write(line, number);
    line[ID_BYTES] = '\n';
    for (size_t at = 0; at < bytes;) {
        size_t from = (offset + at) % ID_LINE, rest = ID_LINE - from, step = bytes - at < rest ? bytes - at : rest;
        if (memcmp(body + at, line + from, step) != 0) {
            for (; at + ID_BYTES <= bytes; at++)
                if (id_read(body + at, &other) && other != number)
                    return BODY_OF_ANOTHER;
            return BODY_CORRUPT;
        }
        at += step;
    }
    return BODY_RIGHT;
}

/* ---- the table ------------------------------------------------------------------------------------------- */

struct id_table {
    uint8_t *counts;    /* NULL: there is none */
    size_t size;
};

static inline struct id_table id_table_open(const char *path)
{
    struct id_table table;
    struct stat file;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &file) < 0)
        die(path);
    table.size = (size_t)file.st_size;
    table.counts = mmap(NULL, table.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (table.counts == MAP_FAILED)
        die("mmap");
    close(fd);
    return table;
}

/* Several processes may count at once; 255 stays. */
static inline void id_table_count(struct id_table *table, uint64_t number)
{
    uint8_t before;
    if (!table->counts || number >= table->size)
        return;
    before = __atomic_load_n(&table->counts[number], __ATOMIC_RELAXED);
    while (before < 255 && !__atomic_compare_exchange_n(&table->counts[number], &before, (uint8_t)(before + 1), true,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

#endif
