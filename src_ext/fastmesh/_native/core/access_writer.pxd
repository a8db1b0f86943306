"""The access log's writer: drains the workers' rings, formats and writes in batches.

Threads: ``access_writer_run`` is the body of one non-daemon thread, under one ``with nogil``. Workers call
``access_writer_wake`` when ``ring_should_wake`` says so. Any thread may call ``access_writer_stop`` and read
the counters.

Life: set up with ``access_writer_init`` before the thread starts. Stop it after the workers were joined: what
they left in the rings is still written. It never ends by itself: when a write fails (disk full, reader gone),
the lines of the batch are dropped and counted, and the next batch is tried again.

The descriptor: whoever opens logs keeps ``out_fd`` for the whole life and, to reopen, puts the new file onto
the same number with ``dup2``. That is atomic for a ``write`` in progress (it ends on the old file), so
nothing is exchanged here. A file is opened with ``O_APPEND``. A pipe or terminal may be blocking, and shared
with other processes, so its flags are left alone: it gets at most 4,096 bytes at a time, whole lines, after
poll said that there is room (a pipe then does not block, and writes of this size are not mixed with those of
others). Thus a reader that stands still blocks this thread only in poll, where a stop is noticed; meanwhile
the rings fill up and workers drop records.

Batches: woken by the first record after a silence, the thread writes at once; then it naps for ``NAP_MS``,
woken early only by a half-full ring, and looks again. With nothing new after a nap it sleeps until it is
woken.
"""
from libc.errno cimport EAGAIN, EINTR, EIO, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.stat cimport S_ISREG, S_ISSOCK, fstat, struct_stat
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport read, write

from fastmesh._native.base.ring cimport (
    RING_ASLEEP,
    RING_AWAKE,
    RING_NAPPING,
    ring_announce,
    ring_filled,
    ring_peek,
    ring_release,
    ring_state_t,
    ring_t,
)
from fastmesh._native.core.access_writer_t cimport ACCESS_BUFFER_BYTES, access_writer_t
from fastmesh._native.proxy.access_format cimport access_format
from fastmesh._native.proxy.access_t cimport ACCESS_LINE_MOST, access_record_t
from fastmesh._native.sys.atomics cimport (
    fm_bump_u64,
    fm_load_acquire_u32,
    fm_load_relaxed_u32,
    fm_store_relaxed_u32,
    fm_store_release_u32,
)
from fastmesh._native.sys.poll cimport POLLIN, POLLOUT, poll, pollfd
from fastmesh._native.sys.signals cimport fm_block_signals

cdef extern from "sys/socket.h" nogil:
    ssize_t send(int fd, const void *bytes, size_t length, int flags)
    enum: MSG_DONTWAIT
    enum: MSG_NOSIGNAL

cdef enum:
    NAP_MS = 10
    SLEEP_MS = 1000  # no wake-up is lost (see ring.pxd); this is for a worker that cannot write one
    RECORDS_A_RING = 256  # taken from one ring before the next has its turn
    CHUNK_BYTES = 4096  # PIPE_BUF
    BLOCKED_MS = 100
    BLOCKED_AT_STOP_MS = 1000  # how long a reader that is slow may hold up the stop, all in all


cdef inline void access_writer_init(
    access_writer_t *writer,
    ring_t **rings,
    uint32_t ring_count,
    int wake_fd,
    int out_fd,
    uint32_t style,
    uint8_t *buffer,
) noexcept nogil:
    """Sets up a writer in the caller's memory. ``rings``, the rings and ``buffer`` (``ACCESS_BUFFER_BYTES``)
    are borrowed until the thread has ended; ``wake_fd`` is a non-blocking eventfd; ``style`` is
    ``ACCESS_JSON`` or ``ACCESS_COMBINED``."""
    memset(writer, 0, sizeof(access_writer_t))
    writer.rings = rings
    writer.ring_count = ring_count
    writer.wake_fd = wake_fd
    writer.out_fd = out_fd
    writer.style = style
    writer.buffer = buffer


cdef inline void access_writer_wake(int wake_fd) noexcept nogil:
    """Any thread: ends a sleep or a nap. A full eventfd (EAGAIN) is as good as a written one."""
    cdef uint64_t one = 1
    while write(wake_fd, &one, sizeof(one)) < 0 and errno == EINTR:
        pass


cdef inline void access_writer_stop(access_writer_t *writer) noexcept nogil:
    """Any thread: the writer's thread writes what is in the rings, and ends."""
    fm_store_release_u32(&writer.stop, 1)
    access_writer_wake(writer.wake_fd)


cdef inline ssize_t access_write_some(int fd, const uint8_t *bytes, size_t length) noexcept nogil:
    """One write of at most ``length`` bytes that does not block on a pipe, terminal or socket: bytes taken,
    or minus ``errno`` (EAGAIN: not now)."""
    cdef struct_stat status
    cdef pollfd out
    cdef size_t whole
    cdef ssize_t taken
    if fstat(fd, &status) < 0:
        return -errno
    if S_ISSOCK(status.st_mode):
        taken = send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL)
    else:
        if not S_ISREG(status.st_mode):
            out.fd = fd
            out.events = POLLOUT
            out.revents = 0
            if poll(&out, 1, 0) == 0:
                return -EAGAIN
            if length > CHUNK_BYTES:
                whole = CHUNK_BYTES
                while whole and bytes[whole - 1] != 10:
                    whole -= 1
                length = whole if whole else CHUNK_BYTES
        taken = write(fd, bytes, length)
    if taken < 0:
        return -errno
    return taken if taken else -EIO  # nothing taken and no reason told: never try for ever


