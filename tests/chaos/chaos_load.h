/*
 * What the loads of the fault tests share: a clock, random numbers, latencies, error codes, and whose an answer is.
 */
#ifndef CHAOS_LOAD_H
#define CHAOS_LOAD_H

#include <stdio.h>
#include <time.h>

#include "../../bench/openloop_answer.h"
#include "chaos_id.h"

static u64 read_clock(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (u64)time.tv_sec * 1000000000u + (u64)time.tv_nsec;
}

/* splitmix64 (Steele, Lea, Flood 2014) */
static u64 mixed_random(u64 *state)
{
    u64 mixed = *state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

/* ---- latencies ------------------------------------------------------------------------------------------- */

/* 32 steps for each power of two of us. */
enum { STEPS = 32, STEP_SHIFT = 5, LATENCY_SLOTS = 40 * STEPS };

static int latency_slot(u64 us)
{
    int shift = 58 - __builtin_clzll(us | (2 * STEPS - 1));
    int slot = shift * STEPS + (int)(us >> shift);
    return slot < LATENCY_SLOTS ? slot : LATENCY_SLOTS - 1;
}

static u64 quantile(const u64 *histogram, double share)
{
    u64 total = 0, below = 0;
    for (int slot = 0; slot < LATENCY_SLOTS; slot++)
        total += histogram[slot];
    for (int slot = 0; slot < LATENCY_SLOTS && total; slot++) {
        int shift = slot < 2 * STEPS ? 0 : slot / STEPS - 1;
        below += histogram[slot];
        if ((double)below >= share * (double)total)
            return (u64)(slot - shift * STEPS + 1) << shift;
    }
    return 0;
}

/* ---- the bytes of an answer ------------------------------------------------------------------------------ */

struct received {
    char *bytes;                /* owned */
    size_t room, count;
};

static void keep_received(struct received *received, const char *bytes, size_t count)
{
    if (received->room < received->count + count) {
        received->room = (received->count + count) * 2;
        received->bytes = checked(realloc(received->bytes, received->room));
    }
    memcpy(received->bytes + received->count, bytes, count);
    received->count += count;
}

/* The value of a field of the answer's head; NULL: it has none. The last byte of the head is its line's end. */
static const char *field(const struct received *received, const char *name, size_t *length)
{
    const char *line = received->bytes, *end = line + received->count;
    size_t name_bytes = strlen(name);
    *length = 0;
    while (received->count && (line = memmem(line, (size_t)(end - line), "\r\n", 2))) {
        line += 2;
        if (end - line < 2 || memcmp(line, "\r\n", 2) == 0)
            return NULL;
        if ((size_t)(end - line) > name_bytes && strncasecmp(line, name, name_bytes) == 0 && line[name_bytes] == ':') {
            const char *value = line + name_bytes + 1, *stop;
            while (value < end && *value == ' ')
                value++;
            stop = memmem(value, (size_t)(end - value), "\r\n", 2);
            *length = stop ? (size_t)(stop - value) : 0;
            return value;
        }
    }
    return NULL;
}

enum whose { ITS_OWN, NO_SUCCESS, OF_ANOTHER, NOBODYS };

/* Of a whole answer; `wanted` bytes of body belong to a good one. */
static enum whose whose_answer(const struct received *received, int status, u64 asked, size_t wanted)
{
    const char *body = (const char *)memmem(received->bytes, received->count, "\r\n\r\n", 4) + 4, *id;
    size_t length, body_bytes = (size_t)(received->bytes + received->count - body);
    enum body_verdict verdict;
    uint64_t number = 0;
    id = field(received, "x-chaos-id", &length);
    if (id && !(length == ID_BYTES && id_read(id, &number)))
        id = NULL;
    if (id && number != asked)
        return OF_ANOTHER;
    if (status / 100 != 2)
        return NO_SUCCESS;
    verdict = id_body_check(body, 0, body_bytes, asked);
    if (verdict == BODY_OF_ANOTHER)
        return OF_ANOTHER;
    return id && verdict == BODY_RIGHT && body_bytes == wanted ? ITS_OWN : NOBODYS;
}

/* ---- error codes ----------------------------------------------------------------------------------------- */

/* By the values of `x-fastmesh-error`. */
static struct { char code[40]; u64 count; } errors[32];

static void count_error(const char *code, size_t length)
{
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].count && (strlen(errors[i].code) != length || memcmp(errors[i].code, code, length) != 0))
            continue;
        if (!errors[i].count)
            snprintf(errors[i].code, sizeof errors[i].code, "%.*s", (int)length, code);
        errors[i].count++;
        return;
    }
}

static void print_errors(void)
{
    for (size_t i = 0; i < sizeof errors / sizeof errors[0] && errors[i].count; i++)
        printf(" error_%s=%llu", errors[i].code, errors[i].count);
}

#endif
