"""Writing heads: the request that goes upstream, the response that goes to the client, the proxy's own
answers.

Sans-I/O, any thread, nothing is allocated. Each returns the bytes written or an error when `cap` might not do
(a bound is computed first, so that the writing itself checks nothing): the received head plus what is added
plus H1_EMIT_SPARE. The same request is never written with two contradicting fields: fields that the proxy
owns are taken out first and written last.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from fastmesh._native.base.errors cimport (
    FM_E_BAD_REQUEST, FM_E_DRAINING, FM_E_HEADER_TOO_LARGE, FM_E_METHOD_NOT_ALLOWED, FM_E_NO_MEMORY,
    FM_E_OVERLOADED, FM_E_TOO_MANY_CONNECTIONS, FM_E_UPSTREAM_MALFORMED, fm_error_info,
)
from fastmesh._native.base.field_t cimport field_t, slice_t
from fastmesh._native.proto.ctext cimport fm_reason
from fastmesh._native.proto.h1_t cimport (
    H1_ABSOLUTE_FORM, H1_ASTERISK_FORM, H1_BODY_CHUNKED, H1_BODY_LENGTH, H1_BODY_NONE, H1_BODY_UNTIL_CLOSE,
    H1_H_CONTENT_LENGTH, H1_H_DATE, H1_H_FORWARDED, H1_H_HOST, H1_H_MAX_FORWARDS, H1_H_TRAILER,
    H1_H_TRANSFER_ENCODING, H1_H_X_FORWARDED_FOR, H1_H_X_FORWARDED_HOST, H1_H_X_FORWARDED_OTHER,
    H1_H_X_FORWARDED_PROTO, H1_H_X_REAL_IP, H1_H_X_REQUEST_ID, H1_M_PATCH, H1_M_POST, H1_M_PUT,
    H1_ORIGIN_FORM, h1_forward_t, h1_own_t, h1_reply_t, h1_req_t, h1_resp_t,
)
from fastmesh._native.proto.h1_write cimport (
    h1_put, h1_put_chunked, h1_put_fields, h1_put_length, h1_put_number, h1_put_slice,
)

cdef enum:
    H1_EMIT_SPARE = 512  # names, colons and numbers that an emitter may add

cdef enum:
    _FORWARDING = (
        (1 << H1_H_X_FORWARDED_FOR) | (1 << H1_H_X_FORWARDED_PROTO) | (1 << H1_H_X_FORWARDED_HOST)
        | (1 << H1_H_X_FORWARDED_OTHER) | (1 << H1_H_FORWARDED) | (1 << H1_H_X_REAL_IP)
    )


cdef inline bint _keeps_framing(const h1_req_t *req, const h1_forward_t *fwd) noexcept nogil:
    """Whether the framing field that came says just what is to be sent."""
    if req.respell_framing or fwd.body != req.body:
        return False
    return fwd.body != H1_BODY_LENGTH or fwd.content_length == req.content_length


cdef inline bint _replaces_host(const h1_req_t *req, const h1_forward_t *fwd) noexcept nogil:
    return req.form == H1_ABSOLUTE_FORM or fwd.host_override.ptr != NULL or not req.seen & (1 << H1_H_HOST)


cdef inline uint32_t _request_without(const h1_req_t *req, const h1_forward_t *fwd) noexcept nogil:
    """The known fields, by bit of their id, that are not copied."""
    cdef uint32_t without = 0
    if _replaces_host(req, fwd):
        without |= 1 << H1_H_HOST
    if not _keeps_framing(req, fwd):
        without |= (1 << H1_H_CONTENT_LENGTH) | (1 << H1_H_TRANSFER_ENCODING)
    if not fwd.trusted:
        without |= _FORWARDING
        if fwd.emit_request_id:
            without |= 1 << H1_H_X_REQUEST_ID
    elif fwd.emit_for:
        without |= 1 << H1_H_X_FORWARDED_FOR
    if req.max_forwards > 0:
        without |= 1 << H1_H_MAX_FORWARDS
    return without


cdef inline uint8_t *_put_target(uint8_t *p, const h1_req_t *req, const h1_forward_t *fwd) noexcept nogil:
    if fwd.path.ptr != NULL and req.form != H1_ASTERISK_FORM:
        p = h1_put_slice(p, fwd.path)
        if req.query.ptr != NULL:
            p[0] = c"?"
            p = h1_put_slice(p + 1, req.query)
        return p
    if req.bare_query:
        p[0] = c"/"
        p += 1
    return h1_put_slice(p, req.target)


cdef inline uint8_t *_put_request_line(
    uint8_t *p, const h1_req_t *req, const h1_forward_t *fwd,
) noexcept nogil:
    """Request line, and Host where the received one is not to be copied."""
    p = h1_put_slice(p, req.method)
    p[0] = c" "
    p = h1_put(_put_target(p + 1, req, fwd), b" HTTP/1.1\r\n", 11)
    if _replaces_host(req, fwd):
        p = h1_put(p, b"Host: ", 6)
        if fwd.host_override.ptr != NULL:
            p = h1_put_slice(p, fwd.host_override)
        elif req.host.ptr != NULL:
            p = h1_put_slice(p, req.host)
        else:
            p = h1_put_slice(p, fwd.host_default)
        p = h1_put(p, b"\r\n", 2)
    return p


cdef inline uint8_t *_put_forwarded_for(
    uint8_t *p, const h1_req_t *req, const h1_forward_t *fwd,
) noexcept nogil:
    """X-Forwarded-For: what a trusted peer sent, its lines joined, and the peer."""
    cdef uint32_t i
    p = h1_put(p, b"X-Forwarded-For: ", 17)
    if fwd.trusted and req.seen & (1 << H1_H_X_FORWARDED_FOR):
        for i in range(req.nfields):
            if req.fields[i].id == H1_H_X_FORWARDED_FOR and req.fields[i].value_len:
                p = h1_put(h1_put(p, req.fields[i].value, req.fields[i].value_len), b", ", 2)
    return h1_put(h1_put_slice(p, fwd.peer_ip), b"\r\n", 2)


cdef inline uint8_t *_put_forwarding(uint8_t *p, const h1_req_t *req, const h1_forward_t *fwd) noexcept nogil:
    cdef uint32_t kept = req.seen if fwd.trusted else 0
    if fwd.emit_for:
        p = _put_forwarded_for(p, req, fwd)
    if fwd.emit_proto and not kept & (1 << H1_H_X_FORWARDED_PROTO):
        p = h1_put_slice(h1_put(p, b"X-Forwarded-Proto: ", 19), fwd.proto)
        p = h1_put(p, b"\r\n", 2)
    if fwd.emit_host and req.host.len and not kept & (1 << H1_H_X_FORWARDED_HOST):
        p = h1_put_slice(h1_put(p, b"X-Forwarded-Host: ", 18), req.host)
        p = h1_put(p, b"\r\n", 2)
    if fwd.emit_request_id and not kept & (1 << H1_H_X_REQUEST_ID):
        p = h1_put_slice(h1_put(p, b"X-Request-Id: ", 14), fwd.request_id)
        p = h1_put(p, b"\r\n", 2)
    return p


cdef inline uint8_t *_put_request_framing(
    uint8_t *p, const h1_req_t *req, const h1_forward_t *fwd,
) noexcept nogil:
    cdef bint expects
    if fwd.body == H1_BODY_NONE:
        # RFC 9110 8.6: a method that expects content says that there is none.
        expects = req.method_id == H1_M_POST or req.method_id == H1_M_PUT or req.method_id == H1_M_PATCH
        if not (req.has_length and _keeps_framing(req, fwd)) and (req.has_length or expects):
            p = h1_put(p, b"Content-Length: 0\r\n", 19)
    elif not _keeps_framing(req, fwd):
        if fwd.body == H1_BODY_CHUNKED:
            p = h1_put_chunked(p)
        else:
            p = h1_put_length(p, fwd.content_length)
    return p


cdef inline uint8_t *_put_hop(uint8_t *p, const h1_req_t *req, const h1_forward_t *fwd) noexcept nogil:
    """The fields of this hop: an upgrade, TE, a decremented Max-Forwards."""
    if fwd.upgrade:
        if fwd.te_trailers:
            p = h1_put(p, b"Connection: Upgrade, TE\r\nTE: trailers\r\nUpgrade: websocket\r\n", 59)
        else:
            p = h1_put(p, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", 41)
    elif fwd.te_trailers:
        p = h1_put(p, b"Connection: TE\r\nTE: trailers\r\n", 30)
    if req.max_forwards > 0:
        p = h1_put_number(h1_put(p, b"Max-Forwards: ", 14), <uint64_t>(req.max_forwards - 1))
        p = h1_put(p, b"\r\n", 2)
    return p


cdef inline uint64_t _request_bound(const h1_req_t *req, const h1_forward_t *fwd) noexcept nogil:
    """More than the head can take. Only slices that will be written count. A line that is mended does not grow,
    X-Forwarded-For lines that are joined shrink."""
    cdef uint64_t bound = <uint64_t>req.head_len + H1_EMIT_SPARE
    if fwd.path.ptr != NULL:
        bound += fwd.path.len
    if fwd.host_override.ptr != NULL:
        bound += fwd.host_override.len
    elif req.host.ptr == NULL:
        bound += fwd.host_default.len
    if fwd.emit_for:
        bound += fwd.peer_ip.len
    if fwd.emit_proto:
        bound += fwd.proto.len
    if fwd.emit_host:
        bound += req.host.len
    if fwd.emit_request_id:
        bound += fwd.request_id.len
    return bound


cdef inline int32_t h1_emit_request(
    const h1_req_t *req, const h1_forward_t *fwd, uint8_t *out, uint32_t cap,
) noexcept nogil:
    """Writes the head that goes upstream, always HTTP/1.1; its length or -FM_E_HEADER_TOO_LARGE. The buffer
    that the request was parsed from must still be in place."""
    cdef uint8_t *p = out
    cdef uint32_t without
    cdef const uint8_t *fields_end
    if _request_bound(req, fwd) > cap:
        return -FM_E_HEADER_TOO_LARGE
    without = _request_without(req, fwd)
    fields_end = req.method.ptr - req.head_start + req.head_len - 2
    if (
        req.form == H1_ORIGIN_FORM and req.minor == 1 and fwd.path.ptr == NULL and not req.drops
        and not req.seen & without and req.seen & (1 << H1_H_HOST) and fwd.host_override.ptr == NULL
    ):
        p = h1_put(p, req.method.ptr, fields_end - req.method.ptr)
    else:
        p = _put_request_line(p, req, fwd)
        p = h1_put_fields(p, req.fields, req.nfields, without, fields_end)
    p = _put_request_framing(p, req, fwd)
    p = _put_hop(p, req, fwd)
    p = _put_forwarding(p, req, fwd)
    p = h1_put(p, b"\r\n", 2)
    return <int32_t>(p - out)


cdef inline bint _keeps_reply_framing(const h1_resp_t *resp, const h1_reply_t *reply) noexcept nogil:
    return reply.body == resp.body and not resp.respell_framing and (
        resp.body != H1_BODY_NONE or not resp.seen & (1 << H1_H_TRANSFER_ENCODING)
    )


cdef inline bint _adds_date(const h1_resp_t *resp, const h1_reply_t *reply) noexcept nogil:
    return reply.date.ptr != NULL and resp.status >= 200 and not resp.seen & (1 << H1_H_DATE)


cdef inline bint h1_response_verbatim(const h1_resp_t *resp, const h1_reply_t *reply) noexcept nogil:
    """Whether h1_emit_response would write the very bytes that came, so that they can be sent on with the
    body."""
    return (
        resp.plain_line and not resp.drops and not resp.respell and not resp.upgrade
        and not reply.close and not reply.keep_alive_10 and _keeps_reply_framing(resp, reply)
        and (reply.trailers or not resp.seen & (1 << H1_H_TRAILER)) and not _adds_date(resp, reply)
    )


cdef inline uint8_t *_put_status_line(
    uint8_t *p, uint32_t status, const uint8_t *reason, size_t len,
) noexcept nogil:
    p = h1_put(p, b"HTTP/1.1 ", 9)
    p[0] = <uint8_t>(c"0" + status / 100)
    p[1] = <uint8_t>(c"0" + status / 10 % 10)
    p[2] = <uint8_t>(c"0" + status % 10)
    p[3] = c" "
    p += 4
    if len:
        p = h1_put(p, reason, len)
    return h1_put(p, b"\r\n", 2)


cdef inline uint8_t *_put_persistence(uint8_t *p, bint close, bint keep_alive_10) noexcept nogil:
    if close:
        return h1_put(p, b"Connection: close\r\n", 19)
    if keep_alive_10:
        return h1_put(p, b"Connection: keep-alive\r\n", 24)
    return p


cdef inline uint8_t *_put_date(uint8_t *p, slice_t date) noexcept nogil:
    if date.ptr == NULL:
        return p
    p = h1_put_slice(h1_put(p, b"Date: ", 6), date)
    return h1_put(p, b"\r\n", 2)


cdef inline uint8_t *_put_reply_framing(
    uint8_t *p, const h1_resp_t *resp, const h1_reply_t *reply,
) noexcept nogil:
    if reply.body == H1_BODY_CHUNKED:
        return h1_put_chunked(p)
    if reply.body == H1_BODY_LENGTH or (reply.body == H1_BODY_NONE and resp.has_length):
        return h1_put_length(p, resp.content_length)
    return p


cdef inline int32_t h1_emit_response(
    const h1_resp_t *resp, const h1_reply_t *reply, uint8_t *out, uint32_t cap,
) noexcept nogil:
    """Writes the head that goes to the client, always HTTP/1.1 (RFC 9110 6.2); 1xx heads too. Its length or
    -FM_E_UPSTREAM_MALFORMED."""
    cdef uint8_t *p = out
    cdef uint32_t without = 0
    cdef const uint8_t *fields_end = resp.head + resp.head_len - 2
    cdef bint keeps_framing = _keeps_reply_framing(resp, reply)
    if <uint64_t>resp.head_len + H1_EMIT_SPARE > cap:  # a date has 29 bytes, a line that is mended does not grow
        return -FM_E_UPSTREAM_MALFORMED
    if not keeps_framing:
        without |= (1 << H1_H_CONTENT_LENGTH) | (1 << H1_H_TRANSFER_ENCODING)
    if not reply.trailers:
        without |= 1 << H1_H_TRAILER
    if resp.plain_line:
        p = h1_put(p, resp.head, resp.reason.ptr + resp.reason.len + 2 - resp.head)
    else:
        p = _put_status_line(p, resp.status, resp.reason.ptr, resp.reason.len)
    if not resp.drops and not resp.respell and not resp.seen & without:
        if resp.nfields:
            p = h1_put(p, resp.fields[0].name, fields_end - resp.fields[0].name)
    else:
        p = h1_put_fields(p, resp.fields, resp.nfields, without, fields_end)
    if not keeps_framing:
        p = _put_reply_framing(p, resp, reply)
    if _adds_date(resp, reply):
        p = _put_date(p, reply.date)
    if resp.upgrade:
        p = h1_put(p, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", 41)
    elif not resp.informational:
        p = _put_persistence(p, reply.close, reply.keep_alive_10)
    p = h1_put(p, b"\r\n", 2)
    return <int32_t>(p - out)


cdef inline int32_t _own_answer(
    uint8_t *p, const uint8_t *start, slice_t body, bint has_type, const h1_own_t *own,
) noexcept nogil:
    """Ends a head of our own and adds its body; the length of all since `start`."""
    if has_type:
        p = h1_put(p, b"Content-Type: text/plain; charset=utf-8\r\n", 41)
    p = h1_put_length(p, body.len)
    p = _put_date(p, own.date)
    p = _put_persistence(p, own.close, own.keep_alive_10)
    p = h1_put(p, b"\r\n", 2)
    if not own.head_only:
        p = h1_put_slice(p, body)
    return <int32_t>(p - start)


cdef inline uint8_t *_own_status(uint8_t *p, uint32_t status) noexcept nogil:
    cdef const char *reason = fm_reason(status)
    return _put_status_line(p, status, <const uint8_t *>reason, strlen(reason))


cdef inline int32_t h1_emit_error(int error, const h1_own_t *own, uint8_t *out, uint32_t cap) noexcept nogil:
    """The answer to an FM_E_… (of either sign): its status, `x-fastmesh-error`, one line of text. Its length,
    at most H1_EMIT_SPARE, or -FM_E_HEADER_TOO_LARGE."""
    cdef int index = -error if error < 0 else error
    cdef const char *name = fm_error_info[index].public_name
    cdef uint8_t line[160]
    cdef uint8_t *p = out
    cdef slice_t body
    if cap < H1_EMIT_SPARE:
        return -FM_E_HEADER_TOO_LARGE
    body.ptr = line
    body.len = <uint32_t>strlen(fm_error_info[index].text)
    memcpy(line, fm_error_info[index].text, body.len)
    line[body.len] = c"\n"
    body.len += 1
    p = _own_status(p, fm_error_info[index].status)
    p = h1_put(h1_put(h1_put(p, b"x-fastmesh-error: ", 18), name, strlen(name)), b"\r\n", 2)
    if index == FM_E_METHOD_NOT_ALLOWED:
        p = h1_put(p, b"Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n", 53)
    elif fm_error_info[index].status == 503:
        p = h1_put(p, b"Retry-After: 1\r\n", 16)
    return _own_answer(p, out, body, True, own)


cdef inline int32_t h1_emit_fixed(
    uint32_t status, slice_t body, const h1_own_t *own, uint8_t *out, uint32_t cap,
) noexcept nogil:
    """A route's `respond`: status 200 to 599 with a body of text. Its length or -FM_E_HEADER_TOO_LARGE."""
    cdef uint8_t *p = out
    if <uint64_t>body.len + H1_EMIT_SPARE > cap:
        return -FM_E_HEADER_TOO_LARGE
    p = _own_status(p, status)
    if status == 204 or status == 304:
        p = _put_persistence(_put_date(p, own.date), own.close, own.keep_alive_10)
        return <int32_t>(h1_put(p, b"\r\n", 2) - out)
    return _own_answer(p, out, body, body.len > 0, own)


cdef inline int32_t h1_emit_redirect(
    uint32_t status, slice_t location, const h1_own_t *own, uint8_t *out, uint32_t cap,
) noexcept nogil:
    """A route's `redirect`. `location` is written as it is: it must come from a parsed target or the
    configuration."""
    cdef uint8_t *p = out
    cdef slice_t body
    if <uint64_t>location.len + H1_EMIT_SPARE > cap:
        return -FM_E_HEADER_TOO_LARGE
    body.ptr = NULL
    body.len = 0
    p = h1_put_slice(h1_put(_own_status(p, status), b"Location: ", 10), location)
    return _own_answer(h1_put(p, b"\r\n", 2), out, body, False, own)


cdef inline int32_t h1_emit_continue(uint8_t *out, uint32_t cap) noexcept nogil:
    if cap < 25:
        return -FM_E_HEADER_TOO_LARGE
    h1_put(out, b"HTTP/1.1 100 Continue\r\n\r\n", 25)
    return 25
