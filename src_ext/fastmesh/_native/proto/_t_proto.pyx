"""Python's view of the protocol cores, for tests. Every input is copied to the end of a mapping whose next
page may not be touched, and every output buffer ends at one, so a read or write out of bounds is a crash."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from fastmesh._native.base.errors cimport FM_ERROR_LIMIT, fm_error_info
from fastmesh._native.base.field_t cimport field_t, slice_t
from fastmesh._native.proto.chunked cimport chunk_decode, chunk_head, chunk_init
from fastmesh._native.proto.chunked_t cimport CHUNK_HEAD_MAX, chunk_t
from fastmesh._native.proto.h1_emit cimport (
    h1_emit_continue, h1_emit_error, h1_emit_fixed, h1_emit_redirect, h1_emit_request, h1_emit_response,
    h1_response_verbatim,
)
from fastmesh._native.proto.h1_find cimport h1_cookie, h1_find_field, h1_forwarded_for, h1_query_param
from fastmesh._native.proto.h1_parse cimport h1_parse_request
from fastmesh._native.proto.h1_response cimport h1_parse_response
from fastmesh._native.proto.h1_t cimport (
    H1_F_DROP, h1_forward_t, h1_limits_t, h1_own_t, h1_reply_t,
    h1_req_t, h1_resp_t,
)
from fastmesh._native.proto.proxyproto cimport pp_emit_v1, pp_emit_v2, pp_parse
from fastmesh._native.proto.proxyproto_t cimport PP_V1_MAX, PP_V2_EMIT_MAX, pp_addr_t
from fastmesh._native.proto.sniff cimport sniff_request
from fastmesh._native.sys.count cimport fm_count_begin, fm_count_end, fm_count_pages

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int mprotect(void *address, size_t length, int protection)
    int munmap(void *address, size_t length)
    int PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *out)
    int CLOCK_MONOTONIC

cdef enum:
    _PAGE = 4096

DEFAULT_LIMITS = (32768, 100, 8192, 32)
BODIES = ("none", "length", "chunked", "until-close")


cdef class Guarded:
    """Memory of `size` bytes right before a page that faults."""
    cdef uint8_t *base
    cdef uint8_t *data
    cdef size_t mapped
    cdef size_t size

    def __cinit__(self, size_t size):
        self.size = size
        self.mapped = (size + _PAGE - 1) // _PAGE * _PAGE + _PAGE
        self.base = <uint8_t *>mmap(
            NULL, self.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
        )
        if self.base == <uint8_t *>-1:
            raise MemoryError
        mprotect(self.base + self.mapped - _PAGE, _PAGE, PROT_NONE)
        self.data = self.base + self.mapped - _PAGE - size

    def __dealloc__(self):
        if self.base != NULL and self.base != <uint8_t *>-1:
            munmap(self.base, self.mapped)

    @staticmethod
    def of(bytes content not None):
        cdef Guarded self = Guarded(len(content))
        memcpy(self.data, <const char *>content, len(content))
        return self


def error_name(int code):
    """`-FM_E_…` as (public name, status)."""
    cdef int index = -code
    if index <= 0 or index >= FM_ERROR_LIMIT or fm_error_info[index].public_name == NULL:
        raise ValueError(f"{code} is no error")
    return fm_error_info[index].public_name.decode(), fm_error_info[index].status


def error_values():
    return [i for i in range(1, FM_ERROR_LIMIT) if fm_error_info[i].public_name != NULL]


cdef object _text(slice_t s):
    return None if s.ptr == NULL else s.ptr[:s.len]


cdef slice_t _slice(object text):
    cdef slice_t s
    s.ptr = NULL
    s.len = 0
    if text is not None:
        s.ptr = <const uint8_t *><const char *>text
        s.len = <uint32_t>len(text)
    return s


cdef h1_limits_t _limits(tuple limits):
    cdef h1_limits_t out
    out.header_bytes, out.header_count, out.target_bytes, out.method_bytes = limits
    return out


cdef list _fields(const field_t *fields, uint32_t n):
    return [
        (fields[i].name[:fields[i].name_len], fields[i].value[:fields[i].value_len],
         bool(fields[i].flags & H1_F_DROP))
        for i in range(n)
    ]


cdef dict _request(const h1_req_t *r):
    return {
        "method": _text(r.method), "method_id": r.method_id, "target": _text(r.target), "path": _text(r.path),
        "query": _text(r.query), "host": _text(r.host), "host_name": _text(r.host_name), "minor": r.minor,
        "form": r.form, "body": BODIES[r.body], "content_length": r.content_length,
        "keep_alive": bool(r.keep_alive), "expect_continue": bool(r.expect_continue),
        "te_trailers": bool(r.te_trailers), "upgrade": r.upgrade,
        "is_head": bool(r.is_head), "is_idempotent": bool(r.is_idempotent), "max_forwards": r.max_forwards,
        "fields": _fields(r.fields, r.nfields), "bare_query": bool(r.bare_query),
        "forwarded_for": _text(h1_forwarded_for(r)),
    }


cdef dict _response(const h1_resp_t *r):
    return {
        "status": r.status, "minor": r.minor, "reason": _text(r.reason), "body": BODIES[r.body],
        "content_length": r.content_length, "keep_alive": bool(r.keep_alive), "upgrade": r.upgrade,
        "informational": bool(r.informational), "keepalive_timeout_s": r.keepalive_timeout_s,
        "fields": _fields(r.fields, r.nfields),
    }


def parse_request(bytes data not None, tuple limits=DEFAULT_LIMITS):
    """(consumed or error, request or None), all bytes at once."""
    cdef Guarded buf = Guarded.of(data)
    cdef h1_limits_t lim = _limits(limits)
    cdef h1_req_t req
    cdef uint32_t scan = 0
    cdef int32_t rc
    memset(&req, 0xAA, sizeof(req))
    rc = h1_parse_request(buf.data, <uint32_t>buf.size, &scan, &lim, &req)
    return rc, (_request(&req) if rc > 0 else None)


def parse_request_in_steps(bytes data not None, list ends not None, tuple limits=DEFAULT_LIMITS):
    """With ends[0], ends[1], … bytes known, each time at another address: (result, request, bytes known)."""
    cdef h1_limits_t lim = _limits(limits)
    cdef h1_req_t req
    cdef uint32_t scan = 0
    cdef int32_t rc = 0
    cdef Guarded buf
    end = 0
    for end in ends:
        buf = Guarded.of(data[:end])
        memset(&req, 0xAA, sizeof(req))
        rc = h1_parse_request(buf.data, <uint32_t>buf.size, &scan, &lim, &req)
        if rc:
            break
    return rc, (_request(&req) if rc > 0 else None), end


def dribble_request(bytes data not None, tuple limits=DEFAULT_LIMITS):
    """One byte more each time, in one buffer: (result, seconds)."""
    cdef h1_limits_t lim = _limits(limits)
    cdef h1_req_t req
    cdef uint32_t scan = 0, n
    cdef int32_t rc = 0
    cdef const uint8_t *p = <const uint8_t *><const char *>data
    cdef uint64_t start = _now()
    for n in range(1, <uint32_t>len(data) + 1):
        rc = h1_parse_request(p, n, &scan, &lim, &req)
        if rc:
            break
    return rc, (_now() - start) * 1e-9


def parse_response(bytes data not None, uint32_t asked=0, tuple limits=DEFAULT_LIMITS):
    cdef Guarded buf = Guarded.of(data)
    cdef h1_limits_t lim = _limits(limits)
    cdef h1_resp_t resp
    cdef uint32_t scan = 0
    cdef int32_t rc
    memset(&resp, 0xAA, sizeof(resp))
    rc = h1_parse_response(buf.data, <uint32_t>buf.size, &scan, &lim, asked, &resp)
    return rc, (_response(&resp) if rc > 0 else None)


def parse_response_in_steps(
    bytes data not None, list ends not None, uint32_t asked=0, tuple limits=DEFAULT_LIMITS,
):
    cdef h1_limits_t lim = _limits(limits)
    cdef h1_resp_t resp
    cdef uint32_t scan = 0
    cdef int32_t rc = 0
    cdef Guarded buf
    end = 0
    for end in ends:
        buf = Guarded.of(data[:end])
        memset(&resp, 0xAA, sizeof(resp))
        rc = h1_parse_response(buf.data, <uint32_t>buf.size, &scan, &lim, asked, &resp)
        if rc:
            break
    return rc, (_response(&resp) if rc > 0 else None), end


cdef h1_forward_t _forward(const h1_req_t *req, dict options):
    cdef h1_forward_t fwd
    given = {
        "peer_ip": b"192.0.2.7", "proto": b"http", "request_id": None, "trusted": False, "emit_for": False,
        "emit_proto": False, "emit_host": False, "emit_request_id": False, "upgrade": 0, "te_trailers": False,
        "path": None, "host_override": None, "host_default": b"origin:80", "body": BODIES[req.body],
        "content_length": req.content_length,
    }
    unknown = set(options) - set(given)
    if unknown:
        raise TypeError(f"no such option: {unknown}")
    given.update(options)
    fwd.peer_ip = _slice(given["peer_ip"])
    fwd.proto = _slice(given["proto"])
    fwd.request_id = _slice(given["request_id"])
    fwd.trusted = given["trusted"]
    fwd.emit_for = given["emit_for"]
    fwd.emit_proto = given["emit_proto"]
    fwd.emit_host = given["emit_host"]
    fwd.emit_request_id = given["emit_request_id"]
    fwd.body = BODIES.index(given["body"])
    fwd.content_length = given["content_length"]
    fwd.upgrade = given["upgrade"]
    fwd.te_trailers = given["te_trailers"]
    fwd.path = _slice(given["path"])
    fwd.host_override = _slice(given["host_override"])
    fwd.host_default = _slice(given["host_default"])
    return fwd


def forward_request(bytes data not None, tuple limits=DEFAULT_LIMITS, uint32_t cap=65536, **options):
    """Parses, then emits: (parser's result, head or error)."""
    cdef Guarded buf = Guarded.of(data)
    cdef Guarded out = Guarded(cap)
    cdef h1_limits_t lim = _limits(limits)
    cdef h1_forward_t fwd
    cdef h1_req_t req
    cdef uint32_t scan = 0
    cdef int32_t rc, n
    memset(&req, 0xAA, sizeof(req))
    rc = h1_parse_request(buf.data, <uint32_t>buf.size, &scan, &lim, &req)
    if rc <= 0:
        return rc, None
    fwd = _forward(&req, options)
    n = h1_emit_request(&req, &fwd, out.data, cap)
    return rc, (out.data[:n] if n >= 0 else n)


def forward_response(
    bytes data not None, uint32_t asked=0, uint32_t cap=65536, *, body=None, int client_minor=1,
    bint close=False, bint keep_alive_10=False, bint trailers=False, date=None,
):
    """Parses, then emits: (parser's result, head or error, whether it may be sent on as it came)."""
    cdef Guarded buf = Guarded.of(data)
    cdef Guarded out = Guarded(cap)
    cdef h1_limits_t lim = _limits(DEFAULT_LIMITS)
    cdef h1_reply_t reply
    cdef h1_resp_t resp
    cdef uint32_t scan = 0
    cdef int32_t rc, n
    memset(&resp, 0xAA, sizeof(resp))
    rc = h1_parse_response(buf.data, <uint32_t>buf.size, &scan, &lim, asked, &resp)
    if rc <= 0:
        return rc, None, None
    reply.client_minor = client_minor
    reply.close = close
    reply.keep_alive_10 = keep_alive_10
    reply.body = resp.body if body is None else BODIES.index(body)
    reply.trailers = trailers
    reply.date = _slice(date)
    n = h1_emit_response(&resp, &reply, out.data, cap)
    return rc, (out.data[:n] if n >= 0 else n), bool(h1_response_verbatim(&resp, &reply))


cdef h1_own_t _own(bint close, bint head_only, bint keep_alive_10, object date):
    cdef h1_own_t own
    own.close = close
    own.head_only = head_only
    own.client_minor = 1
    own.keep_alive_10 = keep_alive_10
    own.date = _slice(date)
    return own


def emit_error(
    int error, *, bint close=False, bint head_only=False, bint keep_alive_10=False, date=None,
    uint32_t cap=512,
):
    cdef h1_own_t own = _own(close, head_only, keep_alive_10, date)
    cdef Guarded out = Guarded(cap)
    cdef int32_t n = h1_emit_error(error, &own, out.data, cap)
    return out.data[:n] if n >= 0 else n


def emit_fixed(
    uint32_t status, bytes body not None, *, bint close=False, bint head_only=False, bint keep_alive_10=False,
    date=None, uint32_t cap=4096,
):
    cdef h1_own_t own = _own(close, head_only, keep_alive_10, date)
    cdef Guarded out = Guarded(cap)
    cdef int32_t n = h1_emit_fixed(status, _slice(body), &own, out.data, cap)
    return out.data[:n] if n >= 0 else n


def emit_redirect(
    uint32_t status, bytes location not None, *, bint close=False, bint head_only=False, date=None,
    uint32_t cap=4096,
):
    cdef h1_own_t own = _own(close, head_only, False, date)
    cdef Guarded out = Guarded(cap)
    cdef int32_t n = h1_emit_redirect(status, _slice(location), &own, out.data, cap)
    return out.data[:n] if n >= 0 else n


def emit_continue(uint32_t cap=25):
    cdef Guarded out = Guarded(cap)
    cdef int32_t n = h1_emit_continue(out.data, cap)
    return out.data[:n] if n >= 0 else n


def find(bytes data not None, *, field=None, cookie=None, param=None):
    """Looks up one thing in a request that parses."""
    cdef Guarded buf = Guarded.of(data)
    cdef h1_limits_t lim = _limits(DEFAULT_LIMITS)
    cdef const field_t *f
    cdef const uint8_t *name
    cdef h1_req_t req
    cdef uint32_t scan = 0
    if h1_parse_request(buf.data, <uint32_t>buf.size, &scan, &lim, &req) <= 0:
        raise ValueError(data)
    if field is not None:
        f = h1_find_field(req.fields, req.nfields, <const uint8_t *><const char *>field, <uint32_t>len(field))
        return None if f == NULL else f.value[:f.value_len]
    if cookie is not None:
        name = <const uint8_t *><const char *>cookie
        return _text(h1_cookie(req.fields, req.nfields, name, <uint32_t>len(cookie)))
    return _text(h1_query_param(req.query, <const uint8_t *><const char *>param, <uint32_t>len(param)))


cdef class Chunks:
    """One decoder; `feed` gives (consumed or error, data)."""
    cdef chunk_t state
    cdef bytearray buffer

    def __init__(self, trailers_cap=None):
        self.buffer = bytearray(trailers_cap or 0)
        if trailers_cap is None:
            chunk_init(&self.state, NULL, 0)
        else:
            chunk_init(&self.state, <uint8_t *><char *>self.buffer, trailers_cap)

    def feed(self, bytes data not None, bint in_place=True):
        cdef Guarded source = Guarded.of(data)
        cdef Guarded target = source if in_place else Guarded(source.size)
        cdef uint32_t n = 0
        cdef int64_t rc = chunk_decode(&self.state, source.data, <uint32_t>source.size, target.data, &n)
        return rc, target.data[:n]

    def feed_often(self, bytes data not None, uint32_t count):
        """Bytes of data decoded from ``count`` times the same whole chunks, for counting."""
        cdef uint8_t *source = fm_count_pages(len(data))
        cdef Guarded target = Guarded(len(data))
        cdef uint32_t size = <uint32_t>len(data), n = 0, _i
        cdef uint64_t sum = 0
        memcpy(source, <const char *>data, size)
        with nogil:
            fm_count_begin()
            for _i in range(count):
                if chunk_decode(&self.state, source, size, target.data, &n) != size:
                    break
                sum += n
            fm_count_end()
        free(source)
        return sum

    @property
    def done(self):
        return bool(self.state.done)

    @property
    def trailers(self):
        return bytes(self.buffer[:self.state.trailers_len])


def size_line(uint64_t n):
    cdef Guarded out = Guarded(CHUNK_HEAD_MAX)
    cdef uint32_t len = chunk_head(out.data, n)
    return out.data[:len]


def sniff(bytes data not None):
    """"more", "http" or "other"."""
    cdef Guarded buf = Guarded.of(data)
    return ("more", "http", "other")[sniff_request(buf.data, <uint32_t> buf.size)]


def parse_proxy(bytes data not None):
    """(consumed or error, (family, src, src_port, dst, dst_port) or None)."""
    cdef Guarded buf = Guarded.of(data)
    cdef pp_addr_t a
    cdef int32_t rc
    memset(&a, 0xAA, sizeof(a))
    rc = pp_parse(buf.data, <uint32_t>buf.size, &a)
    if rc <= 0:
        return rc, None
    size = (0, 4, 16, 108)[a.family]
    if a.family == 0:
        return rc, (0, b"", 0, b"", 0)
    return rc, (a.family, a.src[:size], a.src_port, a.dst[:size], a.dst_port)


def emit_proxy(int version, int family, bytes src not None, int src_port, bytes dst not None, int dst_port):
    cdef pp_addr_t a
    cdef uint32_t cap = PP_V1_MAX if version == 1 else PP_V2_EMIT_MAX
    cdef Guarded out = Guarded(cap)
    cdef uint32_t n
    memset(&a, 0, sizeof(a))
    a.family = family
    memcpy(a.src, <const char *>src, min(len(src), sizeof(a.src)))
    memcpy(a.dst, <const char *>dst, min(len(dst), sizeof(a.dst)))
    a.src_port = src_port
    a.dst_port = dst_port
    n = pp_emit_v1(&a, out.data) if version == 1 else pp_emit_v2(&a, out.data)
    return out.data[:n]


cdef uint64_t _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


def time_request(bytes data not None, uint32_t rounds, bint emit=False):
    """Nanoseconds per parse, or per parse and emit with all forwarding fields, over `rounds`; instructions can be
    counted too."""
    cdef h1_limits_t lim = _limits(DEFAULT_LIMITS)
    cdef h1_forward_t fwd
    cdef h1_req_t req
    cdef uint8_t out[65536]
    cdef uint32_t scan = 0, _i, size = <uint32_t>len(data)
    cdef int64_t sum = 0
    cdef uint8_t *p = fm_count_pages(size)
    cdef uint64_t start
    memcpy(p, <const char *>data, size)
    if h1_parse_request(p, size, &scan, &lim, &req) <= 0:
        free(p)
        raise ValueError(data)
    fwd = _forward(&req, {
        "emit_for": True, "emit_proto": True, "emit_host": True, "emit_request_id": True,
        "request_id": b"0123456789abcdef0123456789abcdef",
    })
    with nogil:
        start = _now()
        fm_count_begin()
        for _i in range(rounds):
            scan = 0
            sum += h1_parse_request(p, size, &scan, &lim, &req)
            if emit:
                sum += h1_emit_request(&req, &fwd, out, sizeof(out))
        fm_count_end()
        start = _now() - start
    free(p)
    return start / rounds if sum else 0.0


def time_response(bytes data not None, uint32_t rounds, bint emit=False):
    cdef h1_limits_t lim = _limits(DEFAULT_LIMITS)
    cdef h1_reply_t reply
    cdef h1_resp_t resp
    cdef uint8_t out[65536]
    cdef uint32_t scan = 0, _i, size = <uint32_t>len(data)
    cdef int64_t sum = 0
    cdef uint8_t *p = fm_count_pages(size)
    cdef uint64_t start
    memcpy(p, <const char *>data, size)
    if h1_parse_response(p, size, &scan, &lim, 0, &resp) <= 0:
        free(p)
        raise ValueError(data)
    memset(&reply, 0, sizeof(reply))
    reply.client_minor = 1
    reply.body = resp.body
    with nogil:
        start = _now()
        fm_count_begin()
        for _i in range(rounds):
            scan = 0
            sum += h1_parse_response(p, size, &scan, &lim, 0, &resp)
            if emit:
                sum += h1_emit_response(&resp, &reply, out, sizeof(out))
        fm_count_end()
        start = _now() - start
    free(p)
    return start / rounds if sum else 0.0
