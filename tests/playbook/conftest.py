"""Stages for the playbooks: each test makes its own, and at its end nothing may be left on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.stage import Stage


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


_FAILED = pytest.StashKey[bool]()


@pytest.fixture
def set_stage(request: pytest.FixtureRequest) -> Iterator[Callable[..., Stage]]:
    """Makes stages. When the test has passed, each must end with an empty ledger."""
    stages: list[Stage] = []

    def make(*args: Any, **settings: Any) -> Stage:
        stages.append(Stage(*args, **settings))
        return stages[-1]

    yield make
    for stage in stages:
        if request.node.stash.get(_FAILED, True):
            stage.abandon()
        else:
            stage.finish()
