"""A hierarchical timer wheel of one worker: arming, moving and disarming cost a few nanoseconds.

Ticks are 4 ms. Level 0 holds 256 ticks (1.02 s), each further level 64 slots of the span below it: 65 s, 70 min
and 74 h. A timer fires at or up to one tick after its time, never before. Owner worker only.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastmesh._native.sys.atomics cimport fm_lowest_bit_u64

cdef enum:
    TICK_SHIFT = 2
    WHEEL_L0 = 256
    WHEEL_LN = 64
    WHEEL_SLOTS = 256 + 3 * 64

ctypedef struct timer_t:
    # owner worker only; a disarmed timer has next == NULL
    timer_t *next
    timer_t *prev
    uint64_t expires_tick

ctypedef struct wheel_t:
    uint64_t tick  # all timers due at or before this tick have been handed out
    uint32_t armed
    uint64_t occupied[4]  # a bit for each slot of level 0 that has, or had, timers: where the poller has to look
    timer_t slots[WHEEL_SLOTS]  # list heads
    timer_t due  # list head of timers taken out by wheel_advance


cdef inline void timer_list_init(timer_t *head) noexcept nogil:
    head.next = head
    head.prev = head


cdef inline void wheel_init(wheel_t *wheel, uint64_t now_ms) noexcept nogil:
    cdef uint32_t i
    wheel.tick = now_ms >> TICK_SHIFT
    wheel.armed = 0
    memset(&wheel.occupied, 0, sizeof(wheel.occupied))
    for i in range(WHEEL_SLOTS):
        timer_list_init(&wheel.slots[i])
    timer_list_init(&wheel.due)


cdef inline void timer_init(timer_t *timer) noexcept nogil:
    timer.next = NULL
    timer.prev = NULL
    timer.expires_tick = 0


cdef inline bint timer_is_armed(const timer_t *timer) noexcept nogil:
    return timer.next != NULL


cdef inline void timer_unlink(timer_t *timer) noexcept nogil:
    timer.prev.next = timer.next
    timer.next.prev = timer.prev
    timer.next = NULL


cdef inline uint32_t wheel_slot_of(const wheel_t *wheel, uint64_t tick) noexcept nogil:
    cdef uint64_t delta = tick - wheel.tick
    if delta < WHEEL_L0:
        return <uint32_t> (tick & (WHEEL_L0 - 1))
    # A level is chosen by the distance in its own slots, so that the slot is reached before it is due
    if (tick >> 8) - (wheel.tick >> 8) < WHEEL_LN:
        return WHEEL_L0 + <uint32_t> ((tick >> 8) & (WHEEL_LN - 1))
    if (tick >> 14) - (wheel.tick >> 14) < WHEEL_LN:
        return WHEEL_L0 + WHEEL_LN + <uint32_t> ((tick >> 14) & (WHEEL_LN - 1))
    if (tick >> 20) - (wheel.tick >> 20) < WHEEL_LN:
        return WHEEL_L0 + 2 * WHEEL_LN + <uint32_t> ((tick >> 20) & (WHEEL_LN - 1))
    return WHEEL_L0 + 2 * WHEEL_LN + <uint32_t> (((wheel.tick >> 20) + WHEEL_LN - 1) & (WHEEL_LN - 1))


cdef inline void wheel_link(wheel_t *wheel, timer_t *timer) noexcept nogil:
    cdef uint32_t slot = wheel_slot_of(wheel, timer.expires_tick)
    cdef timer_t *head = &wheel.slots[slot]
    if slot < WHEEL_L0:
        wheel.occupied[slot >> 6] |= <uint64_t> 1 << (slot & 63)
    timer.next = head
    timer.prev = head.prev
    head.prev.next = timer
    head.prev = timer


cdef inline void timer_set(wheel_t *wheel, timer_t *timer, uint64_t now_ms, uint32_t after_ms) noexcept nogil:
    """Arms or moves ``timer`` to ``now_ms + after_ms``."""
    cdef uint64_t tick = ((now_ms + after_ms) >> TICK_SHIFT) + 1
    if tick <= wheel.tick:
        tick = wheel.tick + 1
    if timer.next != NULL:
        # A later time needs no move: when the old slot comes up, the timer is put where it belongs. Idle
        # time-outs are pushed back at each event, so this is the usual case.
        if tick >= timer.expires_tick:
            timer.expires_tick = tick
            return
        timer_unlink(timer)
    else:
        wheel.armed += 1
    timer.expires_tick = tick
    wheel_link(wheel, timer)


cdef inline void timer_cancel(wheel_t *wheel, timer_t *timer) noexcept nogil:
    if timer.next != NULL:
        timer_unlink(timer)
        wheel.armed -= 1


cdef inline void wheel_cascade(wheel_t *wheel, uint32_t slot) noexcept nogil:
    cdef timer_t *head = &wheel.slots[slot]
    cdef timer_t *timer = head.next
    cdef timer_t *following
    timer_list_init(head)
    while timer != head:
        following = timer.next
        if timer.expires_tick <= wheel.tick:
            timer.next = &wheel.due
            timer.prev = wheel.due.prev
            wheel.due.prev.next = timer
            wheel.due.prev = timer
        else:
            wheel_link(wheel, timer)
        timer = following


cdef inline void wheel_advance(wheel_t *wheel, uint64_t now_ms) noexcept nogil:
    """Moves every timer that is due at ``now_ms`` to ``due``."""
    cdef uint64_t target = now_ms >> TICK_SHIFT
    if wheel.armed == 0 and wheel.due.next == &wheel.due:
        if target > wheel.tick:
            wheel.tick = target
        return
    while wheel.tick < target:
        wheel.tick += 1
        if (wheel.tick & (WHEEL_L0 - 1)) == 0:
            if ((wheel.tick >> 8) & (WHEEL_LN - 1)) == 0:
                if ((wheel.tick >> 14) & (WHEEL_LN - 1)) == 0:
                    wheel_cascade(wheel, WHEEL_L0 + 2 * WHEEL_LN + <uint32_t> ((wheel.tick >> 20) & (WHEEL_LN - 1)))
                wheel_cascade(wheel, WHEEL_L0 + WHEEL_LN + <uint32_t> ((wheel.tick >> 14) & (WHEEL_LN - 1)))
            wheel_cascade(wheel, WHEEL_L0 + <uint32_t> ((wheel.tick >> 8) & (WHEEL_LN - 1)))
        wheel_cascade(wheel, <uint32_t> (wheel.tick & (WHEEL_L0 - 1)))


cdef inline timer_t *wheel_pop_due(wheel_t *wheel) noexcept nogil:
    """The next timer that is due, disarmed; NULL when there is none."""
    cdef timer_t *timer = wheel.due.next
    while timer != &wheel.due:
        timer_unlink(timer)
        if timer.expires_tick <= wheel.tick:
            wheel.armed -= 1
            return timer
        wheel_link(wheel, timer)  # was pushed back while it waited here
        timer = wheel.due.next
    return NULL


cdef inline int32_t wheel_wait_ms(wheel_t *wheel, uint64_t now_ms) noexcept nogil:
    """How long the poller may sleep: up to the next slot of level 0 with timers, or to its end; -1 for ever."""
    cdef uint64_t tick = wheel.tick + 1
    cdef uint64_t end = (wheel.tick | (WHEEL_L0 - 1)) + 1
    cdef uint64_t word, due_ms
    cdef uint32_t slot
    if wheel.due.next != &wheel.due:
        return 0
    if wheel.armed == 0:
        return -1
    while tick < end:
        slot = <uint32_t> (tick & (WHEEL_L0 - 1))
        word = wheel.occupied[slot >> 6] >> (slot & 63)
        if word == 0:
            tick += 64 - (slot & 63)
            continue
        slot += fm_lowest_bit_u64(word)
        tick = (tick & ~<uint64_t> (WHEEL_L0 - 1)) + slot
        if wheel.slots[slot].next != &wheel.slots[slot]:
            break
        wheel.occupied[slot >> 6] &= ~(<uint64_t> 1 << (slot & 63))  # its timers were cancelled or moved
    due_ms = tick << TICK_SHIFT
    return <int32_t> (due_ms - now_ms) if due_ms > now_ms else 0
