"""Foreign declarations of ``fm_http1.h``: character classes, bounded scans, known names. No logic."""
from libc.stdint cimport uint8_t, uint32_t

cdef extern from "../proto/fm_http1.h" nogil:
    enum:
        FM_C_TOKEN
        FM_C_TARGET
        FM_C_HOST
        FM_C_HEX
        FM_C_DIGIT
    const uint8_t fm_class[256]
    const uint8_t *fm_token_end(const uint8_t *p, const uint8_t *end)
    const uint8_t *fm_value_end(const uint8_t *p, const uint8_t *end)
    const uint8_t *fm_target_end(const uint8_t *p, const uint8_t *end)
    bint fm_name_is(const uint8_t *p, const char *lower, uint32_t len)
    bint fm_equal_nocase(const uint8_t *p, const uint8_t *lower, uint32_t len)
    uint32_t fm_name_id(const uint8_t *p, uint32_t len)
    uint32_t fm_method_id(const uint8_t *p, uint32_t len)
    bint fm_forbidden_trailer(const uint8_t *p, uint32_t len)
    uint8_t fm_hex(uint8_t c)
    bint fm_is_http11_line(const uint8_t *p)
    const char *fm_reason(uint32_t status)
