"""What requests and responses share: limits, heads in pieces, lengths, Connection (rows 45 to 52, 82, 83)."""

from __future__ import annotations

import pytest

from fastmesh._native.proto import _t_proto as proto
from support.heads import STATUS_BY_ERROR, accepted, refused, request


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 48])
def test_names_of_any_length_end_at_the_first_byte_that_is_none_of_theirs(length: int) -> None:
    """Sixteen bytes are looked at together; what is no letter, digit or dash one by one."""
    tokens = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    for byte in range(256):
        for place in {0, length // 2, length - 1}:
            name = b"N" * place + bytes([byte]) + b"n" * (length - place - 1)
            raw = request(name + b": some value that is long enough")
            if byte in tokens:
                assert accepted(raw)["fields"][1][0] == name
            elif byte != ord(":") or place == 0:
                refused(raw)


def test_045_limits_of_the_header_section() -> None:
    limits = (200, 4, 100, 32)
    accepted(request(b"A: b", b"A: b", b"A: b"), limits=limits)
    refused(request(b"A: b", b"A: b", b"A: b", b"A: b"), 431, limits=limits)
    fits = request(b"A: " + b"x" * (200 - len(request(b"A: "))))
    assert len(fits) == 200
    accepted(fits, limits=limits)
    refused(request(b"A: " + b"x" * (201 - len(request(b"A: ")))), 431, limits=limits)
    assert STATUS_BY_ERROR[proto.parse_request(request()[:-2] + b"N" * 400, limits)[0]] == 431
    # Known as soon as the limit is reached without an end.
    assert STATUS_BY_ERROR[proto.parse_request(fits[:-4] + b"xxxx", limits)[0]] == 431
    # An error inside the limit comes first, one behind it is never seen.
    refused(request(b"A : b", b"A: " + b"x" * 300), limits=limits)
    refused(request(b"A: " + b"x" * 300, b"A : b"), 431, limits=limits)
    assert len(accepted(request(*[b"A: b"] * 255), limits=(1 << 16, 1000, 100, 32))["fields"]) == 256
    refused(request(*[b"A: b"] * 256), 431, limits=(1 << 16, 1000, 100, 32))


def test_045_a_name_longer_than_a_field_can_say() -> None:
    refused(request(b"N" * 65536 + b": x"), 431, limits=(1 << 20, 100, 100, 32))
    assert accepted(request(b"N" * 3000 + b": x"))["fields"][1][0] == b"N" * 3000


@pytest.mark.no_sanitizer
def test_045_a_head_byte_by_byte_costs_linear_time() -> None:
    line = b"Field-Name: " + b"v" * 1000
    limits = (1 << 21, 256, 100, 32)
    short, long = (request(*[line] * count) for count in (12, 192))
    times = []
    for raw in (short, long):
        best = min(proto.dribble_request(raw, limits)[1] for _ in range(3))
        assert proto.dribble_request(raw, limits)[0] == len(raw)
        times.append(best / len(raw))
    assert times[1] < 6 * times[0], times  # quadratic would be 16


@pytest.mark.parametrize("value", [b"+5", b"-5", b"5x", b"0x5", b"5_0", b"5.0", b"5e0", b"", b"5, 5", b"5,6",
b"9223372036854775808",
                                   b"18446744073709551621", b"\xb2", b"5 5",
                                   b"99999999999999999999"])  # fmt: skip
def test_047_to_051_bad_lengths(value: bytes) -> None:
    refused(request(b"Content-Length: " + value))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"5", 5),
        (b"005", 5),
        (b"0", 0),
        (b"000", 0),
        (b"9223372036854775807", 2**63 - 1),
        (b"4294967301", 2**32 + 5),
    ],
)
def test_048_049_good_lengths(value: bytes, number: int) -> None:
    parsed = accepted(request(b"Content-Length: " + value, method=b"POST"))
    assert (parsed["body"], parsed["content_length"]) == ("length" if number else "none", number)


def _dropped(*lines: bytes) -> list[bytes]:
    return [name for name, _, dropped in accepted(request(*lines))["fields"] if dropped]


def test_082_084_fields_of_one_hop() -> None:
    assert _dropped(b"X-Foo: 1", b"Connection: close, ,x-FOO", b"x-foo: 2", b"X-Food: 3") == [
        b"X-Foo",
        b"Connection",
        b"x-foo",
    ]
    lines = [
        b"Keep-Alive: x",
        b"Proxy-Connection: x",
        b"TE: x",
        b"Upgrade: x",
        b"Trailer: x",
        b"HTTP2-Settings: x",
    ]
    assert _dropped(*lines) == [line.split(b":")[0] for line in lines]
    assert _dropped(
        b"Connection: X-Forwarded-For, Forwarded, X-Request-Id", b"X-Forwarded-For: 1", b"X-Request-Id: 1"
    ) == [b"Connection"]
    assert _dropped(b'Connection: "X-Foo", X-Foo;q=1', b"X-Foo: 1") == [b"Connection"]


@pytest.mark.parametrize("name", [b"Content-Length", b"TRANSFER-encoding", b"host", b"Expect"])
def test_083_connection_may_not_name_framing(name: bytes) -> None:
    refused(request(b"Connection: " + name))
    refused(request(b"Connection: close", b"Connection: x , " + name))


def test_082_names_in_connection_are_bounded() -> None:
    accepted(request(b"Connection: " + b",".join([b"x"] * 64)))
    refused(request(b"Connection: " + b",".join([b"x"] * 65)))
