"""Rows 82 to 89 of the HTTP/1 acceptance list: fields for one hop, forwarding fields, Via, Max-Forwards."""

from __future__ import annotations

import pytest

from support.origin import Exchange, Request
from support.rig import Rig, unique
from support.wire import get, request


def _names(seen: Request) -> set[str]:
    return {name.lower() for name, _ in seen.fields}


@pytest.mark.parametrize(
    "lines",
    [
        [b"Connection: close, X-Foo", b"X-Foo: 1"],
        [b"X-Foo: 1", b"Connection: X-Foo"],
        [b"Connection: x-FOO", b"X-Foo: 1", b"x-foo: 2"],
        [b"Connection: X-Bar", b"Connection: X-Foo", b"X-Foo: 1", b"X-Bar: 1"],
        [b"Connection: ,, X-Foo ,", b"X-Foo: 1"],
        [b"Connection: keep-alive,X-Foo", b"Keep-Alive: timeout=5", b"X-Foo: 1"],
    ],
    ids=["082-close", "082-before", "082-case", "082-two-fields", "082-empty-elements", "082-keep-alive"],
)
def test_case_082_fields_named_by_connection_are_removed(rig: Rig, lines: list[bytes]) -> None:
    seen = rig.forward(
        get(unique(), *lines, b"X-Food: stays"), kept=not any(b"close" in line for line in lines)
    )
    assert not _names(seen.request) & {"x-foo", "x-bar", "keep-alive"}
    assert seen.request.get("x-food") == "stays"
    assert not any("foo" in value.lower() for value in seen.request.all("connection"))


def test_case_082_fields_named_by_connection_are_removed_from_responses(rig: Rig) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 200 OK\r\nConnection: X-Foo\r\nX-Foo: 1\r\nKeep-Alive: timeout=5\r\n"
            b"Proxy-Connection: keep-alive\r\nX-Stays: 1\r\nContent-Length: 2\r\n\r\nok"
        )

    with rig.origin.answering(path, handler):
        response = rig.forward(get(path)).response
    assert response.get("x-foo") is None
    assert response.get("keep-alive") is None
    assert response.get("proxy-connection") is None
    assert response.get("x-stays") == b"1"


def test_case_082_close_of_the_origin_is_not_the_clients(rig: Rig) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        exchange.close()

    with rig.origin.answering(path, handler):
        rig.forward(get(path), kept=True)


@pytest.mark.parametrize(
    "name",
    [b"Content-Length", b"Transfer-Encoding", b"Host", b"content-length", b"HOST"],
    ids=lambda name: "083-" + name.decode(),
)
def test_case_083_framing_and_host_cannot_be_named_by_connection(rig: Rig, name: bytes) -> None:
    rig.refuse(request("POST", "/", b"Connection: " + name, b"Content-Length: 5", body=b"hello"))
    rig.refuse(request("POST", "/", b"Content-Length: 5", b"Connection: close, " + name, body=b"hello"))


def test_case_083_framing_of_a_chunked_request_cannot_be_named_by_connection(rig: Rig) -> None:
    rig.refuse(
        request(
            "POST",
            "/",
            b"Connection: Transfer-Encoding",
            b"Transfer-Encoding: chunked",
            body=b"5\r\nhello\r\n0\r\n\r\n",
        )
    )


@pytest.mark.parametrize(
    "name",
    ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id"],
    ids=lambda name: "083-" + name,
)
def test_case_083_fields_of_the_proxy_cannot_be_removed(rig: Rig, name: str) -> None:
    for lines in ([], [f"{name}: forged".encode()]):
        seen = rig.forward(get(unique(), f"Connection: {name}".encode(), *lines))
        assert len(seen.request.all(name.lower())) == 1


