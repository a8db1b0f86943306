"""What the access log knows of one exchange (or one relayed TCP connection): the worker's view and the ring's
record.

The worker fills an ``access_t`` with borrowed slices, and ``access_encode`` copies it into the ring as one
``access_record_t`` followed by the bytes of the fields, in their order, and ``ACCESS_PADDING`` bytes of no
meaning. Names are carried as bytes, so that no table has to outlive a change of configuration.

A field longer than its bound is cut there and its bit set in ``truncated``. An empty field means "none".
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastmesh._native.base.field_t cimport slice_t

cdef enum:  # a field
    ACCESS_LISTENER = 0
    ACCESS_SERVICE = 1  # empty: the proxy answered without one
    ACCESS_ENDPOINT = 2  # the endpoint of the last attempt
    ACCESS_CLIENT = 3  # the address as text, without the port; of a trusted peer, what it forwarded
    ACCESS_METHOD = 4
    ACCESS_HOST = 5
    ACCESS_TARGET = 6
    ACCESS_REQUEST_ID = 7
    ACCESS_USER_AGENT = 8
    ACCESS_REFERER = 9
    ACCESS_FIELDS = 10

cdef enum:
    ACCESS_TARGET_MOST = 1024
    ACCESS_FIELD_MOST = 256
    # what the bytes of all fields take at most
    ACCESS_BYTES_MOST = ACCESS_TARGET_MOST + (ACCESS_FIELDS - 1) * ACCESS_FIELD_MOST
    ACCESS_PADDING = 16  # behind the fields, so that a reader may take 16 bytes at a time
    # what one line takes at most: each byte escaped as six, and the keys, numbers and scribbled bytes
    ACCESS_LINE_MOST = 6 * ACCESS_BYTES_MOST + 1024

cdef enum:  # style of the lines
    ACCESS_JSON = 0
    ACCESS_COMBINED = 1

cdef enum:  # protocol
    ACCESS_TCP = 0
    ACCESS_HTTP_1_0 = 1
    ACCESS_HTTP_1_1 = 2
    ACCESS_HTTP_2 = 3
    ACCESS_PROTOCOLS = 4

ctypedef struct access_t:
    uint64_t started_us  # wall clock since 1970
    uint64_t duration_us
    uint64_t upstream_us  # ACCESS_NO_UPSTREAM: no endpoint was asked
    uint64_t bytes_received  # from the client
    uint64_t bytes_sent  # to the client
    uint16_t status  # 0: none was sent
    uint8_t error  # fm_error_t, positive; 0: none
    uint8_t protocol  # ACCESS_TCP and the like
    slice_t fields[ACCESS_FIELDS]  # borrows

ctypedef struct access_record_t:
    uint64_t started_us
    uint64_t duration_us
    uint64_t upstream_us
    uint64_t bytes_received
    uint64_t bytes_sent
    uint16_t status
    uint8_t error
    uint8_t protocol
    uint16_t truncated  # bit i: field i was cut
    uint16_t lengths[ACCESS_FIELDS]

ctypedef struct access_clock_t:
    uint64_t second_after  # the second whose text is cached, plus 1; 0: none yet
    uint32_t style  # of the cached text
    uint32_t length
    char text[32]

cdef inline uint64_t access_no_upstream() noexcept nogil:
    """The value of ``upstream_us`` when no endpoint was asked."""
    return <uint64_t> -1
