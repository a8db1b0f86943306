"""The client's side of HTTP: heads, bodies, and the beginning of exchanges.

Bytes are parsed where they lie: in the worker's scratch, or, when a part of them came earlier, in ``conn.input``. What
belongs to a later request goes to ``input`` and waits until the running exchange has ended.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastmesh._native.base.errors cimport (
    FM_E_BAD_REQUEST,
    FM_E_BODY_TOO_LARGE,
    FM_E_CLIENT_ABORTED,
    FM_E_DRAINING,
    FM_E_HEADER_TOO_LARGE,
    FM_E_LENGTH_REQUIRED,
    FM_E_METHOD_NOT_ALLOWED,
    FM_E_NO_ENDPOINT,
    FM_E_NO_MEMORY,
    FM_E_NO_ROUTE,
    FM_E_OVERLOADED,
)
from fastmesh._native.base.field_t cimport field_t, slice_t
from fastmesh._native.base.hash cimport hash_xxh64, rng_next
from fastmesh._native.base.limits cimport OUT_BYTES, READS_PER_EVENT, SCRATCH_BYTES, SCRATCH_HEADROOM
from fastmesh._native.base.put cimport put_uuid
from fastmesh._native.base.slab cimport BUF_MAX, buf_del, pend_append, pend_len, pend_reserve
from fastmesh._native.net.conn cimport IO_AGAIN, conn_ready, conn_recv, conn_timer
from fastmesh._native.net.snap_t cimport (
    ACTION_FORWARD,
    ACTION_REDIRECT,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    FORWARDED_REQUEST_ID,
    KEY_COOKIE,
    KEY_HEADER,
    KEY_PATH,
    KEY_QUERY,
    UNSET_MS,
    action_t,
    hash_key_t,
    listener_block_t,
    service_t,
    target_t,
)
from fastmesh._native.net.stats cimport pair_stats
from fastmesh._native.net.worker_t cimport (
    C_EXCHANGE,
    C_HEAD,
    F_EOF,
    F_FRESH,
    F_HEAD_BEGUN,
    F_READABLE,
    F_TRUSTED,
    PRESSURE_FULL,
    RESOURCE_MEMORY,
    U_ACTIVE,
    conn_t,
    worker_t,
)
from fastmesh._native.proto.chunked cimport chunk_decode, chunk_head, chunk_init
from fastmesh._native.proto.h1_emit cimport h1_emit_request
from fastmesh._native.proto.h1_find cimport h1_cookie, h1_find_field, h1_forwarded_for, h1_query_param
from fastmesh._native.proto.h1_parse cimport h1_parse_request
from fastmesh._native.proto.h1_t cimport (
    H1_ASKED_CONNECT,
    H1_ASKED_HEAD,
    H1_ASKED_UPGRADE,
    H1_BODY_CHUNKED,
    H1_BODY_LENGTH,
    H1_BODY_NONE,
    H1_M_CONNECT,
    H1_M_OPTIONS,
    H1_M_TRACE,
    h1_forward_t,
    h1_req_t,
)
from fastmesh._native.proxy.admission cimport attempt_start
from fastmesh._native.proxy.answer cimport (
    client_close,
    client_must_close,
    client_part,
    client_refuse,
    exchange_abort,
    exchange_client_timer,
    exchange_fail,
    exchange_redirect,
    exchange_respond,
)
from fastmesh._native.proxy.attempt cimport attempt_send, request_append, request_unsent
from fastmesh._native.proxy.exchange cimport (
    exchange_log_request,
    exchange_new,
    exchange_take_service,
    slice_of,
)
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.proxy.pick cimport attempt_goes_ahead, attempt_pick
from fastmesh._native.proxy.targets cimport action_target
from fastmesh._native.route.match cimport route_match
from fastmesh._native.route.rewrite cimport route_rewrite_prefix
from fastmesh._native.route.route_t cimport route_query_t
from fastmesh._native.sys.atomics cimport fm_likely, fm_unlikely
from fastmesh._native.sys.os cimport MSG_NOSIGNAL

cdef enum:
    REQUEST_ID_BYTES = 36
    TARGET_EXTRA = 1024  # what a rewrite may add
    HEAD_READ_BYTES = 32768  # one read of a head that came in pieces
    FORWARDED_EXTRA = 1024  # what the forwarding fields may add to a head


# ---------------------------------------------------------------- bodies

cdef inline void request_body_failed(worker_t *w, xchg_t *x, int32_t error) noexcept nogil:
    """The body cannot be read on: nothing that was sent may look whole to the endpoint."""
    x.request_complete = 0
    exchange_fail(w, x, error)


cdef inline int64_t request_feed_length(worker_t *w, xchg_t *x, const uint8_t *data, uint32_t size) noexcept nogil:
    cdef uint32_t take = size
    if take > x.request_left:
        take = <uint32_t> x.request_left
    if not request_append(w, x, data, take):
        return -FM_E_NO_MEMORY
    x.request_left -= take
    x.body_bytes += take
    x.request_complete = x.request_left == 0
    return take


cdef inline int64_t request_feed_chunked(worker_t *w, xchg_t *x, const uint8_t *data, uint32_t size) noexcept nogil:
    """Decodes, and frames what came as one chunk of our own: tiny chunks are joined, extensions dropped."""
    cdef uint8_t head[24]
    cdef uint32_t out_len = 0
    cdef uint32_t head_len
    # The data may lie in the worker's scratch, which is where decoding compacts it to; else it goes through `out`
    cdef uint8_t *into = w.out
    cdef int64_t taken = chunk_decode(&x.request_chunk, data, size, into, &out_len)
    if taken < 0:
        return taken
    x.body_bytes += out_len
    if x.listener.body_limit and x.body_bytes > x.listener.body_limit:
        return -FM_E_BODY_TOO_LARGE
    if out_len:
        head_len = chunk_head(head, out_len)
        if not request_append(w, x, head, head_len) or not request_append(w, x, into, out_len) \
                or not request_append(w, x, <const uint8_t *> b"\r\n", 2):
            return -FM_E_NO_MEMORY
    if x.request_chunk.done:
        x.request_complete = 1
        # Trailers of requests are dropped: no endpoint has said that it takes them
        if not request_append(w, x, <const uint8_t *> b"0\r\n\r\n", 5):
            return -FM_E_NO_MEMORY
    return taken


cdef inline int64_t request_feed(worker_t *w, xchg_t *x, const uint8_t *data, uint32_t size) noexcept nogil:
    """Takes body bytes; how many, or -FM_E_…"""
    if size == 0 or x.request_complete:
        return 0
    if x.request_body == H1_BODY_CHUNKED:
        return request_feed_chunked(w, x, data, size)
    return request_feed_length(w, x, data, size)


cdef inline void client_read_body(worker_t *w, conn_t *c) noexcept nogil:
    """Reads while the request is incomplete and the endpoint takes it; a slow endpoint stops the reading."""
    cdef xchg_t *x = <xchg_t *> c.exchange
    cdef uint8_t *data = w.scratch + SCRATCH_HEADROOM
    cdef uint32_t budget = READS_PER_EVENT
    cdef int64_t n, taken
    while not x.request_complete and c.flags & F_READABLE:
        if request_unsent(x) and not x.write_broken:
            return  # resumed when the endpoint has taken it
        if budget == 0:
            conn_ready(w, c)
            return
        budget -= 1
        n = conn_recv(c, data, SCRATCH_BYTES)
        if n == IO_AGAIN:
            return
        if n < 0:
            exchange_abort(w, x, FM_E_CLIENT_ABORTED)
            return
        if n == 0:
            request_body_failed(w, x, FM_E_BAD_REQUEST)
            return
        x.bytes_received += <uint64_t> n
        taken = request_feed(w, x, data, <uint32_t> n)
        if taken < 0:
            request_body_failed(w, x, <int32_t> -taken)
            return
        if taken < n and not pend_append(&w.bufs, &c.input, data + taken, <uint32_t> (n - taken)):
            request_body_failed(w, x, FM_E_NO_MEMORY)
            return
        exchange_client_timer(w, x)
        if x.up != NULL and x.up.state == U_ACTIVE:
            attempt_send(w, x)


# ---------------------------------------------------------------- the beginning of an exchange

cdef inline void request_id_new(worker_t *w, uint8_t *out) noexcept nogil:
    """A random UUID (RFC 9562, version 4) as text."""
    cdef uint64_t high = (rng_next(&w.rng) & ~<uint64_t> 0xF000) | 0x4000
    cdef uint64_t low = (rng_next(&w.rng) & <uint64_t> 0x3FFFFFFFFFFFFFFF) | <uint64_t> 0x8000000000000000
    put_uuid(out, high, low)


cdef inline bint hash_key_value(conn_t *c, const h1_req_t *req, const hash_key_t *key, slice_t *value) noexcept nogil:
    cdef const field_t *field
    cdef slice_t found
    if key.kind == KEY_PATH:
        value[0] = req.path
        return True
    if key.kind == KEY_HEADER:
        field = h1_find_field(req.fields, req.nfields, <const uint8_t *> key.name.ptr, key.name.len)
        if field == NULL:
            return False
        value[0] = slice_of(field.value, field.value_len)
        return True
    if key.kind == KEY_COOKIE:
        found = h1_cookie(req.fields, req.nfields, <const uint8_t *> key.name.ptr, key.name.len)
    elif key.kind == KEY_QUERY:
        found = h1_query_param(req.query, <const uint8_t *> key.name.ptr, key.name.len)
    else:
        found.ptr = NULL
        if c.flags & F_TRUSTED:
            found = h1_forwarded_for(req)
        if found.ptr == NULL:
            found = slice_of(&c.client_ip[0], c.client_ip_len)
    value[0] = found
    return found.ptr != NULL


cdef inline void request_hash_key(conn_t *c, xchg_t *x, const h1_req_t *req) noexcept nogil:
    """The first key that is present counts; with none, the policy draws a random one."""
    cdef slice_t value
    cdef uint32_t i
    if not x.service.needs_key:
        return
    for i in range(x.service.key_count):
        if hash_key_value(c, req, &x.service.keys[i], &value):
            x.key = hash_xxh64(value.ptr, value.len, 0)
            x.has_key = 1
            return


cdef inline int32_t request_emit(worker_t *w, conn_t *c, xchg_t *x, h1_req_t *req, slice_t request_id) noexcept nogil:
    """Writes the head that goes upstream into ``x.request``; 0 or -FM_E_…"""
    cdef h1_forward_t forward
    cdef listener_block_t *listener = x.listener
    cdef action_t *action = x.action
    cdef slice_t prefix
    cdef uint32_t room
    cdef int32_t length
    forward.peer_ip = slice_of(&c.client_ip[0], c.client_ip_len)
    forward.proto = slice_of(b"http", 4)
    forward.request_id = request_id
    forward.trusted = (c.flags & F_TRUSTED) != 0
    forward.emit_for = (listener.forwarded & FORWARDED_FOR) != 0 and c.client_ip_len != 0
    forward.emit_proto = (listener.forwarded & FORWARDED_PROTO) != 0
    forward.emit_host = (listener.forwarded & FORWARDED_HOST) != 0
    forward.emit_request_id = (listener.forwarded & FORWARDED_REQUEST_ID) != 0
    forward.body = req.body
    forward.content_length = req.content_length
    forward.upgrade = req.upgrade if listener.upgrade_websocket else 0
    forward.te_trailers = req.te_trailers
    forward.path = slice_of(NULL, 0)
    forward.host_override = slice_of(NULL, 0)
    if forward.upgrade:
        x.asked |= H1_ASKED_UPGRADE
    forward.host_default = slice_of(&x.endpoint.slot.name[0], x.endpoint.slot.name_len)
    if action.has_rewrite:
        prefix = slice_of(action.rewrite.ptr, action.rewrite.len)
        length = route_rewrite_prefix(&req.path, action.prefix_len, &prefix, w.out, OUT_BYTES)
        if length < 0:
            return -FM_E_HEADER_TOO_LARGE
        forward.path = slice_of(w.out, <uint32_t> length)
    room = req.head_len + forward.path.len + FORWARDED_EXTRA + req.host.len * 2
    if room > BUF_MAX:
        return -FM_E_HEADER_TOO_LARGE
    if not pend_reserve(&w.bufs, &x.request, room):
        return -FM_E_NO_MEMORY
    length = h1_emit_request(req, &forward, x.request.data, x.request.capacity)
    if length < 0:
        return length
    x.request.end = <uint32_t> length
    return 0


cdef inline int32_t request_admit(worker_t *w, xchg_t *x, const h1_req_t *req) noexcept nogil:
    """What is refused before routing: 0, or a positive FM_E_…"""
    if req.method_id == H1_M_CONNECT or req.method_id == H1_M_TRACE:
        return FM_E_METHOD_NOT_ALLOWED
    if x.listener.body_limit and req.content_length > x.listener.body_limit:
        return FM_E_BODY_TOO_LARGE
    return 0


cdef inline void request_init(worker_t *w, conn_t *c, xchg_t *x, const h1_req_t *req) noexcept nogil:
    x.request_body = req.body
    x.request_left = req.content_length
    x.request_complete = req.body == H1_BODY_NONE or (req.body == H1_BODY_LENGTH and req.content_length == 0)
    x.idempotent = req.is_idempotent
    x.is_head = req.is_head
    x.minor = req.minor
    x.te_trailers = req.te_trailers
    x.asked = H1_ASKED_HEAD if req.is_head else 0
    # HTTP/1.0 clients are never kept (RFC 9112 9.3: a proxy must not)
    x.client_asked_close = not req.keep_alive or req.minor == 0
    x.close_client = x.client_asked_close
    if req.body == H1_BODY_CHUNKED:
        chunk_init(&x.request_chunk, NULL, 0)


cdef inline service_t *request_service(const worker_t *w, const target_t *target) noexcept nogil:
    """As the newest snapshot has it; NULL: it has gone."""
    return w.snap.services[target.service_index] if target.service_index < w.snap.service_count else NULL


cdef inline service_t *request_passes_through(const worker_t *w, const conn_t *c, service_t *service) noexcept nogil:
    """The service of an intercepted client has gone since it came, or has no endpoints any more. It is served by that of the
    listener around its own, as if it came now: that leads to where the client was going anyway."""
    cdef uint32_t around = c.socket.block.within
    cdef service_t *through = NULL
    if around < w.snap.listener_count and w.snap.listeners[around] != NULL and w.snap.listeners[around].intercepts:
        through = request_service(w, &w.snap.listeners[around].actions[0].targets[0])
    return through if through != NULL else service


cdef inline int32_t request_route(worker_t *w, conn_t *c, xchg_t *x, const h1_req_t *req) noexcept nogil:
    """Finds the action and, for one that forwards, service and endpoint: 0, or a positive FM_E_…"""
    cdef route_query_t query
    cdef int32_t index
    cdef const target_t *target
    cdef service_t *service
    query.method = req.method
    query.host = req.host
    query.path = req.path
    query.fields = &req.fields[0]
    query.nfields = req.nfields
    index = route_match(x.listener.routes, &query)
    if index < 0:
        return FM_E_NO_ROUTE
    x.action = &x.listener.actions[x.listener.routes.routes[index].action]
    if x.action.kind != ACTION_FORWARD:
        return 0
    target = action_target(w, x.action)
    x.pair = pair_stats(w, target.pair_index)
    service = request_service(w, target)
    if fm_unlikely(c.intercepted) and (service == NULL or service.lb.n == 0):
        service = request_passes_through(w, c, service)
    if service == NULL:
        return FM_E_NO_ENDPOINT
    exchange_take_service(w, x, service)
    if fm_unlikely(service.draining):
        return FM_E_DRAINING
    x.response_ms = x.action.response_ms if x.action.response_ms != UNSET_MS else service.response_ms
    x.idle_ms = service.idle_ms
    x.tunnel_idle_ms = service.tunnel_idle_ms
    if service.retry_unsafe:
        x.idempotent = 1
    if service.total_ms:
        x.deadline_ms = w.now_ms + service.total_ms
    request_hash_key(c, x, req)
    if fm_unlikely(c.endpoint != NULL) and attempt_goes_ahead(w, x):
        index = 0
    else:
        index = attempt_pick(w, x)
    if index != 0:
        return -index
    if x.request_body == H1_BODY_CHUNKED and x.endpoint.speaks_http10:
        return FM_E_LENGTH_REQUIRED
    return 0


cdef inline void request_act(worker_t *w, conn_t *c, xchg_t *x, h1_req_t *req, const uint8_t *body, uint32_t body_len) noexcept nogil:
    """Runs the route's action on a request whose first body bytes are at ``body``. What is left of the bytes goes to
    ``c.input`` before anything can end the exchange."""
    cdef uint8_t request_id[REQUEST_ID_BYTES]
    cdef slice_t id_slice = slice_of(request_id, REQUEST_ID_BYTES)
    cdef int32_t error
    cdef int64_t taken
    request_init(w, c, x, req)
    request_id_new(w, request_id)
    error = request_admit(w, x, req)
    if error == 0 and req.method_id == H1_M_OPTIONS and req.max_forwards == 0:
        x.action = NULL
    elif error == 0:
        error = request_route(w, c, x, req)
    exchange_log_request(w, x, req, id_slice)
    if error == 0 and x.action != NULL and x.action.kind == ACTION_FORWARD:
        error = -request_emit(w, c, x, req, id_slice)
    taken = request_feed(w, x, body, body_len)
    if taken < 0:
        error = <int32_t> -taken if error == 0 else error
        x.request_complete = 0
        taken = body_len
    if taken < body_len and not pend_append(&w.bufs, &c.input, body + taken, body_len - <uint32_t> taken):
        error = FM_E_NO_MEMORY
        x.request_complete = 0  # bytes of the next request are lost: the connection must close behind the answer
    x.bytes_received += <uint64_t> taken
    if x.pair == NULL:
        x.pair = pair_stats(w, x.listener.own_pair_index)
    if error:
        exchange_fail(w, x, error)
    elif x.action == NULL:
        exchange_respond(w, x, 200, slice_of(NULL, 0))
    elif x.action.kind == ACTION_FORWARD:
        exchange_client_timer(w, x)
        attempt_start(w, x)
        if c.state == C_EXCHANGE and c.exchange == x and not x.request_complete and c.flags & F_READABLE:
            conn_ready(w, c)  # the edge that told of the rest of the body has been spent on the head
    elif x.action.kind == ACTION_REDIRECT:
        request_redirect(w, x, req)
    else:
        exchange_respond(w, x, x.action.status, slice_of(x.action.body.ptr, x.action.body.len))


cdef inline void request_redirect(worker_t *w, xchg_t *x, const h1_req_t *req) noexcept nogil:
    """Replaces the path, keeps the query."""
    cdef uint8_t location[16384]
    cdef uint32_t length = x.action.location.len
    if length + req.query.len + 1 > sizeof(location):
        exchange_fail(w, x, FM_E_HEADER_TOO_LARGE)
        return
    memcpy(location, x.action.location.ptr, length)
    if req.query.ptr != NULL:
        location[length] = c'?'
        memcpy(location + length + 1, req.query.ptr, req.query.len)
        length += 1 + req.query.len
    exchange_redirect(w, x, x.action.status, slice_of(location, length))


# ---------------------------------------------------------------- heads

cdef inline bint request_begin(worker_t *w, conn_t *c, uint8_t *data, uint32_t size, uint32_t head_len) noexcept nogil:
    """A head was parsed from ``data``; ``size - head_len`` more bytes follow it. False: the client was refused."""
    cdef xchg_t *x
    if fm_unlikely(w.strain[RESOURCE_MEMORY] == PRESSURE_FULL):
        client_refuse(w, c, FM_E_OVERLOADED, w.request.is_head)
        return False
    x = exchange_new(w, c, c.socket.block)
    if x == NULL:
        client_refuse(w, c, FM_E_NO_MEMORY, False)
        return False
    c.state = C_EXCHANGE
    c.scan = 0
    c.flags &= <uint16_t> ~(F_FRESH | F_HEAD_BEGUN)
    if c.served < 0xFFFF:
        c.served += 1
    x.bytes_received = head_len
    request_act(w, c, x, &w.request, data + head_len, size - head_len)
    return True


cdef inline void request_begin_buffered(worker_t *w, conn_t *c, uint32_t head_len) noexcept nogil:
    """The same for a head in ``c.input``. The buffer is taken off the connection meanwhile, so that what is left over
    can go to a new one."""
    cdef uint8_t *data = c.input.data
    cdef uint32_t start = c.input.start
    cdef uint32_t size = pend_len(&c.input)
    cdef uint32_t capacity = c.input.capacity
    c.input.data = NULL
    c.input.start = c.input.end = c.input.capacity = 0
    request_begin(w, c, data + start, size, head_len)
    buf_del(&w.bufs, data, capacity)


cdef inline bint asks_for_head(const uint8_t *data, uint32_t size) noexcept nogil:
    """Whether a head that cannot be read is one of HEAD: its answer has no body, whatever is wrong with it."""
    while size and (data[0] == c'\r' or data[0] == c'\n'):
        data += 1
        size -= 1
    return size >= 5 and memcmp(data, b"HEAD ", 5) == 0


cdef inline int32_t client_fill(worker_t *w, conn_t *c) noexcept nogil:
    """Reads more of a head that has begun, behind what ``input`` holds. 1: more is there; 0: wait; -1: it is over."""
    cdef uint8_t *data = w.scratch + SCRATCH_HEADROOM
    # The body behind a large head must still fit behind it in the request's buffer
    cdef int64_t n = conn_recv(c, data, HEAD_READ_BYTES)
    if n == IO_AGAIN:
        return 0
    if n == 0:
        client_refuse(w, c, FM_E_BAD_REQUEST, False)  # FIN in the middle of a head: say so, the client may still read
        return -1
    if n < 0:
        client_close(w, c)
        return -1
    if not pend_append(&w.bufs, &c.input, data, <uint32_t> n):  # no larger than what has come: the next may take long
        client_refuse(w, c, FM_E_NO_MEMORY, False)
        return -1
    return 1


cdef inline void client_head_incomplete(worker_t *w, conn_t *c) noexcept nogil:
    """A head has begun: from now on the time for heads counts."""
    if not c.flags & (F_HEAD_BEGUN | F_FRESH):  # of a new connection it counts since the accept
        conn_timer(w, c, c.socket.block.header_ms)
        c.idle_since_ms = <uint32_t> w.now_ms
    c.flags |= F_HEAD_BEGUN


cdef inline void client_read_head(worker_t *w, conn_t *c) noexcept nogil:
    """Reads and parses until an exchange has begun, or there is nothing more to read."""
    cdef uint8_t *data = w.scratch + SCRATCH_HEADROOM
    cdef int64_t n
    cdef int32_t parsed, filled
    while c.state == C_HEAD:
        if pend_len(&c.input):
            parsed = h1_parse_request(c.input.data + c.input.start, pend_len(&c.input), &c.scan,
                                      &c.socket.block.limits, &w.request)
            if parsed > 0:
                request_begin_buffered(w, c, <uint32_t> parsed)
                return
            if parsed < 0:
                client_refuse(w, c, -parsed, asks_for_head(c.input.data + c.input.start, pend_len(&c.input)))
                return
            client_head_incomplete(w, c)
            if not c.flags & F_READABLE:
                return
            filled = client_fill(w, c)
            if filled <= 0:
                return
            continue
        if not c.flags & F_READABLE:
            return
        n = conn_recv(c, data, SCRATCH_BYTES)
        if n == IO_AGAIN:
            return
        if n == 0:
            client_part(w, c)  # between requests: nothing is owed
            return
        if n < 0:
            client_close(w, c)
            return
        parsed = h1_parse_request(data, <uint32_t> n, &c.scan, &c.socket.block.limits, &w.request)
        if fm_likely(parsed > 0):
            request_begin(w, c, data, <uint32_t> n, <uint32_t> parsed)
            return
        if parsed < 0:
            client_refuse(w, c, -parsed, asks_for_head(data, <uint32_t> n))
            return
        if not pend_append(&w.bufs, &c.input, data, <uint32_t> n):
            client_refuse(w, c, FM_E_NO_MEMORY, False)
            return
