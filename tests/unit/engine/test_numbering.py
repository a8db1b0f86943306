"""Numbers stay with their key, and change hands only after everyone has let go."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.engine.numbering import Numbers, Slots, pack_address
from fastmesh.model import Address


def test_a_key_keeps_its_number() -> None:
    numbers: Numbers[str] = Numbers()
    assert [numbers.give(key) for key in "aba"] == [(0, True), (1, True), (0, False)]
    assert len(numbers.in_order({})) == 2


def test_a_released_number_waits_until_nobody_uses_it() -> None:
    numbers: Numbers[str] = Numbers()
    numbers.give("a")
    numbers.give("b")
    numbers.keep_only(["b"])
    assert numbers.give("c") == (2, True)
    numbers.recycle(lambda number: number != 0)
    assert numbers.give("d") == (3, True)
    numbers.recycle(lambda number: number == 0)
    assert numbers.give("e") == (0, True)
    assert numbers.of == {"b": 1, "c": 2, "d": 3, "e": 0}
    assert len(numbers.in_order({})) == 4


def test_a_key_that_comes_back_gets_another_number() -> None:
    numbers: Numbers[str] = Numbers()
    numbers.give("a")
    numbers.keep_only([])
    assert numbers.give("a") == (1, True)


@given(st.lists(st.sets(st.integers(0, 9)), max_size=20))
def test_no_two_keys_share_a_number(rounds: list[set[int]]) -> None:
    numbers: Numbers[int] = Numbers()
    for keys in rounds:
        numbers.keep_only(keys)
        for key in keys:
            numbers.give(key)
        held = [numbers.of[key] for key in keys]
        assert len(set(held)) == len(held)
        assert all(number < len(numbers.in_order({})) for number in held)
        numbers.recycle(lambda number: True)
    assert len(numbers.in_order({})) <= 20  # what two rounds may hold at once


def test_a_slot_is_used_again_when_it_is_free() -> None:
    slots = Slots()
    first, fresh = slots.give(("s", "a:1"))
    assert (first.index, fresh) == (0, True)
    assert slots.give(("s", "a:1")) == (first, False)
    assert slots.give(("t", "a:1"))[0].index == 1, "an address of two services is two endpoints"
    assert slots.absent({("t", "a:1")}) == [("s", "a:1")]
    assert slots.retire(("s", "a:1"), 7) == 0
    asked: list[tuple[int, int]] = []
    slots.recycle(lambda index, generation: asked.append((index, generation)) is not None)
    assert asked == [(0, 7)]
    assert slots.give(("s", "b:1"))[0].index == 2, "the slot is still in use"
    slots.recycle(lambda index, generation: True)
    again, fresh = slots.give(("s", "a:1"))
    assert (again.index, fresh) == (0, True)
    assert again.generation != first.generation
    slots.recycle(lambda index, generation: pytest.fail("it was given away"))


@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_ipv4_is_packed_for_connect(host: ipaddress.IPv4Address, port: int) -> None:
    packed = pack_address(Address("inet", str(host), port))
    family, packed_port = struct.unpack_from("=H", packed)[0], struct.unpack_from("!H", packed, 2)[0]
    assert (family, packed_port, packed[4:8], len(packed)) == (socket.AF_INET, port, host.packed, 16)


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_ipv6_is_packed_for_connect(host: ipaddress.IPv6Address, port: int) -> None:
    packed = pack_address(Address("inet6", str(host), port))
    family, packed_port = struct.unpack_from("=H", packed)[0], struct.unpack_from("!H", packed, 2)[0]
    assert (family, packed_port, packed[8:24], len(packed)) == (socket.AF_INET6, port, host.packed, 28)
    assert packed[24:] == bytes(4)


@pytest.mark.parametrize(("zone", "number"), [("lo", socket.if_nametoindex("lo")), ("7", 7)])
def test_a_zone_is_a_number_or_an_interface(zone: str, number: int) -> None:
    packed = pack_address(Address("inet6", f"fe80::1%{zone}", 80))
    assert struct.unpack_from("=I", packed, 24) == (number,)


def test_a_path_ends_in_a_zero() -> None:
    packed = pack_address(Address("unix", path="/tmp/é"))
    assert packed == struct.pack("=H", socket.AF_UNIX) + "/tmp/é".encode() + b"\0"


def test_things_stand_at_their_numbers() -> None:
    numbers: Numbers[str] = Numbers()
    for key in "abc":
        numbers.give(key)
    assert numbers.in_order({"c": 3, "a": 1}) == [1, None, 3]
