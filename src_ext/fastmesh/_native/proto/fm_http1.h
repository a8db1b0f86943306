/* Byte-level helpers of the HTTP/1 parsers: character classes, scans, known names, reason phrases.
 *
 * Every scan stays inside [p, end): nothing is read at or after `end`, so a buffer may end where its mapping
 * ends.
 * Constant tables live here because module-level arrays of Cython are filled at import. */
#ifndef FM_HTTP1_H
#define FM_HTTP1_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define FM_INLINE static inline __attribute__((always_inline))

enum { FM_C_TOKEN = 1, FM_C_TARGET = 2, FM_C_HOST = 4, FM_C_HEX = 8, FM_C_DIGIT = 16 };

/* Token: RFC 9110 5.6.2. Target: 0x21 to 0x7e without `#` (RFC 9112 3.2.1; what URIs exclude beyond that is
 * passed on, RFC 9110 7.7). Host: unreserved and sub-delims without the comma (RFC 3986 3.2.2). */
#define T FM_C_TOKEN
#define G FM_C_TARGET
#define H FM_C_HOST
#define A (T | G | H)
#define X (A | FM_C_HEX)
#define D (X | FM_C_DIGIT)
static const uint8_t fm_class[256] = {
    ['!'] = A, ['"'] = G, ['#'] = T, ['$'] = A, ['%'] = T | G, ['&'] = A, ['\''] = A, ['('] = G | H,
    [')'] = G | H, ['*'] = A, ['+'] = A, [','] = G, ['-'] = A, ['.'] = A, ['/'] = G, ['0'] = D, ['1'] = D,
    ['2'] = D, ['3'] = D, ['4'] = D, ['5'] = D, ['6'] = D, ['7'] = D, ['8'] = D, ['9'] = D, [':'] = G,
    [';'] = G | H, ['<'] = G, ['='] = G | H, ['>'] = G, ['?'] = G, ['@'] = G, ['A'] = X, ['B'] = X,
    ['C'] = X, ['D'] = X, ['E'] = X, ['F'] = X, ['G'] = A, ['H'] = A, ['I'] = A, ['J'] = A, ['K'] = A,
    ['L'] = A, ['M'] = A, ['N'] = A, ['O'] = A, ['P'] = A, ['Q'] = A, ['R'] = A, ['S'] = A, ['T'] = A,
    ['U'] = A, ['V'] = A, ['W'] = A, ['X'] = A, ['Y'] = A, ['Z'] = A, ['['] = G, ['\\'] = G, [']'] = G,
    ['^'] = T | G, ['_'] = A, ['`'] = T | G, ['a'] = X, ['b'] = X, ['c'] = X, ['d'] = X, ['e'] = X,
    ['f'] = X, ['g'] = A, ['h'] = A, ['i'] = A, ['j'] = A, ['k'] = A, ['l'] = A, ['m'] = A, ['n'] = A,
    ['o'] = A, ['p'] = A, ['q'] = A, ['r'] = A, ['s'] = A, ['t'] = A, ['u'] = A, ['v'] = A, ['w'] = A,
    ['x'] = A, ['y'] = A, ['z'] = A, ['{'] = G, ['|'] = T | G, ['}'] = G, ['~'] = A,
};
#undef T
#undef G
#undef H
#undef A
#undef X
#undef D

/* The first byte that is no token character, or `end`. */
FM_INLINE const uint8_t *fm_token_end(const uint8_t *p, const uint8_t *end)
{
    while (end - p >= 4) {
        if (!(fm_class[p[0]] & FM_C_TOKEN)) return p;
        if (!(fm_class[p[1]] & FM_C_TOKEN)) return p + 1;
        if (!(fm_class[p[2]] & FM_C_TOKEN)) return p + 2;
        if (!(fm_class[p[3]] & FM_C_TOKEN)) return p + 3;
        p += 4;
    }
    while (p < end && (fm_class[*p] & FM_C_TOKEN)) p++;
    return p;
}

