# cython: language_level=3
"""For tests: access records, their formatting, and the writer's thread body."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.stdlib cimport posix_memalign
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastmesh._native.base.errors cimport FM_ERROR_LIMIT, fm_error_info
from fastmesh._native.base.put cimport put_decimal, put_digits
from fastmesh._native.base.ring cimport (
    ring_dropped,
    ring_init,
    ring_peek,
    ring_release,
    ring_should_wake,
    ring_t,
)
from fastmesh._native.core.access_writer cimport (
    access_writer_init,
    access_writer_run,
    access_writer_stop,
    access_writer_wake,
)
from fastmesh._native.core.access_writer_t cimport ACCESS_BUFFER_BYTES, access_writer_t
from fastmesh._native.proxy.access cimport access_encode, access_keep
from fastmesh._native.proxy.access_format cimport access_format, put_json_string, put_log_string
from fastmesh._native.proxy.access_t cimport (
    ACCESS_COMBINED,
    ACCESS_FIELD_MOST,
    ACCESS_JSON,
    ACCESS_LINE_MOST,
    ACCESS_TARGET_MOST,
    access_clock_t,
    access_no_upstream,
    access_record_t,
    access_t,
)
from fastmesh._native.sys.atomics cimport fm_load_relaxed_u32, fm_load_relaxed_u64, fm_store_relaxed_u32

JSON = ACCESS_JSON
COMBINED = ACCESS_COMBINED
LINE_MOST = ACCESS_LINE_MOST
FIELD_MOST = ACCESS_FIELD_MOST
TARGET_MOST = ACCESS_TARGET_MOST
BUFFER_BYTES = ACCESS_BUFFER_BYTES
NO_UPSTREAM = access_no_upstream()
FIELDS = (
    "listener",
    "service",
    "endpoint",
    "client",
    "method",
    "host",
    "target",
    "request_id",
    "user_agent",
    "referer",
)
ERROR_LIMIT = FM_ERROR_LIMIT


def error_name(int error):
    cdef const char *name = fm_error_info[error].public_name
    return None if name == NULL else (<bytes> name).decode()


cdef int fill(access_t *access, dict values, list kept) except -1:
    """Sets the struct from a dict of numbers and bytes; ``kept`` keeps the bytes alive."""
    memset(access, 0, sizeof(access_t))
    access.started_us = values.get("started_us", 0)
    access.duration_us = values.get("duration_us", 0)
    access.upstream_us = values.get("upstream_us", 0)
    access.bytes_received = values.get("bytes_received", 0)
    access.bytes_sent = values.get("bytes_sent", 0)
    access.status = values.get("status", 0)
    access.error = values.get("error", 0)
    access.protocol = values.get("protocol", 0)
    for i, name in enumerate(FIELDS):
        text = values.get(name, b"")
        kept.append(text)
        access.fields[i].ptr = <const uint8_t *> <const char *> text
        access.fields[i].len = len(text)
    return 0


cdef class Rings:
    """Some rings with their memory, as many workers have them."""
    cdef ring_t *rings
    cdef ring_t **table
    cdef uint8_t *memory
    cdef readonly uint32_t count

    def __cinit__(self, uint32_t count, uint64_t capacity):
        cdef uint32_t i
        self.count = count
        if posix_memalign(<void **> &self.rings, 64, count * sizeof(ring_t)):
            raise MemoryError
        if posix_memalign(<void **> &self.memory, 64, count * capacity):
            raise MemoryError
        self.table = <ring_t **> calloc(count, sizeof(ring_t *))
        for i in range(count):
            if not ring_init(&self.rings[i], self.memory + i * capacity, capacity):
                raise ValueError("capacity")
            self.table[i] = &self.rings[i]

    def __dealloc__(self):
        free(self.rings)
        free(self.table)
        free(self.memory)

    def encode(self, uint32_t ring, dict values):
        """One record; True if it went in."""
        cdef access_t access
        kept = []
        fill(&access, values, kept)
        return bool(access_encode(&self.rings[ring], &access))

    def should_wake(self, uint32_t ring):
        return bool(ring_should_wake(&self.rings[ring]))

    def dropped(self, uint32_t ring):
        return ring_dropped(&self.rings[ring])

    def formatted(self, uint32_t ring, int style):
        """The line of the oldest record, or None. The memory for it has exactly the room that is promised."""
        cdef access_clock_t clock
        cdef uint32_t length
        cdef uint8_t *line
        cdef const uint8_t *record = ring_peek(&self.rings[ring], &length)
        if record == NULL:
            return None
        memset(&clock, 0, sizeof(clock))
        line = <uint8_t *> malloc(ACCESS_LINE_MOST)
        try:
            length = access_format(line, <const access_record_t *> record, &clock, <uint32_t> style)
            ring_release(&self.rings[ring])
            return line[:length]
        finally:
            free(line)

    def produce(self, uint32_t ring, dict values, uint64_t count, uint32_t turn, int wake_fd):
        """Without the GIL: encodes ``count`` records whose ``bytes_sent`` counts up, waking after each
        ``turn`` of them. Returns how many were dropped."""
        cdef access_t access
        cdef uint64_t i, dropped = 0
        kept = []
        fill(&access, values, kept)
        with nogil:
            for i in range(count):
                access.bytes_sent = i
                dropped += not access_encode(&self.rings[ring], &access)
                if (i + 1) % turn == 0 or i + 1 == count:
                    if ring_should_wake(&self.rings[ring]):
                        access_writer_wake(wake_fd)
        return dropped


cdef class Writer:
    """The writer over ``rings``; ``run`` is a thread's body."""
    cdef access_writer_t writer
    cdef uint8_t *buffer
    cdef Rings rings

    def __cinit__(self, Rings rings, int wake_fd, int out_fd, int style):
        self.rings = rings
        self.buffer = <uint8_t *> malloc(ACCESS_BUFFER_BYTES)
        if self.buffer == NULL:
            raise MemoryError
        access_writer_init(
            &self.writer, rings.table, rings.count, wake_fd, out_fd, <uint32_t> style, self.buffer
        )

    def __dealloc__(self):
        free(self.buffer)

    def run(self):
        with nogil:
            access_writer_run(&self.writer)

    def set_style(self, int style):
        fm_store_relaxed_u32(&self.writer.style, <uint32_t> style)

    def stop(self):
        access_writer_stop(&self.writer)

    def counters(self):
        return {
            "lines_written": fm_load_relaxed_u64(&self.writer.lines_written),
            "lines_lost": fm_load_relaxed_u64(&self.writer.lines_lost),
            "bytes_written": fm_load_relaxed_u64(&self.writer.bytes_written),
            "write_errors": fm_load_relaxed_u64(&self.writer.write_errors),
            "last_errno": fm_load_relaxed_u32(&self.writer.last_errno),
        }


