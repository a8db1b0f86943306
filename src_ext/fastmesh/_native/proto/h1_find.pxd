"""Looking things up in a parsed request: fields, cookies, query parameters. Sans-I/O, any thread.

A slice whose ptr is NULL means that there is none; an empty value has a ptr and length 0.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from fastmesh._native.base.field_t cimport field_t, slice_t
from fastmesh._native.proto.ctext cimport fm_equal_nocase
from fastmesh._native.proto.h1_t cimport H1_H_COOKIE, H1_H_X_FORWARDED_FOR, h1_req_t


cdef inline const field_t *h1_find_field(
    const field_t *fields, uint32_t n, const uint8_t *lower_name, uint32_t name_len,
) noexcept nogil:
    """The first field of that name (given in lower case), or NULL."""
    cdef uint32_t i
    for i in range(n):
        if fields[i].name_len == name_len and fm_equal_nocase(fields[i].name, lower_name, name_len):
            return &fields[i]
    return NULL


cdef inline slice_t _pair_value(
    const uint8_t *p, const uint8_t *end, uint8_t separator, const uint8_t *name, uint32_t name_len,
) noexcept nogil:
    """The value of the first `name=value` among parts divided by a separator; of `name` alone, an empty
    one."""
    cdef slice_t found
    cdef const uint8_t *stop
    while p <= end:
        while p < end and (p[0] == c" " or p[0] == c"\t"):
            p += 1
        stop = p
        while stop < end and stop[0] != separator:
            stop += 1
        if <size_t>(stop - p) >= name_len and memcmp(p, name, name_len) == 0:
            found.ptr = p + name_len
            found.len = 0
            if found.ptr == stop:
                return found
            if found.ptr[0] == c"=":
                found.ptr += 1
                while stop > found.ptr and ((stop - 1)[0] == c" " or (stop - 1)[0] == c"\t"):
                    stop -= 1
                found.len = <uint32_t>(stop - found.ptr)
                return found
        p = stop + 1
    found.ptr = NULL
    found.len = 0
    return found


cdef inline slice_t h1_cookie(
    const field_t *fields, uint32_t n, const uint8_t *name, uint32_t name_len,
) noexcept nogil:
    """The first cookie of that name (RFC 6265 5.4: case-sensitive), quotes included."""
    cdef slice_t found
    cdef uint32_t i
    found.ptr = NULL
    found.len = 0
    for i in range(n):
        if fields[i].id == H1_H_COOKIE and found.ptr == NULL:
            found = _pair_value(fields[i].value, fields[i].value + fields[i].value_len, c";", name, name_len)
    return found


cdef inline slice_t h1_query_param(slice_t query, const uint8_t *name, uint32_t name_len) noexcept nogil:
    """The first parameter of that name, as it is written (percent-encoding stays)."""
    if query.ptr == NULL:
        return query
    return _pair_value(query.ptr, query.ptr + query.len, c"&", name, name_len)


cdef inline slice_t h1_forwarded_for(const h1_req_t *req) noexcept nogil:
    """The last element of the last X-Forwarded-For field: whom a trusted peer says that it speaks for."""
    cdef slice_t found
    cdef const field_t *field
    cdef const uint8_t *end
    cdef uint32_t i = req.nfields
    found.ptr = NULL
    found.len = 0
    if not req.seen & (1 << H1_H_X_FORWARDED_FOR):
        return found
    while i > 0:
        i -= 1
        field = &req.fields[i]
        if field.id == H1_H_X_FORWARDED_FOR and field.value_len:
            end = field.value + field.value_len
            found.ptr = end
            while found.ptr > field.value and (found.ptr - 1)[0] != c",":
                found.ptr -= 1
            while found.ptr < end and (found.ptr[0] == c" " or found.ptr[0] == c"\t"):
                found.ptr += 1
            found.len = <uint32_t>(end - found.ptr)
            return found
    return found
