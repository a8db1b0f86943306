"""Problems as people and programs read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import msgspec

from fastmesh.errors import Problem

_WIDTH = 100  # columns of a source line that are shown


def render_text(problems: Iterable[Problem]) -> str:
    """Each problem with its place, the line, a caret and what to do; the last line counts them.

    Empty text when there are no problems.
    """
    shown = list(problems)
    if not shown:
        return ""
    return "\n".join([*(_one(problem) for problem in shown), count(shown)]) + "\n"


def render_json(problems: Iterable[Problem]) -> str:
    """One JSON object: `valid`, and `problems` with all their fields."""
    shown = list(problems)
    valid = all(problem.severity != "error" for problem in shown)
    return msgspec.json.encode({"valid": valid, "problems": shown}).decode() + "\n"


def count(problems: Iterable[Problem]) -> str:
    """`2 errors, 1 warning`."""
    severities = [problem.severity for problem in problems]
    parts = []
    for severity in ("error", "warning"):
        number = severities.count(severity)
        if number:
            parts.append(f"{number} {severity}{'s' if number > 1 else ''}")
    return ", ".join(parts) or "no problems"


def _one(problem: Problem) -> str:
    label = "warning: " if problem.severity == "warning" else ""
    if not problem.line:
        text = f"{problem.file}: {label}{problem.message}"
        return f"{text}; {problem.suggestion}" if problem.suggestion else text
    head = f"{problem.file}:{problem.line}:{problem.column}: {label}{problem.message}"
    source, caret = _window(problem.source_line, problem.column - 1)
    number = str(problem.line).rjust(5)
    mark = f"{' ' * 5} | {caret}^"
    return f"{head}\n{number} | {source}\n{mark}{' ' + problem.suggestion if problem.suggestion else ''}"


def _window(line: str, column: int) -> tuple[str, str]:
    """The part of `line` around `column`, and the space that puts a caret under it in a terminal."""
    start = max(0, min(column - _WIDTH // 2, len(line) - _WIDTH))
    end = start + _WIDTH
    before = _printable(line[start:column])
    after = _printable(line[column:end])
    left = "…" if start else ""
    right = "…" if end < len(line) else ""
    return left + before + after + right, " " * _columns(left + before)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _columns(text: str) -> int:
    """How many terminal columns `text` takes: East Asian wide characters two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )
