"""Sees that a worker has been in one turn for over a second, or that the control plane does not run, and says so while
it lasts: the control plane, which writes the log otherwise, may be what stands still.

Threads: ``watchdog_run`` is the body of one thread, under one ``with nogil``; ``watchdog_look`` is the signal handler of
the workers; ``watchdog_enter`` and ``watchdog_leave`` are called by a worker's thread; the rest by any thread.

Cost: four wake-ups a second, each a few loads a worker. A worker stores its phase twice a turn and the connection
that it serves once an event, and never waits for the watchdog.

**A worker** that stands still is asked by a signal, which its handler answers: the connection that it is at, and its
stack by backtrace(3) into memory that is there already. A thread that does not answer is stuck in the kernel, or
stopped: then the kernel is asked (``/proc/self/task/TID``). Names are looked up here, on the watchdog's thread.

**The control plane** beats each second. Its Python stacks are written by its own signal handler (faulthandler's, which
needs no interpreter lock) to a file in memory, so that the entry stays one entry.

Nothing is told of the time in which this thread itself did not run: then the whole process was stopped.
"""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcpy

from fastmesh._native.base.limits cimport (
    CONTROL_LATE_MS,
    CONTROL_STACKS_MS,
    REPORTS_PER_MINUTE,
    STALLED_MS,
    WATCHDOG_MS,
)
from fastmesh._native.core.access_writer cimport access_monotonic_ms, access_write_some, access_writer_wake
from fastmesh._native.core.report cimport (
    REPORT_BYTES,
    report_begin,
    report_bytes,
    report_end,
    report_field,
    report_item,
    report_list,
    report_list_end,
    report_number,
    report_seconds,
    report_t,
    report_text,
)
from fastmesh._native.core.symbols cimport report_address
from fastmesh._native.core.watchdog_t cimport watchdog_t
from fastmesh._native.net.address cimport address_of_sockaddr, inet_ntop
from fastmesh._native.net.turn_t cimport NAME_SEEN_BYTES, STACK_FRAMES, TURN_IDLE, seen_t
from fastmesh._native.net.worker_t cimport CONN_FREE, CONN_UPSTREAM, address_t, conn_t, worker_t
from fastmesh._native.sys.atomics cimport (
    fm_bump_u64,
    fm_exchange_u32,
    fm_load_acquire_ptr,
    fm_load_acquire_u32,
    fm_load_acquire_u64,
    fm_load_relaxed_u32,
    fm_load_relaxed_u64,
    fm_store_relaxed_u32,
    fm_store_release_u32,
    fm_store_release_u64,
)
from fastmesh._native.sys.os cimport (
    AF_INET,
    AF_INET6,
    O_CLOEXEC,
    O_RDONLY,
    SEEK_SET,
    close,
    ftruncate,
    getpeername,
    lseek,
    open_,
    pread,
    read,
    sockaddr,
    sockaddr_storage,
    socklen_t,
)
from fastmesh._native.sys.poll cimport POLLIN, POLLOUT, poll, pollfd
from fastmesh._native.sys.signals cimport fm_block_signals
from fastmesh._native.sys.threads cimport (
    FM_LOOK_SIGNAL,
    FM_STACKS_SIGNAL,
    backtrace,
    fm_ask_thread,
    fm_block_signals_but,
    fm_handle,
    fm_is_handled,
    fm_get_this_thread,
    fm_peek_int,
    fm_peek_u8,
    fm_set_this_thread,
    fm_thread_id,
)

cdef enum:
    SUSPENDED_MS = 1000  # a nap that took so much longer: this process did not run
    ANSWER_MS = 5  # how often an answer is looked for
    ANSWER_TIMES = 20
    WRITE_BLOCKED_MS = 500  # a reader of the log that does not read loses the entry
    HANDLER_FRAMES = 2  # of a stack: the handler itself, and the kernel's way back from it
    KERNEL_BYTES = 2048

