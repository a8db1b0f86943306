/*
 * What the origin answers: whole messages that are built once, and found by their path.
 */
#ifndef ORIGIN_ANSWERS_H
#define ORIGIN_ANSWERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "origin_die.h"

enum { HEAD_ROOM = 512, NUMBER_ROOM = HEAD_ROOM + 24 };    /* for an answer's head; with a number behind it */

struct message {
    char *bytes;
    size_t head, body;          /* how many bytes they have */
};

struct answer {
    const char *path;
    size_t path_bytes;
    int status;
    size_t body_bytes;
    struct message keep, close; /* without and with `Connection: close` */
};

#define PATH(text) .path = text, .path_bytes = sizeof text - 1

static struct answer answers[] = {
    {PATH("/"), .status = 200, .body_bytes = 128},
    {PATH("/echo-length"), .status = 200},    /* built for each request */
    {PATH("/small"), .status = 200, .body_bytes = 128},
    {PATH("/16k"), .status = 200, .body_bytes = 16 * 1024},
    {PATH("/128k"), .status = 200, .body_bytes = 128 * 1024},
    {PATH("/256k"), .status = 200, .body_bytes = 256 * 1024},
    {PATH("/1m"), .status = 200, .body_bytes = 1024 * 1024},
    {PATH("/500"), .status = 500, .body_bytes = 32},
    {.status = 404, .body_bytes = 32},
    {.status = 400, .body_bytes = 32},
};
enum { ANSWERS = sizeof answers / sizeof answers[0], ECHO = 1, NOT_FOUND = ANSWERS - 2, BAD_REQUEST };

static struct answer failures[100];     /* with a status of 500 and up; built when first needed */

static inline const char *reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "Server Error";
    }
}

/* The head's length. */
static size_t write_head(char *to, int status, size_t body_bytes, bool close_after)
{
    char date[64];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &utc));
    return (size_t)snprintf(to, HEAD_ROOM,
        "HTTP/1.1 %d %s\r\nServer: origin\r\nDate: %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n%s\r\n",
        status, reason(status), date, body_bytes, close_after ? "Connection: close\r\n" : "");
}

static void build_message(struct message *message, const struct answer *answer, bool close_after)
{
    message->bytes = checked(malloc(HEAD_ROOM + answer->body_bytes));
    message->head = write_head(message->bytes, answer->status, answer->body_bytes, close_after);
    message->body = answer->body_bytes;
    memset(message->bytes + message->head, 'x', message->body);
}

static void build_answer(struct answer *answer)
{
    build_message(&answer->keep, answer, false);
    build_message(&answer->close, answer, true);
}

/* An answer whose body is this number, in the caller's NUMBER_ROOM bytes. */
static struct message number_message(char *bytes, uint64_t number, bool close_after)
{
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    struct message message = {.bytes = bytes, .body = (size_t)length};
    message.head = write_head(bytes, 200, message.body, close_after);
    memcpy(bytes + message.head, digits, message.body);
    return message;
}

static const struct answer *failure_answer(int status)
{
    struct answer *answer = &failures[status - 500];
    if (!answer->status) {
        *answer = (struct answer){.status = status, .body_bytes = 32};
        build_answer(answer);
    }
    return answer;
}

static const struct answer *find_answer(const char *path, size_t length)
{
    if (length >= 1 && path[0] == '/' && (length == 1 || path[1] == '?'))
        return &answers[0];
    for (int i = NOT_FOUND - 1; i > 0; i--) {
        size_t prefix = answers[i].path_bytes;
        if (length >= prefix && memcmp(path, answers[i].path, prefix) == 0
            && (length == prefix || path[prefix] == '/' || path[prefix] == '?'))
            return &answers[i];
    }
    return &answers[NOT_FOUND];
}

#endif
