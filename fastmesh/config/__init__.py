"""Reading, checking and describing configuration files."""

from fastmesh.config.loader import Loaded, load

__all__ = ["Loaded", "load"]
