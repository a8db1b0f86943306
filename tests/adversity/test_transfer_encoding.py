"""Rows 57 to 67 of the HTTP/1 acceptance list: Transfer-Encoding. Its mutations (row 64) are in
test_mutations.py."""

from __future__ import annotations

import pytest

from support.origin import Exchange
from support.rig import Rig, unique
from support.wire import chunked, get, post_chunked, request

BODY = b"5\r\nhello\r\n0\r\n\r\n"


def _coded(*lines: bytes, body: bytes = BODY) -> bytes:
    return request("POST", "/", *lines, body=body)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 15", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 15"],
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
        [b"transfer-encoding: Chunked", b"content-length: 3"],
        [b"Content-Length: 5", b"Transfer-Encoding: identity"],
    ],
    ids=["057-cl-te", "057-te-cl", "057-cl-short", "057-cl-zero", "057-case", "057-identity"],
)
def test_case_057_both_framings(rig: Rig, lines: list[bytes]) -> None:
    rig.refuse(_coded(*lines), (400, 501) if b"identity" in lines[-1] else 400)


@pytest.mark.parametrize(
    "value",
    [
        b"identity",
        b"gzip",
        b"chunked, identity",
        b"chunk",
        b"xchunked",
        b"chunkedx",
        b"chunked gzip",
        b"cow",
        b"chunked, gzip",
        b"identity, chunked, identity",
        b"chunked;q=1",
        b"chunked; a=b",
        b"",
        b"deflate",
    ],
    ids=lambda value: "058-" + value.decode().replace(" ", "_"),
)
def test_case_058_coding_that_does_not_end_in_chunked(rig: Rig, value: bytes) -> None:
    rig.refuse(_coded(b"Transfer-Encoding: " + value), (400, 501))


def test_case_058_unknown_coding_is_501(rig: Rig) -> None:
    rig.refuse(_coded(b"Transfer-Encoding: gzip, chunked"), 501)
    rig.refuse(_coded(b"Transfer-Encoding: cow"), 501)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Transfer-Encoding: chunked, chunked"],
        [b"Transfer-Encoding: chunked,chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: cow", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: cow"],
        [b"Transfer-Encoding:", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding:"],
    ],
    ids=[
        "059-list",
        "059-tight",
        "059-fields",
        "059-then-identity",
        "059-identity-then",
        "059-cow-then",
        "059-then-cow",
        "059-empty-then",
        "059-then-empty",
    ],
)
def test_case_059_chunked_twice_or_in_two_fields(rig: Rig, lines: list[bytes]) -> None:
    rig.refuse(
        _coded(*lines), (400, 501) if any(b"cow" in line or b"identity" in line for line in lines) else 400
    )


@pytest.mark.parametrize(
    "value",
    [b",chunked", b"chunked,", b", chunked", b"chunked ,", b",,chunked", b",chunked,", b",", b" , chunked"],
    ids=lambda value: "060-" + value.decode().replace(" ", "_"),
)
def test_case_060_empty_list_elements(rig: Rig, value: bytes) -> None:
    rig.refuse(_coded(b"Transfer-Encoding: " + value))


@pytest.mark.parametrize(
    "value",
    [b"gzip, chunked", b"gzip,chunked", b"deflate, chunked", b"identity, chunked", b"cow, chunked"],
    ids=lambda value: "061-" + value.decode().replace(" ", "_"),
)
def test_case_061_other_coding_before_chunked(rig: Rig, value: bytes) -> None:
    rig.refuse(_coded(b"Transfer-Encoding: " + value), (400, 501) if b"identity" in value else 501)


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"TRANSFER-ENCODING: CHUNKED",
        b"transfer-encoding:cHuNkEd",
        b"Transfer-Encoding: \t chunked \t",
    ],
    ids=["062-plain", "062-capital", "062-upper", "062-mixed", "062-blanks"],
)
def test_case_062_chunked_in_any_case(rig: Rig, line: bytes) -> None:
    seen = rig.forward(request("POST", unique(), line, body=BODY))
    assert seen.request.body == b"hello"
    assert seen.request.get("transfer-encoding") in ("chunked", None)
    assert seen.request.get("transfer-encoding") or seen.request.get("content-length") == "5"


