"""Building route tables (see ``build.pxd``)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastmesh._native.base.field_t cimport slice_t
from fastmesh._native.base.hash cimport hash_xxh64
from fastmesh._native.route.match cimport (
    ROUTE_METHOD_OTHER, route_hash_cell, route_hash_element, route_method_bit,
)
from fastmesh._native.route.route_t cimport (
    ROUTE_EXACT, ROUTE_HOST_BYTES, ROUTE_PREFIX,
    route_cell_t, route_header_t, route_host_t, route_t, route_table_t,
)

ANY_HOST = (b"", False)


class Plan:
    """What the routes come to, before it is laid out in memory."""

    def __init__(self, routes):
        self.routes = [checked_route(number, route) for number, route in enumerate(routes)]
        self.host_ids = {ANY_HOST: 0}
        self.lists = {}  # (host id, path kind, path) -> ascending route indices
        self.headers = []
        self.others = []
        for index, (kind, path, _methods, hosts, _headers, _action) in enumerate(self.routes):
            for host in hosts or (ANY_HOST,):
                id = self.host_ids.setdefault(host, len(self.host_ids))
                # A dictionary, so that a host that is named twice counts once.
                self.lists.setdefault((id, kind, path), {})[index] = None
        self.nlists = sum(len(indices) for indices in self.lists.values())

    def text_bytes(self):
        total = sum(len(path) for _host, _kind, path in self.lists)
        total += sum(len(name) for name, _wildcard in self.host_ids)
        for _kind, _path, methods, _hosts, headers, _action in self.routes:
            total += sum(len(method) for method in methods)
            total += sum(len(name) + len(value) for name, value in headers)
        return total


def checked_route(number, route):
    kind, path, methods, hosts, headers, action = route
    if kind not in (ROUTE_PREFIX, ROUTE_EXACT):
        raise ValueError(f"route {number}: unknown kind of path {kind!r}")
    if not path.startswith(b"/"):
        raise ValueError(f"route {number}: the path {path!r} does not start with a slash")
    if kind == ROUTE_PREFIX:
        path = path.rstrip(b"/")
    return (
        kind,
        path,
        tuple(methods),
        tuple(checked_host(number, host) for host in hosts),
        tuple((name.lower(), value) for name, value in headers),
        action,
    )


def checked_host(number, host):
    """The (name, wildcard) of a host pattern; the name of a wildcard keeps its leading dot."""
    wildcard = host.startswith(b"*.")
    name = (host[1:] if wildcard else host).lower()
    name = name.removesuffix(b".")
    if not name.strip(b".") or b"*" in name or len(name) > ROUTE_HOST_BYTES:
        raise ValueError(f"route {number}: the host {host!r} is not a name or `*.` and a name")
    return name, wildcard


cdef uint32_t mask_for(size_t entries) noexcept:
    """Mask of a hash table that stays at most half full."""
    cdef uint32_t size = 2
    while size < 2 * entries:
        size *= 2
    return size - 1


cdef struct Layout:
    uint8_t *next_text


cdef slice_t put_text(Layout *layout, bytes text):
    cdef slice_t placed
    placed.ptr = layout.next_text
    placed.len = <uint32_t>len(text)
    memcpy(layout.next_text, <const char *>text, len(text))
    layout.next_text += len(text)
    return placed


cdef uint64_t path_hash(bytes path):
    cdef uint64_t hash = 0
    for element in path.split(b"/")[1:]:
        hash = route_hash_element(hash, <const uint8_t *><const char *>element, len(element))
    return hash


cdef int put_hosts(route_table_t *table, Layout *layout, dict host_ids) except -1:
    cdef uint32_t position
    cdef route_host_t *host
    for (name, wildcard), id in host_ids.items():
        if id == 0:
            continue
        position = <uint32_t>hash_xxh64(<const char *>name, len(name), wildcard) & table.nhosts_mask
        while table.hosts[position].id != 0:
            position = (position + 1) & table.nhosts_mask
        host = &table.hosts[position]
        host.hash = hash_xxh64(<const char *>name, len(name), wildcard)
        host.name = put_text(layout, name)
        host.id = id
        host.wildcard = wildcard
        table.has_wildcard = table.has_wildcard or wildcard
    table.nhosts = len(host_ids) - 1
    return 0


cdef int put_cells(route_table_t *table, Layout *layout, dict lists) except -1:
    cdef uint32_t position, next_index = 0
    cdef uint64_t hash
    cdef route_cell_t *cell
    for (host, kind, path), indices in lists.items():
        hash = route_hash_cell(path_hash(path), host, kind)
        position = <uint32_t>hash & table.ncells_mask
        while table.cells[position].count != 0:
            position = (position + 1) & table.ncells_mask
        cell = &table.cells[position]
        cell.hash = hash
        cell.path = put_text(layout, path)
        cell.host = host
        cell.path_kind = kind
        cell.first = next_index
        cell.count = len(indices)
        for index in indices:
            table.lists[next_index] = index
            next_index += 1
        table.has_any_host = table.has_any_host or host == 0
        if kind == ROUTE_EXACT:
            table.longest_exact = max(table.longest_exact, cell.path.len)
        else:
            table.longest_prefix = max(table.longest_prefix, cell.path.len)
    return 0


cdef int put_route(route_table_t *table, Layout *layout, uint32_t index, tuple source,
                   uint32_t *nheaders, uint32_t *nothers) except -1:
    kind, path, methods, hosts, headers, action = source
    cdef route_t *route = &table.routes[index]
    cdef uint16_t bit
    route.action = action
    route.path_len = len(path)
    route.path_kind = kind
    route.first_header = nheaders[0]
    route.first_other = nothers[0]
    for name, value in headers:
        table.headers[nheaders[0]].name = put_text(layout, name)
        table.headers[nheaders[0]].value = put_text(layout, value)
        nheaders[0] += 1
    for method in methods:
        bit = route_method_bit(<const uint8_t *><const char *>method, len(method))
        if bit != ROUTE_METHOD_OTHER:
            route.method_bits |= bit
        else:
            table.others[nothers[0]] = put_text(layout, method)
            nothers[0] += 1
    route.nheaders = nheaders[0] - route.first_header
    route.nother = nothers[0] - route.first_other
    route.conditional = bool(methods or headers)
    table.has_method = table.has_method or bool(methods)
    fits_all = kind == ROUTE_PREFIX and not (path or methods or headers or hosts)
    if fits_all and table.always == table.nroutes:
        table.always = index
    return 0


cdef route_table_t *allocate(object plan) except NULL:
    """One block: the table, its arrays by falling alignment, then the texts."""
    cdef size_t nroutes = len(plan.routes)
    cdef size_t nheaders = sum(len(route[4]) for route in plan.routes)
    cdef size_t nothers = sum(len(route[2]) for route in plan.routes)
    cdef size_t nlists = plan.nlists
    cdef uint32_t ncells_mask = mask_for(len(plan.lists))
    cdef uint32_t nhosts_mask = mask_for(len(plan.host_ids))
    cdef size_t size = sizeof(route_table_t)
    size += sizeof(route_cell_t) * (<size_t>ncells_mask + 1)
    size += sizeof(route_host_t) * (<size_t>nhosts_mask + 1)
    size += sizeof(route_header_t) * nheaders + sizeof(slice_t) * nothers
    size += sizeof(route_t) * nroutes + sizeof(uint32_t) * nlists + <size_t>plan.text_bytes()
    cdef route_table_t *table = <route_table_t *>calloc(1, size)
    if table == NULL:
        raise MemoryError
    table.nroutes = nroutes
    table.always = nroutes
    table.ncells_mask = ncells_mask
    table.nhosts_mask = nhosts_mask
    table.cells = <route_cell_t *>(table + 1)
    table.hosts = <route_host_t *>(table.cells + ncells_mask + 1)
    table.headers = <route_header_t *>(table.hosts + nhosts_mask + 1)
    table.others = <slice_t *>(table.headers + nheaders)
    table.routes = <route_t *>(table.others + nothers)
    table.lists = <uint32_t *>(table.routes + nroutes)
    return table


cdef route_table_t *route_table_new(list routes) except NULL:
    plan = Plan(routes)
    cdef route_table_t *table = allocate(plan)
    cdef Layout layout
    cdef uint32_t nheaders = 0, nothers = 0, index
    cdef size_t nlists = plan.nlists
    layout.next_text = <uint8_t *>(table.lists + nlists)
    try:
        put_hosts(table, &layout, plan.host_ids)
        put_cells(table, &layout, plan.lists)
        for index in range(table.nroutes):
            put_route(table, &layout, index, plan.routes[index], &nheaders, &nothers)
    except BaseException:
        free(table)
        raise
    return table


cdef void route_table_del(route_table_t *table) noexcept nogil:
    free(table)
