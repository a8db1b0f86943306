"""Tables, addresses, connections, the pool and splicing, on a worker that has no thread. For tests only."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign

from fastmesh._native.base.slab cimport bufpool_free, bufpool_init, pend_len
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.base.timers cimport timer_is_armed, wheel_init
from fastmesh._native.net.address cimport (
    address_in_ranges,
    address_of_sockaddr,
    conn_learn_local,
    conn_set_peer_text,
)
from fastmesh._native.net.conn cimport (
    conn_close,
    conn_flush,
    conn_free_deferred,
    conn_has_unsent,
    conn_new,
    conn_of,
    conn_ready,
    conn_recv,
    conn_register,
    conn_reset,
    conn_send,
    conn_shut_write,
    conn_timer,
)
from fastmesh._native.lb.lb_t cimport lb_t
from fastmesh._native.net.health cimport (
    health_bad,
    health_connect_failed,
    health_eject,
    health_good,
    health_probe_claim,
    health_ramp_begin,
    health_ramp_step,
    health_resume,
    health_tell,
    told_t,
)
from fastmesh._native.net.overload cimport level_of, memory_measure, overload_init, share_of
from fastmesh._native.net.pool cimport (
    connect_error,
    flight_begin,
    flight_end,
    pool_close_all,
    pool_learn,
    pool_put,
    pool_saw_close,
    pool_shed,
    pool_take,
    upstream_close,
    upstream_open,
    upstream_reset,
)
from fastmesh._native.net.snap_t cimport UNLIMITED, block_drop, block_ref_t, block_take, range_t, service_t
from fastmesh._native.net.splice cimport pipe_take, pipes_close, pipes_init, pipes_shed, splice_fill, splice_flush
from fastmesh._native.net.stats cimport endpoint_of, listener_stats, pair_stats, service_stats
from fastmesh._native.net.table cimport table_free_leaves, table_get, table_set
from fastmesh._native.net.worker_t cimport (
    CONN_CLOSED,
    CONN_LEAF,
    CONN_UPSTREAM,
    F_ERROR,
    F_RDHUP,
    U_ACTIVE,
    conn_t,
    endpoint_t,
    service_stats_t,
    shared_t,
    table_t,
    worker_t,
)
from fastmesh._native.sys.os cimport close, epoll_create1, epoll_event, epoll_wait, sockaddr_storage


# ---------------------------------------------------------------- tables

cdef class Table:
    """Numbers to numbers; 0 is no entry."""
    cdef table_t table

    def __dealloc__(self):
        table_free_leaves(&self.table)

    def get(self, uint32_t index):
        return <uintptr_t> table_get(&self.table, index)

    def set(self, uint32_t index, uintptr_t entry):
        return table_set(&self.table, index, <void *> entry)


# ---------------------------------------------------------------- addresses

def peer_of(bytes packed not None):
    """(family, IP bytes, port, text) that a connection has of the sockaddr that accept(2) gave."""
    cdef sockaddr_storage from_kernel
    cdef conn_t c
    memset(&from_kernel, 0xA5, sizeof(from_kernel))
    memset(&c, 0, sizeof(c))
    memcpy(&from_kernel, <const char *> packed, len(packed))
    address_of_sockaddr(&c.peer_address, &from_kernel)
    conn_set_peer_text(&c)
    return (c.peer_address.family, (<char *> c.peer_address.ip)[:16], c.peer_address.port,
            c.client_ip[:c.client_ip_len].decode())


def in_ranges(bytes packed not None, list ranges not None):
    """``ranges``: (16 bytes, bits) pairs."""
    cdef sockaddr_storage from_kernel
    cdef conn_t c
    cdef uint32_t i
    cdef range_t *native = <range_t *> calloc(len(ranges) + 1, sizeof(range_t))
    memset(&from_kernel, 0, sizeof(from_kernel))
    memset(&c, 0, sizeof(c))
    memcpy(&from_kernel, <const char *> packed, len(packed))
    address_of_sockaddr(&c.peer_address, &from_kernel)
    for i, (address, bits) in enumerate(ranges):
        memcpy(native[i].address, <const char *> (<bytes> address), 16)
        native[i].prefix_bits = bits
    found = address_in_ranges(&c.peer_address, native, <uint32_t> len(ranges))
    free(native)
    return found


def local_of(int fd):
    """(family, IP bytes, port) that a connection learns of its own side."""
    cdef conn_t c
    memset(&c, 0, sizeof(c))
    c.fd = fd
    conn_learn_local(&c)
    return c.local_address.family, (<char *> c.local_address.ip)[:16], c.local_address.port


# ---------------------------------------------------------------- overload

def levels(uint64_t limit, list used not None):
    """The level after each of these numbers, one after the other."""
    cdef uint8_t level = 0
    found = []
    for number in used:
        level = level_of(number, limit, level)
        found.append(level)
    return found


def share(uint64_t limit, uint32_t percent):
    return share_of(limit, percent)


cdef class Memory:
    """What is measured of memory, from files of any kind; -1: there is none."""
    cdef shared_t shared

    def __cinit__(self, int statm_fd=-1, int group_used_fd=-1, int group_stat_fd=-1, bint v1=False, uint32_t page_bytes=4096):
        overload_init(&self.shared)
        self.shared.statm_fd = statm_fd
        self.shared.group_used_fd = group_used_fd
        self.shared.group_stat_fd = group_stat_fd
        self.shared.group_is_v1 = v1
        self.shared.page_bytes = page_bytes

    def measure(self, uint64_t now_ms):
        """(resident, of the control group), in bytes, as they are known then."""
        cdef char work[8192]
        memory_measure(&self.shared, now_ms, work, sizeof(work))
        return self.shared.memory_used, self.shared.group_used


# ---------------------------------------------------------------- a worker

cdef enum: MAX_ENDPOINTS = 16


cdef class Net:
    """What connections need of a worker. Connections are named by their event data."""
    cdef worker_t *w
    cdef shared_t shared
    cdef slot_t slot
    cdef slot_t others[MAX_ENDPOINTS]
    cdef slot_t *slots[MAX_ENDPOINTS]
    cdef uint32_t weights[MAX_ENDPOINTS]
    cdef lb_t lb
    cdef service_t service
    cdef endpoint_t *ep
    cdef block_ref_t refs[1]

    def __cinit__(self, uint32_t workers=1):
        cdef void *memory = NULL
        if posix_memalign(&memory, 64, sizeof(worker_t)):
            raise MemoryError
        memset(memory, 0, sizeof(worker_t))
        self.w = <worker_t *> memory
        self.shared.workers = workers
        overload_init(&self.shared)
        self.w.shared = &self.shared
        self.w.epoll_fd = epoll_create1(0o2000000)
        self.w.now_ms = 1000000
        wheel_init(&self.w.wheel, self.w.now_ms)
        bufpool_init(&self.w.bufs)
        pipes_init(self.w)
        self.ep = endpoint_of(self.w, &self.slot)
        self.service.lb = &self.lb
        self.service.limit_connections = UNLIMITED
        self.service.eject_base_ms = 1000
        self.service.eject_max_ms = 30000

    def __dealloc__(self):
        cdef uint32_t i
        cdef uint32_t j
        pipes_close(self.w)
        close(self.w.epoll_fd)
        for i in range(self.w.conn_leaf_count):
            free(self.w.conn_leaves[i])
        free(self.w.conn_leaves)
        bufpool_free(&self.w.bufs)
        for i in range(1024):
            if self.w.services.leaves[i] != NULL:
                for j in range(256):
                    if self.w.services.leaves[i][j] != NULL:
                        free((<service_stats_t *> self.w.services.leaves[i][j]).upstream_duration)
            for table in range(4):
                self._free_leaf(table, i)
        free(self.w)

    cdef void _free_leaf(self, int number, uint32_t i) noexcept:
        cdef uint32_t j
        cdef table_t *table = &self.w.endpoints
        if number == 1:
            table = &self.w.pairs
        elif number == 2:
            table = &self.w.services
        elif number == 3:
            table = &self.w.listeners
        if table.leaves[i] != NULL:
            for j in range(256):
                free(table.leaves[i][j])
            free(table.leaves[i])

    cdef conn_t *conn(self, uint64_t name) except NULL:
        cdef conn_t *c = conn_of(self.w, name)
        if c == NULL:
            raise LookupError(name)
        return c

    # connections

    def new(self, int fd, bint register=True):
        """Takes the descriptor over: an upstream connection that is leased."""
        cdef conn_t *c = conn_new(self.w, fd, CONN_UPSTREAM, U_ACTIVE)
        if c == NULL or (register and not conn_register(self.w, c)):
            raise OSError
        c.endpoint = self.ep
        self.ep.connections += 1
        return (<uint64_t> c.generation << 32) | c.index

    def is_there(self, uint64_t name):
        """Whether an event of that name still finds its connection."""
        return conn_of(self.w, name) != NULL

    def is_closed(self, uint64_t name):
        return self.conn(name).state == CONN_CLOSED

    def close(self, uint64_t name):
        conn_close(self.w, self.conn(name))

    def reset(self, uint64_t name):
        conn_reset(self.w, self.conn(name))

    def end_turn(self):
        conn_free_deferred(self.w)

    def ready(self, uint64_t name):
        conn_ready(self.w, self.conn(name))

    def run_ready(self):
        """The names on the ready list, which is empty then."""
        cdef conn_t *c
        names = []
        while self.w.ready_first != NULL:
            c = self.w.ready_first
            self.w.ready_first = c.ready_next
            c.flags &= <uint16_t> ~16
            names.append((<uint64_t> c.generation << 32) | c.index)
        self.w.ready_last = NULL
        self.w.ready_count = 0
        return names

    def events(self):
        """(name, bits) of what has happened since."""
        cdef epoll_event found[64]
        cdef int count = epoll_wait(self.w.epoll_fd, found, 64, 0)
        return [(found[i].data.u64, found[i].events) for i in range(count)]

    def set_flags(self, uint64_t name, uint16_t flags):
        self.conn(name).flags = flags

    def flags(self, uint64_t name):
        return self.conn(name).flags

    def timer(self, uint64_t name, uint32_t after_ms):
        """Arms or disarms; whether it is armed then."""
        conn_timer(self.w, self.conn(name), after_ms)
        return bool(timer_is_armed(&self.conn(name).timer))

    def recv(self, uint64_t name, uint32_t size):
        """Bytes, or the number that was returned when there were none."""
        cdef bytearray into = bytearray(size)
        cdef int64_t n = conn_recv(self.conn(name), into, size)
        return bytes(into[:n]) if n > 0 else n

    def send(self, uint64_t name, const uint8_t[::1] data not None):
        return conn_send(self.w, self.conn(name), &data[0], <uint32_t> data.shape[0])

    def flush(self, uint64_t name):
        return conn_flush(self.w, self.conn(name))

    def shut_write(self, uint64_t name):
        conn_shut_write(self.conn(name))

    def unsent(self, uint64_t name):
        """(bytes in ``out``, whether anything waits)"""
        cdef conn_t *c = self.conn(name)
        return pend_len(&c.out), bool(conn_has_unsent(c))

    def fail_buffers_after(self, int64_t count):
        self.w.bufs.fail_after = count

    @property
    def live(self):
        return {"connections": self.w.conns_live, "buffers": self.w.bufs.live, "pipes": self.w.pipes_live,
                "descriptors": self.shared.descriptors}

    @property
    def table_size(self):
        return self.w.conn_leaf_count * CONN_LEAF

    # splice

    def fill(self, uint64_t src, uint64_t dst, uint64_t most):
        """Socket to pipe; None when there is no pipe."""
        cdef conn_t *to = self.conn(dst)
        if to.pipe == NULL:
            to.pipe = pipe_take(self.w)
        if to.pipe == NULL:
            return None
        return splice_fill(self.conn(src), to.pipe, most)

    def drain(self, uint64_t dst):
        return splice_flush(self.w, self.conn(dst))

    @property
    def free_pipes(self):
        return self.w.pipe_free_count

    def shed_pipes(self):
        pipes_shed(self.w)

    # the pool of one endpoint

    def put(self, uint64_t name, uint32_t most, uint32_t idle_ms, uint32_t max_age_ms=0):
        self.service.keepalive = most
        self.service.pool_idle_ms = idle_ms
        self.service.max_age_ms = max_age_ms
        pool_put(self.w, self.conn(name), &self.service)

    def set_clock(self, uint64_t now_ms):
        self.w.now_ms = now_ms

    def keeps_ms(self, uint64_t name):
        """After ``put``: until when the connection is kept, from now; None: it was closed."""
        cdef conn_t *u = conn_of(self.w, name)
        if u == NULL or u.state == CONN_CLOSED:
            return None
        return int(u.timer.expires_tick * 4) - int(self.w.now_ms) if u.timer.next != NULL else 0

    def opened(self, uint64_t name, uint32_t since_ms):
        self.conn(name).since_ms = since_ms

    def learn(self, uint32_t limit_ms):
        pool_learn(self.w, self.ep, limit_ms)

    def endpoint_closes(self, uint64_t name, bint with_error=False):
        """The endpoint's FIN (or RST) on an idle connection; returns the limit that is known then, in ms."""
        cdef conn_t *u = self.conn(name)
        u.flags |= F_RDHUP | (F_ERROR if with_error else 0)
        pool_saw_close(self.w, u)
        upstream_close(self.w, u)
        return self.ep.idle_limit_ms

    def take(self):
        cdef conn_t *u = pool_take(self.w, self.ep)
        if u == NULL:
            return None
        u.state = U_ACTIVE
        return (<uint64_t> u.generation << 32) | u.index

    def close_upstream(self, uint64_t name):
        upstream_close(self.w, self.conn(name))

    def reset_upstream(self, uint64_t name):
        upstream_reset(self.w, self.conn(name))

    def shed(self, uint32_t most):
        return pool_shed(self.w, most)

    def strain(self, uint32_t resource, uint8_t level):
        self.w.strain[resource] = level
        self.w.pressure = max(self.w.strain[0], self.w.strain[1], self.w.strain[2])

    def limit_descriptors(self, uint64_t limit):
        self.shared.descriptor_limit = limit

    def close_pool(self):
        pool_close_all(self.w, self.ep)

    def open(self, bytes address not None):
        """A name, or the error's number."""
        cdef int32_t error = 0
        cdef conn_t *u
        cdef conn_t nobody
        memset(&nobody, 0, sizeof(nobody))
        self.slot.sockaddr_len = <uint16_t> len(address)
        memcpy(self.slot.sockaddr_bytes, <const char *> address, len(address))
        u = upstream_open(self.w, self.ep, &nobody, CONN_UPSTREAM, 4, &error)
        return -error if u == NULL else (<uint64_t> u.generation << 32) | u.index

    @property
    def pool(self):
        """(idle, connections)"""
        return self.ep.idle, self.ep.connections

    # the endpoint

    @property
    def health(self):
        return self.slot.health

    @health.setter
    def health(self, uint64_t word):
        self.slot.health = word

    def rules(self, uint32_t endpoints, uint32_t most_permille, uint32_t in_a_row_5xx, uint32_t in_a_row_gateway,
              uint32_t base_ms=1000, uint32_t max_ms=30000):
        """A service of so many endpoints, of which this is the first, and when they are left out."""
        cdef uint32_t i
        self.lb.n = endpoints
        self.lb.slots = &self.slots[0]
        self.lb.weights = &self.weights[0]
        for i in range(endpoints):
            self.slots[i] = &self.others[i] if i else &self.slot
            self.weights[i] = 1
        self.service.eject_most = most_permille
        self.service.eject_5xx = in_a_row_5xx
        self.service.eject_gateway = in_a_row_gateway
        self.service.eject_base_ms = base_ms
        self.service.eject_max_ms = max_ms

    def eject_other(self, uint32_t index, uint64_t now_ms, uint32_t for_ms):
        """One of the other endpoints takes no connections."""
        return health_eject(&self.others[index], for_ms, for_ms, <uint32_t> now_ms, 30, False)

    def connect_failed(self, uint64_t now_ms, bint probed=False):
        """Whether the endpoint is left out now and was not before."""
        return health_connect_failed(&self.slot, &self.service, <uint32_t> now_ms, 30, probed)

    def bad(self, uint64_t now_ms, bint gateway, bint probed=False):
        """An answer of 5xx, or a failure on the way; whether the endpoint is left out now and was not before."""
        return health_bad(&self.slot, &self.service, <uint32_t> now_ms, 1503 if gateway else 1500, gateway, probed)

    @property
    def in_a_row(self):
        """(5xx, failures on the way)"""
        return self.slot.bad_5xx, self.slot.bad_gateway

    def good(self, uint64_t now_ms, uint64_t sent_ms, uint32_t slow_start_ms=0):
        """Whether the endpoint is back."""
        return health_good(&self.slot, slow_start_ms, <uint32_t> now_ms, <uint32_t> sent_ms)

    def claim_probe(self, uint64_t now_ms, uint32_t lease_ms):
        return health_probe_claim(&self.slot, <uint32_t> now_ms, lease_ms)

    def begin_ramp(self, uint64_t now_ms, uint32_t ramp_ms):
        health_ramp_begin(&self.slot, ramp_ms, <uint32_t> now_ms, self.slot.health, self.slot.health)

    def step_ramp(self, uint64_t now_ms):
        """The share in 1/255 afterwards, 0 for all of it."""
        health_ramp_step(&self.slot, <uint32_t> now_ms)
        return (self.slot.health >> 40) & 0xFF

    @property
    def ejection(self):
        """(in a row, when, for how long, in all, reason)"""
        return (self.slot.ejections, self.slot.ejected_ms, self.slot.ejected_for_ms, self.slot.ejected_total,
                self.slot.reason)

    def tell(self, uint64_t now_ms):
        """What another process is told of the endpoint, or None."""
        cdef told_t told
        return told if health_tell(&self.slot, <uint32_t> now_ms, &told) else None

    def resume(self, uint64_t now_ms, told_t told):
        """A new endpoint begins where another process was."""
        memset(&self.slot, 0, sizeof(self.slot))
        health_resume(&self.slot, <uint32_t> now_ms, &told)

    @property
    def health_changes(self):
        return self.w.health_changes

    def flight(self, bint begin):
        """(the worker's, all workers') requests in flight afterwards."""
        if begin:
            flight_begin(self.w, self.ep)
        else:
            flight_end(self.w, self.ep)
        return self.ep.in_flight, self.slot.in_flight

    def endpoint_records(self, uint32_t index, uint32_t generation):
        """(whether the slot has one record, its requests, its answers of 5xx), after a request each."""
        cdef endpoint_t *ep
        self.slot.index = index
        self.slot.generation = generation
        ep = endpoint_of(self.w, &self.slot)
        ep.requests += 1
        ep.answers_5xx += 1
        return ep == endpoint_of(self.w, &self.slot), ep.requests, ep.answers_5xx

    def same_records(self, uint32_t index):
        """Whether a number's records are made once."""
        return (pair_stats(self.w, index) == pair_stats(self.w, index),
                service_stats(self.w, index) == service_stats(self.w, index),
                listener_stats(self.w, index) == listener_stats(self.w, index))

    def has_records(self, uint32_t index):
        return (pair_stats(self.w, index) != NULL, service_stats(self.w, index) != NULL,
                listener_stats(self.w, index) != NULL)

    def references(self, int change):
        """Takes or drops so many references of a block; how many there are."""
        cdef int _i
        for _i in range(abs(change)):
            if change > 0:
                block_take(self.refs, 0)
            else:
                block_drop(self.refs, 0)
        return self.refs[0].count


def error_of_connect(int number):
    return connect_error(number)
