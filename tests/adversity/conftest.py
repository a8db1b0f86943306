"""Proxies that the cases share: one process for each set of settings, started at its first use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.rig import Rig


class _Shared:
    """Rigs by name. One whose proxy died is replaced, so that one crash is one test's failure."""

    def __init__(self) -> None:
        self.rigs: dict[str, Rig] = {}

    def get(self, name: str, settings: dict[str, Any]) -> Rig:
        rig = self.rigs.get(name)
        if rig is None:
            rig = self.rigs[name] = Rig(**settings).start()
        return rig

    def drop(self, name: str) -> Rig:
        return self.rigs.pop(name)


@pytest.fixture(scope="session")
def shared_rigs() -> Iterator[_Shared]:
    shared = _Shared()
    yield shared
    problems = []
    for name, rig in shared.rigs.items():
        try:
            rig.stop()
        except AssertionError as error:
            problems.append(f"{name}: {error}")
    assert not problems, "\n".join(problems)


def _lend(shared: _Shared, name: str, settings: dict[str, Any]) -> Iterator[Rig]:
    rig = shared.get(name, settings)
    yield rig
    print(rig.proxy.new_stderr())  # shown by pytest beside a failure
    if not rig.proxy.is_alive():
        shared.drop(name)
        rig.stop()  # fails with the exit code and what was logged


@pytest.fixture
def rig(shared_rigs: _Shared) -> Iterator[Rig]:
    """Default limits; time-outs so long that no case here meets one."""
    yield from _lend(shared_rigs, "default", {})


@pytest.fixture
def hasty(shared_rigs: _Shared) -> Iterator[Rig]:
    """Time-outs of some 300 ms."""
    waits = {"connect": "300ms", "response": "400ms", "idle": "500ms", "header": "300ms"}
    yield from _lend(shared_rigs, "hasty", {"timeouts": waits})


@pytest.fixture
def two_waits(shared_rigs: _Shared) -> Iterator[Rig]:
    """The origin has 300 ms for what is asked below /hasty, and long for all else: a machine that stands
    still for a moment fails nothing that is well-behaved."""
    hasty_route = {"path": "/hasty", "service": "origin", "timeout": "300ms"}
    routes = [hasty_route, {"path": "/", "service": "origin"}]
    yield from _lend(shared_rigs, "two waits", {"listener": {"routes": routes}})


@pytest.fixture
def trusting(shared_rigs: _Shared) -> Iterator[Rig]:
    """The client's address is a trusted proxy's."""
    yield from _lend(shared_rigs, "trusting", {"trusted_proxies": ["127.0.0.0/8"]})


@pytest.fixture
def old_origin() -> Iterator[Rig]:
    """A proxy of its own for an origin that speaks HTTP/1.0: what is learnt of it must not reach other
    cases."""
    rig = Rig().start()
    yield rig
    rig.stop()


@pytest.fixture
def pair(shared_rigs: _Shared) -> Iterator[Rig]:
    """Two origins in turn."""
    yield from _lend(shared_rigs, "pair", {"origins": 2, "service": {"balance": "round_robin"}})
