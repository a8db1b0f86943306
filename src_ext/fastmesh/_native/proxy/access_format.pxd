"""Lines of the access log from records: JSON and Combined Log Format. Sans-I/O; the writer's thread only.

A line needs ``ACCESS_LINE_MOST`` bytes of room at most, and the record must be followed by ``ACCESS_PADDING``
readable bytes (``access_encode`` sees to it).

**JSON**, one object a line, keys always all there and in this order, ``null`` for what there is none of:
``time`` (RFC 3339, UTC, microseconds, the start of the exchange), ``listener``, ``service``, ``endpoint``,
``client``, ``method``, ``host``, ``target``, ``protocol`` (``HTTP/1.1``, ``TCP``…), ``status``, ``error``
(the code of ``x-fastmesh-error``), ``bytes_received``, ``bytes_sent``, ``duration_ms``, ``upstream_ms`` (with
three decimals), ``request_id``, ``user_agent``, ``referer``; and at the end, only where fields were cut,
``truncated``: the list of their keys. Well-formed UTF-8 stays as it is, apart from control characters
(U+0000-U+001F, U+007F-U+009F), which are escaped. A byte that is no part of well-formed UTF-8 becomes
``\\u00XX`` with its value, as if it were Latin-1: a line is always valid JSON in valid UTF-8, and never
longer than one line.

**Combined**: ``client - - [21/Nov/2025:07:43:12 +0000] "GET /target HTTP/1.1" status bytes_sent "referer"
"user-agent"``; ``-`` for what there is none of; a quote, a backslash, a control byte and each byte from 0x7f
becomes ``\\xXX``.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastmesh._native.base.errors cimport FM_ERROR_LIMIT, fm_error_info
from fastmesh._native.base.put cimport fm_put, put_decimal, put_digits, put_hex_byte
from fastmesh._native.proxy.access_t cimport (
    ACCESS_CLIENT,
    ACCESS_COMBINED,
    ACCESS_ENDPOINT,
    ACCESS_FIELDS,
    ACCESS_HOST,
    ACCESS_HTTP_1_0,
    ACCESS_HTTP_1_1,
    ACCESS_HTTP_2,
    ACCESS_LISTENER,
    ACCESS_METHOD,
    ACCESS_REFERER,
    ACCESS_REQUEST_ID,
    ACCESS_SERVICE,
    ACCESS_TARGET,
    ACCESS_USER_AGENT,
    access_clock_t,
    access_no_upstream,
    access_record_t,
)
from fastmesh._native.sys.atomics cimport fm_likely

cdef extern from "../proxy/fm_escape.h" nogil:
    size_t fm_copy_plain(uint8_t *to, const uint8_t *start, size_t n)
    size_t fm_utf8_length(const uint8_t *p, size_t n)

cdef extern from *:
    """
    static const char fm_months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static const char *const fm_access_keys[] = {"listener", "service", "endpoint", "client", "method",
                                                 "host", "target", "request_id", "user_agent", "referer"};
    """
    const char *fm_months
    const char **fm_access_keys


cdef inline void access_civil(
    uint64_t day, uint32_t *year, uint32_t *month, uint32_t *day_of_month
) noexcept nogil:
    """The Gregorian date of a day counted from 1970-01-01. Years start in March here, so that the leap day is
    the last."""
    cdef uint64_t shifted = day + 719468  # days since 0000-03-01
    cdef uint64_t era = shifted // 146097  # 400 years
    cdef uint64_t in_era = shifted % 146097
    cdef uint64_t year_of_era = (in_era - in_era // 1460 + in_era // 36524 - in_era // 146096) // 365
    cdef uint64_t day_of_year = in_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef uint64_t from_march = (5 * day_of_year + 2) // 153
    day_of_month[0] = <uint32_t> (day_of_year - (153 * from_march + 2) // 5 + 1)
    month[0] = <uint32_t> (from_march + 3 if from_march < 10 else from_march - 9)
    year[0] = <uint32_t> (year_of_era + era * 400 + (1 if month[0] <= 2 else 0))


cdef inline void access_clock_set(access_clock_t *clock, uint64_t second, uint32_t style) noexcept nogil:
    """Formats a second of wall-clock time into the cache. Seconds after the year 9999 are shown as its
    last."""
    cdef uint32_t year, month, day
    cdef uint8_t *to = <uint8_t *> clock.text
    cdef uint64_t in_day
    clock.second_after = second + 1
    clock.style = style
    if second > 253402300799u:
        second = 253402300799u
    in_day = second % 86400
    access_civil(second // 86400, &year, &month, &day)
    if style == ACCESS_COMBINED:
        to = put_digits(to, day, 2)
        to = fm_put(to, b"/")
        memcpy(to, fm_months + 3 * (month - 1), 3)
        to = fm_put(to + 3, b"/")
        to = fm_put(put_digits(to, year, 4), b":")
    else:
        to = fm_put(put_digits(to, year, 4), b"-")
        to = fm_put(put_digits(to, month, 2), b"-")
        to = fm_put(put_digits(to, day, 2), b"T")
    to = fm_put(put_digits(to, in_day // 3600, 2), b":")
    to = fm_put(put_digits(to, in_day // 60 % 60, 2), b":")
    to = put_digits(to, in_day % 60, 2)
    clock.length = <uint32_t> (to - <uint8_t *> clock.text)


cdef inline uint8_t *put_time(
    uint8_t *to, access_clock_t *clock, uint64_t micros, uint32_t style
) noexcept nogil:
    """The cached text of the second of ``micros``."""
    cdef uint64_t second = micros // 1000000
    if clock.second_after != second + 1 or clock.style != style:
        access_clock_set(clock, second, style)
    memcpy(to, clock.text, sizeof(clock.text))
    return to + clock.length


cdef inline uint8_t *put_json_escape(uint8_t *to, uint8_t c) noexcept nogil:
    if c == 34:
        return fm_put(to, b'\\"')
    if c == 92:
        return fm_put(to, b"\\\\")
    if c == 10:
        return fm_put(to, b"\\n")
    if c == 9:
        return fm_put(to, b"\\t")
    if c == 13:
        return fm_put(to, b"\\r")
    return put_hex_byte(fm_put(to, b"\\u00"), c)


cdef inline uint8_t *put_json_string(uint8_t *to, const uint8_t *text, uint32_t length) noexcept nogil:
    """A JSON string, or ``null`` for an empty one; at most ``6 * length + 4`` bytes, and 15 more are
    scribbled over. Reads up to 15 bytes behind the text."""
    cdef size_t n
    if length == 0:
        return fm_put(to, b"null")
    to = fm_put(to, b'"')
    while True:
        n = fm_copy_plain(to, text, length)
        to += n
        if fm_likely(n == length):
            return fm_put(to, b'"')
        text += n
        length -= <uint32_t> n
        n = fm_utf8_length(text, length) if text[0] >= 0x80 else 0
        if n == 0:
            to = put_json_escape(to, text[0])
            n = 1
        elif text[0] == 0xC2 and text[1] < 0xA0:
            to = put_json_escape(to, text[1])
        else:
            memcpy(to, text, n)
            to += n
        text += n
        length -= <uint32_t> n
        if length == 0:
            return fm_put(to, b'"')


cdef inline uint8_t *put_log_string(uint8_t *to, const uint8_t *text, uint32_t length) noexcept nogil:
    """The escapes of the combined format, or ``-`` for an empty text; at most ``4 * length + 1`` bytes, else
    as above."""
    cdef size_t n
    if length == 0:
        return fm_put(to, b"-")
    while length:
        n = fm_copy_plain(to, text, length)
        to += n
        text += n
        length -= <uint32_t> n
        if length:
            to = put_hex_byte(fm_put(to, b"\\x"), text[0])
            text += 1
            length -= 1
    return to


cdef inline uint8_t *put_millis(uint8_t *to, uint64_t micros) noexcept nogil:
    to = fm_put(put_decimal(to, micros // 1000), b".")
    return put_digits(to, micros % 1000, 3)


cdef inline uint8_t *put_protocol(uint8_t *to, uint8_t protocol) noexcept nogil:
    if protocol == ACCESS_HTTP_1_1:
        return fm_put(to, b"HTTP/1.1")
    if protocol == ACCESS_HTTP_1_0:
        return fm_put(to, b"HTTP/1.0")
    if protocol == ACCESS_HTTP_2:
        return fm_put(to, b"HTTP/2")
    return fm_put(to, b"TCP")


cdef inline uint8_t *put_json_error(uint8_t *to, uint8_t error) noexcept nogil:
    cdef const char *name
    if error == 0 or error >= FM_ERROR_LIMIT or fm_error_info[error].public_name == NULL:
        return fm_put(to, b"null")
    to = fm_put(to, b'"')
    name = fm_error_info[error].public_name
    while name[0]:
        to[0] = <uint8_t> name[0]
        to += 1
        name += 1
    return fm_put(to, b'"')


cdef inline uint8_t *put_truncated(uint8_t *to, uint16_t truncated) noexcept nogil:
    cdef uint32_t field
    cdef const char *key
    to = fm_put(to, b',"truncated":[')
    for field in range(ACCESS_FIELDS):
        if truncated >> field & 1:
            to = fm_put(to, b'"')
            key = fm_access_keys[field]
            while key[0]:
                to[0] = <uint8_t> key[0]
                to += 1
                key += 1
            to = fm_put(to, b'",')
    return fm_put(to - 1, b"]")


cdef inline void access_fields(const access_record_t *record, const uint8_t **texts) noexcept nogil:
    """Where each field of a record starts."""
    cdef const uint8_t *at = <const uint8_t *> record + sizeof(access_record_t)
    cdef uint32_t field
    for field in range(ACCESS_FIELDS):
        texts[field] = at
        at += record.lengths[field]


cdef inline uint8_t *access_put_json(
    uint8_t *to, const access_record_t *record, access_clock_t *clock, uint32_t style
) noexcept nogil:
    """One JSON line with its end; see the head of this file."""
    cdef const uint8_t *texts[ACCESS_FIELDS]
    cdef const uint16_t *lengths = &record.lengths[0]
    access_fields(record, texts)
    to = put_time(fm_put(to, b'{"time":"'), clock, record.started_us, style)
    to = put_digits(fm_put(to, b"."), record.started_us % 1000000, 6)
    to = put_json_string(fm_put(to, b'Z","listener":'), texts[ACCESS_LISTENER], lengths[ACCESS_LISTENER])
    to = put_json_string(fm_put(to, b',"service":'), texts[ACCESS_SERVICE], lengths[ACCESS_SERVICE])
    to = put_json_string(fm_put(to, b',"endpoint":'), texts[ACCESS_ENDPOINT], lengths[ACCESS_ENDPOINT])
    to = put_json_string(fm_put(to, b',"client":'), texts[ACCESS_CLIENT], lengths[ACCESS_CLIENT])
    to = put_json_string(fm_put(to, b',"method":'), texts[ACCESS_METHOD], lengths[ACCESS_METHOD])
    to = put_json_string(fm_put(to, b',"host":'), texts[ACCESS_HOST], lengths[ACCESS_HOST])
    to = put_json_string(fm_put(to, b',"target":'), texts[ACCESS_TARGET], lengths[ACCESS_TARGET])
    to = put_protocol(fm_put(to, b',"protocol":"'), record.protocol)
    to = fm_put(to, b'","status":')
    to = put_decimal(to, record.status) if record.status else fm_put(to, b"null")
    to = put_json_error(fm_put(to, b',"error":'), record.error)
    to = put_decimal(fm_put(to, b',"bytes_received":'), record.bytes_received)
    to = put_decimal(fm_put(to, b',"bytes_sent":'), record.bytes_sent)
    to = put_millis(fm_put(to, b',"duration_ms":'), record.duration_us)
    to = fm_put(to, b',"upstream_ms":')
    if record.upstream_us == access_no_upstream():
        to = fm_put(to, b"null")
    else:
        to = put_millis(to, record.upstream_us)
    to = put_json_string(fm_put(to, b',"request_id":'), texts[ACCESS_REQUEST_ID], lengths[ACCESS_REQUEST_ID])
    to = put_json_string(fm_put(to, b',"user_agent":'), texts[ACCESS_USER_AGENT], lengths[ACCESS_USER_AGENT])
    to = put_json_string(fm_put(to, b',"referer":'), texts[ACCESS_REFERER], lengths[ACCESS_REFERER])
    if record.truncated:
        to = put_truncated(to, record.truncated)
    return fm_put(to, b"}\n")


cdef inline uint8_t *access_put_combined(
    uint8_t *to, const access_record_t *record, access_clock_t *clock, uint32_t style
) noexcept nogil:
    """One line of the combined format with its end; see the head of this file."""
    cdef const uint8_t *texts[ACCESS_FIELDS]
    cdef const uint16_t *lengths = &record.lengths[0]
    access_fields(record, texts)
    to = put_log_string(to, texts[ACCESS_CLIENT], lengths[ACCESS_CLIENT])
    to = put_time(fm_put(to, b" - - ["), clock, record.started_us, style)
    to = fm_put(to, b' +0000] "')
    if lengths[ACCESS_METHOD]:
        to = put_log_string(to, texts[ACCESS_METHOD], lengths[ACCESS_METHOD])
        to = put_log_string(fm_put(to, b" "), texts[ACCESS_TARGET], lengths[ACCESS_TARGET])
        to = put_protocol(fm_put(to, b" "), record.protocol)
    else:
        to = fm_put(to, b"-")
    to = fm_put(to, b'" ')
    to = put_decimal(to, record.status) if record.status else fm_put(to, b"-")
    to = put_decimal(fm_put(to, b" "), record.bytes_sent)
    to = put_log_string(fm_put(to, b' "'), texts[ACCESS_REFERER], lengths[ACCESS_REFERER])
    to = put_log_string(fm_put(to, b'" "'), texts[ACCESS_USER_AGENT], lengths[ACCESS_USER_AGENT])
    return fm_put(to, b'"\n')


cdef inline uint32_t access_format(
    uint8_t *to, const access_record_t *record, access_clock_t *clock, uint32_t style
) noexcept nogil:
    """Writes one line at ``to``, where ``ACCESS_LINE_MOST`` bytes are free, and returns its length."""
    if style == ACCESS_COMBINED:
        return <uint32_t> (access_put_combined(to, record, clock, style) - to)
    return <uint32_t> (access_put_json(to, record, clock, style) - to)
