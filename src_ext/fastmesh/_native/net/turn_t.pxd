"""What a worker notes of its turns: where it is, for the watchdog, and what the slow ones did, for the log.

``phase`` and ``at`` say at any moment what the worker is doing; the rest is filled only by what takes time.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum turn_phase_t:
    TURN_IDLE = 0  # in epoll_wait
    TURN_EVENTS = 1
    TURN_ADOPT = 2
    TURN_READY = 3
    TURN_TIMERS = 4
    TURN_WAITING = 5
    TURN_LETTERS = 6
    TURN_FREEING = 7
    TURN_PHASES = 8

cdef enum:
    SLOW_TURNS_KEPT = 8
    STACK_FRAMES = 40
    NAME_SEEN_BYTES = 64

ctypedef struct slow_turn_t:
    # one writer, read by the control thread: relaxed; `slow_turns` of the worker is stored behind it
    uint64_t took_us
    uint32_t phase_us[TURN_PHASES]
    uint32_t events
    uint32_t accepted
    uint32_t ready
    uint32_t timers
    uint32_t letters

ctypedef struct seen_t:
    # What a worker says of itself when the watchdog asks: filled by its signal handler
    uint32_t asked  # shared, atomic: the watchdog sets it, the handler takes it
    uint32_t answered  # shared, atomic: stored by the handler, behind the rest
    uint32_t frame_count
    void *frames[STACK_FRAMES]
    uint8_t kind  # of the connection; CONN_FREE: at none
    uint8_t state
    int32_t fd
    uint16_t served
    uint8_t listener_len
    uint8_t endpoint_len
    char listener[NAME_SEEN_BYTES]
    char endpoint[NAME_SEEN_BYTES]

ctypedef struct turn_t:
    # shared, atomic: worker -> watchdog
    uint32_t phase  # released behind the time at which the turn began
    void *at  # borrows: the connection that is served; its memory lives as long as the worker
    uint32_t tid  # of the worker's thread; 0: none runs
    # owner worker only
    uint32_t events
    uint8_t marked  # what follows is not all zero
    uint64_t phase_began_us
    uint32_t phase_us[TURN_PHASES]
    uint32_t accepted
    uint32_t ready
    uint32_t timers
    uint32_t letters
    # one writer, read by the control thread: the last ones, number n at n % SLOW_TURNS_KEPT
    slow_turn_t slow[SLOW_TURNS_KEPT]
    # the watchdog only
    uint64_t told  # the turn, plus 1, that was told of last
    # written by the watchdog, read by the control thread
    uint64_t stalls
    seen_t seen
