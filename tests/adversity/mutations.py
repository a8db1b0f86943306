"""Requests bent in the ways that smuggling tools and careless peers bend them.

Shared by the differential test through a live proxy, the oracle tests of the parser and the fuzz corpus. A
mutation is a whole request; `expected` says what a strict proxy does with it:

    refuse   4xx or 501, connection closed, nothing forwarded
    forward  forwarded, in a form that every parser reads alike
    either   both are right; whatever is forwarded must still be read alike
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CHUNKED_BODY = b"5\r\nhello\r\n0\r\n\r\n"
SIZED_BODY = b"hello"


@dataclass(frozen=True)
class Mutation:
    name: str
    raw: bytes
    expected: str


def _request(
    lines: bytes, body: bytes = CHUNKED_BODY, *, method: bytes = b"POST", version: bytes = b"HTTP/1.1"
) -> bytes:
    return method + b" /mutation " + version + b"\r\nHost: test\r\n" + lines + b"\r\n\r\n" + body


def _show(data: bytes) -> str:
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")


# A field that is not what it looks like is an opaque field; the body is then framed by Content-Length alone.
_SIZED = b"\r\nContent-Length: 5"

_CODING_LINES: list[tuple[bytes, str]] = [
    (b" Transfer-Encoding: chunked", "refuse"),
    (b"\tTransfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding : chunked", "refuse"),
    (b"Transfer-Encoding\t: chunked", "refuse"),
    (b"Transfer-Encoding  : chunked", "refuse"),
    (b"Transfer-Encoding:\tchunked", "forward"),
    (b"Transfer-Encoding:chunked", "forward"),
    (b"Transfer-Encoding: chunked ", "forward"),
    (b"Transfer-Encoding: chunked\t", "forward"),
    (b"TRANSFER-ENCODING: chunked", "forward"),
    (b"transfer-encoding: chunked", "forward"),
    (b"tRANSFER-eNCODING: chunked", "forward"),
    (b"Transfer-Encoding: CHUNKED", "forward"),
    (b"Transfer-Encoding: Chunked", "forward"),
    (b"Transfer-Encoding: cHuNkeD", "forward"),
    (b"Transfer Encoding: chunked", "refuse"),
    (b"Transfer\\Encoding: chunked", "refuse"),
    (b"Transfer-Encoding: \x0bchunked", "refuse"),
    (b"Transfer-Encoding: \x85chunked", "refuse"),
    (b"Transfer-Encoding: \xa0chunked", "refuse"),
    (b"Transfer-Encoding: \xadchunked", "refuse"),
    (b"Transfer-Encoding: chunked\xff", "refuse"),
    (b'Transfer-Encoding: "chunked"', "refuse"),
    (b"Transfer-Encoding: 'chunked'", "refuse"),
    (b"Transfer-Encoding: chunk", "refuse"),
    (b"Transfer-Encoding: xchunked", "refuse"),
    (b"Transfer-Encoding: chunkedx", "refuse"),
    (b"Transfer-Encoding: chunked, identity", "refuse"),
    (b"Transfer-Encoding: identity, chunked", "refuse"),
    (b"Transfer-Encoding: identity, chunked, identity", "refuse"),
    (b"Transfer-Encoding: identity", "refuse"),
    (b"Transfer-Encoding: ,chunked", "refuse"),
    (b"Transfer-Encoding: , chunked", "refuse"),
    (b"Transfer-Encoding: chunked,", "refuse"),
    (b"Transfer-Encoding: cow, chunked", "refuse"),
    (b"Transfer-Encoding: chunked, cow", "refuse"),
    (b"Transfer-Encoding: chunked, chunked", "refuse"),
    (b"Transfer-Encoding: chunked;q=1", "refuse"),
    (b"Transfer-Encoding: chunked;foo=bar", "refuse"),
    (b"Transfer-Encoding:", "refuse"),
    (b"Transfer-Encoding: ", "refuse"),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow", "refuse"),
    (b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "refuse"),
    (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding: identity\r\nTransfer-Encoding: identity", "refuse"),
    (b"Transfer-encoding: identity\r\nTransfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding:\n chunked", "refuse"),
    (b"Transfer-Encoding:\r\n chunked", "refuse"),
    (b"Transfer-Encoding:\r\n\tchunked", "refuse"),
    (b"Transfer-Encoding:\r\n \r\n chunked", "refuse"),
    (b"Transfer-Encoding: chunked\r\n x", "refuse"),
    (b"Transfer-Encoding:\n\nchunked", "refuse"),
    (b"Transfer\r-Encoding: chunked", "refuse"),
    (b"Transfer-\rEncoding: chunked", "refuse"),
    (b"Transfer-Encoding\r: chunked", "refuse"),
    (b"Transfer-Encoding\r\n: chunked", "refuse"),
    (b"Transfer-Encoding:\rchunked", "refuse"),
    (b"X: y\rTransfer-Encoding: chunked", "refuse"),
    (b"X: y\nTransfer-Encoding: chunked", "refuse"),
    (b"X: y\r\n\rTransfer-Encoding: chunked", "refuse"),
    (b"X: y\r\rTransfer-Encoding: chunked", "refuse"),
    (b"X: y\r\n\nTransfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding: =?iso-8859-1?B?Y2h1bmtlZA==?=", "refuse"),
    (b"Transfer-Encoding: =?utf-8?Q?chunked?=", "refuse"),
    (b"Transfer-Encoding: c\0hunked", "refuse"),
    (b"\0Transfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding\0: chunked", "refuse"),
    (b": Transfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding chunked", "refuse"),
    (b"Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding", "refuse"),
    (b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding: chunked\r\nConnection: close", "forward"),
    (b"Transfer-Encoding: chunked\r\nRange: bytes=0-1", "forward"),
    (b"Transfer-Encoding: chunked\r\nContent-Encoding: chunked", "forward"),
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked", "refuse"),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 5", "refuse"),
    (b"Content-Length: 0\r\nTransfer-Encoding: chunked", "refuse"),
]

_OPAQUE_NAMES = [
    b"Transfer_Encoding",
    b"Transfer.Encoding",
    b"Transfer%2DEncoding",
    b"Transfer-Encodin%67",
    b"Content-Encoding",
    b"X-Transfer-Encoding",
    b"Transfer-Encoding-X",
    b"TransferEncoding",
    b"'Transfer-Encoding'",
    b"Transfer--Encoding",
    b"`Transfer-Encoding",
    b"Transfer-Encoding~",
]


def coding_mutations() -> Iterator[Mutation]:
    """Transfer-Encoding: names and values."""
    for line, expected in _CODING_LINES:
        yield Mutation(f"te {_show(line)}", _request(line), expected)
    for name in _OPAQUE_NAMES:
        yield Mutation(
            f"te opaque {_show(name)}", _request(name + b": chunked" + _SIZED, SIZED_BODY), "forward"
        )
        # Without a length such a request has no body: what follows is the next request, and it is junk.
        yield Mutation(f"te opaque unsized {_show(name)}", _request(name + b": chunked"), "either")
    for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE"):
        yield Mutation(
            f"te {method.decode()}", _request(b"Transfer-Encoding: chunked", method=method), "forward"
        )
        yield Mutation(
            f"te cl {method.decode()}",
            _request(b"Content-Length: 5\r\nTransfer-Encoding: chunked", method=method),
            "refuse",
        )
    for extra in (b"", b"\r\nConnection: keep-alive", b"\r\nContent-Length: 5"):
        raw = _request(b"Transfer-Encoding: chunked" + extra, version=b"HTTP/1.0")
        yield Mutation(f"te http/1.0 {_show(extra)}", raw, "refuse")


def coding_bytes() -> Iterator[Mutation]:
    """Each byte 0x01 to 0x1f and 0x7f to 0xff before and behind the name and the value."""
    for value in [*range(0x01, 0x20), *range(0x7F, 0x100)]:
        byte = bytes([value])
        blank = byte == b"\t"
        for place, line in (
            ("before name", byte + b"Transfer-Encoding: chunked"),
            ("behind name", b"Transfer-Encoding" + byte + b": chunked"),
            ("before value", b"Transfer-Encoding: " + byte + b"chunked"),
            ("behind value", b"Transfer-Encoding: chunked" + byte),
        ):
            expected = "forward" if blank and "value" in place else "refuse"
            yield Mutation(f"te 0x{value:02x} {place}", _request(line), expected)


_LENGTH_VALUES: list[tuple[bytes, str]] = [
    (b"+5", "refuse"),
    (b"-5", "refuse"),
    (b"05", "either"),
    (b"000000000005", "either"),
    (b"0 5", "refuse"),
    (b"5 0", "refuse"),
    (b"5e0", "refuse"),
    (b"5.0", "refuse"),
    (b"0, 5", "refuse"),
    (b"5, 0", "refuse"),
    (b"5, 5", "refuse"),
    (b"5,5", "refuse"),
    (b"5, 6", "refuse"),
    (b"5_0", "refuse"),
    (b"0x5", "refuse"),
    (b"0X5", "refuse"),
    (b"0o5", "refuse"),
    (b"0b1", "refuse"),
    (b"", "refuse"),
    (b" ", "refuse"),
    (b"5x", "refuse"),
    (b"5;", "refuse"),
    (b"5\0", "refuse"),
    (b"5\x0b", "refuse"),
    (b"\x0b5", "refuse"),
    (b"5\xa0", "refuse"),
    (b"\x855", "refuse"),
    (b"5\x0c", "refuse"),
    (b"'5'", "refuse"),
    (b'"5"', "refuse"),
    (b"18446744073709551621", "refuse"),
    (b"4294967301", "either"),
    (b"9223372036854775808", "refuse"),
    (b"99999999999999999999999999", "refuse"),
    (b",5", "refuse"),
    (b"5,", "refuse"),
    (b"\xb2", "refuse"),
    (b"\xef\xbc\x95", "refuse"),
    (b"5\r", "refuse"),
    (b"five", "refuse"),
    (b"5-", "refuse"),
    (b"--5", "refuse"),
    (b"5\t", "forward"),
    (b"\t5", "forward"),
    (b" 5 ", "forward"),
    (b"NaN", "refuse"),
    (b"5/1", "refuse"),
    (b"1e1", "refuse"),
]

_LENGTH_LINES: list[tuple[bytes, str]] = [
    (b"Content\rLength: 5", "refuse"),
    (b"Content-Length : 5", "refuse"),
    (b"Content-Length\t: 5", "refuse"),
    (b" Content-Length: 5", "refuse"),
    (b"Content-Length:\r\n 5", "refuse"),
    (b"Content-Length:\n 5", "refuse"),
    (b"Content-Length: 5\r\nContent-Length: 5", "refuse"),
    (b"Content-Length: 5\r\nContent-Length: 6", "refuse"),
    (b"Content-Length: 6\r\nContent-Length: 5", "refuse"),
    (b"Content-Length: 0\r\nContent-Length: 5", "refuse"),
    (b"Content-Length: 5\r\nContent-Length: 0", "refuse"),
    (b"Content-Length:\r\nContent-Length: 5", "refuse"),
    (b"Content-Length: 5\r\nContent-Length:", "refuse"),
    (b"Content-Length: 5\r\n 6", "refuse"),
    (b"Content-Length: 5\nX: y", "refuse"),
    (b"X: y\nContent-Length: 5", "refuse"),
    (b"X: y\rContent-Length: 5", "refuse"),
    (b"Content-Length: 5\rX: y", "refuse"),
    (b"Content Length: 5", "refuse"),
    (b"Content-Length 5", "refuse"),
    (b"Content-Length: 5\r\nConnection: Content-Length", "refuse"),
    (b"Content_Length: 5", "either"),
    (b"Content-Length\0: 5", "refuse"),
    (b"Content-Length: 5\r\nContent_Length: 6", "forward"),
    (b"CONTENT-LENGTH: 5", "forward"),
    (b"content-length:5", "forward"),
]


def length_mutations() -> Iterator[Mutation]:
    """Content-Length: names and values."""
    for value, expected in _LENGTH_VALUES:
        yield Mutation(f"cl {_show(value)}", _request(b"Content-Length: " + value, SIZED_BODY), expected)
        if expected == "refuse" and b"\0" not in value:
            yield Mutation(
                f"cl get {_show(value)}",
                _request(b"Content-Length: " + value, SIZED_BODY, method=b"GET"),
                expected,
            )
    for line, expected in _LENGTH_LINES:
        yield Mutation(f"cl line {_show(line)}", _request(line, SIZED_BODY), expected)


_CHUNK_BODIES: list[tuple[bytes, str]] = [
    (b"5\r\nhello\r\n0\r\n\r\n", "forward"),
    (b"+5\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"-5\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"0x5\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5_0\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b" 5\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5 \r\nhello\r\n0\r\n\r\n", "either"),
    (b"5\t\r\nhello\r\n0\r\n\r\n", "either"),
    (b"0005\r\nhello\r\n0\r\n\r\n", "forward"),
    (b"0000000000000005\r\nhello\r\n0\r\n\r\n", "forward"),
    (b"00000000000000005\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"A\r\nhellohello\r\n0\r\n\r\n", "forward"),
    (b"a\r\nhellohello\r\n0\r\n\r\n", "forward"),
    (b"\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"10000000000000005\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"100000005\r\nhello\r\n0\r\n\r\n", "either"),
    (b"5\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5\rhello\r\n0\r\n\r\n", "refuse"),
    (b"5\rXhello\r\n0\r\n\r\n", "refuse"),
    (b"5;ext\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5;ext\rhello\r\n0\r\n\r\n", "refuse"),
    (b'5;e="\r\nhello\r\n0\r\n\r\n', "refuse"),
    (b'5;e="\r\n"\r\nhello\r\n0\r\n\r\n', "refuse"),
    (b"5;" + b"e" * 9000 + b"\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5;\r\nhello\r\n0\r\n\r\n", "either"),
    (b"5;=x\r\nhello\r\n0\r\n\r\n", "either"),
    (b"5;a=b\r\nhello\r\n0\r\n\r\n", "forward"),
    (b'5;a="b"\r\nhello\r\n0\r\n\r\n', "forward"),
    (b"5\r\nhello!\r\n0\r\n\r\n", "refuse"),
    (b"5\r\nhello\n0\r\n\r\n", "refuse"),
    (b"5\r\nhello\r\r0\r\n\r\n", "refuse"),
    (b"5\r\nhelloXX0\r\n\r\n", "refuse"),
    (b"5\r\nhello0\r\n\r\n", "refuse"),
    (b"5\r\nhello\r\n0\r\nXX\r\n\r\n", "refuse"),
    (b"5\r\nhello\r\n0XX\r\n\r\n", "refuse"),
    (b"5\r\nhello\r\n\r\n0\r\n\r\n", "refuse"),
    (b"5\r\nhello\r\n0\n\n", "refuse"),
    (b"5\r\nhello\r\n0\r\n\n", "refuse"),
    (b"5\r\nhello\r\n00000\r\n\r\n", "forward"),
    (b"5\r\nhello\r\n-0\r\n\r\n", "refuse"),
    (b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n", "either"),
    (b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", "either"),
    (b"5\r\nhello\r\n0\r\nHost: evil\r\n\r\n", "either"),
    (b"5\r\nhello\r\n0\r\nA: b\nC: d\r\n\r\n", "refuse"),
    (b"5\r\nhello\r\n0\r\nA: b\n\r\n", "refuse"),
    (b"5\r\nhello\r\n0\r\nA : b\r\n\r\n", "refuse"),
    (b"5\r\nhello\r\n0\r\nA: " + b"x" * 70_000 + b"\r\n\r\n", "refuse"),
    (b"5\r\nhello\r\n0\r\nA: b\r\n\r\n", "forward"),
    (b"5\r\nhello\r\n0\r\n A: b\r\n\r\n", "refuse"),
    (b"g\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5h\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"\x005\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5\x0b\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"\xff5\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5\r\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5\n\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5,5\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"5.0\r\nhello\r\n0\r\n\r\n", "refuse"),
    (b"0\r\n\r\n", "forward"),
]


def chunk_mutations() -> Iterator[Mutation]:
    """Bodies under an honest Transfer-Encoding: chunked."""
    for body, expected in _CHUNK_BODIES:
        yield Mutation(f"chunk {_show(body[:60])}", _request(b"Transfer-Encoding: chunked", body), expected)


def all_mutations() -> list[Mutation]:
    return [*coding_mutations(), *coding_bytes(), *length_mutations(), *chunk_mutations()]
