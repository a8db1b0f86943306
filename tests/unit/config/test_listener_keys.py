"""What the table says of listeners."""

import pytest

from fastmesh.config.kinds import Wrong
from fastmesh.config.listener_keys import ROUTE, check_redirect


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(status: int) -> None:
    check_redirect(status)


@pytest.mark.parametrize("status", [300, 304, 305, 306, 309])
def test_not_redirects(status: int) -> None:
    with pytest.raises(Wrong, match=f"{status} is not a redirect"):
        check_redirect(status)


def test_a_route_has_one_action_in_the_schema_too() -> None:
    assert ROUTE.schema()["oneOf"] == [
        {"required": ["service"]},
        {"required": ["redirect"]},
        {"required": ["respond"]},
    ]
