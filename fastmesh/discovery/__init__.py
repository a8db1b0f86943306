"""Finding the addresses of endpoints."""

from fastmesh.discovery.resolver import Resolver, names_of
from fastmesh.discovery.views import KnownName, LookupCounts, NameView

__all__ = ["KnownName", "LookupCounts", "NameView", "Resolver", "names_of"]
