"""A timer wheel with numbered timers. For tests only."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastmesh._native.base.timers cimport (
    TICK_SHIFT,
    timer_cancel,
    timer_init,
    timer_is_armed,
    timer_set,
    timer_t,
    wheel_advance,
    wheel_init,
    wheel_pop_due,
    wheel_t,
    wheel_wait_ms,
)
from fastmesh._native.sys.count cimport fm_count_begin, fm_count_end


cdef class Wheel:
    """``count`` disarmed timers; times are milliseconds."""
    cdef wheel_t *wheel
    cdef timer_t *timers
    cdef uint32_t count

    def __cinit__(self, uint32_t count, uint64_t now_ms):
        cdef uint32_t i
        self.wheel = <wheel_t *> calloc(1, sizeof(wheel_t))
        self.timers = <timer_t *> calloc(count, sizeof(timer_t))
        if self.wheel == NULL or self.timers == NULL:
            raise MemoryError
        self.count = count
        wheel_init(self.wheel, now_ms)
        for i in range(count):
            timer_init(&self.timers[i])

    def __dealloc__(self):
        free(self.timers)
        free(self.wheel)

    cdef timer_t *timer(self, uint32_t i) except NULL:
        if i >= self.count:
            raise IndexError(i)
        return &self.timers[i]

    def set(self, uint32_t i, uint64_t now_ms, uint32_t after_ms):
        timer_set(self.wheel, self.timer(i), now_ms, after_ms)

    def cancel(self, uint32_t i):
        timer_cancel(self.wheel, self.timer(i))

    def is_armed(self, uint32_t i):
        return timer_is_armed(self.timer(i))

    def advance(self, uint64_t now_ms):
        wheel_advance(self.wheel, now_ms)

    def pop(self):
        """The number of the next timer that is due, or None."""
        cdef timer_t *timer = wheel_pop_due(self.wheel)
        return None if timer == NULL else <size_t> (timer - self.timers)

    def arm_often(self, uint64_t now_ms, uint32_t after_ms, uint32_t count):
        """Arms a timer and cancels it, ``count`` times, each time the next one. For counting, as what follows."""
        cdef timer_t *timer = self.timers
        cdef uint32_t _k
        with nogil:
            fm_count_begin()
            for _k in range(count):
                timer_set(self.wheel, timer, now_ms, after_ms)
                timer_cancel(self.wheel, timer)
                timer = timer + 1 if timer + 1 < self.timers + self.count else self.timers
            fm_count_end()

    def push_back_often(self, uint64_t now_ms, uint32_t after_ms, uint32_t count):
        """Moves armed timers to a later time, ``count`` times, each time the next one."""
        cdef timer_t *timer = self.timers
        cdef uint32_t _k
        with nogil:
            fm_count_begin()
            for _k in range(count):
                timer_set(self.wheel, timer, now_ms, after_ms)
                timer = timer + 1 if timer + 1 < self.timers + self.count else self.timers
            fm_count_end()

    def advance_often(self, uint64_t now_ms, uint32_t step_ms, uint32_t after_ms, uint32_t count):
        """Advances ``count`` times by ``step_ms`` and arms again what is due; how many were due."""
        cdef timer_t *timer
        cdef uint32_t _k
        cdef uint64_t due = 0
        with nogil:
            fm_count_begin()
            for _k in range(count):
                now_ms += step_ms
                wheel_advance(self.wheel, now_ms)
                timer = wheel_pop_due(self.wheel)
                while timer != NULL:
                    due += 1
                    timer_set(self.wheel, timer, now_ms, after_ms)
                    timer = wheel_pop_due(self.wheel)
            fm_count_end()
        return due

    def wait_often(self, uint32_t count):
        """Asks how long the poller may sleep, ``count`` times, one tick later each time; the sum. Nothing may come due."""
        cdef uint64_t now_ms = self.wheel.tick << TICK_SHIFT, sum = 0
        cdef uint32_t _k
        with nogil:
            fm_count_begin()
            for _k in range(count):
                sum += wheel_wait_ms(self.wheel, now_ms)
                self.wheel.tick += 1
                now_ms += 1 << TICK_SHIFT
            fm_count_end()
        return sum

    def wait_ms(self, uint64_t now_ms):
        return wheel_wait_ms(self.wheel, now_ms)

    @property
    def armed(self):
        return self.wheel.armed
