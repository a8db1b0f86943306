"""The record of a turn: which kind of work took how long. Owner worker only.

A turn begins with its events, and most have nothing else to do. Whatever else there is begins with ``turn_phase``, which
reads the coarse clock: what has passed since belongs to the phase before. That clock moves on every few
milliseconds, which suffices to tell what a slow turn did, and costs no more than a look at memory.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

from fastmesh._native.base.limits cimport SLOW_TURN_US
from fastmesh._native.net.turn_t cimport SLOW_TURNS_KEPT, TURN_EVENTS, TURN_IDLE, TURN_PHASES, slow_turn_t
from fastmesh._native.net.worker_t cimport worker_t
from fastmesh._native.sys.atomics cimport (
    fm_bump_u64,
    fm_store_relaxed_ptr,
    fm_store_relaxed_u32,
    fm_store_relaxed_u64,
    fm_store_release_u32,
    fm_store_release_u64,
    fm_unlikely,
)
from fastmesh._native.sys.os cimport CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, clock_gettime, timespec


cdef inline uint64_t timespec_us(const timespec *t) noexcept nogil:
    return <uint64_t> t.tv_sec * 1000000 + <uint64_t> t.tv_nsec // 1000


cdef inline void turn_begin(worker_t *w, int32_t events) noexcept nogil:
    """After the turn's clock was read. ``events``: what ``epoll_wait`` returned."""
    w.turn.events = <uint32_t> events
    fm_store_release_u32(&w.turn.phase, TURN_EVENTS)


cdef inline void turn_account(worker_t *w, uint64_t now_us) noexcept nogil:
    """What has passed belongs to the phase in progress. The two clocks may differ: no time is counted twice."""
    w.turn.marked = 1
    if w.turn.phase_began_us < w.now_us:  # the first one of this turn
        w.turn.phase_began_us = w.now_us
    if now_us > w.turn.phase_began_us:
        w.turn.phase_us[w.turn.phase] += <uint32_t> (now_us - w.turn.phase_began_us)
        w.turn.phase_began_us = now_us


cdef inline void turn_phase(worker_t *w, uint32_t phase) noexcept nogil:
    """Other work begins."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t)
    turn_account(w, timespec_us(&t))
    fm_store_relaxed_ptr(&w.turn.at, NULL)
    fm_store_release_u32(&w.turn.phase, phase)


cdef inline void turn_note(worker_t *w, uint64_t now_us) noexcept nogil:
    """The turn was a slow one: the control thread reads what it did, and logs it."""
    cdef slow_turn_t *slow = &w.turn.slow[w.slow_turns % SLOW_TURNS_KEPT]
    cdef uint32_t i
    turn_account(w, now_us)
    fm_store_relaxed_u64(&slow.took_us, now_us - w.now_us)
    for i in range(TURN_PHASES):
        fm_store_relaxed_u32(&slow.phase_us[i], w.turn.phase_us[i])
    fm_store_relaxed_u32(&slow.events, w.turn.events)
    fm_store_relaxed_u32(&slow.accepted, w.turn.accepted)
    fm_store_relaxed_u32(&slow.ready, w.turn.ready)
    fm_store_relaxed_u32(&slow.timers, w.turn.timers)
    fm_store_relaxed_u32(&slow.letters, w.turn.letters)
    fm_store_release_u64(&w.slow_turns, w.slow_turns + 1)


cdef inline void turn_clear(worker_t *w) noexcept nogil:
    memset(w.turn.phase_us, 0, sizeof(w.turn.phase_us))
    w.turn.accepted = 0
    w.turn.ready = 0
    w.turn.timers = 0
    w.turn.letters = 0
    w.turn.marked = 0


cdef inline void turn_end(worker_t *w) noexcept nogil:
    cdef timespec t
    cdef uint64_t now_us
    clock_gettime(CLOCK_MONOTONIC, &t)
    now_us = timespec_us(&t)
    if fm_unlikely(now_us - w.now_us > SLOW_TURN_US):
        turn_note(w, now_us)
    if now_us - w.now_us > w.longest_turn_us:
        fm_store_relaxed_u64(&w.longest_turn_us, now_us - w.now_us)
    if w.turn.marked:
        turn_clear(w)
    fm_bump_u64(&w.turns, 1)
    fm_store_release_u32(&w.turn.phase, TURN_IDLE)
