"""The shared record of one endpoint slot: what must be seen by every worker.

Slots live in chunks that are never moved or freed while the engine lives, so a pointer to one stays valid.
Identity, address and generation are set by the control thread before the slot is published.

``health`` is one relaxed atomic word (see the ``HEALTH_`` masks): bits 0-31 ``down_until`` in worker-clock
milliseconds (0: not down; compared as ``(int32_t)(down_until - now_ms) > 0``), bit 32 ``unhealthy`` (active checks failed), bit 33 ``draining``,
bits 40-47 slow-start share in 1/255 (0 means full weight: the word 0 is a healthy endpoint). A ``down_until`` that has
passed means half open: one request may find out whether the endpoint is back. What led there stands beside the word, relaxed
as well; ``net/health.pxd`` is the only writer but for the control thread.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    SLOT_NAME_BYTES = 120  # the canonical address as text, `ip:port`, `[v6]:port` or `unix:/path`
    SLOT_SOCKADDR_BYTES = 112  # a sockaddr_un is 110 bytes

cdef enum: SLOT_SHARED_BYTES = 64  # what changes while it is published

cdef enum: HEALTH_DOWN_UNTIL_BITS = 32

ctypedef struct slot_t:
    # shared, atomic: its own cache line
    uint64_t health
    uint32_t in_flight  # requests over all workers; a plain counter when there is one worker
    uint32_t bad_5xx  # answers of 5xx and failed attempts in a row, over all workers
    uint32_t bad_gateway  # of these, 502 to 504 and attempts without an answer
    uint32_t given_up  # clients in a row that did not wait for its answer
    uint32_t ejections  # in a row: each is twice as long as the one before
    uint32_t ejected_ms  # when the last one began, in worker-clock milliseconds
    uint32_t ejected_for_ms
    uint32_t ejected_total
    uint32_t reason  # of the last one: FM_E_…, or REASON_…
    uint32_t ramp_start_ms  # slow start
    uint32_t ramp_ms
    uint8_t pad[12]
    # set once by the control thread before publication
    uint32_t index
    uint32_t generation
    uint32_t service_index
    uint16_t sockaddr_len
    uint16_t name_len
    uint8_t sockaddr_bytes[SLOT_SOCKADDR_BYTES]
    char name[SLOT_NAME_BYTES]
