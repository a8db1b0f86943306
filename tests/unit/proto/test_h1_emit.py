"""Heads that are written: requests upstream, responses, own answers.

Rows 8, 18, 19, 29, 33, 35, 48, 54, 62, 67, 77, 81 to 85, 87, 92, 96, 99, 103 and 112 of the HTTP/1 list.
"""

from __future__ import annotations

import pytest

from fastmesh._native.proto import _t_proto as proto

ALL = {
    "emit_for": True,
    "emit_proto": True,
    "emit_host": True,
    "emit_request_id": True,
    "request_id": b"id-1",
}


def lines(raw: bytes, **options: object) -> list[bytes]:
    """The lines of the emitted head of a request; as a part of longer input, too."""
    result, head = proto.forward_request(raw, **options)
    assert result > 0, (result, raw)
    assert proto.forward_request(raw + b"GARBAGE", **options) == (result, head)
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def request(*fields: bytes, line: bytes = b"GET /a?b HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: h", *fields]) + b"\r\n\r\n"


# Requests


def test_a_plain_request_is_copied() -> None:
    raw = request(b"A: b", b"Content-Length: 3", b"aCCept:*/*")
    assert proto.forward_request(raw) == (len(raw), raw)
    assert proto.forward_request(b"\r\n" + raw) == (len(raw) + 2, raw)


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.2"])
def test_008_the_version_is_ours(version: bytes) -> None:
    assert lines(request(line=b"GET /a?b " + version)) == [b"GET /a?b HTTP/1.1", b"Host: h"]


def test_forwarding_fields_are_added() -> None:
    assert lines(request(b"A: b"), **ALL) == [
        b"GET /a?b HTTP/1.1", b"Host: h", b"A: b", b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: h", b"X-Request-Id: id-1",
    ]  # fmt: skip


FORGED = [
    b"X-Forwarded-For: 9.9.9.9", b"x-forwarded-proto: https", b"X-Forwarded-Host: evil",
    b"X-Forwarded-Port: 1", b"X_Forwarded_For: 9.9.9.9",
    b"X-Forwarded_Proto: ws", b"Forwarded: for=9.9.9.9", b"X-REAL-IP: 9.9.9.9", b"X_Real_IP: 9.9.9.9",
    b"X-Request-ID: evil", b"X_Request_Id: evil",
]  # fmt: skip


def test_085_what_an_untrusted_peer_says_is_replaced() -> None:
    mixed = [line for forged in FORGED for line in (forged, b"Keep: 1")]
    out = lines(request(*mixed, *FORGED), **ALL)
    assert out == [b"GET /a?b HTTP/1.1", b"Host: h", *[b"Keep: 1"] * len(FORGED),
                   b"X-Forwarded-For: 192.0.2.7",
                   b"X-Forwarded-Proto: http", b"X-Forwarded-Host: h", b"X-Request-Id: id-1"]  # fmt: skip
    assert lines(request(*FORGED)) == [b"GET /a?b HTTP/1.1", b"Host: h", b"X-Request-ID: evil"]


def test_085_what_a_trusted_peer_says_is_kept_or_appended_to() -> None:
    out = lines(request(*FORGED, b"x-forwarded-for: , 8.8.8.8", b"X-Forwarded-For:"), trusted=True, **ALL)
    kept = [line for line in FORGED if line != FORGED[0]]
    assert out == [b"GET /a?b HTTP/1.1", b"Host: h", *kept, b"X-Forwarded-For: 9.9.9.9, , 8.8.8.8, 192.0.2.7"]
    assert lines(request(), trusted=True, **ALL)[2:] == [
        b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Proto: http", b"X-Forwarded-Host: h",
        b"X-Request-Id: id-1",
    ]  # fmt: skip
    assert lines(request(FORGED[0]), trusted=True)[2:] == [FORGED[0]]