/* The first byte that may not stand in a field value (a control character other than TAB), or `end`. */
FM_INLINE const uint8_t *fm_value_end(const uint8_t *p, const uint8_t *end)
{
#if defined(__SSE2__)
    const __m128i low = _mm_set1_epi8(0x1f), tab = _mm_set1_epi8(0x09), del = _mm_set1_epi8(0x7f);
    while (end - p >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)p);
        __m128i control = _mm_andnot_si128(_mm_cmpeq_epi8(v, tab), _mm_cmpeq_epi8(_mm_min_epu8(v, low), v));
        int mask = _mm_movemask_epi8(_mm_or_si128(control, _mm_cmpeq_epi8(v, del)));
        if (mask) return p + __builtin_ctz((unsigned)mask);
        p += 16;
    }
#endif
    while (p < end && ((*p >= 0x20 && *p != 0x7f) || *p == 0x09)) p++;
    return p;
}

/* The first byte that may not stand in a request target, or `end`. */
FM_INLINE const uint8_t *fm_target_end(const uint8_t *p, const uint8_t *end)
{
#if defined(__SSE2__)
    const __m128i space = _mm_set1_epi8(0x20), hash = _mm_set1_epi8('#'), del = _mm_set1_epi8(0x7f);
    while (end - p >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)p);
        /* A signed comparison also leaves out 0x80 to 0xff. */
        __m128i bad = _mm_or_si128(_mm_cmpeq_epi8(v, hash), _mm_cmpeq_epi8(v, del));
        int mask = _mm_movemask_epi8(_mm_andnot_si128(bad, _mm_cmpgt_epi8(v, space))) ^ 0xffff;
        if (mask) return p + __builtin_ctz((unsigned)mask);
        p += 16;
    }
#endif
    while (p < end && (fm_class[*p] & FM_C_TARGET)) p++;
    return p;
}

FM_INLINE uint64_t fm_load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

FM_INLINE uint32_t fm_load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* Compares token characters with a lower-case name of letters, digits and dashes. Setting bit 5 maps no other
 * token character onto those (0x0d and 0x10 to 0x19 are none). */
FM_INLINE int fm_name_is(const uint8_t *p, const char *lower, uint32_t len)
{
    const uint64_t bit5 = 0x2020202020202020u;
    const uint8_t *q = (const uint8_t *)lower;
    if (len >= 8) {
        uint64_t differ = 0;
        for (uint32_t i = 0; i + 8 <= len; i += 8) differ |= (fm_load64(p + i) | bit5) ^ fm_load64(q + i);
        return (differ | ((fm_load64(p + len - 8) | bit5) ^ fm_load64(q + len - 8))) == 0;
    }
    if (len >= 4)
        return ((((fm_load32(p) | (uint32_t)bit5) ^ fm_load32(q)) |
                 ((fm_load32(p + len - 4) | (uint32_t)bit5) ^ fm_load32(q + len - 4)))) == 0;
    for (uint32_t i = 0; i < len; i++)
        if ((p[i] | 0x20) != q[i]) return 0;
    return 1;
}

/* Case-insensitive for ASCII letters, byte-exact for all else; `lower` has no upper-case letter. */
FM_INLINE int fm_equal_nocase(const uint8_t *p, const uint8_t *lower, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        uint8_t c = p[i];
        if (c >= 'A' && c <= 'Z') c |= 0x20;
        if (c != lower[i]) return 0;
    }
    return 1;
}

/* Names whose values the proxy understands, or which it must not pass on. The ids are those of h1_t.pxd. */
enum { FM_NAME_X_FORWARDED_OTHER = 16 };

static int fm_spoofs_forwarding(const uint8_t *p, uint32_t len);

FM_INLINE uint32_t fm_name_id(const uint8_t *p, uint32_t len)
{
    uint8_t first = p[0] | 0x20;
#define FM_IS(c, text, id) if (first == c && fm_name_is(p, text, sizeof(text) - 1)) return id
    switch (len) {
    case 2: FM_IS('t', "te", 7); break;
    case 4: FM_IS('h', "host", 1); FM_IS('d', "date", 20); break;
    case 6: FM_IS('c', "cookie", 21); FM_IS('e', "expect", 10); break;
    case 7: FM_IS('u', "upgrade", 9); FM_IS('t', "trailer", 8); break;
    case 9: FM_IS('f', "forwarded", 17); FM_IS('x', "x-real-ip", 18); break;
    case 10: FM_IS('c', "connection", 4); FM_IS('k', "keep-alive", 5); break;
    case 12: FM_IS('m', "max-forwards", 11); FM_IS('x', "x-request-id", 19); break;
    case 14: FM_IS('c', "content-length", 2); FM_IS('h', "http2-settings", 12); break;
    case 15: FM_IS('x', "x-forwarded-for", 13); break;
    case 16: FM_IS('x', "x-forwarded-host", 15); FM_IS('p', "proxy-connection", 6); break;
    case 17: FM_IS('t', "transfer-encoding", 3); FM_IS('x', "x-forwarded-proto", 14); break;
    default: break;
    }
#undef FM_IS
    if (first == 'x' && len >= 9 && fm_spoofs_forwarding(p, len)) return FM_NAME_X_FORWARDED_OTHER;
    return 0;
}

