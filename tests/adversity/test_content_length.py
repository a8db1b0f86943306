"""Rows 47 to 56 of the HTTP/1 acceptance list: Content-Length."""

from __future__ import annotations

import pytest

from support.rig import Rig, unique
from support.wire import get, post, request

BODY = b"hello"


@pytest.mark.parametrize(
    "value",
    [
        b"+5",
        b"-5",
        b"5x",
        b"0x5",
        b"5_0",
        b"5.0",
        b"5e0",
        b"",
        b"5 5",
        b"5\x0b",
        b"\x0b5",
        b"5\xa0",
        b"\xd9\xa5",
        b"'5'",
        b"5;",
        b"five",
    ],
    ids=lambda value: "047-" + value.hex(),
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_case_047_content_length_that_is_no_number(rig: Rig, method: str, value: bytes) -> None:
    rig.refuse(request(method, "/", b"Content-Length: " + value, body=BODY))


@pytest.mark.parametrize(
    "value", [b"005", b"05", b"0000000000000005", b"010"], ids=lambda value: "048-" + value.decode()
)
def test_case_048_leading_zeros_are_decimal(rig: Rig, value: bytes) -> None:
    body = b"x" * int(value)
    seen = rig.forward(request("POST", unique(), b"Content-Length: " + value, body=body))
    assert seen.request.get("content-length") == str(int(value))
    assert seen.request.body == body


@pytest.mark.parametrize(
    "number",
    [2**63, 2**64 + 5, 2**64, 2**64 - 1, 10**30, 2**63 + 5, 2**128 + 5],
    ids=lambda number: f"049-{number}",
)
def test_case_049_content_length_that_overflows(rig: Rig, number: int) -> None:
    rig.refuse(request("POST", "/", b"Content-Length: %d" % number, body=BODY))


def test_case_049_content_length_beyond_32_bits_is_counted_whole(rig: Rig) -> None:
    """2^32+5 is a length like any other: what follows five bytes is still body."""
    mark = rig.origin.mark()
    path = unique()
    with rig.client() as client:
        client.send(request("POST", path, b"Content-Length: %d" % (2**32 + 5), body=BODY + get("/smuggled")))
        arrived = rig.origin.wait_request(path)
        assert arrived.get("content-length") == str(2**32 + 5)
    rig.sentinels()
    assert [seen.path for seen in rig.seen(mark).requests] == [path]


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Content-Length: 5"],
        [b"Content-Length: 5, 5"],
        [b"Content-Length: 5,5"],
        [b"Content-Length: 5", b"A: b", b"content-length: 5"],
        [b"Content-Length: 5, 5, 5"],
    ],
    ids=["050-fields", "050-list", "050-tight-list", "050-apart", "050-three"],
)
def test_case_050_equal_content_lengths(rig: Rig, lines: list[bytes]) -> None:
    rig.refuse(request("POST", "/", *lines, body=BODY))


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 6", b"Content-Length: 5"],
        [b"Content-Length: 5, 6"],
        [b"Content-Length: 0", b"Content-Length: 5"],
        [b"Content-Length: 5", b"Content-Length: 0"],
        [b"Content-Length: 5", b"Content-Length: 05"],
        [b"Content-Length: 5,"],
        [b"Content-Length: ,5"],
    ],
    ids=[
        "051-5-6",
        "051-6-5",
        "051-list",
        "051-0-5",
        "051-5-0",
        "051-5-05",
        "051-comma-after",
        "051-comma-before",
    ],
)
def test_case_051_different_content_lengths(rig: Rig, lines: list[bytes]) -> None:
    rig.refuse(request("POST", "/", *lines, body=BODY))


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length:", b"Content-Length: 5"],
        [b"Content-Length: 5", b"Content-Length:"],
        [b"Content-Length: ", b"Content-Length: 5"],
    ],
    ids=["052-before", "052-after", "052-blank"],
)
def test_case_052_empty_content_length_beside_a_valid_one(rig: Rig, lines: list[bytes]) -> None:
    rig.refuse(request("POST", "/", *lines, body=BODY))


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "DELETE", "OPTIONS", "FOO"], ids=lambda method: "053-" + method
)
def test_case_053_any_method_may_have_a_body(rig: Rig, method: str) -> None:
    seen = rig.forward(request(method, unique(), b"Content-Length: 5", body=BODY))
    assert seen.request.body == BODY
    assert seen.request.get("content-length") == "5"