def test_082_084_fields_of_one_hop_are_left_out() -> None:
    raw = request(b"Connection: keep-alive, X-A", b"A: 1", b"X-A: 2", b"B: 3", b"Keep-Alive: x",
    b"TE: trailers", b"Upgrade: websocket",
                  b"Proxy-Connection: x", b"C: 4")  # fmt: skip
    assert lines(raw) == [b"GET /a?b HTTP/1.1", b"Host: h", b"A: 1", b"B: 3", b"C: 4"]


def test_083_fields_of_the_proxy_cannot_be_removed() -> None:
    out = lines(
        request(b"Connection: X-Forwarded-For, X-Request-Id, X-Forwarded-Proto, X-Forwarded-Host"), **ALL
    )
    assert len(out) == 6


def test_112_084_upgrade_and_te() -> None:
    raw = request(
        b"Connection: Upgrade, TE", b"Upgrade: websocket, h2c", b"TE: trailers, gzip", b"HTTP2-Settings: x"
    )
    assert lines(raw, upgrade=1)[2:] == [b"Connection: Upgrade", b"Upgrade: websocket"]
    assert lines(raw, te_trailers=True)[2:] == [b"Connection: TE", b"TE: trailers"]
    assert lines(raw, upgrade=1, te_trailers=True)[2:] == [
        b"Connection: Upgrade, TE",
        b"TE: trailers",
        b"Upgrade: websocket",
    ]


