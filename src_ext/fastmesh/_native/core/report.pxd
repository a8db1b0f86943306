"""One entry of the process's log, written without Python: text or JSON, as ``fastmesh/observability/logs.py`` does it.

An entry has a message, then fields (a name and a text), then lists (a name and texts). It is built in the caller's
memory: what has no room is left out, and a JSON entry stays a valid one. The caller's thread only.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from fastmesh._native.base.put cimport put_decimal, put_digits, put_hex_byte
from fastmesh._native.proxy.access_format cimport access_clock_set
from fastmesh._native.proxy.access_t cimport ACCESS_JSON, access_clock_t
from fastmesh._native.sys.os cimport CLOCK_REALTIME, clock_gettime, timespec

cdef enum:
    REPORT_BYTES = 32768
    REPORT_SPARE = 256  # for names and brackets behind what is cut
    ITEM_BYTES = 512  # an item is not begun with less room

ctypedef struct report_t:
    uint8_t *bytes  # borrows; REPORT_BYTES
    uint32_t length
    bint json
    bint in_string
    uint32_t items  # of the list that is open


# ---------------------------------------------------------------- texts

cdef inline void report_raw(report_t *r, const char *text) noexcept nogil:
    """As it is; also where only the spare room is left."""
    cdef size_t length = strlen(text)
    if r.length + length <= REPORT_BYTES:
        memcpy(r.bytes + r.length, text, length)
        r.length += <uint32_t> length


cdef inline void report_bytes(report_t *r, const char *text, size_t length) noexcept nogil:
    """Escaped, so that it cannot end the line: control characters and what is no ASCII."""
    cdef size_t i
    cdef uint8_t c
    for i in range(length):
        if r.length + 6 > REPORT_BYTES - REPORT_SPARE:
            return
        c = <uint8_t> text[i]
        if c < 0x20 or c >= 0x7F or (r.json and (c == c'"' or c == c'\\')):
            report_raw(r, b"\\u00" if r.json else b"\\x")
            put_hex_byte(r.bytes + r.length, c)
            r.length += 2
        else:
            r.bytes[r.length] = c
            r.length += 1


cdef inline void report_text(report_t *r, const char *text) noexcept nogil:
    report_bytes(r, text, strlen(text))


cdef inline void report_number(report_t *r, uint64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    report_bytes(r, <const char *> digits, <size_t> (put_decimal(digits, value) - digits))


cdef inline void report_hex(report_t *r, uint64_t value) noexcept nogil:
    """``0x…`` without leading zeros."""
    cdef char digits[16]
    cdef uint32_t i = 16, digit
    while True:
        i -= 1
        digit = <uint32_t> (value & 15)
        digits[i] = <char> (digit + (48 if digit < 10 else 87))
        value >>= 4
        if value == 0:
            break
    report_text(r, b"0x")
    report_bytes(r, &digits[i], 16 - i)


cdef inline void report_seconds(report_t *r, uint64_t ms) noexcept nogil:
    """With one decimal."""
    report_number(r, ms // 1000)
    report_text(r, b".")
    report_number(r, ms % 1000 // 100)


# ---------------------------------------------------------------- the entry

cdef inline void report_begin(report_t *r, bint json, const char *level) noexcept nogil:
    """``report_t.bytes`` is set. The message follows. ``level``: ``error`` or ``warning``."""
    cdef access_clock_t clock
    cdef timespec now
    cdef uint8_t thousandths[3]
    cdef uint32_t width = <uint32_t> strlen(level)
    clock_gettime(CLOCK_REALTIME, &now)
    access_clock_set(&clock, <uint64_t> now.tv_sec, ACCESS_JSON)
    put_digits(thousandths, <uint64_t> now.tv_nsec // 1000000, 3)
    r.length = 0
    r.json = json
    report_raw(r, b'{"time": "' if json else b"")
    report_bytes(r, clock.text, clock.length)
    report_text(r, b".")
    report_bytes(r, <const char *> thousandths, 3)
    report_raw(r, b'Z", "level": "' if json else b"Z ")
    report_text(r, level)
    if json:
        report_raw(r, b'", "logger": "fastmesh.watchdog", "message": "')
        r.in_string = True
        return
    while width < 8:
        report_raw(r, b" ")
        width += 1
    report_raw(r, b"fastmesh.watchdog: ")


cdef inline void report_close_string(report_t *r) noexcept nogil:
    if r.json and r.in_string:
        report_raw(r, b'"')
        r.in_string = False


cdef inline void report_field(report_t *r, const char *name) noexcept nogil:
    """After the message, a field or a list: its text follows."""
    report_close_string(r)
    report_raw(r, b', "' if r.json else b"\n    ")
    report_text(r, name)
    report_raw(r, b'": "' if r.json else b": ")
    r.in_string = True


cdef inline void report_list(report_t *r, const char *name) noexcept nogil:
    """Where a field may be: items follow, then ``report_list_end``."""
    report_close_string(r)
    r.items = 0
    report_raw(r, b', "' if r.json else b"\n    ")
    report_text(r, name)
    report_raw(r, b'": [' if r.json else b":")


cdef inline bint report_item(report_t *r) noexcept nogil:
    """Its text follows. False: there is no room for another one."""
    if r.length + ITEM_BYTES > REPORT_BYTES - REPORT_SPARE:
        return False
    report_close_string(r)
    if r.json:
        report_raw(r, b', "' if r.items else b'"')
        r.in_string = True
    else:
        report_raw(r, b"\n        ")
    r.items += 1
    return True


cdef inline void report_list_end(report_t *r) noexcept nogil:
    report_close_string(r)
    if r.json:
        report_raw(r, b"]")


cdef inline void report_end(report_t *r) noexcept nogil:
    report_close_string(r)
    report_raw(r, b"}\n" if r.json else b"\n")
