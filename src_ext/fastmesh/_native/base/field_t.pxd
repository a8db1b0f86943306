"""Views of bytes that somebody else owns: a slice, and one HTTP field line.

``proto`` fills them, ``route`` and ``lb`` read them; neither of those imports the other. A view is valid as
long as the buffer that was parsed, which is the current call at most.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

ctypedef struct slice_t:
    const uint8_t *ptr
    uint32_t len

ctypedef struct field_t:
    const uint8_t *name  # borrows
    const uint8_t *value  # borrows; optional white space around it is not part of it
    uint32_t value_len
    uint16_t name_len
    uint8_t id  # a known field (proto's H_… enum), 0 for any other
    uint8_t flags  # proto's F_… bits