@pytest.mark.parametrize(
    ("line", "sent", "host"),
    [
        (b"GET http://real:81/x?y HTTP/1.1", b"GET /x?y HTTP/1.1", b"real:81"),
        (b"GET http://real HTTP/1.1", b"GET / HTTP/1.1", b"real"),
        (b"GET http://real?q HTTP/1.1", b"GET /?q HTTP/1.1", b"real"),
        (b"OPTIONS http://real HTTP/1.1", b"OPTIONS * HTTP/1.1", b"real"),
        (b"OPTIONS * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"h"),
    ],
)
def test_018_019_targets_become_origin_form(line: bytes, sent: bytes, host: bytes) -> None:
    assert lines(request(b"A: b", line=line), emit_host=True) == [
        sent,
        b"Host: " + host,
        b"A: b",
        b"X-Forwarded-Host: " + host,
    ]


def test_029_host() -> None:
    no_host = b"GET / HTTP/1.0\r\n\r\n"
    assert lines(no_host, host_default=b"10.0.0.1:80", emit_host=True) == [
        b"GET / HTTP/1.1",
        b"Host: 10.0.0.1:80",
    ]
    assert lines(request(), host_default=b"x") == [b"GET /a?b HTTP/1.1", b"Host: h"]
    assert lines(request(b"A: b"), host_override=b"new", emit_host=True) == [
        b"GET /a?b HTTP/1.1", b"Host: new", b"A: b", b"X-Forwarded-Host: h",
    ]  # fmt: skip
    assert lines(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", emit_host=True) == [b"GET / HTTP/1.1", b"Host:"]


@pytest.mark.parametrize(
    ("line", "path", "sent"),
    [
        (b"GET /a/b?c HTTP/1.1", b"/z", b"GET /z?c HTTP/1.1"),
        (b"GET /a/b HTTP/1.1", b"/z/b", b"GET /z/b HTTP/1.1"),
        (b"GET /a? HTTP/1.1", b"/", b"GET /? HTTP/1.1"),
        (b"GET http://h?q HTTP/1.1", b"/z", b"GET /z?q HTTP/1.1"),
        (b"OPTIONS * HTTP/1.1", b"/z", b"OPTIONS * HTTP/1.1"),
    ],
)
def test_a_rewritten_path_keeps_the_query(line: bytes, path: bytes, sent: bytes) -> None:
    assert lines(request(b"A: b", line=line), path=path) == [sent, b"Host: h", b"A: b"]


@pytest.mark.parametrize(
    ("method", "added"),
    [(b"POST", True), (b"PUT", True), (b"PATCH", True), (b"GET", False), (b"DELETE", False), (b"X", False)],
)
def test_054_methods_that_expect_content(method: bytes, added: bool) -> None:
    assert lines(request(line=method + b" / HTTP/1.1"))[2:] == ([b"Content-Length: 0"] if added else [])
    assert lines(request(b"Content-Length: 0", line=method + b" / HTTP/1.1"))[2:] == [b"Content-Length: 0"]


def test_048_062_framing_is_spelt_plainly() -> None:
    assert lines(request(b"Content-Length: 007", b"A: b"))[2:] == [b"A: b", b"Content-Length: 7"]
    assert lines(request(b"Content-Length: 000"))[2:] == [b"Content-Length: 0"]
    assert lines(request(b"Transfer-Encoding: Chunked", b"A: b"))[2:] == [
        b"A: b",
        b"Transfer-Encoding: chunked",
    ]
    assert lines(request(b"transfer-encoding: chunked", b"A: b"))[2:] == [
        b"transfer-encoding: chunked",
        b"A: b",
    ]
    assert lines(request(b"Content-Length: 18446744073709551 ", b"A:  b\t ", b"C: d"))[2:] == [
        b"Content-Length: 18446744073709551",
        b"A: b",
        b"C: d",
    ]


def test_081_framing_may_change() -> None:
    assert lines(request(b"Transfer-Encoding: chunked"), body="length", content_length=12)[2:] == [
        b"Content-Length: 12"
    ]
    assert lines(request(b"Content-Length: 5"), body="chunked")[2:] == [b"Transfer-Encoding: chunked"]
    assert lines(request(b"Content-Length: 5"), content_length=2**64 - 1)[2:] == [
        b"Content-Length: 18446744073709551615"
    ]
    assert lines(request(b"Content-Length: 5"), body="none")[2:] == [b"Content-Length: 0"]
    assert lines(request(b"Transfer-Encoding: chunked"), body="none")[2:] == []


def test_087_max_forwards_is_decremented() -> None:
    assert lines(request(b"Max-Forwards: 010", b"A: b", line=b"OPTIONS / HTTP/1.1"))[2:] == [
        b"A: b",
        b"Max-Forwards: 9",
    ]
    assert lines(request(b"Max-Forwards: 0"))[2:] == [b"Max-Forwards: 0"]


def test_092_expect_of_http_1_0_is_left_out() -> None:
    raw = request(b"Expect: 100-continue", b"Content-Length: 5", line=b"POST / HTTP/1.0")
    assert lines(raw)[2:] == [b"Content-Length: 5"]


def test_a_head_that_may_not_fit_is_an_error() -> None:
    raw = request(b"A: " + b"b" * 1000)
    size = len(raw)
    assert isinstance(proto.forward_request(raw, cap=size + 600, **ALL)[1], bytes)
    assert proto.error_name(proto.forward_request(raw, cap=size + 500, **ALL)[1]) == ("header_too_large", 431)
    assert proto.error_name(proto.forward_request(raw, cap=0)[1])[1] == 431


# Responses


def respond(
    *fields: bytes, line: bytes = b"HTTP/1.1 200 OK", asked: int = 0, **options: object
) -> list[bytes]:
    raw = b"\r\n".join([line, *fields]) + b"\r\n\r\n"
    result, head, verbatim = proto.forward_response(raw + b"BODY", asked, **options)
    assert result == len(raw), (result, raw)
    assert head.endswith(b"\r\n\r\n")
    if verbatim:
        assert head == raw
    return head[:-4].split(b"\r\n")


@pytest.mark.parametrize(
    "fields",
    [
        [b"Content-Length: 5", b"A: b"],
        [b"transfer-encoding: chunked"],
        [b"Date: x", b"Content-Length: 0"],
        [b"A:b\t ", b"Content-Length: 1"],
    ],
)
def test_a_plain_response_may_be_sent_on_as_it_came(fields: list[bytes]) -> None:
    raw = b"\r\n".join([b"HTTP/1.1 200 OK", *fields]) + b"\r\n\r\n"
    assert proto.forward_response(raw) == (len(raw), raw, True)


@pytest.mark.parametrize(
    ("raw", "options"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", {"close": True}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", {"keep_alive_10": True}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", {"date": b"d"}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 05\r\n\r\n", {}),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", {}),
        (b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 5\r\n\r\n", {}),
        (b"HTTP/1.1 200 OK\r\nTrailer: b\r\nContent-Length: 5\r\n\r\n", {}),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", {}),
        (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", {}),
        (b"HTTP/1.1 200 OK\r\n\r\n", {"body": "chunked"}),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", {"body": "until-close"}),
    ],
)
def test_a_response_that_changes_may_not(raw: bytes, options: dict) -> None:
    _, head, verbatim = proto.forward_response(raw, **options)
    assert not verbatim
    assert head != raw


def test_fields_of_one_hop_are_left_out() -> None:
    out = respond(
        b"A: 1",
        b"Connection: close, X-A",
        b"X-A: 1",
        b"Content-Length: 5",
        b"Keep-Alive: timeout=5",
        b"Upgrade: h2c",
        b"B: 2",
    )
    assert out == [b"HTTP/1.1 200 OK", b"A: 1", b"Content-Length: 5", b"B: 2"]


def test_framing_towards_the_client() -> None:
    assert respond(b"A: b", body="chunked", line=b"HTTP/1.0 200") == [
        b"HTTP/1.1 200 ",
        b"A: b",
        b"Transfer-Encoding: chunked",
    ]
    assert respond(b"Transfer-Encoding: chunked", b"A: b", body="until-close", close=True)[1:] == [
        b"A: b",
        b"Connection: close",
    ]
    assert respond(b"Transfer-Encoding: CHUNKED")[1:] == [b"Transfer-Encoding: chunked"]
    assert respond(b"Content-Length: 005")[1:] == [b"Content-Length: 5"]
    assert respond(b"Content-Length: 5", body="chunked")[1:] == [b"Transfer-Encoding: chunked"]


def test_067_096_099_answers_without_a_body() -> None:
    for status in (b"100 Continue", b"103 x", b"204 No Content"):
        assert respond(
            b"Content-Length: 5", b"A: b", b"Transfer-Encoding: chunked", line=b"HTTP/1.1 " + status
        )[1:] == [b"A: b"]
    assert respond(b"Content-Length: 05", asked=1)[1:] == [b"Content-Length: 5"]
    assert respond(b"Content-Length: 5", line=b"HTTP/1.1 304 x")[1:] == [b"Content-Length: 5"]
    assert respond(b"Transfer-Encoding: chunked", b"A: b", asked=1)[1:] == [b"A: b"]


def test_persistence_and_date() -> None:
    assert respond(b"Content-Length: 5", close=True, keep_alive_10=True)[1:] == [
        b"Content-Length: 5",
        b"Connection: close",
    ]
    assert respond(b"Content-Length: 5", keep_alive_10=True)[1:] == [
        b"Content-Length: 5",
        b"Connection: keep-alive",
    ]
    assert respond(b"A: b", line=b"HTTP/1.1 103 x", close=True, date=b"now")[1:] == [b"A: b"]
    assert respond(b"Content-Length: 5", date=b"now")[1:] == [b"Content-Length: 5", b"Date: now"]
    assert respond(b"Content-Length: 5", b"DATE: then", date=b"now")[1:] == [
        b"Content-Length: 5",
        b"DATE: then",
    ]


def test_112_upgrade_is_passed_on() -> None:
    out = respond(
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Accept: x",
        line=b"HTTP/1.1 101 Switching Protocols",
        asked=4,
    )
    assert out[1:] == [b"Sec-WebSocket-Accept: x", b"Connection: Upgrade", b"Upgrade: websocket"]


def test_077_the_trailer_field_goes_with_the_trailers() -> None:
    fields = [b"Trailer: X-T", b"Transfer-Encoding: chunked"]
    assert respond(*fields)[1:] == fields[1:]
    assert respond(*fields, trailers=True)[1:] == fields


def test_a_response_head_that_may_not_fit_is_an_error() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert proto.error_name(proto.forward_response(raw, 0, len(raw) + 500)[1]) == ("upstream_malformed", 502)
    assert proto.forward_response(raw, 0, len(raw) + 512)[1] == raw


# Answers of our own


@pytest.mark.parametrize("error", proto.error_values())
def test_each_error_has_an_answer(error: int) -> None:
    name, status = proto.error_name(-error)
    date = b"Mon, 01 Jan 2024 00:00:00 GMT"
    for signed in (error, -error):
        answer = proto.emit_error(signed, close=True, date=date)
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"Unknown" not in head
        assert fields[b"x-fastmesh-error"] == name.encode()
        assert fields[b"content-type"].startswith(b"text/plain")
        assert int(fields[b"content-length"]) == len(body)
        assert fields[b"connection"] == b"close"
        assert fields[b"date"] == date.lower()
        assert body.endswith(b"\n")
        assert body.count(b"\n") == 1
        assert (b"allow" in fields) == (status == 405)
        assert (b"retry-after" in fields) == (status == 503)
    only_head = proto.emit_error(error, head_only=True)
    assert only_head.endswith(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in only_head
    assert b"Connection" not in only_head
    assert proto.error_name(proto.emit_error(error, cap=100))[1] == 431


def test_fixed_answers() -> None:
    assert proto.emit_fixed(200, b"pong\n") == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\npong\n"
    )
    assert proto.emit_fixed(200, b"pong\n", head_only=True).endswith(b"Content-Length: 5\r\n\r\n")
    assert (
        proto.emit_fixed(404, b"", keep_alive_10=True)
        == b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
    )
    assert proto.emit_fixed(204, b"x", close=True) == b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    assert proto.error_name(proto.emit_fixed(200, b"x" * 4000))[1] == 431


def test_redirects() -> None:
    assert proto.emit_redirect(308, b"/new?q", date=b"d") == (
        b"HTTP/1.1 308 Permanent Redirect\r\nLocation: /new?q\r\nContent-Length: 0\r\nDate: d\r\n\r\n"
    )


def test_continue() -> None:
    assert proto.emit_continue() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert proto.emit_continue(24) < 0


def test_the_bound_holds_for_the_heads_that_grow_most() -> None:
    """Everything that can be added is added to heads that are mended; the buffer ends at a guarded page."""
    long = b"x" * 3000
    options = {**ALL, "upgrade": 1, "te_trailers": True, "content_length": 2**64 - 1, "body": "length"}
    for trusted in (False, True):
        for raw in (
            request(*[b"A:b "] * 90, line=b"OPTIONS http://real?q HTTP/1.0"),
            request(*[b"X-Forwarded-For:1"] * 90, b"Max-Forwards:2000000000", line=b"OPTIONS / HTTP/1.1"),
            b"GET / HTTP/1.0\r\n" + b"A:b\t\r\n" * 90 + b"\r\n",
        ):
            given = {**options, "trusted": trusted, "peer_ip": long, "proto": long, "request_id": long}
            needed = len(proto.forward_request(raw, path=b"/" + long, host_default=long, **given)[1])
            for cap in range(needed, needed + 3000):
                _, head = proto.forward_request(raw, cap=cap, path=b"/" + long, host_default=long, **given)
                if isinstance(head, bytes):
                    break
            assert len(head) == needed
            _, head = proto.forward_request(raw, host_override=long, cap=cap + 100, **given)
            assert isinstance(head, bytes)
