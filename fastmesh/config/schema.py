"""The JSON Schema (2020-12) of the configuration file, so that editors complete and check it."""

from __future__ import annotations

from fastmesh.config.kinds import Named, Schema
from fastmesh.config.table import ROOT

_VARIABLE: Schema = {
    "type": "string",
    "pattern": r"\$\{",
    "description": "A value with `${VAR}`, `${VAR:-default}`, `${VAR:?message}` or `${file:/path}` in it.",
}


def json_schema() -> Schema:
    """The whole schema, made from the table of keys that the validator reads by.

    It accepts whatever `load` accepts; references between keys (a route to a service that does not exist) are
    beyond it.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fastmesh",
        "description": "The configuration of fastmesh, a load balancer and service-mesh sidecar.",
        **ROOT.schema(),
        "$defs": {"variable": _VARIABLE, **{name: kind.schema() for name, kind in Named.all.items()}},
    }
