/*
 * The parser of HTTP/1.1 answers of openloop.c: takes bytes as they come, in pieces of any size, and says when the
 * answer is whole. It is strict, for what it measures are proxies: a line ends in CR LF, a field has a name, an
 * answer has one length. Interim answers (1xx) are passed over.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef unsigned long long u64;     /* %llu */

enum { HEAD_LIMIT = 64 * 1024 };    /* bytes of a head, of the trailers, of a chunk's size line */

/* Up to TRAILER they are lines, then bytes of a body, then ends. */
enum state {
    STATUS_LINE, FIELD, CHUNK_SIZE, CHUNK_END, TRAILER,
    COUNTED_BODY, CHUNK_DATA, ENDLESS_BODY,
    WHOLE, BROKEN,
};

struct answer {
    enum state state;
    int status;
    bool to_head;                           /* it answers HEAD: no body whatever its fields say */
    bool chunked, coded, counted;           /* coded: has a Transfer-Encoding; counted: a Content-Length */
    bool close;                             /* the connection ends with it */
    bool retry_after;                       /* it says when to come again */
    u64 left;                               /* of the body or chunk */
    size_t head_bytes;                      /* what HEAD_LIMIT is for */
    char *partial;                          /* owned, kept for the next answer: a line that is not whole yet */
    size_t partial_bytes;
};

static void begin_answer(struct answer *answer, bool to_head)
{
    *answer = (struct answer){.to_head = to_head, .partial = answer->partial};
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool equals(const char *text, size_t length, const char *word)
{
    return length == strlen(word) && strncasecmp(text, word, length) == 0;
}

/* The next element of a list with commas, without the blanks around it; false at the list's end. */
static bool next_element(const char **rest, const char *end, const char **element, size_t *length)
{
    const char *from = *rest, *to;
    while (from < end && (is_blank(*from) || *from == ','))
        from++;
    for (to = from; to < end && *to != ','; to++)
        ;
    *rest = to;
    while (to > from && is_blank(to[-1]))
        to--;
    *element = from;
    *length = (size_t)(to - from);
    return to > from;
}

/* A number below 2^60 that fills the text. */
static bool parse_number(const char *text, size_t length, unsigned base, u64 *number)
{
    *number = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned c = (unsigned char)text[i];
        unsigned digit = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' ? (c | 0x20) - 'a' + 10 : base;
        if (digit >= base || *number >> 56)
            return false;
        *number = *number * base + digit;
    }
    return length > 0;
}

static bool take_status_line(struct answer *answer, const char *line, size_t length)
{
    u64 status;
    if (length < 12 || memcmp(line, "HTTP/1.", 7) != 0 || (line[7] != '0' && line[7] != '1') || line[8] != ' '
        || (length > 12 && line[12] != ' ') || !parse_number(line + 9, 3, 10, &status) || status < 100)
        return false;
    answer->status = (int)status;
    answer->close = line[7] == '0';
    answer->state = FIELD;
    return true;
}

static bool take_field(struct answer *answer, const char *line, size_t length)
{
    const char *end = line + length, *colon = memchr(line, ':', length), *value, *element;
    size_t name, size;
    u64 number;
    if (!colon || colon == line || is_blank(line[0]) || is_blank(colon[-1]))
        return false;
    name = (size_t)(colon - line);
    value = colon + 1;
    if (equals(line, name, "content-length")) {
        bool alone = next_element(&value, end, &element, &size) && value == end;
        if (!alone || !parse_number(element, size, 10, &number) || (answer->counted && number != answer->left))
            return false;
        answer->counted = true;
        answer->left = number;
    } else if (equals(line, name, "transfer-encoding")) {
        answer->coded = true;
        while (next_element(&value, end, &element, &size))
            answer->chunked = equals(element, size, "chunked");     /* the last one decides */
    } else if (equals(line, name, "connection")) {
        while (next_element(&value, end, &element, &size)) {
            if (equals(element, size, "close"))
                answer->close = true;
            else if (equals(element, size, "keep-alive"))
                answer->close = false;
        }
    } else if (equals(line, name, "retry-after")) {
        answer->retry_after = next_element(&value, end, &element, &size);
    }
    return true;
}