@pytest.mark.parametrize(
    "around",
    [
        b"\x0b%b",
        b"%b\x0b",
        b"\x0c%b",
        b"%b\x0c",
        b"\x85%b",
        b"%b\x85",
        b"\xa0%b",
        b"%b\xa0",
        b"\xff%b",
        b"%b\xff",
        b"\xad%b",
        b"%b\xad",
        b'"%b"',
        b"'%b'",
        b"\xc2\xa0%b",
        b"\xe2\x80\x8b%b",
        b"(%b)",
        b"<%b>",
        b"%b\0",
        b"\0%b",
    ],
    ids=lambda around: "063-" + around.hex(),
)
def test_case_063_what_is_no_white_space_around_the_value(rig: Rig, around: bytes) -> None:
    rig.refuse(_coded(b"Transfer-Encoding: " + around % b"chunked"), (400, 501))


@pytest.mark.parametrize(
    "name",
    [
        b"Transfer_Encoding",
        b"Transfer-Encodin",
        b"XTransfer-Encoding",
        b"Transfer-Encoding-",
        b"TransferEncoding",
        b"Content_Length",
        b"Content-Encoding",
        b"X-Transfer-Encoding",
        b"Transfer%2dEncoding",
    ],
    ids=lambda name: "064-" + name.decode(),
)
def test_case_064_other_name_is_an_opaque_field(rig: Rig, name: bytes) -> None:
    seen = rig.forward(request("POST", unique(), name + b": chunked", b"Content-Length: 5", body=b"hello"))
    assert seen.request.get(name.decode().lower()) == "chunked"
    assert seen.request.body == b"hello"
    assert seen.request.get("transfer-encoding") is None


@pytest.mark.parametrize(
    "value",
    [b"chunked", b"Chunked", b"identity", b"gzip, chunked"],
    ids=lambda value: "065-" + value.decode(),
)
@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"], ids=["close", "keep-alive"])
def test_case_065_http_1_0_request_with_a_coding(rig: Rig, value: bytes, connection: bytes) -> None:
    raw = (
        b"POST / HTTP/1.0\r\nHost: test\r\n"
        + connection
        + b"Transfer-Encoding: "
        + value
        + b"\r\n\r\n"
        + BODY
    )
    rig.refuse(raw, 400 if value.lower() == b"chunked" else (400, 501))


def _reply(raw: bytes):  # type: ignore[no-untyped-def]
    def handler(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(raw)

    return handler


def test_case_066_chunked_response_to_an_http_1_0_client(rig: Rig) -> None:
    path = unique()
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
        b"hello ", b"world", last=b"0\r\nX-Trailer: t\r\n\r\n"
    )
    with rig.origin.answering(path, _reply(raw)):
        seen = rig.forward(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode(), kept=False)
    assert seen.response.body == b"hello world"
    assert seen.response.get("transfer-encoding") is None
    assert seen.response.framing == "close"
    assert seen.response.get("x-trailer") is None


def test_case_066_cut_chunked_response_to_an_http_1_0_client_is_no_clean_end(rig: Rig) -> None:
    """Close-delimited bodies have no other mark of a cut than a reset."""
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        exchange.close()

    with rig.origin.answering(path, handler), rig.client() as client:
        client.send(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
        response = client.read_response()
        assert response.body in (b"hello", b"")
        assert response.truncated == "reset"
    rig.sentinels()


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"], ids=["067-204", "067-304"])
def test_case_067_coding_in_a_response_without_a_body(rig: Rig, status: bytes) -> None:
    path = unique()
    with rig.origin.answering(
        path, _reply(b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    ):
        response = rig.forward(get(path), status=int(status[:3])).response
    if status.startswith(b"204"):
        assert response.get("transfer-encoding") is None
    assert response.body == b""


def test_case_067_coding_in_an_interim_response(rig: Rig) -> None:
    path = unique()
    raw = b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\nLink: </a>\r\n\r\n"
    raw += b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with rig.origin.answering(path, _reply(raw)):
        response = rig.forward(get(path)).response
    assert [interim.status for interim in response.informational] == [103]
    assert response.informational[0].get("transfer-encoding") is None
    assert response.informational[0].get("link") == b"</a>"
    assert response.body == b"ok"


def test_chunked_both_ways(rig: Rig) -> None:
    path = unique()
    chunks = [b"x" * size for size in (1, 17, 255, 4096, 70_000)]
    seen = rig.forward(post_chunked(path, *chunks))
    assert seen.request.body == b"".join(chunks)
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*chunks)
    with rig.origin.answering(path, _reply(raw)):
        assert rig.forward(get(path)).response.body == b"".join(chunks)
