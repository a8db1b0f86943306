"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.origin import Origin
from support.plane import Plane


@pytest.fixture
def run() -> Iterator[Callable[..., Plane]]:
    """Starts data planes; each must have an empty ledger when the test ends."""
    planes: list[Plane] = []

    def run(*args: Any, **settings: Any) -> Plane:
        planes.append(Plane(*args, **settings))
        return planes[-1]

    yield run
    for plane in planes:
        plane.stop()


@pytest.fixture
def origins() -> Iterator[list[Origin]]:
    made = [Origin(name=name) for name in "abc"]
    yield made
    for origin in made:
        origin.close()
