/*
 * A request body in chunks: finds its end and counts its bytes, whatever the pieces it comes in. Strict: a bare
 * LF, a size that is no hexadecimal number, data without its CR LF, or a trailer without a name is an error.
 */
#ifndef ORIGIN_CHUNKED_H
#define ORIGIN_CHUNKED_H

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum chunked_state {
    CHUNK_SIZE_FIRST,       /* the first digit of a size */
    CHUNK_SIZE,
    CHUNK_EXTENSION,        /* behind the size, up to CR */
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_TRAILER_FIRST,    /* the first byte of a trailer, or the CR of the last line */
    CHUNK_TRAILER_NAME,
    CHUNK_TRAILER_VALUE,
    CHUNK_TRAILER_LF,
    CHUNK_LAST_LF,
    CHUNKS_END,
    CHUNKS_WRONG,
};

struct chunked {
    enum chunked_state state;
    uint64_t left;          /* of this chunk's data, 0 behind it; while the size is read, the size so far */
};

static inline enum chunked_state chunked_size_digit(struct chunked *chunked, unsigned char byte)
{
    if (!isxdigit(byte) || chunked->left >> 59)
        return CHUNKS_WRONG;
    chunked->left = chunked->left * 16 + (uint64_t)(isdigit(byte) ? byte - '0' : (byte | 0x20) - 'a' + 10);
    return CHUNK_SIZE;
}

static inline bool chunked_in_name(unsigned char byte)
{
    return isalnum(byte) || (byte && byte < 0x80 && strchr("!#$%&'*+-.^_`|~", byte));
}

static inline bool chunked_in_text(unsigned char byte)
{
    return byte == '\t' || (byte >= ' ' && byte != 0x7f);
}

/* The state behind one byte that is not data. */
static inline enum chunked_state chunked_step(struct chunked *chunked, unsigned char byte)
{
    switch (chunked->state) {
    case CHUNK_SIZE_FIRST:
        return chunked_size_digit(chunked, byte);
    case CHUNK_SIZE:
        if (byte == ';' || byte == ' ' || byte == '\t')
            return CHUNK_EXTENSION;
        return byte == '\r' ? CHUNK_SIZE_LF : chunked_size_digit(chunked, byte);
    case CHUNK_EXTENSION:
        return byte == '\r' ? CHUNK_SIZE_LF : chunked_in_text(byte) ? CHUNK_EXTENSION : CHUNKS_WRONG;
    case CHUNK_SIZE_LF:
        return byte != '\n' ? CHUNKS_WRONG : chunked->left ? CHUNK_DATA : CHUNK_TRAILER_FIRST;
    case CHUNK_DATA_CR:
        return byte == '\r' ? CHUNK_DATA_LF : CHUNKS_WRONG;
    case CHUNK_DATA_LF:
        return byte == '\n' ? CHUNK_SIZE_FIRST : CHUNKS_WRONG;
    case CHUNK_TRAILER_FIRST:
        return byte == '\r' ? CHUNK_LAST_LF : chunked_in_name(byte) ? CHUNK_TRAILER_NAME : CHUNKS_WRONG;
    case CHUNK_TRAILER_NAME:
        return byte == ':' ? CHUNK_TRAILER_VALUE : chunked_in_name(byte) ? CHUNK_TRAILER_NAME : CHUNKS_WRONG;
    case CHUNK_TRAILER_VALUE:
        return byte == '\r' ? CHUNK_TRAILER_LF : chunked_in_text(byte) ? CHUNK_TRAILER_VALUE : CHUNKS_WRONG;
    case CHUNK_TRAILER_LF:
        return byte == '\n' ? CHUNK_TRAILER_FIRST : CHUNKS_WRONG;
    case CHUNK_LAST_LF:
        return byte == '\n' ? CHUNKS_END : CHUNKS_WRONG;
    default:
        return chunked->state;
    }
}

/* Takes bytes up to the end of the body or an error; returns how many, and adds the body's to `body_bytes`. */
static inline size_t chunked_feed(struct chunked *chunked, const char *bytes, size_t count, uint64_t *body_bytes)
{
    size_t used = 0;
    while (used < count && chunked->state < CHUNKS_END) {
        if (chunked->state == CHUNK_DATA) {
            size_t data = chunked->left < count - used ? (size_t)chunked->left : count - used;
            chunked->left -= data;
            *body_bytes += data;
            used += data;
            if (!chunked->left)
                chunked->state = CHUNK_DATA_CR;
        } else {
            chunked->state = chunked_step(chunked, (unsigned char)bytes[used++]);
        }
    }
    return used;
}

#endif
