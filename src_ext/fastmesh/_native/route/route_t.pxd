"""Types of routing: an immutable table per listener, and the question put to it.

A table is one allocation, built with the GIL by ``route_table_new`` and then read by any thread. Routes stand
in the order of the configuration; the first that matches wins. All texts are borrowed from the table itself.

The index: every route is listed under (host pattern, path pattern). A look-up finds which host patterns of
the table fit the request's host, hashes the path once at each element boundary, and reads the lists of the
pairs that exist: ``hosts that fit * depth`` look-ups, whatever the number of routes.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastmesh._native.base.field_t cimport field_t, slice_t

ctypedef enum route_path_kind_t:
    ROUTE_PREFIX = 0
    ROUTE_EXACT = 1

cdef enum:
    ROUTE_HOST_BYTES = 255  # a longer host fits no host pattern
    ROUTE_HOSTS_FITTING = 130  # any + exact + one wildcard a label: a name has at most 127 labels

ctypedef struct route_query_t:
    slice_t method
    slice_t host  # as received: may have a port, a trailing dot, any case; empty when unknown
    slice_t path  # without the query; `*` or an authority for the special targets
    const field_t *fields  # borrows; any order
    uint32_t nfields

ctypedef struct route_header_t:
    slice_t name  # lower case
    slice_t value

ctypedef struct route_t:
    uint32_t action  # the caller's number
    uint32_t path_len  # of the pattern, its trailing slash left out; 0 for the prefix `/`
    uint8_t path_kind
    uint8_t conditional  # 1: has methods or headers to check
    uint16_t method_bits  # known methods, bit by ROUTE_METHODS order; 0 with nother 0: any method
    uint32_t first_header
    uint32_t nheaders
    uint32_t first_other  # further methods, by text
    uint32_t nother

# (host, path) -> ascending route indices `lists[first : first + count]`. count 0: an empty cell.
ctypedef struct route_cell_t:
    uint64_t hash
    slice_t path
    uint32_t host
    uint32_t first
    uint32_t count
    uint8_t path_kind

# A host pattern; `id` 0 is "any host". Wildcards hold the part after `*`, with its dot. id 0: an empty cell.
ctypedef struct route_host_t:
    uint64_t hash
    slice_t name
    uint32_t id
    bint wildcard

ctypedef struct route_table_t:
    uint32_t nroutes
    uint32_t always  # lowest route that fits any request, nroutes if none: nothing below it can win
    uint32_t ncells_mask
    uint32_t nhosts_mask
    uint32_t nhosts  # host patterns without "any"; 0: hosts are not looked at
    uint32_t longest_prefix  # bytes of the longest prefix pattern
    uint32_t longest_exact
    bint has_any_host  # some route has no host pattern
    bint has_wildcard
    bint has_method
    route_t *routes
    route_header_t *headers
    slice_t *others
    uint32_t *lists
    route_cell_t *cells
    route_host_t *hosts
