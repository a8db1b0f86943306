"""What the table says of services."""

from collections.abc import Iterator

import pytest

from fastmesh.config.kinds import Wrong
from fastmesh.config.reference import sections
from fastmesh.config.service_keys import POLICIES, SERVICE, UNBUILT_POLICIES, check_prime, inherited_keys


def late_keys() -> Iterator[str]:
    for path, section in sections():
        for name, field in section.fields.items():
            if field.late:
                yield f"{path}.{name}"


def test_the_keys_that_are_not_in_effect_yet() -> None:
    assert list(late_keys()) == []


def test_a_service_has_every_key_of_the_defaults() -> None:
    assert inherited_keys().keys() <= SERVICE.fields.keys()


def test_policies() -> None:
    assert POLICIES["weighted_round_robin"] == "round_robin"
    assert set(POLICIES.values()) == {"round_robin", "random", "least_request", "ring_hash", "maglev"}
    assert UNBUILT_POLICIES == ("peak_ewma", "utilization", "prequal")


@pytest.mark.parametrize("number", [3, 251, 65537, 655373, 5_000_011])
def test_primes(number: int) -> None:
    check_prime(number)


@pytest.mark.parametrize("number", [4, 9, 65536, 65539 * 3, 2047])
def test_not_primes(number: int) -> None:
    with pytest.raises(Wrong, match=f"{number} is not a prime number"):
        check_prime(number)
