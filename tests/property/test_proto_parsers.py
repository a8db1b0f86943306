"""Invariants of the protocol cores: the checks of the fuzz targets, and messages built to be good."""

from __future__ import annotations

import random

import pytest
from fuzz.proto_targets import TARGETS, TOKENS, fuzz_chunked, fuzz_request
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmesh._native.proto import _t_proto as proto

TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=40).map(lambda raw: bytes(c for c in raw if c >= 0x20 and c != 0x7F).strip(b" "))
TARGET = st.binary(max_size=40).map(
    lambda raw: b"/" + bytes(c for c in raw if 0x21 <= c <= 0x7E and c != ord("#"))
)


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(7)
        if what == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif what == 1:
            data[at:at] = bytes([rng.randrange(256)])
        elif what == 2:
            del data[at : at + rng.choice((1, 1, 2, 4, 16))]
        elif what == 3:
            data[at:at] = rng.choice(TOKENS)
        elif what == 4:
            other = rng.choice(corpus)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        elif what == 5:
            piece = data[at : at + rng.choice((1, 2, 8, 32))]
            data[at:at] = piece * rng.choice((1, 2, 20))
        elif data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
    return bytes(data[:4096])


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_mutated_input(name: str, rng) -> None:  # type: ignore[no-untyped-def]
    check, seeds = TARGETS[name]
    check(mutate(rng, seeds))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name][0](data)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    check, seeds = TARGETS[name]
    for seed in seeds:
        for end in range(len(seed) + 1):
            check(seed[:end])


@settings(max_examples=150, deadline=None)
@given(
    method=TOKEN,
    target=TARGET,
    fields=st.lists(st.tuples(TOKEN, VALUE), max_size=8),
    body=st.binary(max_size=30),
)
def test_good_requests_are_understood(
    method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], body: bytes
) -> None:
    lines = [name + b": " + value for name, value in fields]
    raw = (
        b"\r\n".join(
            [method + b" " + target + b" HTTP/1.1", b"Host: h", *lines, b"Content-Length: %d" % len(body)]
        )
        + b"\r\n\r\n"
    )
    known = {name.lower() for name, _ in fields}
    result, request = proto.parse_request(raw)
    if known & {b"te", b"host", b"expect"} or method in (b"TRACE", b"CONNECT"):
        return
    assert result == len(raw), raw
    assert request["method"] == method
    assert request["target"] == target
    assert [(name, value) for name, value, _ in request["fields"]][1:-1] == fields
    assert request["content_length"] == len(body)
    fuzz_request(raw + body)


@settings(max_examples=150, deadline=None)
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=70), max_size=8),
    junk=st.binary(max_size=20),
    upper=st.booleans(),
    zeros=st.integers(0, 8),
)
def test_good_chunked_bodies_are_decoded(chunks: list[bytes], junk: bytes, upper: bool, zeros: int) -> None:
    pattern = b"%X" if upper else b"%x"
    raw = (
        b"".join(b"0" * zeros + pattern % len(chunk) + b";e=1\r\n" + chunk + b"\r\n" for chunk in chunks)
        + b"0\r\n\r\n"
    )
    decoder = proto.Chunks()
    assert decoder.feed(raw + junk) == (len(raw), b"".join(chunks))
    assert decoder.done
    fuzz_chunked(raw + junk)


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    seed=st.sampled_from([seed for name in ("request", "response") for seed in TARGETS[name][1]]),
)
def test_fragmentation_at_any_offsets(data: st.DataObject, seed: bytes) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, len(seed)), max_size=6)) | {len(seed)})
    if seed.startswith(b"HTTP/"):
        result, parsed = proto.parse_response(seed, 4)
        stepped = proto.parse_response_in_steps(seed, ends, 4)
    else:
        result, parsed = proto.parse_request(seed)
        stepped = proto.parse_request_in_steps(seed, ends)
    assert stepped[:2] == (result, parsed)
    if result > 0:
        assert stepped[2] == min(end for end in ends if end >= result)
