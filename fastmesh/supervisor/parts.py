"""The parts that the stack is put together from, as functions, so that tests can put others in their
place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastmesh.errors import Problem
from fastmesh.model import Address, Config
from fastmesh.supervisor.dataplane import DataPlaneFactory

Resolved = Mapping[str, tuple[Address, ...]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration and the warnings about it."""

    config: Config
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Parts:
    """
    ``load(file)``: reads and checks a configuration (blocking, called in a thread); raises ConfigError.
    ``resolve(config)``: the addresses of each endpoint that is a host name, by its text.
    ``watch(file, changed)``: runs until cancelled, awaits ``changed()`` after each change of what was read.
    """

    load: Callable[[str], Loaded]
    resolve: Callable[[Config], Awaitable[Resolved]]
    watch: Callable[[str, Callable[[], Awaitable[object]]], Awaitable[None]]
    data_plane: DataPlaneFactory