def test_case_083_authorization_named_by_connection(rig: Rig) -> None:
    """An end-to-end field: the list leaves it to be removed or refused; it must not be half applied."""
    with rig.client() as client:
        response = client.request(get(unique(), b"Connection: Authorization", b"Authorization: Basic x"))
        assert response.status in (200, 400)
        if response.status == 200:
            assert not any(
                name.lower() == "connection" and "uthor" in value for name, value in response.json()["fields"]
            )
        rig.sentinels(client if response.status == 200 else None)


@pytest.mark.parametrize(
    "line",
    [
        b"Proxy-Connection: keep-alive",
        b"Keep-Alive: timeout=5",
        b"TE: gzip",
        b"TE: trailers, gzip",
        b"Upgrade: websocket",
        b"Upgrade: h2c",
        b"Upgrade: foo",
    ],
    ids=lambda line: "084-" + line.decode().replace(": ", "-"),
)
def test_case_084_fields_for_one_hop_without_connection(rig: Rig, line: bytes) -> None:
    seen = rig.forward(get(unique(), line))
    name = line.split(b":")[0].decode().lower()
    if name == "te":
        assert seen.request.all(name) in ([], ["trailers"])
    else:
        assert seen.request.all(name) == []


def test_case_085_forwarding_fields_are_set(rig: Rig) -> None:
    seen = rig.forward(request("GET", unique(), host=b"Shop.example:80")).request
    assert seen.get("x-forwarded-for") == "127.0.0.1"
    assert seen.get("x-forwarded-proto") == "http"
    assert seen.get("x-forwarded-host") == "Shop.example:80"
    assert seen.get("x-request-id")


