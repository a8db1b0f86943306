"""``fastmesh validate`` and ``fastmesh schema``."""

from __future__ import annotations

import json

import msgspec

from fastmesh import config
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
        found = msgspec.to_builtins(problems)
        print(json.dumps({"valid": valid, "problems": found}, indent=2, ensure_ascii=False))
    else:
        if problems:
            print(config.render(problems))
        print(f"{file}: {'valid' if valid else _count(problems)}")
    return 0 if valid else 1


def _count(problems: tuple[Problem, ...]) -> str:
    errors = sum(problem.severity == "error" for problem in problems)
    return f"invalid, {errors} error{'' if errors == 1 else 's'}"


def schema_text() -> str:
    """The JSON Schema as indented JSON."""
    return json.dumps(config.schema(), indent=2, ensure_ascii=False)
