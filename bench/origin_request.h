/*
 * A request as the origin reads it: of the head what decides the answer, of the body its length.
 */
#ifndef ORIGIN_REQUEST_H
#define ORIGIN_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "origin_answers.h"
#include "origin_chunked.h"

struct request {
    const struct answer *answer;
    bool is_head, close_after;
    enum { NO_BODY, COUNTED, CHUNKED } body;
    uint64_t body_left;         /* of a counted one */
    uint64_t body_bytes;        /* received */
    struct chunked chunked;
};

static bool field_is(const char *line, const char *end, const char *name, const char **value)
{
    size_t length = strlen(name);
    if ((size_t)(end - line) <= length || strncasecmp(line, name, length) != 0 || line[length] != ':')
        return false;
    for (line += length + 1; line < end && (*line == ' ' || *line == '\t'); line++)
        ;
    *value = line;
    return true;
}

/* The value is nothing but what ends here, perhaps with blanks behind. It ends in CR in any case. */
static bool value_ends(const char *value)
{
    return value[strspn(value, " \t")] == '\r';
}

/* What a body's field says of it. False: it is wrong, or there is another. */
static bool read_body_field(struct request *request, const char *value, bool is_length)
{
    size_t digits = strspn(value, "0123456789");
    if (request->body != NO_BODY)
        return false;
    if (!is_length) {
        request->body = CHUNKED;
        return strncasecmp(value, "chunked", 7) == 0 && value_ends(value + 7);
    }
    request->body = COUNTED;
    request->body_left = strtoull(value, NULL, 10);
    return digits && digits < 20 && value_ends(value + digits);
}

/* Reads one whole request head. False: it is none. */
static bool read_head(struct request *request, const char *head, size_t length)
{
    const char *end = head + length, *line = memchr(head, '\r', length), *value;
    const char *path = memchr(head, ' ', (size_t)(line - head));
    const char *path_end = path ? memchr(path + 1, ' ', (size_t)(line - path - 1)) : NULL;
    bool close_after;
    if (!path_end)
        return false;
    *request = (struct request){.is_head = length > 5 && memcmp(head, "HEAD ", 5) == 0};
    request->answer = find_answer(path + 1, (size_t)(path_end - path - 1));
    close_after = line - path_end == 9 && memcmp(path_end + 1, "HTTP/1.0", 8) == 0;
    for (line += 2; line < end - 2; line = (const char *)memchr(line, '\n', (size_t)(end - line)) + 1) {
        char first = (char)(*line | 0x20);
        if (first != 'c' && first != 't')
            continue;
        if (field_is(line, end, "connection", &value)) {
            close_after = strncasecmp(value, "close", 5) == 0 || (close_after && strncasecmp(value, "keep-alive", 10));
        } else if (field_is(line, end, "content-length", &value)) {
            if (!read_body_field(request, value, true))
                return false;
        } else if (field_is(line, end, "transfer-encoding", &value)) {
            if (!read_body_field(request, value, false))
                return false;
        }
    }
    request->close_after = close_after;
    return true;
}

static bool body_to_come(const struct request *request)
{
    return request->body_left || (request->body == CHUNKED && request->chunked.state != CHUNKS_END);
}

static bool body_is_wrong(const struct request *request)
{
    return request->chunked.state == CHUNKS_WRONG;
}

/* Takes what there is of a body that is to come; returns how many bytes. */
static size_t take_body(struct request *request, const char *bytes, size_t count)
{
    if (request->body == CHUNKED)
        return chunked_feed(&request->chunked, bytes, count, &request->body_bytes);
    if (request->body_left < count)
        count = (size_t)request->body_left;
    request->body_left -= count;
    request->body_bytes += count;
    return count;
}

#endif