cdef extern from *:
    """
    static const char *const fm_phase_names[] = {"between two turns", "events", "adopting a configuration",
        "ready connections", "timers", "requests that wait", "letters", "freeing connections"};
    static const char *const fm_kind_names[] = {"none", "listener", "client", "upstream", "relay", "mailbox", "undecided"};
    static const char *const fm_state_names[] = {"PROXY header", "head", "exchange", "linger", "connecting", "active",
        "idle", "connecting", "open", "closed"};
    """
    const char **fm_phase_names
    const char **fm_kind_names
    const char **fm_state_names


# ---------------------------------------------------------------- on the worker's thread

cdef inline void name_see(char *to, uint8_t *length, const char *name, uint32_t size) noexcept nogil:
    length[0] = <uint8_t> (size if size < NAME_SEEN_BYTES else NAME_SEEN_BYTES)
    memcpy(to, name, length[0])


cdef inline void watchdog_look(int number) noexcept nogil:
    """The signal handler: a worker says where it is, if it was asked."""
    cdef worker_t *w = <worker_t *> fm_get_this_thread()
    cdef int saved = errno
    cdef seen_t *seen
    cdef conn_t *c
    if w == NULL or not fm_exchange_u32(&w.turn.seen.asked, 0):
        return
    seen = &w.turn.seen
    c = <conn_t *> w.turn.at
    seen.kind = CONN_FREE
    seen.listener_len = 0
    seen.endpoint_len = 0
    if c != NULL:
        seen.kind = c.kind
        seen.state = c.state
        seen.fd = c.fd
        seen.served = c.served
        if c.socket != NULL and c.socket.block != NULL:
            name_see(seen.listener, &seen.listener_len, c.socket.block.name.ptr, c.socket.block.name.len)
        if c.kind == CONN_UPSTREAM and c.endpoint != NULL:
            name_see(seen.endpoint, &seen.endpoint_len, <const char *> c.endpoint.slot.name, c.endpoint.slot.name_len)
    seen.frame_count = <uint32_t> backtrace(seen.frames, STACK_FRAMES)
    fm_store_release_u32(&seen.answered, 1)
    (&errno)[0] = saved


cdef inline void watchdog_enter(worker_t *w) noexcept nogil:
    """The worker's thread can be asked from now on. All other signals are the control thread's."""
    fm_set_this_thread(w)
    fm_block_signals_but(FM_LOOK_SIGNAL)
    fm_store_release_u32(&w.turn.tid, fm_thread_id())


cdef inline void watchdog_leave(worker_t *w) noexcept nogil:
    fm_store_release_u32(&w.turn.tid, 0)
    fm_block_signals()
    fm_set_this_thread(NULL)


# ---------------------------------------------------------------- on any thread

cdef inline void watchdog_init(
    watchdog_t *dog, worker_t **workers, uint32_t worker_count, int wake_fd, int out_fd, int stacks_fd, uint8_t *report
) noexcept nogil:
    """Sets up a watchdog in the caller's zeroed memory, before its thread starts; see ``watchdog_t`` for what is borrowed.

    The handler is there from now on, and backtrace(3) has loaded what it needs: in a handler it must not allocate."""
    cdef void *frames[4]
    dog.workers = workers
    dog.worker_count = worker_count
    dog.wake_fd = wake_fd
    dog.out_fd = out_fd
    dog.stacks_fd = stacks_fd
    dog.bytes = report
    backtrace(frames, 4)
    fm_handle(FM_LOOK_SIGNAL, watchdog_look)


cdef inline void watchdog_beat(watchdog_t *dog) noexcept nogil:
    """The control thread runs, and says so each second; from the first time on it is watched."""
    fm_store_relaxed_u32(&dog.control_tid, fm_thread_id())
    fm_store_release_u64(&dog.beat_ms, access_monotonic_ms())


cdef inline void watchdog_stop(watchdog_t *dog) noexcept nogil:
    fm_store_release_u32(&dog.stop, 1)
    access_writer_wake(dog.wake_fd)


# ---------------------------------------------------------------- writing

cdef inline bint watchdog_may_tell(watchdog_t *dog, uint64_t now_ms) noexcept nogil:
    """A few entries a minute: what is wrong all the time must not fill the log."""
    if now_ms - dog.minute_ms >= 60000:
        dog.minute_ms = now_ms
        dog.told = 0
    if dog.told >= REPORTS_PER_MINUTE:
        fm_bump_u64(&dog.left_out, 1)
        return False
    dog.told += 1
    return True


