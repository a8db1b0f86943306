"""Building route tables: control thread, with the GIL; freeing: any thread.

``route_table_new(routes)`` takes a list of tuples ``(path_kind, path, methods, hosts, headers, action)``:
``int`` (``route_path_kind_t``), ``bytes``, tuple of ``bytes``, tuple of ``bytes``, tuple of ``(bytes,
bytes)``, ``int`` below 2**32. It raises ``ValueError`` for a path that does not start with ``/``, an unknown
kind or an empty host, and ``MemoryError``. An empty list gives a table that matches nothing.
"""
from fastmesh._native.route.route_t cimport route_table_t

cdef route_table_t *route_table_new(list routes) except NULL
cdef void route_table_del(route_table_t *table) noexcept nogil
