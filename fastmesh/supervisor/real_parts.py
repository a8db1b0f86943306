"""The parts of the real process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from fastmesh import config
from fastmesh.model import Config
from fastmesh.supervisor.dataplane import DataPlaneFactory
from fastmesh.supervisor.parts import Loaded, Parts, Resolved


def load(file: str) -> Loaded:
    loaded = config.load(file)
    return Loaded(loaded.config, loaded.warnings)


async def resolve(config: Config) -> Resolved:
    return {}


async def watch(file: str, changed: Callable[[], Awaitable[object]]) -> None:
    await trio.sleep_forever()


def real_parts(data_plane: DataPlaneFactory | None = None) -> Parts:
    if data_plane is None:
        from fastmesh.engine import DataPlane

        data_plane = DataPlane
    return Parts(load=load, resolve=resolve, watch=watch, data_plane=data_plane)
