"""Two-level tables from a small number to a pointer: entries appear, and never move while the table lives.

One thread writes (release stores), any thread reads (acquire loads). 262,144 entries at most.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from fastmesh._native.net.worker_t cimport TABLE_LEAF, TABLE_ROOT, table_t
from fastmesh._native.sys.atomics cimport fm_load_acquire_ptr, fm_store_release_ptr


cdef inline void *table_get(table_t *table, uint32_t index) noexcept nogil:
    """The entry, or NULL."""
    cdef void **leaf
    if index >= TABLE_ROOT * TABLE_LEAF:
        return NULL
    leaf = <void **> fm_load_acquire_ptr(<void **> &table.leaves[index >> 8])
    if leaf == NULL:
        return NULL
    return fm_load_acquire_ptr(&leaf[index & (TABLE_LEAF - 1)])


cdef inline bint table_set(table_t *table, uint32_t index, void *entry) noexcept nogil:
    """False: out of memory, or of numbers."""
    cdef void **leaf
    if index >= TABLE_ROOT * TABLE_LEAF:
        return False
    leaf = table.leaves[index >> 8]
    if leaf == NULL:
        leaf = <void **> calloc(TABLE_LEAF, sizeof(void *))
        if leaf == NULL:
            return False
        fm_store_release_ptr(<void **> &table.leaves[index >> 8], leaf)
    fm_store_release_ptr(&leaf[index & (TABLE_LEAF - 1)], entry)
    return True


cdef inline void table_free_leaves(table_t *table) noexcept nogil:
    cdef uint32_t i
    for i in range(TABLE_ROOT):
        free(table.leaves[i])
        table.leaves[i] = NULL