cdef inline void watchdog_begin(watchdog_t *dog, report_t *r, const char *level) noexcept nogil:
    r.bytes = dog.bytes
    report_begin(r, fm_load_relaxed_u32(&dog.json) != 0, level)


cdef inline void watchdog_write(watchdog_t *dog, report_t *r) noexcept nogil:
    """Ends the entry and writes it; the rest of it is lost when the reader has not read for a while."""
    cdef uint32_t offset = 0
    cdef ssize_t n
    cdef pollfd out
    report_end(r)
    while offset < r.length:
        n = access_write_some(dog.out_fd, r.bytes + offset, r.length - offset)
        if n > 0:
            offset += <uint32_t> n
        elif n == -EAGAIN:
            out.fd = dog.out_fd
            out.events = POLLOUT
            out.revents = 0
            if poll(&out, 1, WRITE_BLOCKED_MS) <= 0:
                return
        elif n != -EINTR:
            return


cdef inline void watchdog_nap(int ms) noexcept nogil:
    poll(NULL, 0, ms)


# ---------------------------------------------------------------- what the kernel says

cdef inline size_t task_read(uint32_t tid, const char *name, char *into, size_t size) noexcept nogil:
    """Bytes of ``/proc/self/task/<tid>/<name>``, ended by NUL; 0: it may not be read."""
    cdef char path[64]
    cdef ssize_t n = 0
    cdef int fd
    snprintf(path, sizeof(path), b"/proc/self/task/%u/%s", tid, name)
    fd = open_(path, O_RDONLY | O_CLOEXEC)
    if fd >= 0:
        n = read(fd, into, size - 1)
        close(fd)
    into[n if n > 0 else 0] = 0
    return <size_t> (n if n > 0 else 0)


cdef inline void report_lines(report_t *r, const char *text, size_t length) noexcept nogil:
    """An item for each line."""
    cdef const char *end
    cdef size_t n
    while length > 0:
        end = <const char *> memchr(text, c'\n', length)
        n = length if end == NULL else <size_t> (end - text)
        if n and report_item(r):
            report_bytes(r, text, n if n < 256 else 256)
        n += end != NULL
        text += n
        length -= n


cdef inline void report_task(report_t *r, uint32_t tid) noexcept nogil:
    """The kernel's view of a thread (proc_pid_stat(5) and its neighbours); its kernel stack, if we may see it."""
    cdef char text[KERNEL_BYTES]
    cdef size_t length, i, behind = 0
    report_list(r, b"kernel")
    length = task_read(tid, b"stat", text, sizeof(text))
    for i in range(length):
        if text[i] == c')':
            behind = i + 2  # the name may have brackets: the last one counts
    if behind and behind < length and report_item(r):
        report_text(r, b"state ")
        report_bytes(r, &text[behind], 1)
    if task_read(tid, b"wchan", text, sizeof(text)) and report_item(r):
        report_text(r, b"wchan ")
        report_text(r, text)
    length = task_read(tid, b"syscall", text, sizeof(text))
    if length and report_item(r):
        report_text(r, b"syscall ")
        report_bytes(r, text, length - (text[length - 1] == c'\n'))
    length = task_read(tid, b"stack", text, sizeof(text))
    report_lines(r, text, length)
    report_list_end(r)


# ---------------------------------------------------------------- workers

cdef inline bint worker_answers(worker_t *w, uint32_t tid) noexcept nogil:
    """Whether the worker's handler has run; then ``turn.seen`` is filled."""
    cdef uint32_t _time
    fm_store_relaxed_u32(&w.turn.seen.answered, 0)
    fm_store_release_u32(&w.turn.seen.asked, 1)
    if fm_ask_thread(tid, FM_LOOK_SIGNAL) < 0:
        return False
    for _time in range(ANSWER_TIMES):
        if fm_load_acquire_u32(&w.turn.seen.answered):
            return True
        watchdog_nap(ANSWER_MS)
    fm_exchange_u32(&w.turn.seen.asked, 0)  # when it takes the signal later, there is nothing to answer
    return fm_load_acquire_u32(&w.turn.seen.answered) != 0