def test_case_085_request_ids_differ(rig: Rig) -> None:
    ids = {rig.forward(get(unique())).request.get("x-request-id") for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize(
    "line",
    [
        b"X-Forwarded-For: 1.2.3.4",
        b"x-forwarded-for: 1.2.3.4, 5.6.7.8",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil",
        b"X-Forwarded-Port: 61234",
        b"X-Forwarded-Prefix: /evil",
        b"Forwarded: for=1.2.3.4;host=evil",
        b"X-Real-IP: 1.2.3.4",
    ],
    ids=lambda line: "085-" + line.split(b":")[0].decode(),
)
def test_case_085_forged_fields_are_replaced(rig: Rig, line: bytes) -> None:
    for lines in ([line], [line, line]):
        seen = rig.forward(get(unique(), *lines))
        assert line.split(b": ")[1] not in seen.raw, "a forged value went through"
        assert seen.request.get("x-forwarded-for") == "127.0.0.1"
        assert seen.request.get("x-forwarded-proto") == "http"
        assert seen.request.get("x-forwarded-host") == "test"


def test_case_085_one_request_id(rig: Rig) -> None:
    seen = rig.forward(get(unique(), b"X-Request-Id: one", b"x-request-id: two"))
    assert len(seen.request.all("x-request-id")) == 1


def test_case_085_fields_from_a_trusted_peer_are_appended_to(trusting: Rig) -> None:
    lines = [
        b"X-Forwarded-For: 1.2.3.4",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: front.example",
        b"X-Request-Id: abc-123",
    ]
    seen = trusting.forward(get(unique(), *lines)).request
    assert [part.strip() for value in seen.all("x-forwarded-for") for part in value.split(",")] == [
        "1.2.3.4",
        "127.0.0.1",
    ]
    assert seen.get("x-forwarded-proto") == "https"
    assert seen.get("x-forwarded-host") == "front.example"
    assert seen.get("x-request-id") == "abc-123"


def test_case_085_several_fields_from_a_trusted_peer_keep_their_order(trusting: Rig) -> None:
    seen = trusting.forward(
        get(unique(), b"X-Forwarded-For: 1.1.1.1", b"A: b", b"X-Forwarded-For: 2.2.2.2")
    ).request
    assert [part.strip() for value in seen.all("x-forwarded-for") for part in value.split(",")] == [
        "1.1.1.1",
        "2.2.2.2",
        "127.0.0.1",
    ]


def test_case_085_a_trusted_peer_without_fields(trusting: Rig) -> None:
    seen = trusting.forward(get(unique())).request
    assert seen.get("x-forwarded-for") == "127.0.0.1"
    assert seen.get("x-forwarded-proto") == "http"
    assert seen.get("x-forwarded-host") == "test"
    assert seen.get("x-request-id")


def test_case_086_via_is_off_and_one_from_the_client_is_kept(rig: Rig) -> None:
    assert rig.forward(get(unique())).request.all("via") == []
    assert rig.forward(get(unique(), b"Via: 1.1 other")).request.all("via") == ["1.1 other"]


@pytest.mark.parametrize(
    "lines", [[], [b"Max-Forwards: 0"], [b"Max-Forwards: 5"]], ids=["087-plain", "087-0", "087-5"]
)
def test_case_087_trace_is_not_allowed(rig: Rig, lines: list[bytes]) -> None:
    mark = rig.origin.mark()
    with rig.client() as client:
        response = client.request(request("TRACE", "/", b"Cookie: secret", *lines))
        assert response.status == 405
        assert response.error_code == "method_unsupported"
        assert b"secret" not in response.body
        rig.sentinels(client if not response.says_close else None)
    rig.untouched(mark)


def test_case_087_options_with_max_forwards_zero_is_answered_here(rig: Rig) -> None:
    for target in ("*", "/a"):
        mark = rig.origin.mark()
        with rig.client() as client:
            response = client.request(request("OPTIONS", target, b"Max-Forwards: 0"))
            assert 200 <= response.status < 300
            rig.sentinels(client if not response.says_close else None)
        rig.untouched(mark)


@pytest.mark.parametrize(("sent", "forwarded"), [("1", "0"), ("5", "4"), ("10", "9"), ("100", "99")])
def test_case_087_options_with_max_forwards_is_decremented(rig: Rig, sent: str, forwarded: str) -> None:
    seen = rig.forward(request("OPTIONS", unique(), f"Max-Forwards: {sent}".encode()))
    assert seen.request.get("max-forwards") == forwarded


def test_case_087_max_forwards_of_other_methods_is_opaque(rig: Rig) -> None:
    assert rig.forward(get(unique(), b"Max-Forwards: 0")).request.get("max-forwards") == "0"


def test_case_088_proxy_authorization_is_forwarded(rig: Rig) -> None:
    assert (
        rig.forward(get(unique(), b"Proxy-Authorization: Basic abc")).request.get("proxy-authorization")
        == "Basic abc"
    )


@pytest.mark.parametrize(
    "line",
    [
        b"X-Unknown: 1",
        b"Foo: bar",
        b"X-Y-Z: ",
        b"Authorization: Basic x",
        b"Cookie: a=b; c=d",
        b"Range: bytes=0-1",
        b'If-None-Match: "x"',
        b"DNT: 1",
        b"Sec-Fetch-Mode: cors",
        b"Trailer-Like: x",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        b"Accept-Encoding: gzip, br",
        b"A" * 200 + b": long",
    ],
    ids=lambda line: "089-" + line.split(b":")[0].decode()[:20],
)
def test_case_089_other_fields_are_forwarded(rig: Rig, line: bytes) -> None:
    name, _, value = line.partition(b":")
    seen = rig.forward(get(unique(), line))
    if name == b"HTTP2-Settings":
        return  # belongs to an upgrade: either way is right
    assert seen.request.get(name.decode().lower()) == value.strip().decode()


def test_case_089_unknown_response_fields_are_forwarded(rig: Rig) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 299 Custom Reason\r\nX-Unknown: 1\r\nFoo: bar\r\n"
            b'ETag: W/"x"\r\nContent-Length: 0\r\n\r\n'
        )

    with rig.origin.answering(path, handler):
        response = rig.forward(get(path), status=299).response
    assert (response.get("x-unknown"), response.get("foo"), response.get("etag")) == (b"1", b"bar", b'W/"x"')
    assert response.reason == b"Custom Reason"
