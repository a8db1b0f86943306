"""Numbers as text."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh._native.base import _t_put as put


@given(st.integers(0, 2**64 - 1))
def test_decimal(value: int) -> None:
    assert put.decimal(value) == b"%d" % value


@pytest.mark.parametrize("value", [0, 9, 10, 99, 100, 2**64 - 1, 10**19, 10**19 - 1])
def test_decimal_at_the_borders(value: int) -> None:
    assert put.decimal(value) == b"%d" % value


@given(st.integers(0, 2**64 - 1), st.integers(0, 20))
def test_digits_are_the_last_ones(value: int, width: int) -> None:
    assert put.digits(value, width) == (b"%020d" % value)[20 - width :]


def test_hex_byte() -> None:
    assert [put.hex_byte(value) for value in range(256)] == [b"%02x" % value for value in range(256)]


@given(st.integers(0, 2**128 - 1))
def test_uuid(value: int) -> None:
    assert put.uuid(value >> 64, value & 2**64 - 1) == str(uuid.UUID(int=value)).encode()


def test_literal() -> None:
    assert put.literal() == b"null"
