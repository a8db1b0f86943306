"""The watchdog before one worker that does nothing but stand where the test puts it. For tests only."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from fastmesh._native.core.access_writer cimport access_monotonic_ms
from fastmesh._native.core.report cimport (
    REPORT_BYTES,
    report_begin,
    report_bytes,
    report_end,
    report_field,
    report_item,
    report_list,
    report_list_end,
    report_t,
)
from fastmesh._native.core.symbols cimport report_address
from fastmesh._native.core.turn cimport turn_begin, turn_end, turn_phase
from fastmesh._native.core.watchdog cimport (
    watchdog_beat,
    watchdog_enter,
    watchdog_init,
    watchdog_leave,
    watchdog_run,
    watchdog_stop,
    watchdog_watch_control,
    watchdog_watch_worker,
)
from fastmesh._native.core.watchdog_t cimport watchdog_t
from fastmesh._native.net.turn_t cimport SLOW_TURNS_KEPT, TURN_PHASES
from fastmesh._native.net.worker_t cimport CONN_CLIENT, conn_t, worker_t
from fastmesh._native.sys.atomics cimport fm_load_relaxed_u64, fm_store_relaxed_ptr, fm_store_relaxed_u64
from fastmesh._native.sys.os cimport EFD_CLOEXEC, EFD_NONBLOCK, close, eventfd
from fastmesh._native.sys.poll cimport poll


cdef void burn(uint64_t until_ms) noexcept nogil:
    """Its name is looked for in stacks."""
    while access_monotonic_ms() < until_ms:
        pass


cdef void rest(uint64_t until_ms) noexcept nogil:
    """In the kernel, where a signal finds it."""
    cdef uint64_t now_ms = access_monotonic_ms()
    while now_ms < until_ms:
        poll(NULL, 0, <int> (until_ms - now_ms))
        now_ms = access_monotonic_ms()


cdef class Dog:
    """A watchdog, a worker and a connection of it with descriptor ``at_fd``. ``run`` is for a thread; ``look`` is one of
    its rounds at a time of the test's choice."""
    cdef watchdog_t dog
    cdef worker_t *w
    cdef worker_t *all_[1]
    cdef conn_t *c
    cdef unsigned char *memory

    def __cinit__(self, int fd, int at_fd=-1, int stacks_fd=-1, bint json=False):
        cdef void *memory = NULL
        if posix_memalign(&memory, 64, sizeof(worker_t)):
            raise MemoryError
        memset(memory, 0, sizeof(worker_t))
        self.w = <worker_t *> memory
        self.all_[0] = self.w
        self.c = <conn_t *> calloc(1, sizeof(conn_t))
        self.c.kind = CONN_CLIENT
        self.c.state = 1
        self.c.fd = at_fd
        self.memory = <unsigned char *> calloc(1, REPORT_BYTES)
        watchdog_init(&self.dog, self.all_, 1, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), fd, stacks_fd, self.memory)
        self.dog.json = json

    def __dealloc__(self):
        close(self.dog.wake_fd)
        free(self.w)
        free(self.c)
        free(self.memory)

    def run(self):
        with nogil:
            watchdog_run(&self.dog)

    def stop(self):
        watchdog_stop(&self.dog)

    def beat(self, at_ms=None):
        watchdog_beat(&self.dog)
        if at_ms is not None:
            self.dog.beat_ms = at_ms

    def awake_since(self, uint64_t ms):
        """As if the process had stood still until then."""
        self.dog.awake_ms = ms

    def look(self, uint64_t now_ms):
        watchdog_watch_worker(&self.dog, self.w, now_ms)
        watchdog_watch_control(&self.dog, now_ms)

    # ------------------------------------------------------------ the worker

    def begin_turn(self, uint64_t at_ms, int events=1):
        fm_store_relaxed_u64(&self.w.now_us, at_ms * 1000)
        turn_begin(self.w, events)

    def phase(self, uint32_t phase):
        turn_phase(self.w, phase)

    def end_turn(self):
        turn_end(self.w)

    def stand(self, uint32_t ms, bint burning):
        """The body of a worker's thread: one turn that takes so long, with the connection."""
        cdef uint64_t now_ms = access_monotonic_ms()
        with nogil:
            watchdog_enter(self.w)
            fm_store_relaxed_u64(&self.w.now_us, now_ms * 1000)
            turn_begin(self.w, 1)
            fm_store_relaxed_ptr(&self.w.turn.at, self.c)
            if burning:
                burn(now_ms + ms)
            else:
                rest(now_ms + ms)
            turn_end(self.w)
            watchdog_leave(self.w)

    # ------------------------------------------------------------ looking

    def counts(self):
        """(turns, slow turns, stalls, left out, stalls of the control plane)"""
        return (fm_load_relaxed_u64(&self.w.turns), fm_load_relaxed_u64(&self.w.slow_turns),
                fm_load_relaxed_u64(&self.w.turn.stalls), fm_load_relaxed_u64(&self.dog.left_out),
                fm_load_relaxed_u64(&self.dog.control_stalls))

    def slow_turn(self, uint64_t number):
        """(µs, µs of each phase, events)"""
        cdef uint32_t i
        slow = &self.w.turn.slow[number % SLOW_TURNS_KEPT]
        return slow.took_us, [slow.phase_us[i] for i in range(TURN_PHASES)], slow.events

    def clean(self):
        """Whether nothing of a turn is left for the next one."""
        cdef uint32_t i
        return not self.w.turn.marked and not any([self.w.turn.phase_us[i] for i in range(TURN_PHASES)])


def report(bint json, bytes message, list fields, list lists):
    """One entry: ``fields`` are (name, text), ``lists`` are (name, texts)."""
    cdef report_t r
    cdef bytes text, name
    r.bytes = <unsigned char *> calloc(1, REPORT_BYTES)
    try:
        report_begin(&r, json, b"error")
        report_bytes(&r, message, len(message))
        for name, text in fields:
            report_field(&r, name)
            report_bytes(&r, text, len(text))
        for name, texts in lists:
            report_list(&r, name)
            for text in texts:
                if report_item(&r):
                    report_bytes(&r, text, len(text))
            report_list_end(&r)
        report_end(&r)
        return r.bytes[:r.length]
    finally:
        free(r.bytes)


def address(uint64_t code):
    """What an address in the code is shown as."""
    cdef report_t r
    r.bytes = <unsigned char *> calloc(1, REPORT_BYTES)
    try:
        report_begin(&r, False, b"error")
        r.length = 0
        report_address(&r, code)
        return (<bytes> r.bytes[:r.length]).decode()
    finally:
        free(r.bytes)


def burn_address():
    """Where a function is that has a name in no dynamic symbol table."""
    return <size_t> &burn
