"""The table that says whose an intercepted connection is, against a dictionary."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from fastmesh._native.net import _t_destination as net
from fastmesh.engine.numbering import pack_address
from fastmesh.model import Address

ANY = bytes(16)
hosts = st.sampled_from(["10.0.0.1", "10.0.0.2", "0.0.0.0", "::1", "fd00::1", "fd00::2", "255.255.255.255"])
places = st.tuples(hosts, st.integers(1, 6))
entries = st.one_of(places, st.tuples(st.just(""), st.integers(1, 6)))


def key(host: str) -> bytes:
    if not host:
        return ANY
    ip = ipaddress.ip_address(host)
    return bytes(10) + b"\xff\xff" + ip.packed if ip.version == 4 else ip.packed


def packed(host: str, port: int) -> bytes:
    return pack_address(Address("inet6" if ":" in host else "inet", host, port))


@given(st.lists(entries, max_size=40), st.lists(places, max_size=20))
def test_the_first_that_fits(table: list[tuple[str, int]], wanted: list[tuple[str, int]]) -> None:
    def expected(host: str, port: int) -> int | None:
        fits = [n for n, entry in enumerate(table) if entry in ((host, port), ("", port))]
        return fits[0] if fits else None

    found = net.find_destinations(
        [(key(host), port, number) for number, (host, port) in enumerate(table)],
        [packed(*place) for place in wanted],
    )
    assert found == [expected(*place) for place in wanted]


def test_ten_thousand_are_found_and_others_are_not() -> None:
    table = [(f"10.1.{n >> 8}.{n & 255}", 80) for n in range(10_000)]
    others = [(f"10.2.{n >> 8}.{n & 255}", 80) for n in range(1000)] + [("10.1.0.0", 81)]
    found = net.find_destinations(
        [(key(host), port, number) for number, (host, port) in enumerate(table)],
        [packed(*place) for place in table + others],
    )
    assert found == [*range(10_000), *[None] * len(others)]


def test_no_place_has_port_0() -> None:
    assert net.find_destinations([(ANY, 80, 1)], [packed("10.0.0.1", 0)]) == [None]
