"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.origin import Origin
from support.plane import Plane, running_planes


@pytest.fixture
def run() -> Iterator[Callable[..., Plane]]:
    with running_planes() as run:
        yield run


@pytest.fixture
def origins() -> Iterator[list[Origin]]:
    made = [Origin(name=name) for name in "abc"]
    yield made
    for origin in made:
        origin.close()
