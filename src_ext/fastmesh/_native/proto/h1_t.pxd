"""HTTP/1 messages as parsed: limits, request, response, and what the emitters are told. Types only.

All slices borrow from the buffer that was parsed (or from constants) and live as long as it does. The structs
are large (the field array); keep one of each per worker and reuse it: the parsers write only what they need
and never clear. ``h1_parse.pxd`` and ``h1_response.pxd`` fill ``h1_req_t`` and ``h1_resp_t``; ``h1_emit.pxd``
writes heads from them.

Signatures (all ``cdef inline … noexcept nogil``):

h1_parse.pxd
    int32_t h1_parse_request(const uint8_t *buf, uint32_t len, uint32_t *scan, const h1_limits_t *limits,
                             h1_req_t *out)
h1_response.pxd (h1_parse.pxd has it, too)
    int32_t h1_parse_response(const uint8_t *buf, uint32_t len, uint32_t *scan, const h1_limits_t *limits,
                              uint32_t asked, h1_resp_t *out)              # asked: H1_ASKED_… bits
h1_emit.pxd
    int32_t h1_emit_request(const h1_req_t *req, const h1_forward_t *fwd, uint8_t *out, uint32_t cap)
    bint    h1_response_verbatim(const h1_resp_t *resp, const h1_reply_t *reply)
    int32_t h1_emit_response(const h1_resp_t *resp, const h1_reply_t *reply, uint8_t *out, uint32_t cap)
    int32_t h1_emit_error(int error, const h1_own_t *own, uint8_t *out, uint32_t cap)
    int32_t h1_emit_fixed(uint32_t status, slice_t body, const h1_own_t *own, uint8_t *out, uint32_t cap)
    int32_t h1_emit_redirect(uint32_t status, slice_t location, const h1_own_t *own, uint8_t *out,
                             uint32_t cap)
    int32_t h1_emit_continue(uint8_t *out, uint32_t cap)                   # HTTP/1.1 100 Continue
h1_find.pxd (NULL, or a slice whose ptr is NULL: absent)
    const field_t *h1_find_field(const field_t *fields, uint32_t n, const uint8_t *lower_name,
                                 uint32_t name_len)
    slice_t h1_cookie(const field_t *fields, uint32_t n, const uint8_t *name, uint32_t name_len)
    slice_t h1_query_param(slice_t query, const uint8_t *name, uint32_t name_len)
    slice_t h1_forwarded_for(const h1_req_t *req)       # last address of the last X-Forwarded-For
chunked.pxd, proxyproto.pxd: see there.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t

from fastmesh._native.base.field_t cimport field_t, slice_t

cdef enum:
    H1_MAX_FIELDS = 256

# Known methods. Any other token is H1_M_OTHER and is forwarded as it came.
cdef enum:
    H1_M_OTHER = 0
    H1_M_GET = 1
    H1_M_HEAD = 2
    H1_M_POST = 3
    H1_M_PUT = 4
    H1_M_DELETE = 5
    H1_M_OPTIONS = 6
    H1_M_PATCH = 7
    H1_M_TRACE = 8
    H1_M_CONNECT = 9

# How the target was written (RFC 9112 3.2).
cdef enum:
    H1_ORIGIN_FORM = 0
    H1_ABSOLUTE_FORM = 1
    H1_AUTHORITY_FORM = 2
    H1_ASTERISK_FORM = 3

# Framing of a message body, as received and as sent.
cdef enum:
    H1_BODY_NONE = 0  # no body follows the head
    H1_BODY_LENGTH = 1
    H1_BODY_CHUNKED = 2
    H1_BODY_UNTIL_CLOSE = 3  # responses only

# Upgrades that can be passed on; all others are stripped.
cdef enum:
    H1_UPGRADE_WEBSOCKET = 1

# What the request was, for reading its response.
cdef enum:
    H1_ASKED_HEAD = 1
    H1_ASKED_CONNECT = 2
    H1_ASKED_UPGRADE = 4  # the head that went upstream carried Upgrade

# field_t.flags
cdef enum:
    H1_F_DROP = 1  # hop-by-hop, or named in Connection: never forwarded
    H1_F_FOLDED = 2  # response: the value spans lines; written out with spaces instead of the line ends
    H1_F_RESPACE = 4  # white space before the colon (response) or behind the value (request): written without

# Known fields (field_t.id; `seen` of a message has bit `1 << id`).
cdef enum:
    H1_H_OTHER = 0
    H1_H_HOST = 1
    H1_H_CONTENT_LENGTH = 2
    H1_H_TRANSFER_ENCODING = 3
    H1_H_CONNECTION = 4
    H1_H_KEEP_ALIVE = 5
    H1_H_PROXY_CONNECTION = 6
    H1_H_TE = 7
    H1_H_TRAILER = 8
    H1_H_UPGRADE = 9
    H1_H_EXPECT = 10
    H1_H_MAX_FORWARDS = 11
    H1_H_HTTP2_SETTINGS = 12
    H1_H_X_FORWARDED_FOR = 13
    H1_H_X_FORWARDED_PROTO = 14
    H1_H_X_FORWARDED_HOST = 15
    H1_H_X_FORWARDED_OTHER = 16  # any other x-forwarded-…
    H1_H_FORWARDED = 17
    H1_H_X_REAL_IP = 18
    H1_H_X_REQUEST_ID = 19
    H1_H_DATE = 20
    H1_H_COOKIE = 21

ctypedef struct h1_limits_t:
    uint32_t header_bytes  # the whole head, request line included
    uint32_t header_count  # at most H1_MAX_FIELDS
    uint32_t target_bytes
    uint32_t method_bytes

ctypedef struct h1_req_t:
    # request line
    slice_t method
    slice_t target  # what to forward when nothing is rewritten: origin-form or `*`
    slice_t path  # without query; `/` for an empty one, `*` for asterisk-form
    slice_t query  # without `?`; ptr NULL: there was no `?`
    # routing
    slice_t host  # authority of an absolute-form target, else Host, with port; ptr NULL: none (HTTP/1.0)
    slice_t host_name  # the same without port and without one trailing dot; brackets of an IPv6 address stay
    # framing
    uint64_t content_length  # of H1_BODY_LENGTH: at least 1, else 0
    uint32_t nfields
    uint32_t head_start  # leading CRLFs that were skipped
    uint32_t head_len  # from `buf` to the first byte after the blank line: what the parser returned
    uint32_t seen  # 1 << field id
    int32_t max_forwards  # OPTIONS only: answer yourself when 0; -1: absent
    uint8_t method_id
    uint8_t minor  # as received: 0, or 1 and above (treated as 1)
    uint8_t form
    uint8_t body
    uint8_t upgrade  # H1_UPGRADE_… properly asked for (GET, HTTP/1.1, no body, Connection: upgrade)
    uint8_t keep_alive  # the client wants the connection kept (HTTP/1.0: only if it said keep-alive)
    uint8_t expect_continue  # a body follows, and the client waits for 100 before it sends it
    uint8_t te_trailers  # the client accepts trailers
    uint8_t is_head
    uint8_t is_idempotent  # RFC 9110 9.2.2: GET HEAD OPTIONS PUT DELETE TRACE
    uint8_t drops  # some field has a flag: the fields cannot be copied as they stand
    uint8_t has_length  # a Content-Length came with it (`Content-Length: 0` gives H1_BODY_NONE)
    uint8_t respell_framing  # Content-Length has leading zeros, Transfer-Encoding capitals: write our own
    uint8_t bare_query  # absolute-form `http://h?q`: `target` starts with `?` and needs a `/` before it
    field_t fields[256]

ctypedef struct h1_resp_t:
    slice_t reason  # may be empty
    uint64_t content_length  # of H1_BODY_LENGTH (at least 1); for HEAD and 304 what the field said; else 0
    uint32_t nfields
    uint32_t head_len
    uint32_t seen
    int32_t keepalive_timeout_s  # Keep-Alive: timeout=…; -1: absent
    uint16_t status
    uint8_t minor
    uint8_t body  # what follows: NONE for 1xx, 204, 304, HEAD, an accepted CONNECT and 101
    uint8_t keep_alive  # the upstream connection may be used again after this message
    uint8_t upgrade  # 101 with the protocol asked for: a tunnel follows
    uint8_t informational  # 1xx other than 101: another head follows
    uint8_t drops  # some field has H1_F_DROP
    uint8_t respell  # some field has H1_F_FOLDED or H1_F_RESPACE
    uint8_t has_length  # a valid Content-Length came with it and may be passed on (`: 0` gives H1_BODY_NONE)
    uint8_t respell_framing  # as in h1_req_t
    uint8_t plain_line  # HTTP/1.1 and a regular status line: can be copied
    const uint8_t *head  # the buffer that was parsed
    field_t fields[256]

ctypedef struct h1_forward_t:
    # the peer
    slice_t peer_ip  # text, without brackets
    slice_t proto  # "http" or "https"
    slice_t request_id
    uint8_t trusted  # x-forwarded-*, forwarded and x-real-ip are believed: appended to or kept, else replaced
    uint8_t emit_for
    uint8_t emit_proto
    uint8_t emit_host
    uint8_t emit_request_id  # a trusted peer's X-Request-Id is kept
    # the message
    uint8_t body  # framing towards upstream; H1_BODY_LENGTH sends content_length
    uint8_t upgrade  # H1_UPGRADE_… to pass on: at most what req.upgrade has and the listener allows
    uint8_t te_trailers  # send `TE: trailers`
    uint64_t content_length
    slice_t path  # ptr not NULL: replaces the path, the query stays
    slice_t host_override  # ptr not NULL: replaces Host
    slice_t host_default  # Host of an HTTP/1.0 request that has none: the endpoint's address

ctypedef struct h1_reply_t:
    uint8_t client_minor
    uint8_t close  # add `Connection: close`
    uint8_t keep_alive_10  # a client of HTTP/1.0 asked for keep-alive and gets it: `Connection: keep-alive`
    # Framing towards the client: LENGTH, CHUNKED, UNTIL_CLOSE (neither field). NONE keeps the Content-Length
    # of an answer to HEAD, of a 304 and of an empty body, and sends none with 1xx and 204.
    uint8_t body
    uint8_t trailers  # trailers are passed on, so is the Trailer field
    slice_t date  # 29 bytes, added when the response has no Date; ptr NULL: never add

ctypedef struct h1_own_t:  # for answers of the proxy itself
    uint8_t close
    uint8_t head_only  # answer to HEAD: no body bytes, the same Content-Length
    uint8_t client_minor
    uint8_t keep_alive_10
    slice_t date  # 29 bytes; ptr NULL: no Date field
