"""The parts of the real process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastmesh import config
from fastmesh.model import Config
from fastmesh.supervisor.parts import Loaded, Parts, Resolved
