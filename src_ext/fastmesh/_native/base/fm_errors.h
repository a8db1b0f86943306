/* Every way in which an exchange or a connection can fail: one table.
 * X(NAME, value, side, retryable, status, public name, one-line body)
 *   side      C client, U upstream, O ours
 *   retryable 1: another endpoint may be tried if the rest of the rules allow it
 * The public name is sent as `x-fastmesh-error` and is the label of fastmesh_errors_total. */
#ifndef FM_ERRORS_H
#define FM_ERRORS_H

#define FM_ERROR_TABLE(X)                                                                                                     \
    X(FM_E_BAD_REQUEST, 1, 'C', 0, 400, "bad_request", "The request is malformed.")                                           \
    X(FM_E_HEADER_TIMEOUT, 2, 'C', 0, 408, "header_timeout", "The request head did not arrive in time.")                      \
    X(FM_E_BODY_TIMEOUT, 3, 'C', 0, 408, "body_timeout", "The request body did not arrive in time.")                          \
    X(FM_E_HEADER_TOO_LARGE, 4, 'C', 0, 431, "header_too_large", "The request head is larger than this server accepts.")      \
    X(FM_E_TARGET_TOO_LONG, 5, 'C', 0, 414, "target_too_long", "The request target is longer than this server accepts.")      \
    X(FM_E_BODY_TOO_LARGE, 6, 'C', 0, 413, "body_too_large", "The request body is larger than this server accepts.")          \
    X(FM_E_METHOD_UNSUPPORTED, 7, 'C', 0, 501, "method_unsupported", "The request method is not supported.")                  \
    X(FM_E_METHOD_NOT_ALLOWED, 8, 'C', 0, 405, "method_unsupported", "The request method is not allowed here.")               \
    X(FM_E_CODING_UNSUPPORTED, 9, 'C', 0, 501, "bad_request", "The transfer coding is not supported.")                        \
    X(FM_E_VERSION_UNSUPPORTED, 10, 'C', 0, 505, "bad_request", "The HTTP version is not supported.")                         \
    X(FM_E_MISDIRECTED, 11, 'C', 0, 421, "bad_request", "This server does not serve that scheme.")                            \
    X(FM_E_EXPECTATION_FAILED, 12, 'C', 0, 417, "bad_request", "The expectation is not supported.")                           \
    X(FM_E_LENGTH_REQUIRED, 13, 'C', 0, 411, "bad_request", "A Content-Length is required for this endpoint.")                \
    X(FM_E_CLIENT_ABORTED, 14, 'C', 0, 499, "client_aborted", "The client closed the connection.")                            \
    X(FM_E_CLIENT_IDLE, 15, 'C', 0, 408, "client_idle", "The client was silent for too long.")                                \
    X(FM_E_PROXY_HEADER, 16, 'C', 0, 400, "bad_proxy_header", "The PROXY protocol header is malformed or missing.")           \
    X(FM_E_NOT_REDIRECTED, 17, 'C', 0, 400, "not_redirected", "The connection was made to the proxy itself.")               \
    X(FM_E_NO_ROUTE, 20, 'O', 0, 404, "no_route", "No route matches this request.")                                           \
    X(FM_E_NO_ENDPOINT, 21, 'O', 0, 503, "no_endpoint", "The service has no usable endpoint.")                                \
    X(FM_E_TOO_MANY_CONNECTIONS, 22, 'O', 0, 503, "too_many_connections", "Too many connections.")                            \
    X(FM_E_OVERLOADED, 23, 'O', 0, 503, "overloaded", "The proxy is overloaded.")                                             \
    X(FM_E_DRAINING, 24, 'O', 0, 503, "draining", "Draining: new requests are not taken.")                                    \
    X(FM_E_NO_MEMORY, 25, 'O', 0, 503, "overloaded", "The proxy is out of memory.")                                           \
    X(FM_E_TOO_MANY_REQUESTS, 26, 'O', 0, 503, "too_many_requests", "The service has as many requests in flight as it may.")  \
    X(FM_E_QUEUE_TIMEOUT, 27, 'O', 0, 503, "queue_timeout", "The request waited too long for its turn.")                      \
    X(FM_E_CONNECT_REFUSED, 30, 'U', 1, 502, "connect_refused", "The endpoint refused the connection.")                       \
    X(FM_E_CONNECT_TIMEOUT, 31, 'U', 1, 504, "connect_timeout", "The endpoint did not accept the connection in time.")        \
    X(FM_E_UPSTREAM_RESET, 32, 'U', 1, 502, "upstream_reset", "The endpoint reset the connection.")                           \
    X(FM_E_UPSTREAM_CLOSED, 33, 'U', 1, 502, "upstream_closed", "The endpoint closed the connection before it answered.")     \
    X(FM_E_UPSTREAM_TIMEOUT, 34, 'U', 1, 504, "upstream_timeout", "The endpoint did not answer in time.")                     \
    X(FM_E_UPSTREAM_MALFORMED, 35, 'U', 1, 502, "upstream_malformed", "The endpoint sent a malformed response.")

/* How many slots a table indexed by error value needs. */
#define FM_ERROR_LIMIT 64

typedef enum {
    FM_OK = 0,
#define X(name, value, side, retryable, status, public_name, text) name = value,
    FM_ERROR_TABLE(X)
#undef X
} fm_error_t;

typedef struct {
    const char *public_name;
    const char *text;
    unsigned short status;
    char side;
    char retryable;
} fm_error_info_t;

static const fm_error_info_t fm_error_info[FM_ERROR_LIMIT] = {
#define X(name, value, side, retryable, status, public_name, text) [value] = {public_name, text, status, side, retryable},
    FM_ERROR_TABLE(X)
#undef X
};
#endif