@pytest.mark.parametrize("method", ["GET", "DELETE"], ids=lambda method: "053-chunked-" + method)
def test_case_053_any_method_may_have_a_chunked_body(rig: Rig, method: str) -> None:
    seen = rig.forward(
        request(method, unique(), b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
    )
    assert seen.request.body == BODY


def test_case_053_zero_length(rig: Rig) -> None:
    assert rig.forward(request("GET", unique(), b"Content-Length: 0")).request.body == b""


@pytest.mark.parametrize("method", ["POST", "PUT"], ids=lambda method: "054-" + method)
def test_case_054_no_framing_means_no_body(rig: Rig, method: str) -> None:
    seen = rig.forward(request(method, unique()))
    assert seen.request.get("content-length") == "0"
    assert seen.request.body == b""


def test_case_054_get_without_framing_gets_none(rig: Rig) -> None:
    seen = rig.forward(get(unique()))
    assert seen.request.get("content-length") in (None, "0")
    assert seen.request.get("transfer-encoding") is None


def test_case_055_body_cut_by_fin(rig: Rig) -> None:
    path = unique()
    with rig.client() as client:
        client.send(request("POST", path, b"Content-Length: 10", body=BODY))
        request_seen = rig.origin.wait_request(path)
        client.shutdown_write()
        link = rig.origin.connections[request_seen.connection]
        rig.origin.wait(lambda: link.ended, "the upstream connection to be given up")
        left = client.read_to_end()
        assert left == b"" or left.startswith(b"HTTP/1.1 400 "), left
    rig.sentinels()
    assert not rig.origin.requests_for(path)[0].complete


def test_case_055_body_cut_by_fin_in_the_segment_of_the_head(rig: Rig) -> None:
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(request("POST", "/cut", b"Content-Length: 10", body=BODY))
        client.shutdown_write()
        left = client.read_to_end()
        assert left == b"" or left.startswith(b"HTTP/1.1 400 "), left
    rig.sentinels()
    assert not any(seen.complete for seen in rig.seen(mark).requests)


def test_case_055_body_cut_by_silence(hasty: Rig) -> None:
    path = unique()
    with hasty.client() as client:
        client.send(request("POST", path, b"Content-Length: 10", body=BODY))
        response = client.read_response()
        assert (response.status, response.error_code) == (408, "body_timeout")
        assert client.how_it_ended() == "eof"
        for arrived in hasty.origin.requests_for(path):
            link = hasty.origin.connections[arrived.connection]
            hasty.origin.wait(lambda link=link: link.ended, "the upstream connection to be given up")
    hasty.sentinels()


def test_case_056_bytes_behind_a_body_are_the_next_request(rig: Rig) -> None:
    first, second = unique(), unique()
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(post(first, BODY) + get(second))
        one = client.read_response().json()
        two = client.read_response().json()
        assert (one["target"], one["body"]) == (first, "hello")
        assert (two["target"], two["body"]) == (second, "")
        rig.sentinels(client)
    assert [(seen.path, seen.body) for seen in rig.seen(mark).requests] == [(first, BODY), (second, b"")]


def test_case_056_junk_behind_a_body_is_a_bad_request(rig: Rig) -> None:
    path = unique()
    mark = rig.origin.mark()
    with rig.client() as client:
        client.send(post(path, BODY) + b"x=1\r\n\r\n")
        assert client.read_response().json()["body"] == "hello"
        assert client.read_response().status == 400
        assert client.how_it_ended() == "eof"
    rig.sentinels()
    assert [(seen.path, seen.body) for seen in rig.seen(mark).requests] == [(path, BODY)]
