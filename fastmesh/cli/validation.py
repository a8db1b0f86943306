"""``fastmesh validate`` and ``fastmesh schema``."""

from __future__ import annotations

import json

from fastmesh import config
from fastmesh.config.schema import json_schema
from fastmesh.errors import ConfigError, Problem


def check(file: str, form: str) -> int:
    """Prints what is wrong with ``file`` as ``text`` or ``json``; the exit code."""
    problems: tuple[Problem, ...]
    try:
        problems = config.load(file).warnings
        valid = True
    except ConfigError as error:
        problems, valid = error.problems, False
    if form == "json":
        print(config.render_json(problems), end="")
    else:
        print(config.render_text(problems), end="")
        if valid:
            print(f"{file}: valid")
    return 0 if valid else 1


def schema_text() -> str:
    """The JSON Schema as indented JSON."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False)
