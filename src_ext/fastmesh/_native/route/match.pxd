"""Matching a request against a route table. Any thread, no memory, nothing kept.

``route_match`` returns the index of the first route (top to bottom) that fits, or -1.

- A prefix fits by path element: ``/user`` fits ``/user``, ``/user/`` and ``/user/1``, not ``/users``; ``/``
  fits every path. Bytes are compared as they are: no decoding, no folding of case, no merging of slashes.
- A target that is not a path (``*``, an authority, an empty one) fits only the prefix ``/``.
- Hosts are compared without case, port and trailing dot; ``*.x`` fits any depth below ``x``, not ``x``.
- A header condition holds when any of the field's lines has exactly that value.

Cost: see ``route_t.pxd``. A table whose first route fits everything is answered without looking at the
request.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from fastmesh._native.base.field_t cimport field_t, slice_t
from fastmesh._native.base.hash cimport hash_mix, hash_xxh64
from fastmesh._native.route.route_t cimport (
    ROUTE_EXACT, ROUTE_HOST_BYTES, ROUTE_HOSTS_FITTING, ROUTE_PREFIX,
    route_cell_t, route_header_t, route_host_t, route_query_t, route_t, route_table_t,
)

cdef enum:
    ROUTE_METHOD_OTHER = 0x8000  # a method outside the known ones; never set in route_t.method_bits

# One look-up on its way: what was found out about the request, and the lowest route that fits so far.
ctypedef struct route_walk_t:
    const route_table_t *table
    const route_query_t *query
    uint32_t best
    uint32_t nfitting
    uint32_t fitting[ROUTE_HOSTS_FITTING]
    uint16_t method_bit


cdef inline uint64_t route_hash_element(uint64_t hash, const uint8_t *text, size_t length) noexcept nogil:
    """The hash of a path one element longer."""
    return hash_xxh64(text, length, hash)


cdef inline uint64_t route_hash_cell(uint64_t path_hash, uint32_t host, uint8_t path_kind) noexcept nogil:
    return hash_mix(path_hash ^ (<uint64_t>host << 8) ^ path_kind)


cdef inline uint8_t route_lower(uint8_t byte) noexcept nogil:
    return byte | 0x20 if 65 <= byte <= 90 else byte


cdef inline bint _same_bytes(const uint8_t *a, const uint8_t *b, size_t length) noexcept nogil:
    return length == 0 or memcmp(a, b, length) == 0


cdef inline uint16_t route_method_bit(const uint8_t *method, uint32_t length) noexcept nogil:
    """The bit of a known method (names are case-sensitive, RFC 9110 9.1), else ``ROUTE_METHOD_OTHER``."""
    if length == 3:
        if memcmp(method, b"GET", 3) == 0:
            return 1
        if memcmp(method, b"PUT", 3) == 0:
            return 2
    elif length == 4:
        if memcmp(method, b"POST", 4) == 0:
            return 4
        if memcmp(method, b"HEAD", 4) == 0:
            return 8
    elif length == 5:
        if memcmp(method, b"PATCH", 5) == 0:
            return 16
        if memcmp(method, b"TRACE", 5) == 0:
            return 32
    elif length == 6:
        if memcmp(method, b"DELETE", 6) == 0:
            return 64
    elif length == 7:
        if memcmp(method, b"OPTIONS", 7) == 0:
            return 128
        if memcmp(method, b"CONNECT", 7) == 0:
            return 256
    return ROUTE_METHOD_OTHER


cdef inline bint _method_fits(route_walk_t *walk, const route_t *route) noexcept nogil:
    cdef uint32_t k
    cdef const slice_t *other
    cdef const slice_t *method = &walk.query.method
    if route.method_bits == 0 and route.nother == 0:
        return True
    if walk.method_bit == 0:
        walk.method_bit = route_method_bit(method.ptr, method.len)
    if route.method_bits & walk.method_bit:
        return True
    for k in range(route.nother):
        other = &walk.table.others[route.first_other + k]
        if other.len == method.len and _same_bytes(other.ptr, method.ptr, method.len):
            return True
    return False


cdef inline bint _name_is(const field_t *field, const slice_t *lower) noexcept nogil:
    cdef uint32_t k
    if field.name_len != lower.len:
        return False
    for k in range(lower.len):
        if route_lower(field.name[k]) != lower.ptr[k]:
            return False
    return True


cdef inline bint _header_fits(const route_query_t *query, const route_header_t *wanted) noexcept nogil:
    cdef uint32_t k
    cdef const field_t *field
    for k in range(query.nfields):
        field = &query.fields[k]
        if (
            field.value_len == wanted.value.len
            and _name_is(field, &wanted.name)
            and _same_bytes(field.value, wanted.value.ptr, wanted.value.len)
        ):
            return True
    return False


cdef inline bint _conditions_fit(route_walk_t *walk, const route_t *route) noexcept nogil:
    cdef uint32_t k
    if not _method_fits(walk, route):
        return False
    for k in range(route.nheaders):
        if not _header_fits(walk.query, &walk.table.headers[route.first_header + k]):
            return False
    return True


cdef inline void _look_at(route_walk_t *walk, uint8_t path_kind, uint64_t path_hash,
                          uint32_t path_len) noexcept nogil:
    """Tries the routes listed under the first ``path_len`` bytes of the path, for every host that fits."""
    cdef const route_table_t *table = walk.table
    cdef const route_cell_t *cell
    cdef uint32_t h, k, host, position, index
    cdef uint64_t hash
    for h in range(walk.nfitting):
        host = walk.fitting[h]
        hash = route_hash_cell(path_hash, host, path_kind)
        position = <uint32_t>hash & table.ncells_mask
        while table.cells[position].count != 0:
            cell = &table.cells[position]
            if (
                cell.hash == hash and cell.host == host and cell.path_kind == path_kind
                and cell.path.len == path_len and _same_bytes(cell.path.ptr, walk.query.path.ptr, path_len)
            ):
                for k in range(cell.count):
                    index = table.lists[cell.first + k]
                    if index >= walk.best:
                        break
                    if not table.routes[index].conditional or _conditions_fit(walk, &table.routes[index]):
                        walk.best = index
                        break
                break
            position = (position + 1) & table.ncells_mask


cdef inline void _look_along_path(route_walk_t *walk) noexcept nogil:
    cdef const uint8_t *path = walk.query.path.ptr
    cdef uint32_t length = walk.query.path.len
    cdef uint32_t start = 0, end
    cdef uint64_t hash = 0
    cdef const void *slash
    cdef bint exact_possible = length <= walk.table.longest_exact
    _look_at(walk, ROUTE_PREFIX, hash, 0)
    if length == 0 or path[0] != 47:
        return
    while start < length and (exact_possible or start < walk.table.longest_prefix):
        slash = memchr(path + start + 1, 47, length - start - 1)
        end = <uint32_t>(<const uint8_t *>slash - path) if slash != NULL else length
        hash = route_hash_element(hash, path + start + 1, end - start - 1)
        if end <= walk.table.longest_prefix:
            _look_at(walk, ROUTE_PREFIX, hash, end)
        start = end
    if exact_possible:
        _look_at(walk, ROUTE_EXACT, hash, length)


cdef inline uint32_t route_normal_host(const slice_t *host, uint8_t *lower) noexcept nogil:
    """Writes the host without port and trailing dot in lower case; its length, 0 when it fits no pattern."""
    cdef uint32_t length = host.len, k
    cdef const void *found
    if length == 0:
        return 0
    if host.ptr[0] == 91:  # an IPv6 literal keeps its brackets
        found = memchr(host.ptr, 93, length)
        if found != NULL:
            length = <uint32_t>(<const uint8_t *>found - host.ptr) + 1
    else:
        found = memchr(host.ptr, 58, length)
        if found != NULL:
            length = <uint32_t>(<const uint8_t *>found - host.ptr)
    if length and host.ptr[length - 1] == 46:
        length -= 1
    if length > ROUTE_HOST_BYTES:
        return 0
    for k in range(length):
        lower[k] = route_lower(host.ptr[k])
    return length


cdef inline uint32_t route_find_host(const route_table_t *table, const uint8_t *name, uint32_t length,
                                     bint wildcard) noexcept nogil:
    """The id of a host pattern of the table, 0 if there is none."""
    cdef uint64_t hash = hash_xxh64(name, length, wildcard)
    cdef uint32_t position = <uint32_t>hash & table.nhosts_mask
    cdef const route_host_t *host
    while table.hosts[position].id != 0:
        host = &table.hosts[position]
        if (
            host.hash == hash and host.wildcard == wildcard and host.name.len == length
            and _same_bytes(host.name.ptr, name, length)
        ):
            return host.id
        position = (position + 1) & table.nhosts_mask
    return 0


cdef inline void _find_fitting_hosts(route_walk_t *walk) noexcept nogil:
    cdef const route_table_t *table = walk.table
    cdef uint8_t lower[ROUTE_HOST_BYTES]
    cdef uint32_t length, k, id
    walk.nfitting = 0
    if table.has_any_host:
        walk.fitting[0] = 0
        walk.nfitting = 1
    if table.nhosts == 0:
        return
    length = route_normal_host(&walk.query.host, lower)
    if length == 0:
        return
    id = route_find_host(table, lower, length, False)
    if id != 0:
        walk.fitting[walk.nfitting] = id
        walk.nfitting += 1
    if not table.has_wildcard:
        return
    for k in range(1, length):
        if lower[k] == 46 and walk.nfitting < ROUTE_HOSTS_FITTING:
            id = route_find_host(table, lower + k, length - k, True)
            if id != 0:
                walk.fitting[walk.nfitting] = id
                walk.nfitting += 1


cdef inline int32_t route_match(const route_table_t *table, const route_query_t *query) noexcept nogil:
    cdef route_walk_t walk
    if table.always == 0:
        return 0 if table.nroutes != 0 else -1
    walk.table = table
    walk.query = query
    walk.best = table.always
    walk.method_bit = 0
    _find_fitting_hosts(&walk)
    _look_along_path(&walk)
    return <int32_t>walk.best if walk.best < table.nroutes else -1
