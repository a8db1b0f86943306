"""The double that tests use offers what the Protocol asks for."""

import inspect

from fastmesh.supervisor import dataplane
from support.fake_data_plane import FakeDataPlane


def test_the_fake_has_the_methods_of_the_protocol():
    for name, method in inspect.getmembers(dataplane.DataPlane, inspect.isfunction):
        if name.startswith("_"):
            continue
        own = inspect.signature(getattr(FakeDataPlane, name))
        assert list(own.parameters) == list(inspect.signature(method).parameters), name
