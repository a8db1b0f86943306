"""Chunked bodies: rows 68 to 80 of the HTTP/1 acceptance list."""

from __future__ import annotations

import time

import pytest

from fastmesh._native.proto import _t_proto as proto

END = b"0\r\n\r\n"


def decoded(raw: bytes, trailers: int | None = None) -> tuple[bytes, bytes]:
    """Body and trailers, from one piece, from bytes, and with the next message behind."""
    whole = proto.Chunks(trailers)
    consumed, expected = whole.feed(raw + b"GET /next")
    assert consumed == len(raw)
    assert whole.done
    bytewise = proto.Chunks(trailers)
    body = b""
    for index in range(len(raw)):
        assert not bytewise.done
        consumed, data = bytewise.feed(raw[index : index + 1], in_place=bool(index & 1))
        assert consumed == 1
        body += data
    assert bytewise.done
    assert body == expected
    assert bytewise.trailers == whole.trailers
    assert bytewise.feed(b"more") == (0, b"")
    return body, whole.trailers


def refused(raw: bytes) -> None:
    result, _ = proto.Chunks(64).feed(raw)
    assert proto.error_name(result) == ("bad_request", 400)
    decoder = proto.Chunks()
    for index in range(len(raw)):
        result, _ = decoder.feed(raw[index : index + 1])
        if result < 0:
            return
        assert not decoder.done
    pytest.fail(f"accepted byte by byte: {raw!r}")


def test_body() -> None:
    assert decoded(b"5\r\nhello\r\n6\r\n world\r\n" + END) == (b"hello world", b"")
    assert decoded(END) == (b"", b"")
    big = bytes(range(256)) * 40
    assert decoded(b"%x\r\n" % len(big) + big + b"\r\n" + END)[0] == big


@pytest.mark.parametrize(
    "size",
    [
        b"+5",
        b"-5",
        b"0x5",
        b"5_0",
        b" 5",
        b"\t5",
        b"",
        b"5h",
        b"g",
        b"5 ",
        b"5\t",
        b"5.",
        b"5,",
        b"\xff5",
        b"\0",
        b"5\x0b",
        b"5\r\r",
        b"#5",
    ],
)
def test_068_071_sizes_that_are_no_numbers(size: bytes) -> None:
    refused(size + b"\r\nhello\r\n" + END)


@pytest.mark.parametrize(
    "size", [b"1" + b"0" * 16, b"F" * 16, b"f" * 17, b"0" * 16 + b"5", b"8" + b"0" * 15, b"0" * 400 + b"5"]
)
def test_069_sizes_that_overflow(size: bytes) -> None:
    refused(size + b"\r\nhello\r\n" + END)


def test_069_the_largest_size() -> None:
    decoder = proto.Chunks()
    assert decoder.feed(b"7fffFFFFffffFFFF\r\nabc") == (21, b"abc")


@pytest.mark.parametrize("size", [b"05", b"0000000000000005"])
def test_070_076_leading_zeros(size: bytes) -> None:
    assert decoded(size + b"\r\nhello\r\n000\r\n\r\n")[0] == b"hello"
    assert decoded(b"A\r\n0123456789\r\na\r\n0123456789\r\n" + END)[0] == b"0123456789" * 2


@pytest.mark.parametrize("end", [b"\n", b"\rX", b"\r\r\n", b";a\n", b";a\r", b";a\rX", b"\n\r\n"])
def test_071_073_ends_of_size_lines(end: bytes) -> None:
    refused(b"5" + end + b"hello\r\n" + END)


