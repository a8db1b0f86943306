"""What one thread may do to another: ask by a signal, look at its stack and at what the kernel says of it. No logic."""
from libc.stdint cimport uint8_t, uint32_t

cdef extern from "fm_signals.h" nogil:
    # each thread's own, in each module; a signal handler may get it once it was set
    void fm_set_this_thread(void *it)
    void *fm_get_this_thread()
    int FM_LOOK_SIGNAL  # asks a worker where it is
    int FM_STACKS_SIGNAL  # asks the control thread for Python's stacks
    void fm_block_signals_but(int number)
    int fm_handle(int number, void (*handler)(int) noexcept nogil)  # -1: errno
    bint fm_is_handled(int number)
    int fm_ask_thread(uint32_t tid, int number)  # tgkill; -1: it has gone
    uint32_t fm_thread_id()
    void fm_name_thread(const char *what, uint32_t number)
    uint8_t fm_peek_u8(const uint8_t *p)
    int fm_peek_int(const int *p)

cdef extern from "<execinfo.h>" nogil:
    int backtrace(void **frames, int most)
