"""The one enum of data-plane errors. Functions return them negated (``-FM_E_…``); ``fm_error_info`` gives
the side, the HTTP status, the public name and the text of each. The table is ``fm_errors.h``."""

cdef extern from "../base/fm_errors.h" nogil:
    enum: FM_ERROR_LIMIT
    ctypedef enum fm_error_t:
        FM_OK
        FM_E_BAD_REQUEST
        FM_E_HEADER_TIMEOUT
        FM_E_BODY_TIMEOUT
        FM_E_HEADER_TOO_LARGE
        FM_E_TARGET_TOO_LONG
        FM_E_BODY_TOO_LARGE
        FM_E_METHOD_UNSUPPORTED
        FM_E_METHOD_NOT_ALLOWED
        FM_E_CODING_UNSUPPORTED
        FM_E_VERSION_UNSUPPORTED
        FM_E_MISDIRECTED
        FM_E_EXPECTATION_FAILED
        FM_E_LENGTH_REQUIRED
        FM_E_CLIENT_ABORTED
        FM_E_CLIENT_IDLE
        FM_E_PROXY_HEADER
        FM_E_NOT_REDIRECTED
        FM_E_NO_ROUTE
        FM_E_NO_ENDPOINT
        FM_E_TOO_MANY_CONNECTIONS
        FM_E_OVERLOADED
        FM_E_DRAINING
        FM_E_NO_MEMORY
        FM_E_TOO_MANY_REQUESTS
        FM_E_QUEUE_TIMEOUT
        FM_E_CONNECT_REFUSED
        FM_E_CONNECT_TIMEOUT
        FM_E_UPSTREAM_RESET
        FM_E_UPSTREAM_CLOSED
        FM_E_UPSTREAM_TIMEOUT
        FM_E_UPSTREAM_MALFORMED
    ctypedef struct fm_error_info_t:
        const char *public_name
        const char *text
        unsigned short status
        char side
        char retryable
    const fm_error_info_t fm_error_info[64]
