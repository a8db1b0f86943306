"""Canonical texts of addresses."""

import pytest

from fastmesh.model import Address, Bind


@pytest.mark.parametrize(
    ("bind", "text", "dual_stack"),
    [
        (Bind("inet", "0.0.0.0", 80), "0.0.0.0:80", False),
        (Bind("inet6", "::", 80), "[::]:80", False),
        (Bind("inet6", "", 80), ":80", True),
        (Bind("unix", path="/run/x"), "unix:/run/x", False),
    ],
)
def test_binds(bind: Bind, text: str, dual_stack: bool) -> None:
    assert bind.text == text
    assert bind.dual_stack is dual_stack


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("inet", "10.0.0.1", 80), "10.0.0.1:80"),
        (Address("inet6", "::1", 80), "[::1]:80"),
        (Address("name", "api", 80), "api:80"),
        (Address("unix", path="/run/x"), "unix:/run/x"),
    ],
)
def test_addresses(address: Address, text: str) -> None:
    assert address.text == text


def test_addresses_sort_and_hash() -> None:
    addresses = [
        Address("inet", "10.0.0.2", 1),
        Address("inet", "10.0.0.1", 2),
        Address("inet", "10.0.0.1", 1),
    ]
    assert sorted(addresses) == addresses[::-1]
    assert len({*addresses, Address("inet", "10.0.0.1", 1)}) == 3
