"""One worker without a thread: the test makes its turns, so that the test decides what falls into the same turn.

Blocks are built of the same values as the engine's (``fastmesh.engine.compile``). For tests only.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign

from fastmesh._native.base.errors cimport FM_ERROR_LIMIT, fm_error_info
from fastmesh._native.base.slab cimport BUF_CLASSES, pend_len
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.base.timers cimport timer_is_armed
from fastmesh._native.core.access_writer cimport access_writer_wake
from fastmesh._native.core.blocks cimport listener_free, listener_new, service_free, service_new
from fastmesh._native.core.mailbox cimport (
    COMMAND_FLAG_HANDED_ON,
    COMMAND_FLAG_LEAVING,
    COMMAND_FLAG_SHARED,
    mailbox_post,
    mailbox_run,
)
from fastmesh._native.core.worker cimport worker_clock, worker_close_everything, worker_free, worker_init, worker_turn
from fastmesh._native.net.health cimport health_eject, health_without_time
from fastmesh._native.net.overload cimport overload_init
from fastmesh._native.net.snap_t cimport listener_block_t, service_t, snap_t
from fastmesh._native.net.table cimport table_get, table_set
from fastmesh._native.net.worker_t cimport (
    CONN_FREE,
    CONN_LEAF,
    CONN_MAILBOX,
    command_t,
    conn_t,
    endpoint_t,
    listener_stats_t,
    pair_stats_t,
    service_stats_t,
    shared_t,
    worker_t,
)
from fastmesh._native.proxy.exchange_t cimport xchg_t
from fastmesh._native.sys.count cimport fm_count_begin, fm_count_end
from fastmesh._native.sys.os cimport EFD_CLOEXEC, EFD_NONBLOCK, close, epoll_create1, eventfd, read, write

cdef enum: CLOEXEC = 0o2000000
_KINDS = ("free", "listener", "client", "upstream", "relay", "mailbox", "undecided")
_STATES = ("proxy_header", "head", "exchange", "linger", "connecting", "active", "idle", "relay_connecting",
           "relay_open", "closed")


cdef class Worker:
    """Life: make it, define slots, ``publish``, ``post`` sockets, make turns, ``stop``, look at ``ledger``, ``free``."""
    cdef shared_t shared
    cdef worker_t *w
    cdef worker_t *all_[1]
    cdef list slots  # addresses
    cdef list listeners  # addresses of blocks, oldest first
    cdef list services
    cdef list roots
    cdef uint64_t generation
    cdef bint stopped

    def __cinit__(self, uint64_t connection_limit, uint64_t seed):
        cdef void *memory = NULL
        self.slots, self.listeners, self.services, self.roots = [], [], [], []
        memset(&self.shared, 0, sizeof(self.shared))
        if posix_memalign(&memory, 64, sizeof(worker_t)):
            raise MemoryError
        memset(memory, 0, sizeof(worker_t))
        self.w = <worker_t *> memory
        self.all_[0] = self.w
        self.shared.workers = 1
        self.shared.all = &self.all_[0]
        self.shared.connection_limit = connection_limit
        overload_init(&self.shared)
        self.shared.access_event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if not worker_init(self.w, &self.shared, 0, epoll_create1(CLOEXEC), eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), seed):
            raise MemoryError
        worker_clock(self.w)

    # ------------------------------------------------------------ configuration

    def define_slot(self, uint32_t index, uint32_t generation, uint32_t service_index, bytes address, bytes name):
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        if slot == NULL:
            slot = <slot_t *> calloc(1, sizeof(slot_t))
            if slot == NULL or not table_set(&self.shared.slots, index, slot):
                raise MemoryError
            self.slots.append(<size_t> slot)
        slot.health = 0
        slot.index = index
        slot.service_index = service_index
        slot.sockaddr_len = <unsigned short> len(address)
        memcpy(slot.sockaddr_bytes, <const char *> address, len(address))
        slot.name_len = <unsigned short> len(name)
        memcpy(slot.name, <const char *> name, len(name))
        slot.generation = generation

    def mark_slot(self, uint32_t index, uint64_t health):
        """Sets the whole health word."""
        (<slot_t *> table_get(&self.shared.slots, index)).health = health

    def eject_slot(self, uint32_t index, uint32_t for_ms):
        """Leaves the endpoint out, as a connect failure does; whether it was in before."""
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        return health_eject(slot, for_ms, for_ms, <uint32_t> self.w.now_ms, 30, False)

    def pass_ejection(self, uint32_t index, uint32_t ago_ms=0):
        """Moves the last ejection into the past, so that its time was over ``ago_ms`` before this turn."""
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        cdef uint32_t until = <uint32_t> self.w.now_ms - ago_ms
        slot.ejected_ms = until - slot.ejected_for_ms
        slot.health = health_without_time(slot.health) | (until if until != 0 else 1)

    def left_out_ms(self, uint32_t index):
        """For how many ms the endpoint is left out yet: 0 or less when it is half open, None when it is in."""
        cdef uint32_t until = <uint32_t> (<slot_t *> table_get(&self.shared.slots, index)).health
        return <int32_t> (until - <uint32_t> self.w.now_ms) if until else None

    def build_listener(self, dict spec):
        """The number of a new block."""
        cdef listener_block_t *block = listener_new(spec, 1)
        self.listeners.append(<size_t> block)
        return len(self.listeners) - 1

    def build_service(self, dict spec):
        cdef service_t *block = service_new(spec, &self.shared.slots, 1)
        self.services.append(<size_t> block)
        return len(self.services) - 1

    def publish(self, list listeners, list services):
        """Makes a snapshot of blocks by index; each is a block's number or None."""
        cdef snap_t *root = <snap_t *> calloc(1, sizeof(snap_t))
        cdef uint32_t i
        self.generation += 1
        root.generation = self.generation
        root.listener_count = <uint32_t> len(listeners)
        root.service_count = <uint32_t> len(services)
        root.listeners = <listener_block_t **> calloc(len(listeners) + 1, sizeof(void *))
        root.services = <service_t **> calloc(len(services) + 1, sizeof(void *))
        for i, number in enumerate(listeners):
            if number is not None:
                root.listeners[i] = <listener_block_t *> <size_t> self.listeners[number]
        for i, number in enumerate(services):
            if number is not None:
                root.services[i] = <service_t *> <size_t> self.services[number]
        self.roots.append(<size_t> root)
        self.w.published = root

    def post(self, uint32_t kind, int fd, uint32_t listener_index, uint64_t identity, bint shared=False,
             uint32_t least_idle_ms=0, bint leaving=False, bint handed_on=False):
        cdef command_t *command = <command_t *> calloc(1, sizeof(command_t))
        command.kind = kind
        command.fd = fd
        command.listener_index = listener_index
        command.identity = identity
        command.least_idle_ms = least_idle_ms
        command.flags = (COMMAND_FLAG_SHARED if shared else 0) | (COMMAND_FLAG_LEAVING if leaving else 0) \
            | (COMMAND_FLAG_HANDED_ON if handed_on else 0)
        mailbox_post(self.w, command)

    def drain(self):
        self.shared.draining = 1

    # ------------------------------------------------------------ what may be used

    def limit(self, uint64_t descriptors=0, uint64_t memory=0, uint64_t group=0, uint64_t connections=0):
        """0: any number; of connections: as it is."""
        if connections:
            self.shared.connection_limit = connections
        self.shared.descriptor_limit = descriptors
        self.shared.memory_limit = memory
        self.shared.group_limit = group

    def watch_memory(self, int statm_fd, int group_used_fd=-1, int group_stat_fd=-1, bint v1=False):
        """Files of 1-byte pages; the descriptors stay the caller's."""
        self.shared.statm_fd = statm_fd
        self.shared.group_used_fd = group_used_fd
        self.shared.group_stat_fd = group_stat_fd
        self.shared.group_is_v1 = v1
        self.shared.page_bytes = 1

    def pass_time(self, uint32_t ms):
        """As if nothing had happened for so long: the next turn looks again at what is used."""
        self.w.looked_ms = self.w.shortage_ms = self.w.pool_bare_ms = 0
        self.shared.memory_at_ms = self.shared.group_at_ms = 0
        self.age(ms)

    def age(self, uint32_t ms):
        """As if all that is idle had been so for so much longer."""
        cdef uint32_t i, j
        cdef conn_t *c
        for i in range(self.w.conn_leaf_count):
            for j in range(CONN_LEAF):
                c = &self.w.conn_leaves[i][j]
                if c.kind != CONN_FREE:
                    c.idle_since_ms -= ms

    def kept_buffers(self):
        """How many wait for their next use."""
        cdef uint32_t i
        return sum([self.w.bufs.cached[i] for i in range(BUF_CLASSES)])

    def overload(self):
        """(connections, descriptors, resident bytes, bytes of the control group; the three levels; what was closed)"""
        return (
            (self.shared.connections, self.shared.descriptors, self.shared.memory_used, self.shared.group_used),
            (self.w.strain[0], self.w.strain[1], self.w.strain[2]),
            (self.w.shed_clients, self.w.shed_pooled),
        )

    # ------------------------------------------------------------ turns

    def turn(self):
        """A turn that does not wait."""
        access_writer_wake(self.w.event_fd)
        with nogil:
            worker_turn(self.w)

    def read_letters(self):
        """What a turn does with letters, before any event has told of what came meanwhile."""
        with nogil:
            mailbox_run(self.w)

    def turn_waiting(self):
        """A turn that sleeps until something happens or a timer may be due."""
        with nogil:
            worker_turn(self.w)

    def exchange_often(self, int client_fd, int origin_fd, bytes request, bytes response, uint32_t count):
        """How many of ``count`` exchanges went through on connections that are open and do not block, for counting.

        As if a connection were always ready, so that no turn asks the timer wheel how long it may sleep: that costs the
        more the longer it is until the wheel's next turn, and would make the count depend on the clock."""
        cdef uint32_t done = 0
        cdef const char *question = request
        cdef const char *answer = response
        cdef ssize_t question_len = len(request), answer_len = len(response)
        with nogil:
            self.w.ready_count += 1
            fm_count_begin()
            while done < count:
                if write(client_fd, question, question_len) != question_len or not self.passed_on(origin_fd):
                    break
                if write(origin_fd, answer, answer_len) != answer_len or not self.passed_on(client_fd):
                    break
                done += 1
            fm_count_end()
            self.w.ready_count -= 1
        return done

    cdef bint passed_on(self, int fd) noexcept nogil:
        """Makes turns until something has come out at ``fd``."""
        cdef char taken[16384]
        cdef int _turn
        for _turn in range(8):
            worker_turn(self.w)
            if read(fd, taken, sizeof(taken)) > 0:
                return True
        return False

    def stop(self):
        """What the end of the thread does."""
        self.stopped = True
        with nogil:
            worker_close_everything(self.w)

    def free(self):
        """After ``stop``, once."""
        cdef snap_t *root
        if self.w == NULL:
            return
        close(self.w.epoll_fd)
        close(self.w.event_fd)
        close(self.shared.access_event_fd)
        worker_free(self.w)
        free(self.w)
        self.w = NULL
        for block in self.listeners:
            listener_free(<listener_block_t *> <size_t> block)
        for block in self.services:
            service_free(<service_t *> <size_t> block)
        for address in self.roots:
            root = <snap_t *> <size_t> address
            free(root.listeners)
            free(root.services)
            free(root)
        for address in self.slots:
            free(<void *> <size_t> address)

    # ------------------------------------------------------------ failure injection

    def fail_buffers_after(self, int64_t count):
        """Negative: never."""
        self.w.bufs.fail_after = count

    def fail_exchanges_after(self, int64_t count):
        self.w.exchanges.fail_after = count

    # ------------------------------------------------------------ looking

    def connections(self):
        """(kind, state, unsent bytes, unparsed bytes, bytes in a pipe, whether its timer is armed) of each."""
        cdef uint32_t i, j
        cdef conn_t *c
        found = []
        for i in range(self.w.conn_leaf_count):
            for j in range(CONN_LEAF):
                c = &self.w.conn_leaves[i][j]
                if c.kind != CONN_FREE and c.kind != CONN_MAILBOX:
                    # A listening connection has no state
                    found.append((_KINDS[c.kind], _STATES[c.state] if c.kind != 1 else "", pend_len(&c.out),
                                  pend_len(&c.input), c.pipe.held if c.pipe != NULL else 0,
                                  bool(timer_is_armed(&c.timer))))
        return found

    def buffered(self):
        """(bytes, bytes of the buffers that they lie in) that all connections hold: unsent and unparsed."""
        cdef uint32_t i, j
        cdef conn_t *c
        cdef uint64_t held = 0, capacity = 0
        for i in range(self.w.conn_leaf_count):
            for j in range(CONN_LEAF):
                c = &self.w.conn_leaves[i][j]
                if c.kind != CONN_FREE:
                    held += pend_len(&c.out) + pend_len(&c.input)
                    capacity += c.out.capacity + c.input.capacity
        return held, capacity

    def ledger(self):
        """Living objects; the mailbox's connection is not counted."""
        return {
            "connections": self.w.conns_live - (0 if self.stopped else 1),
            "exchanges": self.w.exchanges.live,
            "buffers": self.w.bufs.live,
            "pipes": self.w.pipes_live,
            "descriptors": self.shared.descriptors - (0 if self.stopped else 1),
            "clients": self.shared.connections,
            "busy": self.w.busy,
        }

    def references(self):
        """How many references each block has: listeners' and services', oldest first."""
        return (
            [(<listener_block_t *> <size_t> block).refs[0].count for block in self.listeners],
            [(<service_t *> <size_t> block).refs[0].count for block in self.services],
        )

    def clients_left(self):
        return self.w.clients_left

    def adopted(self):
        return self.w.adopted_generation

    def errors(self):
        """Counts above 0 by public name."""
        cdef uint32_t i
        counts = {}
        for i in range(FM_ERROR_LIMIT):
            if self.w.errors[i]:
                name = (<bytes> fm_error_info[i].public_name).decode()
                counts[name] = counts.get(name, 0) + self.w.errors[i]
        return counts

    def pair(self, uint32_t index):
        cdef pair_stats_t *pair = <pair_stats_t *> table_get(&self.w.pairs, index)
        return {} if pair == NULL else {code: pair.codes[code] for code in range(600) if pair.codes[code]}

    def retries(self, uint32_t service_index):
        cdef service_stats_t *stats = <service_stats_t *> table_get(&self.w.services, service_index)
        return 0 if stats == NULL else stats.retries

    cdef uint32_t waiting(self, xchg_t *first, const void *last) except? 0xFFFFFFFF:
        """How many exchanges stand in a queue, whose links must agree in both directions."""
        cdef uint32_t count = 0
        cdef xchg_t *before = NULL
        while first != NULL:
            if first.wait_prev != before or not first.waits:
                raise AssertionError("the links of a queue do not agree")
            before = first
            first = first.wait_next
            count += 1
        if <const void *> before != last:
            raise AssertionError("the end of a queue is not its last")
        return count

    def service(self, uint32_t index):
        """Counters of a service, and how many of its exchanges wait for what; None before its first request."""
        cdef service_stats_t *stats = <service_stats_t *> table_get(&self.w.services, index)
        if stats == NULL:
            return None
        return {
            "retries": stats.retries,
            "retries_refused": stats.retries_refused,
            "limited": stats.limited,
            "in_flight": stats.in_flight,
            "retrying": stats.retrying,
            "queued": stats.queued,
            "connections": stats.connections,
            "in_queue": self.waiting(<xchg_t *> stats.queue_first, stats.queue_last),
            "for_budget": self.waiting(<xchg_t *> stats.budget_first, stats.budget_last),
            "typical_us": stats.typical_us,
        }

    def endpoint(self, uint32_t index):
        """Counters of a slot, or None before its first request here."""
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        cdef endpoint_t *ep = <endpoint_t *> table_get(&self.w.endpoints, index)
        if ep == NULL:
            return None
        return {
            "connections": ep.connections,
            "idle": ep.idle,
            "in_flight": ep.in_flight,
            "slot_in_flight": slot.in_flight,
            "requests": ep.requests,
            "failures": ep.failures,
            "answers_5xx": ep.answers_5xx,
            "bad_5xx": slot.bad_5xx,
            "bad_gateway": slot.bad_gateway,
            "ejections": slot.ejected_total,
            "ejections_in_a_row": slot.ejections,
            "ejected_for_ms": slot.ejected_for_ms,
            "reason": slot.reason,
            "share": (slot.health >> 40) & 0xFF,
        }

    def listener(self, uint32_t index):
        """(active, total, bytes received, bytes sent)"""
        cdef listener_stats_t *stats = <listener_stats_t *> table_get(&self.w.listeners, index)
        if stats == NULL:
            return None
        return stats.connections_active, stats.connections_total, stats.bytes_received, stats.bytes_sent