cdef inline void report_peer(report_t *r, int fd) noexcept nogil:
    cdef sockaddr_storage peer
    cdef socklen_t length = sizeof(peer)
    cdef address_t address
    cdef char text[64]
    if getpeername(fd, <sockaddr *> &peer, &length) < 0:
        return
    address_of_sockaddr(&address, &peer)
    if address.family != 4 and address.family != 6:
        return
    inet_ntop(AF_INET if address.family == 4 else AF_INET6, address.ip, text, sizeof(text))
    report_text(r, b", peer ")
    report_text(r, text)
    report_text(r, b" port ")
    report_number(r, address.port)


cdef inline void report_connection(report_t *r, uint8_t kind, uint8_t state, int fd) noexcept nogil:
    report_field(r, b"connection")
    report_text(r, fm_kind_names[kind if kind <= 5 else 0])
    report_text(r, b", ")
    if kind != 1:  # a listening one has no state
        report_text(r, fm_state_names[state if state <= 9 else 9])
        report_text(r, b", ")
    report_text(r, b"fd ")
    if fd < 0:
        report_text(r, b"closed")
    else:
        report_number(r, <uint64_t> fd)
        report_peer(r, fd)


cdef inline void report_answer(report_t *r, const seen_t *seen) noexcept nogil:
    """What the worker said of itself."""
    cdef uint32_t i
    if seen.kind != CONN_FREE:
        report_connection(r, seen.kind, seen.state, seen.fd)
        if seen.listener_len:
            report_text(r, b", listener ")
            report_bytes(r, seen.listener, seen.listener_len)
        if seen.endpoint_len:
            report_text(r, b", endpoint ")
            report_bytes(r, seen.endpoint, seen.endpoint_len)
        report_text(r, b", requests on it ")
        report_number(r, seen.served)
    report_list(r, b"stack")
    for i in range(HANDLER_FRAMES, seen.frame_count):
        if report_item(r):
            # Behind the first one each is where a call returns to: the call is in front of it
            report_address(r, <uint64_t> seen.frames[i] - (1 if i > HANDLER_FRAMES else 0))
    report_list_end(r)


cdef inline void watchdog_tell_worker(watchdog_t *dog, worker_t *w, uint32_t phase, uint64_t for_ms) noexcept nogil:
    cdef uint32_t tid = fm_load_acquire_u32(&w.turn.tid)
    cdef conn_t *c = <conn_t *> fm_load_acquire_ptr(&w.turn.at)
    cdef bint answers = worker_answers(w, tid)
    cdef report_t r
    watchdog_begin(dog, &r, b"error")
    report_text(&r, b"worker ")
    report_number(&r, w.index)
    report_text(&r, b" has been in one turn for ")
    report_seconds(&r, for_ms)
    report_text(&r, b" s")
    report_field(&r, b"phase")
    report_text(&r, fm_phase_names[phase & 7])
    report_field(&r, b"thread")
    report_number(&r, tid)
    if answers:
        report_answer(&r, &w.turn.seen)
    else:
        if c != NULL:
            report_connection(&r, fm_peek_u8(&c.kind), fm_peek_u8(&c.state), fm_peek_int(<const int *> &c.fd))
        report_field(&r, b"reaction")
        report_text(&r, b"none: its thread is stuck in the kernel, or stopped")
        report_task(&r, tid)
    watchdog_write(dog, &r)


cdef inline void watchdog_watch_worker(watchdog_t *dog, worker_t *w, uint64_t now_ms) noexcept nogil:
    cdef uint32_t phase = fm_load_acquire_u32(&w.turn.phase)
    cdef uint64_t began_ms = fm_load_relaxed_u64(&w.now_us) // 1000
    cdef uint64_t turn = fm_load_relaxed_u64(&w.turns) + 1
    if began_ms < dog.awake_ms:
        began_ms = dog.awake_ms
    if phase == TURN_IDLE or w.turn.told == turn or now_ms < began_ms + STALLED_MS:
        return
    w.turn.told = turn
    fm_bump_u64(&w.turn.stalls, 1)
    if watchdog_may_tell(dog, now_ms):
        watchdog_tell_worker(dog, w, phase, now_ms - began_ms)


