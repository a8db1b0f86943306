"""A timer wheel with numbered timers. For tests only."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastmesh._native.base.timers cimport (
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

    def wait_ms(self, uint64_t now_ms):
        return wheel_wait_ms(self.wheel, now_ms)

    @property
    def armed(self):
        return self.wheel.armed
