/*
 * What the load and the origin of the soak run have in common: the body that belongs to an id, heads, framings.
 *
 * A body is cut out of an endless text of blocks of 32 bytes: the id (chaos_id.h), then 16 bytes that come of the id
 * and of the block's number. A byte that is not in its place is seen, and so is whose it was.
 */
#ifndef SOAK_WIRE_H
#define SOAK_WIRE_H

#include <strings.h>
#include <sys/socket.h>
#include <time.h>

#include "../chaos/chaos_id.h"

typedef unsigned long long u64;     /* %llu */

enum { BLOCK = 32, LINE_LIMIT = 64 };

static inline u64 read_clock(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (u64)time.tv_sec * 1000000000u + (u64)time.tv_nsec;
}

/* splitmix64 (Steele, Lea, Flood 2014) */
static inline u64 mix(u64 mixed)
{
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

/* ---- bodies ---------------------------------------------------------------------------------------------- */

static inline void block_write(char *to, u64 id, u64 number)
{
    u64 first = mix(id * 0x9e3779b97f4a7c15u + number), second = mix(first + number);
    id_write(to, id);
    memcpy(to + ID_BYTES, &first, 8);
    memcpy(to + ID_BYTES + 8, &second, 8);
}

/* The bytes of the id's text from `offset` on. */
static inline void text_write(char *to, u64 id, u64 offset, size_t bytes)
{
    char block[BLOCK];
    for (size_t at = 0; at < bytes;) {
        size_t from = (size_t)((offset + at) % BLOCK), rest = BLOCK - from, step = bytes - at < rest ? bytes - at : rest;
        block_write(block, id, (offset + at) / BLOCK);
        memcpy(to + at, block + from, step);
        at += step;
    }
}

static inline enum body_verdict text_check(const char *text, u64 id, u64 offset, size_t bytes)
{
    char block[BLOCK];
    uint64_t other;
    for (size_t at = 0; at < bytes;) {
        size_t from = (size_t)((offset + at) % BLOCK), rest = BLOCK - from, step = bytes - at < rest ? bytes - at : rest;
        block_write(block, id, (offset + at) / BLOCK);
        if (memcmp(text + at, block + from, step) != 0) {
            for (; at + ID_BYTES <= bytes; at++)
                if (id_read(text + at, &other) && other != id)
                    return BODY_OF_ANOTHER;
            return BODY_CORRUPT;
        }
        at += step;
    }
    return BODY_RIGHT;
}

/* ---- heads ----------------------------------------------------------------------------------------------- */

/* The value of a field of a head that ends in its empty line; NULL: it has none. */
static inline const char *head_field(const char *head, size_t bytes, const char *name, size_t *length)
{
    const char *line = head, *end = head + bytes;
    size_t name_bytes = strlen(name);
    while ((line = memmem(line, (size_t)(end - line), "\r\n", 2))) {
        line += 2;
        if ((size_t)(end - line) > name_bytes && line[name_bytes] == ':' && strncasecmp(line, name, name_bytes) == 0) {
            const char *value = line + name_bytes + 1, *stop = memmem(value, (size_t)(end - value), "\r\n", 2);
            while (value < stop && *value == ' ')
                value++;
            *length = stop ? (size_t)(stop - value) : 0;
            return value;
        }
    }
    return NULL;
}

static inline bool field_is(const char *head, size_t bytes, const char *name, const char *wanted)
{
    size_t length = 0;
    const char *value = head_field(head, bytes, name, &length);
    return value && length == strlen(wanted) && strncasecmp(value, wanted, length) == 0;
}

/* A decimal number that fills the text. */
static inline bool decimal(const char *text, size_t length, u64 *number)
{
    *number = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9' || *number >> 56)
            return false;
        *number = *number * 10 + (u64)(text[i] - '0');
    }
    return length > 0;
}

/* ---- framings -------------------------------------------------------------------------------------------- */

enum framing { NO_BODY, COUNTED, CHUNKED, ENDLESS };
enum framed { READING, WHOLE, BROKEN };

struct reader {
    enum framing framing;
    enum framed state;
    enum { SIZE_LINE, DATA, DATA_END, TRAILERS } part;  /* of a chunk */
    u64 left;
    char line[LINE_LIMIT];
    size_t line_bytes;
};

static inline void reader_begin(struct reader *reader, enum framing framing, u64 length)
{
    *reader = (struct reader){.framing = framing, .left = framing == COUNTED ? length : 0};
    if (framing == NO_BODY || (framing == COUNTED && !length))
        reader->state = WHOLE;
}

/* By the fields of a head. False: it has two lengths, or one that is no number. */
static inline bool reader_of_head(struct reader *reader, const char *head, size_t bytes, enum framing otherwise)
{
    size_t length = 0;
    u64 count = 0;
    const char *value = head_field(head, bytes, "content-length", &length);
    bool chunked = field_is(head, bytes, "transfer-encoding", "chunked");
    if (value && (chunked || !decimal(value, length, &count)))
        return false;
    reader_begin(reader, chunked ? CHUNKED : value ? COUNTED : otherwise, count);
    return true;
}

static inline void take_chunk_line(struct reader *reader)
{
    char *end;
    if (reader->line_bytes < 2 || reader->line[reader->line_bytes - 2] != '\r') {
        reader->state = BROKEN;
        return;
    }
    reader->line[reader->line_bytes - 2] = '\0';
    if (reader->part == SIZE_LINE) {
        reader->left = strtoull(reader->line, &end, 16);
        reader->state = end == reader->line || *end ? BROKEN : READING;
        reader->part = reader->left ? DATA : TRAILERS;
    } else if (reader->line_bytes != 2) {   /* a trailer, or bytes behind a chunk: nobody here sends either */
        reader->state = BROKEN;
    } else if (reader->part == DATA_END) {
        reader->part = SIZE_LINE;
    } else {
        reader->state = WHOLE;
    }
    reader->line_bytes = 0;
}

/* Takes a step and returns its bytes; `data` and `data_bytes` is what of them belongs to the body. */
static inline size_t reader_step(struct reader *reader, const char *bytes, size_t count, const char **data,
                                 size_t *data_bytes)
{
    size_t step = count;
    *data = bytes;
    *data_bytes = 0;
    if (reader->framing == CHUNKED && reader->part != DATA) {
        const char *newline = memchr(bytes, '\n', count);
        step = newline ? (size_t)(newline - bytes) + 1 : count;
        if (reader->line_bytes + step > LINE_LIMIT) {
            reader->state = BROKEN;
            return 0;
        }
        memcpy(reader->line + reader->line_bytes, bytes, step);
        reader->line_bytes += step;
        if (newline)
            take_chunk_line(reader);
        return step;
    }
    if (reader->framing != ENDLESS) {
        step = count < reader->left ? count : (size_t)reader->left;
        reader->left -= step;
        if (!reader->left && reader->framing == CHUNKED)
            reader->part = DATA_END;
        else if (!reader->left)
            reader->state = WHOLE;
    }
    *data_bytes = step;
    return step;
}

/* A piece of a body that is sent: as it is, or as a chunk; the room of `to` is CHUNK_HEAD + bytes + 2. */
enum { CHUNK_HEAD = 16 };

static inline size_t piece_write(char *to, bool chunked, u64 id, u64 offset, size_t bytes)
{
    size_t head = chunked ? (size_t)snprintf(to, CHUNK_HEAD, "%zx\r\n", bytes) : 0;
    text_write(to + head, id, offset, bytes);
    if (!chunked)
        return bytes;
    memcpy(to + head + bytes, "\r\n", 2);
    return head + bytes + 2;
}

#endif