# ---------------------------------------------------------------- the control plane

cdef inline void report_stacks(watchdog_t *dog, report_t *r, uint32_t tid) noexcept nogil:
    """Python's stacks, as the handler of the control thread writes them; of a thread that takes no signal, what the kernel
    says."""
    cdef char text[8192]
    cdef ssize_t n = 0, before
    cdef uint32_t _time
    if dog.stacks_fd >= 0 and fm_is_handled(FM_STACKS_SIGNAL) and ftruncate(dog.stacks_fd, 0) == 0 and lseek(dog.stacks_fd, 0, SEEK_SET) == 0 \
            and fm_ask_thread(tid, FM_STACKS_SIGNAL) == 0:
        for _time in range(ANSWER_TIMES):
            before = n
            watchdog_nap(ANSWER_MS)
            n = pread(dog.stacks_fd, text, sizeof(text), 0)
            if n > 0 and n == before:
                break
    if n > 0:
        report_list(r, b"stacks")
        report_lines(r, text, <size_t> n)
        report_list_end(r)
    else:
        report_field(r, b"reaction")
        report_text(r, b"none: its thread is stuck in the kernel, or stopped")
        report_task(r, tid)


cdef inline void watchdog_tell_control(watchdog_t *dog, uint64_t late_ms, bint stacks) noexcept nogil:
    cdef uint32_t tid = fm_load_relaxed_u32(&dog.control_tid)
    cdef report_t r
    watchdog_begin(dog, &r, b"error")
    report_text(&r, b"the control plane has not run for ")
    report_number(&r, late_ms // 1000)
    report_text(&r, b" s; traffic goes on with the last configuration")
    if stacks:
        report_field(&r, b"thread")
        report_number(&r, tid)
        report_stacks(dog, &r, tid)
    watchdog_write(dog, &r)


cdef inline void watchdog_tell_back(watchdog_t *dog) noexcept nogil:
    cdef report_t r
    watchdog_begin(dog, &r, b"warning")
    report_text(&r, b"the control plane runs again")
    watchdog_write(dog, &r)


cdef inline void watchdog_watch_control(watchdog_t *dog, uint64_t now_ms) noexcept nogil:
    """Once when it is late, once more with its stacks, and once when it is back."""
    cdef uint64_t beat_ms = fm_load_acquire_u64(&dog.beat_ms)
    cdef uint64_t late_ms
    if beat_ms == 0:
        return
    if beat_ms < dog.awake_ms:
        beat_ms = dog.awake_ms
    late_ms = now_ms - beat_ms if now_ms > beat_ms else 0
    if late_ms < CONTROL_LATE_MS:
        if dog.control_late:
            watchdog_tell_back(dog)
        dog.control_late = 0
        dog.control_shown = 0
    elif not dog.control_late:
        dog.control_late = 1
        fm_bump_u64(&dog.control_stalls, 1)
        watchdog_tell_control(dog, late_ms, False)
    elif not dog.control_shown and late_ms >= CONTROL_STACKS_MS:
        dog.control_shown = 1
        watchdog_tell_control(dog, late_ms, True)


# ---------------------------------------------------------------- the thread

cdef inline void watchdog_run(watchdog_t *dog) noexcept nogil:
    """The thread's body; returns after ``watchdog_stop``."""
    cdef uint64_t before_ms, now_ms = access_monotonic_ms()
    cdef uint32_t i
    cdef pollfd wake
    fm_block_signals()
    dog.awake_ms = now_ms
    dog.minute_ms = now_ms
    while not fm_load_acquire_u32(&dog.stop):
        wake.fd = dog.wake_fd
        wake.events = POLLIN
        wake.revents = 0
        before_ms = access_monotonic_ms()
        poll(&wake, 1, WATCHDOG_MS)
        now_ms = access_monotonic_ms()
        if now_ms - before_ms > WATCHDOG_MS + SUSPENDED_MS:
            dog.awake_ms = now_ms
        for i in range(dog.worker_count):
            watchdog_watch_worker(dog, dog.workers[i], now_ms)
        watchdog_watch_control(dog, now_ms)