def keep(dict values, uint32_t first, uint32_t last, uint64_t capacity):
    """``access_keep`` into fresh memory: (what it returned, the fields as they are afterwards)."""
    cdef access_t access
    cdef uint8_t *memory = <uint8_t *> malloc(capacity if capacity else 1)
    cdef int64_t used
    kept = []
    try:
        fill(&access, values, kept)
        used = access_keep(&access, first, last, memory, capacity)
        fields = {}
        for i, name in enumerate(FIELDS):
            fields[name] = access.fields[i].ptr[: access.fields[i].len]
        return used, fields
    finally:
        free(memory)


def escaped(text, uint32_t length, int style):
    """The escaped form of the first ``length`` bytes of ``text``, a writable buffer with 15 more readable
    bytes; the output has exactly the room that is promised."""
    cdef const uint8_t[::1] view = text
    cdef uint32_t room = 6 * length + 4 + 15
    cdef uint8_t *to = <uint8_t *> malloc(room)
    cdef uint8_t *end
    try:
        if style == ACCESS_JSON:
            end = put_json_string(to, &view[0], length)
        else:
            end = put_log_string(to, &view[0], length)
        return to[: end - to]
    finally:
        free(to)


def decimal(uint64_t value):
    cdef uint8_t text[20]
    return text[: put_decimal(text, value) - text]


def digits(uint64_t value, uint32_t width):
    cdef uint8_t text[20]
    return text[: put_digits(text, value, width) - text]


cdef uint64_t nanoseconds() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t> now.tv_sec * 1000000000u + <uint64_t> now.tv_nsec


def measure(dict values, int style, uint64_t rounds):
    """Nanoseconds for (encode, format) of one record each, the mean over ``rounds`` batches of 64."""
    cdef access_t access
    cdef access_clock_t clock
    cdef ring_t *ring
    cdef uint8_t *memory
    cdef uint8_t *line = <uint8_t *> malloc(ACCESS_LINE_MOST)
    cdef const uint8_t *record
    cdef uint32_t length
    cdef uint64_t encoding = 0, formatting = 0, at, _round, _record
    kept = []
    fill(&access, values, kept)
    memset(&clock, 0, sizeof(clock))
    if posix_memalign(<void **> &ring, 64, sizeof(ring_t)) or posix_memalign(<void **> &memory, 64, 1 << 18):
        raise MemoryError
    ring_init(ring, memory, 1 << 18)
    with nogil:
        for _round in range(rounds):
            at = nanoseconds()
            for _record in range(64):
                access_encode(ring, &access)
            encoding += nanoseconds() - at
            at = nanoseconds()
            for _record in range(64):
                record = ring_peek(ring, &length)
                access_format(line, <const access_record_t *> record, &clock, <uint32_t> style)
                ring_release(ring)
            formatting += nanoseconds() - at
    free(ring)
    free(memory)
    free(line)
    return encoding / rounds / 64, formatting / rounds / 64
