"""Reading, checking and describing configuration files."""

from fastmesh.config.loader import Loaded, load
from fastmesh.config.public import as_public_dict
from fastmesh.config.report import render_json, render_text

__all__ = ["Loaded", "as_public_dict", "load", "render_json", "render_text"]
