"""Rewriting a path's prefix, and dividing requests by weight. Any thread, no memory of its own."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastmesh._native.base.errors cimport FM_E_TARGET_TOO_LONG
from fastmesh._native.base.field_t cimport slice_t


cdef inline int32_t route_rewrite_prefix(const slice_t *path, uint32_t matched_prefix_len,
                                         const slice_t *replacement, uint8_t *out,
                                         uint32_t cap) noexcept nogil:
    """Writes ``path`` (without its query) with the matched prefix replaced, as the Gateway API's
    ReplacePrefixMatch does: by elements, with one slash where the parts meet, and ``/`` for nothing left.

    ``matched_prefix_len`` is ``route_t.path_len``. A target that is not a path (``*``) is copied as it is.
    Nothing left of the prefix and a rest of several slashes give one slash: the result is never ``//host``.
    Returns the size or ``-FM_E_TARGET_TOO_LONG``. ``out`` must not overlap the inputs.
    """
    cdef const uint8_t *rest = path.ptr
    cdef uint32_t rest_len = path.len
    cdef uint32_t kept = replacement.len
    if path.len == 0 or path.ptr[0] != 47 or matched_prefix_len > path.len:
        kept = 0
    else:
        rest += matched_prefix_len
        rest_len -= matched_prefix_len
        while kept and replacement.ptr[kept - 1] == 47:
            kept -= 1
        while kept == 0 and rest_len > 1 and rest[0] == 47 and rest[1] == 47:
            rest += 1
            rest_len -= 1
        if kept == 0 and rest_len == 0:
            rest = path.ptr  # its first byte is the slash
            rest_len = 1
    if <uint64_t>kept + rest_len > cap:
        return -FM_E_TARGET_TOO_LONG
    if kept:
        memcpy(out, replacement.ptr, kept)
    if rest_len:
        memcpy(out + kept, rest, rest_len)
    return <int32_t>(kept + rest_len)


cdef inline int32_t route_split_pick(const uint32_t *weights, uint32_t n, uint64_t total,
                                     uint64_t random) noexcept nogil:
    """Which of ``n`` parts a request goes to: part ``i`` with chance ``weights[i] / total`` for an even
    ``random``; ``total`` is the sum of the weights, at most 2**32. -1 when ``total`` is 0."""
    cdef uint64_t draw
    cdef uint32_t k
    if total == 0:
        return -1
    draw = ((random >> 32) * total) >> 32
    for k in range(n):
        if draw < weights[k]:
            return <int32_t>k
        draw -= weights[k]
    return <int32_t>n - 1
