"""The rules of routing, in plain Python."""

from fastmesh.routing.explain import explain, matches, rewrite

__all__ = ["explain", "matches", "rewrite"]