cdef inline uint64_t access_monotonic_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t> now.tv_sec * 1000 + <uint64_t> now.tv_nsec // 1000000


cdef inline bint access_writer_blocked(access_writer_t *writer) noexcept nogil:
    """Waits until the file may take bytes again. False: a stop was asked for and its patience is over."""
    cdef pollfd out
    out.fd = writer.out_fd
    out.events = POLLOUT
    out.revents = 0
    cdef uint64_t now
    if fm_load_acquire_u32(&writer.stop):
        now = access_monotonic_ms()
        if writer.give_up_at_ms == 0:
            writer.give_up_at_ms = now + BLOCKED_AT_STOP_MS
        elif now >= writer.give_up_at_ms:
            return False
    poll(&out, 1, BLOCKED_MS)
    return True


cdef inline uint32_t access_count_lines(const uint8_t *bytes, uint32_t length) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t lines = 0
    for i in range(length):
        lines += bytes[i] == 10
    return lines


cdef inline void access_writer_flush(access_writer_t *writer) noexcept nogil:
    """Writes the buffer out, however long a blocked reader takes; on an error drops and counts what is left
    of it."""
    cdef uint32_t offset = 0, lost = 0
    cdef ssize_t taken
    while offset < writer.filled:
        taken = access_write_some(writer.out_fd, writer.buffer + offset, writer.filled - offset)
        if taken > 0:
            offset += <uint32_t> taken
            continue
        if taken == -EINTR:
            continue
        if taken == -EAGAIN:
            if access_writer_blocked(writer):
                continue
        else:
            fm_bump_u64(&writer.write_errors, 1)
            fm_store_relaxed_u32(&writer.last_errno, <uint32_t> -taken)
        lost = access_count_lines(writer.buffer + offset, writer.filled - offset)
        lost = lost if lost < writer.pending else writer.pending
        break
    if offset:
        writer.mid_line = writer.buffer[offset - 1] != 10
    fm_bump_u64(&writer.bytes_written, offset)
    fm_bump_u64(&writer.lines_lost, lost)
    fm_bump_u64(&writer.lines_written, writer.pending - lost)
    writer.filled = 0
    writer.pending = 0


cdef inline void access_writer_add(access_writer_t *writer, const access_record_t *record) noexcept nogil:
    """Formats one record into the buffer, which is written out first when it has no room."""
    cdef uint32_t style = fm_load_relaxed_u32(&writer.style)
    if writer.filled + ACCESS_LINE_MOST > ACCESS_BUFFER_BYTES:
        access_writer_flush(writer)
    if writer.filled == 0 and writer.mid_line:
        writer.buffer[0] = 10  # ends the line that an error cut
        writer.filled = 1
    writer.filled += access_format(writer.buffer + writer.filled, record, &writer.clock, style)
    writer.pending += 1


cdef inline uint64_t access_writer_drain(access_writer_t *writer) noexcept nogil:
    """One round over the rings: formats what is there, up to a budget for each, and writes it. Returns how
    many records."""
    cdef uint64_t drained = 0
    cdef uint32_t i, budget, length
    cdef const uint8_t *record
    for i in range(writer.ring_count):
        budget = RECORDS_A_RING
        while budget:
            record = ring_peek(writer.rings[i], &length)
            if record == NULL:
                break
            access_writer_add(writer, <const access_record_t *> record)
            ring_release(writer.rings[i])
            budget -= 1
        drained += RECORDS_A_RING - budget
    access_writer_flush(writer)
    return drained


cdef inline void access_writer_wait(
    access_writer_t *writer, ring_state_t state, int timeout_ms
) noexcept nogil:
    """Sleeps or naps until woken, unless a ring already holds what would end it (see ``ring.pxd``)."""
    cdef uint32_t i
    cdef uint64_t filled
    cdef bint wanted = fm_load_acquire_u32(&writer.stop) != 0
    cdef pollfd wake
    for i in range(writer.ring_count):
        ring_announce(writer.rings[i], state)
        filled = ring_filled(writer.rings[i])
        if filled and (state == RING_ASLEEP or filled >= writer.rings[i].capacity // 2):
            wanted = True
    if not wanted:
        wake.fd = writer.wake_fd
        wake.events = POLLIN
        wake.revents = 0
        if poll(&wake, 1, timeout_ms) > 0:
            read(writer.wake_fd, &filled, sizeof(filled))
    for i in range(writer.ring_count):
        ring_announce(writer.rings[i], RING_AWAKE)


cdef inline void access_writer_run(access_writer_t *writer) noexcept nogil:
    """The thread's body; returns after ``access_writer_stop``, when the rings are empty."""
    cdef uint32_t stopping
    cdef uint64_t drained
    fm_block_signals()
    while True:
        stopping = fm_load_acquire_u32(&writer.stop)
        drained = access_writer_drain(writer)
        if stopping:
            if drained == 0:
                return
        elif drained:
            access_writer_wait(writer, RING_NAPPING, NAP_MS)
        else:
            access_writer_wait(writer, RING_ASLEEP, SLEEP_MS)
