"""Memory by whole pages, which goes back to the system at once when it is freed. No logic."""

cdef extern from "fm_pages.h" nogil:
    void *fm_pages_new(size_t size)
    void fm_pages_del(void *pages, size_t size)