static bool end_head(struct answer *answer)
{
    if ((answer->coded && answer->counted) || answer->status == 101)
        return false;                       /* two lengths; a change of protocol that nobody asked for */
    if (answer->status < 200) {             /* an interim answer; the limit of the head goes on */
        size_t head_bytes = answer->head_bytes;
        begin_answer(answer, answer->to_head);
        answer->head_bytes = head_bytes;
    } else if (answer->to_head || answer->status == 204 || answer->status == 304) {
        answer->state = WHOLE;
    } else if (answer->chunked) {
        answer->state = CHUNK_SIZE;
        answer->head_bytes = 0;
    } else if (answer->counted) {
        answer->state = answer->left ? COUNTED_BODY : WHOLE;
    } else {
        answer->state = ENDLESS_BODY;
        answer->close = true;
    }
    return true;
}

static bool take_chunk_size(struct answer *answer, const char *line, size_t length)
{
    const char *extension = memchr(line, ';', length);
    size_t digits = extension ? (size_t)(extension - line) : length;
    while (digits && is_blank(line[digits - 1]))
        digits--;
    if (!parse_number(line, digits, 16, &answer->left))
        return false;
    answer->state = answer->left ? CHUNK_DATA : TRAILER;
    answer->head_bytes = 0;
    return true;
}

/* One line without its end. False: it is not HTTP. */
static bool take_line(struct answer *answer, const char *line, size_t length)
{
    switch (answer->state) {
    case STATUS_LINE:
        return take_status_line(answer, line, length);
    case FIELD:
        return length ? take_field(answer, line, length) : end_head(answer);
    case CHUNK_SIZE:
        return take_chunk_size(answer, line, length);
    case CHUNK_END:
        answer->state = CHUNK_SIZE;
        return length == 0;
    default:                                /* TRAILER */
        if (length == 0)
            answer->state = WHOLE;
        return length == 0 || memchr(line, ':', length);
    }
}

static size_t feed_line(struct answer *answer, const char *bytes, size_t count)
{
    const char *newline = memchr(bytes, '\n', count), *line = bytes;
    size_t used = newline ? (size_t)(newline - bytes) + 1 : count, length = used;
    answer->head_bytes += used;
    if (answer->head_bytes > HEAD_LIMIT) {
        answer->state = BROKEN;
        return used;
    }
    if (!newline || answer->partial_bytes) {
        answer->partial = realloc(answer->partial, answer->partial_bytes + used);
        if (!answer->partial)
            abort();
        memcpy(answer->partial + answer->partial_bytes, bytes, used);
        answer->partial_bytes += used;
        line = answer->partial;
        length = answer->partial_bytes;
    }
    if (newline) {
        answer->partial_bytes = 0;
        if (length < 2 || line[length - 2] != '\r' || !take_line(answer, line, length - 2))
            answer->state = BROKEN;
    }
    return used;
}

/* Returns how many bytes were used; fewer than `count` only when the answer is whole or broken. */
static size_t feed_answer(struct answer *answer, const char *bytes, size_t count)
{
    size_t used = 0;
    while (used < count && answer->state < WHOLE) {
        u64 rest = count - used, step = answer->left < rest ? answer->left : rest;
        if (answer->state <= TRAILER) {
            used += feed_line(answer, bytes + used, rest);
        } else if (answer->state == ENDLESS_BODY) {
            used = count;
        } else {
            used += step;
            answer->left -= step;
            if (answer->left == 0)
                answer->state = answer->state == COUNTED_BODY ? WHOLE : CHUNK_END;
        }
    }
    return used;
}
