"""Tests' door to routing: bytes in, numbers out."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastmesh._native.base.field_t cimport field_t, slice_t
from fastmesh._native.route.build cimport route_table_del, route_table_new
from fastmesh._native.route.match cimport route_match
from fastmesh._native.route.rewrite cimport route_rewrite_prefix, route_split_pick
from fastmesh._native.route.route_t cimport route_query_t, route_table_t
from fastmesh._native.sys.count cimport fm_count_begin, fm_count_end, fm_count_pages


cdef slice_t slice_of(bytes text):
    cdef slice_t view
    view.ptr = <const uint8_t *><const char *>text
    view.len = <uint32_t>len(text)
    return view


cdef slice_t placed(uint8_t **place, bytes text):
    """A copy of ``text`` at ``place``, which moves behind it."""
    cdef slice_t view
    memcpy(place[0], <const char *>text, len(text))
    view.ptr = place[0]
    view.len = <uint32_t>len(text)
    place[0] += view.len
    return view


cdef class Table:
    cdef route_table_t *table

    def __cinit__(self, list routes):
        self.table = route_table_new(routes)

    def __dealloc__(self):
        if self.table != NULL:
            route_table_del(self.table)

    def match(self, bytes method, bytes host, bytes path, object fields=(), uint32_t repeat=1):
        """The index of the route for a request, -1 for none. ``repeat``: for timing."""
        cdef route_query_t query
        cdef field_t *views = <field_t *>malloc((len(fields) + 1) * sizeof(field_t))
        cdef int32_t index = -1
        cdef uint32_t _k
        cdef slice_t view
        query.method = slice_of(method)
        query.host = slice_of(host)
        query.path = slice_of(path)
        query.fields = views
        query.nfields = <uint32_t>len(fields)
        for k in range(query.nfields):
            view = slice_of(fields[k][0])
            views[k].name = view.ptr
            views[k].name_len = view.len
            view = slice_of(fields[k][1])
            views[k].value = view.ptr
            views[k].value_len = view.len
        with nogil:
            for _k in range(repeat):
                index = route_match(self.table, &query)
        free(views)
        return index

    def match_often(self, bytes method, bytes host, bytes path, list fields, uint32_t count):
        """The same for up to 16 fields and 4 KiB in all, ``count`` times, for counting instructions."""
        cdef route_query_t query
        cdef field_t views[16]
        cdef int32_t index = -1
        cdef uint32_t _k
        cdef slice_t view
        cdef uint8_t *page = fm_count_pages(0)
        cdef uint8_t *place = page
        assert len(fields) <= 16 and sum(map(len, (method, host, path, *sum(fields, ())))) <= 4096
        query.method = placed(&place, method)
        query.host = placed(&place, host)
        query.path = placed(&place, path)
        query.fields = views
        query.nfields = <uint32_t>len(fields)
        for k in range(query.nfields):
            view = placed(&place, fields[k][0])
            views[k].name = view.ptr
            views[k].name_len = view.len
            view = placed(&place, fields[k][1])
            views[k].value = view.ptr
            views[k].value_len = view.len
        with nogil:
            fm_count_begin()
            for _k in range(count):
                index = route_match(self.table, &query)
            fm_count_end()
        free(page)
        return index

    def action(self, uint32_t index):
        return self.table.routes[index].action

    def path_len(self, uint32_t index):
        return self.table.routes[index].path_len


def rewrite_prefix(bytes path, uint32_t matched, bytes replacement, uint32_t cap=4096):
    """The new path, or the negated error."""
    cdef slice_t path_view = slice_of(path), replacement_view = slice_of(replacement)
    cdef uint8_t *out = <uint8_t *>malloc(cap + 1)
    cdef int32_t size = route_rewrite_prefix(&path_view, matched, &replacement_view, out, cap)
    result = (<char *>out)[:size] if size >= 0 else size
    free(out)
    return result


def split_pick(list weights, uint64_t random):
    cdef uint32_t *values = <uint32_t *>malloc((len(weights) + 1) * sizeof(uint32_t))
    cdef uint32_t k
    for k in range(len(weights)):
        values[k] = weights[k]
    cdef int32_t index = route_split_pick(values, <uint32_t>len(weights), sum(weights), random)
    free(values)
    return index
