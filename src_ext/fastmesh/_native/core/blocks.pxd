"""Building the blocks of a snapshot from Python values, and freeing them. Control thread, with the GIL to build."""
from fastmesh._native.net.snap_t cimport listener_block_t, service_t
from fastmesh._native.net.worker_t cimport table_t

cdef service_t *service_new(dict spec, table_t *slots, unsigned int workers) except NULL
cdef void service_free(service_t *service) noexcept nogil
cdef listener_block_t *listener_new(dict spec, unsigned int workers) except NULL
cdef void listener_free(listener_block_t *block) noexcept nogil