/* Whether a name starts with x-forwarded-, or is one of our names with underscores, which many origins read
 * as dashes (so that a client could slip in what the proxy removes). */
static int fm_spoofs_forwarding(const uint8_t *p, uint32_t len)
{
    char name[20];
    if (len > 12 && fm_name_is(p, "x-forwarded-", 12)) return 1;
    if (!memchr(p, '_', len)) return 0;
    uint32_t n = len < sizeof(name) ? len : (uint32_t)sizeof(name);
    for (uint32_t i = 0; i < n; i++) name[i] = p[i] == '_' ? '-' : (char)(p[i] | 0x20);
    if (n >= 12 && memcmp(name, "x-forwarded-", 12) == 0) return 1;
    if (len == 9) return memcmp(name, "x-real-ip", 9) == 0;
    return len == 12 && memcmp(name, "x-request-id", 12) == 0;
}

/* Fields that frame, route, authenticate or describe a message and so may not come as trailers (RFC 9110
 * 6.5.1), besides all that fm_name_id knows. */
static int fm_forbidden_trailer(const uint8_t *p, uint32_t len)
{
    static const char *const names[] = {
        "accept", "age", "allow", "authorization", "cache-control", "content-encoding", "content-location",
        "content-range", "content-type", "expires", "if-match", "if-modified-since", "if-none-match",
        "if-range", "if-unmodified-since", "location", "pragma", "proxy-authenticate",
        "proxy-authorization", "range", "retry-after", "server", "set-cookie", "upgrade-insecure-requests",
        "vary", "via", "warning", "www-authenticate",
    };
    if (fm_name_id(p, len)) return 1;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strlen(names[i]) == len && fm_name_is(p, names[i], len)) return 1;
    return 0;
}

/* Value of a hex digit, 255 for any other byte. */
FM_INLINE uint8_t fm_hex(uint8_t c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 255;
}

/* Methods are case-sensitive (RFC 9110 9.1). The ids are those of h1_t.pxd. */
FM_INLINE uint32_t fm_method_id(const uint8_t *p, uint32_t len)
{
    switch (len) {
    case 3: return memcmp(p, "GET", 3) == 0 ? 1 : memcmp(p, "PUT", 3) == 0 ? 4 : 0;
    case 4: return memcmp(p, "HEAD", 4) == 0 ? 2 : memcmp(p, "POST", 4) == 0 ? 3 : 0;
    case 5: return memcmp(p, "PATCH", 5) == 0 ? 7 : memcmp(p, "TRACE", 5) == 0 ? 8 : 0;
    case 6: return memcmp(p, "DELETE", 6) == 0 ? 5 : 0;
    case 7: return memcmp(p, "OPTIONS", 7) == 0 ? 6 : memcmp(p, "CONNECT", 7) == 0 ? 9 : 0;
    default: return 0;
    }
}

/* "HTTP/1.1\r\n", the version that nearly every message has. The caller has checked that ten bytes are
 * there. */
FM_INLINE int fm_is_http11_line(const uint8_t *p)
{
    return memcmp(p, "HTTP/1.1\r\n", 10) == 0;
}

static inline const char *fm_reason(uint32_t status)
{
    switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 102: return "Processing";
    case 103: return "Early Hints";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 203: return "Non-Authoritative Information";
    case 204: return "No Content";
    case 205: return "Reset Content";
    case 206: return "Partial Content";
    case 300: return "Multiple Choices";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 407: return "Proxy Authentication Required";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 418: return "I'm a teapot";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 425: return "Too Early";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 451: return "Unavailable For Legal Reasons";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 507: return "Insufficient Storage";
    case 508: return "Loop Detected";
    case 511: return "Network Authentication Required";
    default: return "Unknown";
    }
}
#endif