@pytest.mark.parametrize(
    "extension", [b";a", b";a=b", b';a="b;c\\"d\x80\t"', b";a;b=c;d", b"; a= \tb", b';a=""']
)
def test_072_extensions_are_dropped(extension: bytes) -> None:
    assert decoded(b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n")[0] == b"hello"


@pytest.mark.parametrize(
    "extension",
    [
        b";",
        b";;a",
        b";=x",
        b";a=",
        b";a=b=c",
        b';a="b',
        b';a="b"c',
        b';a="\r\n"',
        b';a="\\\r\n"',
        b';a="\0"',
        b";a b",
        b";\x80",
        b";a=(",
        b';"a"',
    ],
)
def test_073_malformed_extensions(extension: bytes) -> None:
    refused(b"5" + extension + b"\r\nhello\r\n" + END)


def test_073_extensions_are_bounded() -> None:
    line = b";" + b"e" * 255  # 256 bytes with the CR that ends it
    assert decoded(b"5" + line + b"\r\nhello\r\n" + END)[0] == b"hello"
    refused(b"5" + line + b"e\r\nhello\r\n" + END)
    assert decoded((b"1" + line + b"\r\nx\r\n") * 64 + END)[0] == b"x" * 64
    refused((b"1" + line + b"\r\nx\r\n") * 65 + END)


@pytest.mark.parametrize("end", [b"\n", b"\r\r", b"XX", b"!\r\n", b"", b"\r\n\r\n", b"\rX"])
def test_074_data_ends_in_crlf(end: bytes) -> None:
    refused(b"5\r\nhello" + end + END)


@pytest.mark.parametrize(
    "end", [b"0\r\nXX\r\n\r\n", b"0XX\r\n\r\n", b"0\n\n", b"0\r\n\n", b"0\r\n\rX", b"-0\r\n\r\n"]
)
def test_075_last_chunks(end: bytes) -> None:
    refused(b"5\r\nhello\r\n" + end)


def test_075_a_body_that_is_cut_is_not_done() -> None:
    raw = b"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n"
    for end in range(len(raw)):
        decoder = proto.Chunks()
        assert decoder.feed(raw[:end])[0] == end
        assert not decoder.done


def test_077_trailers() -> None:
    section = b"X-A: b\r\nx-c:\td \xff\r\nEmpty:\r\n"
    assert decoded(b"0\r\n" + section + b"\r\n", 4096) == (b"", section)
    assert decoded(b"0\r\n" + section + b"\r\n") == (b"", b"")


@pytest.mark.parametrize(
    "name",
    [
        b"Content-Length",
        b"Transfer-Encoding",
        b"HOST",
        b"Authorization",
        b"Trailer",
        b"Set-Cookie",
        b"content-type",
        b"X-Forwarded-For",
        b"Connection",
    ],
)
def test_078_fields_that_may_not_be_trailers_are_dropped(name: bytes) -> None:
    assert decoded(b"0\r\nA: 1\r\n" + name + b": 5\r\nB: 2\r\n\r\n", 4096)[1] == b"A: 1\r\nB: 2\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"A: b\nC: d",
        b"A : b",
        b" A: b",
        b"A: \0",
        b": b",
        b"A",
        b"A: b\rX",
        b"A: b\r\n c",
        b"A: \x7f",
        b"A\x80: b",
    ],
)
def test_078_malformed_trailers(line: bytes) -> None:
    refused(b"0\r\n" + line + b"\r\n\r\n")


def test_079_trailers_are_bounded() -> None:
    fits = b"A: " + b"x" * (4096 - 2 - 5) + b"\r\n"
    assert decoded(b"0\r\n" + fits[:-3] + b"\r\n\r\n", 8192)[1] == fits[:-3] + b"\r\n"
    refused(b"0\r\n" + fits[:-2] + b"xx\r\n\r\n")
    refused(b"0\r\n" + b"A: b\r\n" * 700 + b"\r\n")


def test_077_trailers_that_do_not_fit_the_buffer_are_dropped_whole() -> None:
    assert decoded(b"0\r\nA: 1\r\nB: 22222222\r\nC: 3\r\n\r\n", 12)[1] == b"A: 1\r\nC: 3\r\n"


@pytest.mark.no_sanitizer
def test_080_one_byte_chunks_cost_little() -> None:
    raw = b"1\r\nx\r\n" * 100_000 + END
    start = time.thread_time()
    consumed, body = proto.Chunks().feed(raw)
    assert (consumed, body) == (len(raw), b"x" * 100_000)
    # Some 5 ms; a decoder that moves the rest at each chunk takes many seconds.
    assert time.thread_time() - start < 1


@pytest.mark.parametrize("n", [0, 1, 9, 10, 15, 16, 255, 4096, 0xABCDEF, 2**32, 2**60 - 1, 2**60, 2**64 - 1])
def test_size_lines(n: int) -> None:
    assert proto.size_line(n) == b"%x\r\n" % n
