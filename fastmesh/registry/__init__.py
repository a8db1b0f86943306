"""Watching the configuration and saying what changed."""

from fastmesh.registry.diff import changes
from fastmesh.registry.watcher import ConfigWatcher, Reload

__all__ = ["ConfigWatcher", "Reload", "changes"]
