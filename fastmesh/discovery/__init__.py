"""Finding the addresses of endpoints."""

from fastmesh.discovery.resolver import Resolver, names_of

__all__ = ["Resolver", "names_of"]
