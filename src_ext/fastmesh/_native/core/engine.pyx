"""The one class of the native half that Python sees: workers, slots, blocks, snapshots, statistics.

Control thread only, but for ``run_worker``, ``run_access_writer`` and ``run_watchdog``, which are thread bodies and hold
no GIL while they run. ``fastmesh.engine`` is the only caller; it knows names, this knows numbers.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign

import os

from fastmesh._native.base.errors cimport FM_ERROR_LIMIT, fm_error_info
from fastmesh._native.base.ring cimport ring_dropped, ring_t
from fastmesh._native.base.slot_t cimport SLOT_NAME_BYTES, SLOT_SHARED_BYTES, SLOT_SOCKADDR_BYTES, slot_t
from fastmesh._native.core.access_writer cimport (
    access_writer_init,
    access_writer_run,
    access_writer_stop,
    access_writer_wake,
)
from fastmesh._native.core.access_writer_t cimport ACCESS_BUFFER_BYTES, access_writer_t
from fastmesh._native.core.blocks cimport listener_free, listener_new, service_free, service_new
from fastmesh._native.core.mailbox cimport (
    COMMAND_CLOSE_GONE,
    COMMAND_CLOSE_IDLE,
    COMMAND_CLOSE_SOCKET,
    COMMAND_FLAG_HANDED_ON,
    COMMAND_FLAG_LEAVING,
    COMMAND_FLAG_SHARED,
    COMMAND_MOVE_SOCKET,
    COMMAND_OPEN_SOCKET,
    mailbox_post,
)
from fastmesh._native.core.report cimport REPORT_BYTES
from fastmesh._native.core.watchdog cimport (
    watchdog_beat,
    watchdog_enter,
    watchdog_init,
    watchdog_leave,
    watchdog_run,
    watchdog_stop,
)
from fastmesh._native.core.watchdog_t cimport watchdog_t
from fastmesh._native.core.worker cimport worker_free, worker_init, worker_run
from fastmesh._native.core.counters cimport Counters, clock_ms
from fastmesh._native.lb.lb_t cimport lb_t
from fastmesh._native.net.health cimport (
    REASON_SUCCESS_RATE,
    health_eject,
    health_may_eject,
    health_ramp_begin,
    health_ramp_step,
    health_resume,
    health_without_time,
    told_t,
)
from fastmesh._native.net.overload cimport overload_init
from fastmesh._native.net.snap_t cimport MAX_WORKERS, block_ref_t, listener_block_t, service_t, snap_t
from fastmesh._native.net.table cimport table_get, table_set
from fastmesh._native.net.worker_t cimport (
    TABLE_LEAF,
    TABLE_ROOT,
    command_t,
    endpoint_t,
    worker_t,
)
from fastmesh._native.proxy.access_t cimport ACCESS_COMBINED, ACCESS_JSON
from fastmesh._native.sys.atomics cimport (
    fm_cas_u64,
    fm_load_acquire_u32,
    fm_load_acquire_u64,
    fm_load_relaxed_u64,
    fm_store_relaxed_u32,
    fm_store_relaxed_u64,
    fm_store_release_ptr,
    fm_store_release_u32,
)
from fastmesh._native.sys.os cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    epoll_create1,
    eventfd,
)
from fastmesh._native.sys.signals cimport fm_block_signals
from fastmesh._native.sys.slowdown cimport FM_SLOWDOWN_NS
from fastmesh._native.sys.threads cimport FM_STACKS_SIGNAL, fm_name_thread

# What this build burns for each exchange, in nanoseconds: 0 in every build but one for the benchmarks.
SLOWDOWN_NS = FM_SLOWDOWN_NS
# Whoever handles it writes the stacks of Python to the file that `set_watchdog` was given.
STACKS_SIGNAL = FM_STACKS_SIGNAL

cdef enum: EPOLL_CLOEXEC_FLAG = 0o2000000
cdef uint64_t HEALTH_UNHEALTHY = <uint64_t> 1 << 32
cdef uint64_t HEALTH_DRAINING = <uint64_t> 1 << 33


def error_text(int number):
    """The one line that says what a data-plane error is; empty for a number that is none."""
    if not 0 < number < FM_ERROR_LIMIT or fm_error_info[number].text == NULL:
        return ""
    return (<bytes> fm_error_info[number].text).decode()


cdef bint lb_has_slot(const lb_t *lb, const slot_t *slot) noexcept:
    """``by_slot`` lists the endpoints by the number of their slot."""
    cdef uint32_t low = 0, high = lb.n, middle
    while low < high:
        middle = (low + high) >> 1
        if lb.slots[lb.by_slot[middle]].index < slot.index:
            low = middle + 1
        else:
            high = middle
    return low < lb.n and lb.slots[lb.by_slot[low]] == slot


cdef class Block:
    """A service's or listener's block. Lives until the engine frees it; holding this object keeps nothing alive."""
    cdef service_t *service
    cdef listener_block_t *listener
    cdef readonly str name

    cdef block_ref_t *refs(self) noexcept:
        return self.service.refs if self.service != NULL else self.listener.refs


cdef class Engine(Counters):
    """Workers and what they share. ``workers``: 1 to 256; ``connection_limit``: client connections over all workers.

    Life: make it, define slots, build blocks, ``publish``, run each worker in its thread, ``stop``, join, ``close``.
    """
    cdef access_writer_t writer
    cdef watchdog_t dog
    cdef uint8_t *dog_report
    cdef int dog_event_fd
    cdef ring_t **rings
    cdef uint8_t *writer_buffer
    cdef readonly uint64_t generation
    cdef list current  # blocks of the newest snapshot
    cdef list retired  # (generation that no longer has it, block)
    cdef list old_roots  # (generation, address)
    cdef snap_t *root
    cdef list slot_memory
    cdef bint closed
    cdef readonly uint64_t commands_posted

    def __cinit__(self, uint32_t workers, uint64_t connection_limit):
        cdef uint32_t i
        cdef void *memory = NULL
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"workers must be 1 to {MAX_WORKERS}, not {workers}")
        self.current, self.retired, self.old_roots, self.slot_memory = [], [], [], []
        memset(&self.shared, 0, sizeof(self.shared))
        self.shared.workers = workers
        self.shared.connection_limit = connection_limit
        overload_init(&self.shared)
        self.shared.access_event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self.dog_event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self.dog_report = <uint8_t *> calloc(1, REPORT_BYTES)
        self.workers = <worker_t **> calloc(workers, sizeof(worker_t *))
        self.rings = <ring_t **> calloc(workers, sizeof(ring_t *))
        self.writer_buffer = <uint8_t *> calloc(1, ACCESS_BUFFER_BYTES)
        if self.workers == NULL or self.rings == NULL or self.writer_buffer == NULL or self.dog_report == NULL:
            raise MemoryError
        self.shared.all = self.workers
        for i in range(workers):
            if posix_memalign(&memory, 64, sizeof(worker_t)):
                raise MemoryError
            memset(memory, 0, sizeof(worker_t))
            self.workers[i] = <worker_t *> memory
            self.worker_count = i + 1
            seed = int.from_bytes(os.urandom(8), "little")
            if not worker_init(self.workers[i], &self.shared, i, epoll_create1(EPOLL_CLOEXEC_FLAG),
                               eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), seed):
                raise MemoryError
            self.rings[i] = &self.workers[i].access

    def __dealloc__(self):
        cdef uint32_t i
        if self.workers != NULL and not self.closed:
            # Only reached when construction failed or close() was never called: threads cannot be running then
            for i in range(self.worker_count):
                free(self.workers[i])
        free(self.workers)
        free(self.rings)
        free(self.writer_buffer)
        free(self.dog_report)

    # ------------------------------------------------------------ threads

    def run_worker(self, uint32_t index):
        """The body of worker ``index``'s thread: returns after ``stop``."""
        cdef worker_t *w = self.workers[index]
        with nogil:
            fm_name_thread(b"worker", index)
            watchdog_enter(w)
            worker_run(w)
            watchdog_leave(w)

    def run_access_writer(self):
        """The body of the access log's thread: returns after ``stop_access_writer``."""
        with nogil:
            fm_block_signals()
            access_writer_run(&self.writer)

    def set_access_log(self, int fd, str style):
        """Before ``run_access_writer`` starts. Reopening: ``dup2`` the new file onto ``fd``."""
        access_writer_init(&self.writer, self.rings, self.worker_count, self.shared.access_event_fd, fd,
                           ACCESS_COMBINED if style == "combined" else ACCESS_JSON, self.writer_buffer)

    def set_access_format(self, str style):
        """``json`` or ``combined``, while the writer runs: lines change within a moment."""
        fm_store_relaxed_u32(&self.writer.style, ACCESS_COMBINED if style == "combined" else ACCESS_JSON)

    def enable_access_log(self, bint on):
        fm_store_relaxed_u32(&self.shared.access_on, on)

    def stop_access_writer(self):
        access_writer_stop(&self.writer)

    def set_watchdog(self, int fd, int stacks_fd):
        """Before ``run_watchdog`` starts. It writes to ``fd``; Python's stacks are read from ``stacks_fd`` (-1: none)."""
        watchdog_init(&self.dog, self.workers, self.worker_count, self.dog_event_fd, fd, stacks_fd, self.dog_report)

    def run_watchdog(self):
        """The body of the watchdog's thread: returns after ``stop_watchdog``."""
        with nogil:
            watchdog_run(&self.dog)

    def stop_watchdog(self):
        """Before ``stop``: what takes long at the end is no stall."""
        watchdog_stop(&self.dog)

    def set_log_format(self, str style):
        """``json`` or ``text``: of what the watchdog writes from now on."""
        fm_store_relaxed_u32(&self.dog.json, style == "json")

    def beat(self):
        """The calling thread is the control thread, and it runs."""
        watchdog_beat(&self.dog)

    def control_stalls(self):
        """How often the control plane was late."""
        return fm_load_relaxed_u64(&self.dog.control_stalls)

    def limit_descriptors(self, uint64_t limit):
        """Before the workers run: how many they may have; 0: any number."""
        self.shared.descriptor_limit = limit

    def limit_memory(self, uint64_t resident, uint64_t group):
        """Bytes that may be resident, and that the control group may use; 0: any number."""
        fm_store_relaxed_u64(&self.shared.memory_limit, resident)
        fm_store_relaxed_u64(&self.shared.group_limit, group)

    def watch_memory(self, int statm_fd, int group_used_fd, int group_stat_fd, bint group_is_v1, uint32_t page_bytes):
        """Before the workers run: what tells what is used (-1: it is not looked at). The descriptors stay the caller's."""
        self.shared.statm_fd = statm_fd
        self.shared.group_used_fd = group_used_fd
        self.shared.group_stat_fd = group_stat_fd
        self.shared.group_is_v1 = group_is_v1
        self.shared.page_bytes = page_bytes

    def wake(self, uint32_t index):
        access_writer_wake(self.workers[index].event_fd)  # any eventfd

    def stop(self):
        """Tells every worker to close everything and return."""
        cdef uint32_t i
        if self.closed:
            return
        for i in range(self.worker_count):
            fm_store_release_u32(&self.workers[i].stop, 1)
            self.wake(i)

    def close(self):
        """After the threads were joined: frees everything."""
        cdef uint32_t i
        if self.closed:
            return
        self.retired.extend((0, block) for block in self.current)
        self.current = []
        for _, block in self.retired:
            self._free_block(block)
        self.retired = []
        for _, address in self.old_roots:
            self._free_root(<snap_t *> <size_t> address)
        self.old_roots = []
        if self.root != NULL:
            self._free_root(self.root)
            self.root = NULL
        self.closed = True
        for i in range(self.worker_count):
            os.close(self.workers[i].epoll_fd)
            os.close(self.workers[i].event_fd)
            worker_free(self.workers[i])
            free(self.workers[i])
            self.workers[i] = NULL
        for address in self.slot_memory:
            free(<void *> <size_t> address)
        self.slot_memory = []
        for i in range(TABLE_ROOT):
            free(self.shared.slots.leaves[i])
        os.close(self.shared.access_event_fd)
        os.close(self.dog_event_fd)

    # ------------------------------------------------------------ slots

    def slot_define(self, uint32_t index, uint32_t generation, uint32_t service_index, bytes address, bytes name):
        """Gives slot ``index`` an identity: ``address`` is a packed sockaddr. A slot that had another one must be free."""
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        cdef void *memory = NULL
        if len(address) > SLOT_SOCKADDR_BYTES:
            raise ValueError("the address is too long")
        if slot == NULL:
            if posix_memalign(&memory, 64, (sizeof(slot_t) + 63) // 64 * 64):
                raise MemoryError
            memset(memory, 0, sizeof(slot_t))
            slot = <slot_t *> memory
            self.slot_memory.append(<size_t> memory)
            if not table_set(&self.shared.slots, index, slot):
                raise ValueError(f"no more than {TABLE_ROOT * TABLE_LEAF} endpoints")
        name = name[:SLOT_NAME_BYTES]
        memset(slot, 0, SLOT_SHARED_BYTES)
        slot.index = index
        slot.service_index = service_index
        slot.sockaddr_len = <unsigned short> len(address)
        memcpy(slot.sockaddr_bytes, <const char *> address, len(address))
        slot.name_len = <unsigned short> len(name)
        memcpy(slot.name, <const char *> name, len(name))
        slot.generation = generation

    def slot_mark(self, uint32_t index, *, draining=None, unhealthy=None):
        """Sets or clears bits of the slot's health word."""
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        cdef uint64_t set_bits = 0
        cdef uint64_t clear_bits = 0
        cdef uint64_t word
        for value, bit in ((draining, HEALTH_DRAINING), (unhealthy, HEALTH_UNHEALTHY)):
            if value is not None:
                if value:
                    set_bits |= bit
                else:
                    clear_bits |= bit
        while True:
            word = fm_load_relaxed_u64(&slot.health)
            if fm_cas_u64(&slot.health, word, (word | set_bits) & ~clear_bits):
                return

    def slot_eject(self, Block block, uint32_t index):
        """Leaves an endpoint of a service out for its success rate; False: it is left out already, or no more may be."""
        cdef service_t *service = block.service
        return health_may_eject(service.lb, service.eject_most) and health_eject(
            <slot_t *> table_get(&self.shared.slots, index), service.eject_base_ms, service.eject_max_ms, clock_ms(),
            REASON_SUCCESS_RATE, False)

    def slot_restore(self, uint32_t index):
        """Ends the leaving out of an endpoint: it is known to be well."""
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        cdef uint64_t word = fm_load_relaxed_u64(&slot.health)
        while not fm_cas_u64(&slot.health, word, health_without_time(word)):
            word = fm_load_relaxed_u64(&slot.health)

    def slot_ramp(self, uint32_t index, uint32_t ramp_ms):
        """Begins a slow start, or with 0 moves one on that has begun."""
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        cdef uint64_t word = fm_load_relaxed_u64(&slot.health)
        if ramp_ms:
            health_ramp_begin(slot, ramp_ms, clock_ms(), word, word)
        else:
            health_ramp_step(slot, clock_ms())

    def slot_resume(self, uint32_t index, told_t told):
        """Takes up what another process told of the endpoint. After ``slot_define``, before the slot is published."""
        health_resume(<slot_t *> table_get(&self.shared.slots, index), clock_ms(), &told)

    def slot_is_free(self, uint32_t index, uint64_t retired_in):
        """Whether every worker has adopted ``retired_in`` and has no connection and no request on the slot, and no request
        holds a block that could still choose it for a retry. Call ``reap`` before."""
        cdef uint32_t i
        cdef endpoint_t *ep
        cdef slot_t *slot = <slot_t *> table_get(&self.shared.slots, index)
        if self.adopted() < retired_in:
            return False
        for block_retired_in, block in self.retired:
            if block_retired_in <= retired_in and (<Block> block).service != NULL \
                    and lb_has_slot((<Block> block).service.lb, slot):
                return False
        for i in range(self.worker_count):
            ep = <endpoint_t *> table_get(&self.workers[i].endpoints, index)
            if ep != NULL and (fm_load_acquire_u32(&ep.connections) or fm_load_acquire_u64(&ep.in_flight)):
                return False
        return True

    def number_is_free(self, str kind, uint32_t index):
        """Whether no tunnel will count by this number of a ``pair``, ``service`` or ``listener`` any more. Call ``reap``
        before: it says so of all other exchanges."""
        cdef uint32_t i
        cdef worker_t *w
        cdef void *stats  # its first field is `tunnels`
        for i in range(self.worker_count):
            w = self.workers[i]
            stats = table_get(&w.pairs if kind == "pair" else &w.services if kind == "service" else &w.listeners, index)
            if stats != NULL and fm_load_acquire_u64(<uint64_t *> stats):
                return False
        return True

    # ------------------------------------------------------------ snapshots

    def build_service(self, dict spec):
        cdef Block block = Block()
        block.service = service_new(spec, &self.shared.slots, self.worker_count)
        block.name = spec["name"].decode()
        return block

    def build_listener(self, dict spec):
        cdef Block block = Block()
        block.listener = listener_new(spec, self.worker_count)
        block.name = spec["name"].decode()
        return block

    cdef _free_block(self, Block block):
        if block.service != NULL:
            service_free(block.service)
            block.service = NULL
        if block.listener != NULL:
            listener_free(block.listener)
            block.listener = NULL

    cdef _free_root(self, snap_t *root):
        free(root.listeners)
        free(root.services)
        free(root)

    def discard(self, Block block):
        """Frees a block that was never published."""
        self._free_block(block)

    def publish(self, list listeners, list services):
        """Makes a snapshot of blocks by index (None where an index is not in use) the current one; returns its
        generation. Blocks of the last snapshot that are not in this one are freed when nobody uses them any more."""
        cdef snap_t *root = <snap_t *> calloc(1, sizeof(snap_t))
        cdef uint32_t i
        if root == NULL:
            raise MemoryError
        root.listener_count = <uint32_t> len(listeners)
        root.service_count = <uint32_t> len(services)
        root.listeners = <listener_block_t **> calloc(len(listeners) + 1, sizeof(void *))
        root.services = <service_t **> calloc(len(services) + 1, sizeof(void *))
        if root.listeners == NULL or root.services == NULL:
            self._free_root(root)
            raise MemoryError
        for i in range(root.listener_count):
            if listeners[i] is not None:
                root.listeners[i] = (<Block> listeners[i]).listener
        for i in range(root.service_count):
            if services[i] is not None:
                root.services[i] = (<Block> services[i]).service
        self.generation += 1
        root.generation = self.generation
        kept = {id(block) for block in listeners} | {id(block) for block in services}
        self.retired.extend((self.generation, block) for block in self.current if id(block) not in kept)
        self.current = [block for block in (*listeners, *services) if block is not None]
        if self.root != NULL:
            self.old_roots.append((self.generation, <size_t> self.root))
        self.root = root
        for i in range(self.worker_count):
            fm_store_release_ptr(<void **> &self.workers[i].published, root)
            self.wake(i)
        return self.generation

    def adopted(self):
        """The generation that every worker has adopted, or a later one."""
        cdef uint32_t i
        cdef uint64_t lowest = <uint64_t> -1
        cdef uint64_t seen
        for i in range(self.worker_count):
            seen = fm_load_acquire_u64(&self.workers[i].adopted_generation)
            if seen < lowest:
                lowest = seen
        return lowest

    def reap(self):
        """Frees what no worker can reach any more; returns how many blocks and roots still wait."""
        cdef Block block
        cdef block_ref_t *refs
        cdef uint64_t adopted = self.adopted()
        cdef uint32_t i
        waiting = []
        for retired_in, item in self.retired:
            block = item
            refs = block.refs()
            held = retired_in > adopted
            for i in range(self.worker_count):
                held = held or fm_load_acquire_u64(&refs[i].count) != 0
            if held:
                waiting.append((retired_in, item))
            else:
                self._free_block(block)
        self.retired = waiting
        roots = []
        for retired_in, address in self.old_roots:
            if retired_in > adopted:
                roots.append((retired_in, address))
            else:
                self._free_root(<snap_t *> <size_t> address)
        self.old_roots = roots
        return len(waiting) + len(roots)

    # ------------------------------------------------------------ letters to workers

    cdef _post(self, uint32_t worker, uint32_t kind, int32_t fd, uint32_t listener_index, uint64_t identity, uint32_t flags,
               uint32_t least_idle_ms=0):
        cdef command_t *command = <command_t *> calloc(1, sizeof(command_t))
        if command == NULL:
            raise MemoryError
        command.kind = kind
        command.fd = fd
        command.listener_index = listener_index
        command.identity = identity
        command.flags = flags
        command.least_idle_ms = least_idle_ms
        mailbox_post(self.workers[worker], command)
        self.commands_posted += 1
        self.wake(worker)

    def open_socket(self, uint32_t worker, int fd, uint32_t listener_index, uint64_t identity, bint shared):
        """The worker watches the listening socket; the descriptor stays the caller's."""
        self._post(worker, COMMAND_OPEN_SOCKET, fd, listener_index, identity, COMMAND_FLAG_SHARED if shared else 0)

    def move_socket(self, uint32_t worker, uint32_t listener_index, uint64_t identity):
        self._post(worker, COMMAND_MOVE_SOCKET, -1, listener_index, identity, 0)

    def close_socket(self, uint32_t worker, uint64_t identity, bint leave=False):
        """The caller closes the descriptor when ``commands_done`` has reached ``commands_posted``. ``leave``: another
        process serves the socket too and takes what waits."""
        self._post(worker, COMMAND_CLOSE_SOCKET, -1, 0, identity, COMMAND_FLAG_HANDED_ON if leave else 0)

    def close_idle(self, uint32_t least_idle_ms, bint leaving):
        """Clients that have been idle for so long are closed, once what has arrived of them is served; with ``leaving`` only
        those of sockets that were closed. ``clients_left`` says then how many are open yet."""
        cdef uint32_t i
        for i in range(self.worker_count):
            self._post(i, COMMAND_CLOSE_IDLE, -1, 0, 0, COMMAND_FLAG_LEAVING if leaving else 0, least_idle_ms)

    def clients_left(self):
        cdef uint32_t i
        left = 0
        for i in range(self.worker_count):
            left += fm_load_relaxed_u64(&self.workers[i].clients_left)
        return left

    def close_gone(self):
        """After slots were marked draining: idle connections to them close."""
        cdef uint32_t i
        for i in range(self.worker_count):
            self._post(i, COMMAND_CLOSE_GONE, -1, 0, 0, 0)

    def commands_done(self):
        cdef uint32_t i
        total = 0
        for i in range(self.worker_count):
            total += fm_load_acquire_u64(&self.workers[i].commands_done)
        return total

    def begin_drain(self):
        """From now on every answer carries ``Connection: close``."""
        fm_store_relaxed_u32(&self.shared.draining, 1)

    # ------------------------------------------------------------ looking

    def ledger(self):
        """Living native objects by kind; after the workers have returned each is 0."""
        cdef uint32_t i
        cdef worker_t *w
        ledger = {"connections": 0, "exchanges": 0, "buffers": 0, "pipes": 0}
        for i in range(self.worker_count):
            w = self.workers[i]
            ledger["connections"] += fm_load_relaxed_u64(&w.conns_live)
            ledger["exchanges"] += fm_load_relaxed_u64(&w.exchanges.live)
            ledger["buffers"] += fm_load_relaxed_u64(&w.bufs.live)
            ledger["pipes"] += fm_load_relaxed_u64(&w.pipes_live)
        ledger["retired_blocks"] = self.reap()
        return ledger

    def access_lines_dropped(self):
        cdef uint32_t i
        dropped = fm_load_relaxed_u64(&self.writer.lines_lost)
        for i in range(self.worker_count):
            dropped += ring_dropped(&self.workers[i].access)
        return dropped
