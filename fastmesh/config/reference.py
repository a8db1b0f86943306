"""The tables of docs/configuration.md, made from the table of keys.

`python -m fastmesh.config.reference docs/configuration.md` writes them between the marks in that file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastmesh.config.kinds import ByShape, Kind, ListOf, MapOf, Named, Section
from fastmesh.config.table import ROOT

BEGIN = "<!-- keys: begin (made by fastmesh.config.reference) -->"
_LATE = " **Not in effect yet.**"
END = "<!-- keys: end -->"


def sections() -> Iterator[tuple[str, Section]]:
    """(path, section) of each mapping with known keys, in the order of the table; `*` stands for a name."""
    yield from _sections("", ROOT, set())


def _sections(path: str, kind: Kind, seen: set[int]) -> Iterator[tuple[str, Section]]:
    if isinstance(kind, Section):
        if id(kind) in seen:
            return
        seen.add(id(kind))
        yield path, kind
        for name, field in kind.fields.items():
            yield from _sections(f"{path}.{name}" if path else name, field.kind, seen)
    elif isinstance(kind, Named):
        yield from _sections(path, kind.kind, seen)
    elif isinstance(kind, MapOf):
        yield from _sections(f"{path}.*", kind.value, seen)
    elif isinstance(kind, ListOf):
        yield from _sections(f"{path}[]", kind.item, seen)
    elif isinstance(kind, ByShape):
        for shape in kind.kinds.values():
            if shape is not None:
                yield from _sections(path, shape, seen)


def tables() -> str:
    """One Markdown table for each section: key, type, default, example, meaning."""
    parts = []
    for path, section in sections():
        rows = [
            f"| `{name}` | {_cell(field.kind.label)} | {_default(field.default, field.required)} "
            f"| {_code(field.example)} | {_cell(field.doc)}{_LATE if field.late else ''} |"
            for name, field in section.fields.items()
        ]
        title = f"### `{path}`" if path else "### The file"
        parts.append(
            "\n".join(
                [title, "", "| key | type | default | example | meaning |", "|---|---|---|---|---|", *rows]
            )
        )
    return "\n\n".join(parts)


def _default(value: Any, required: bool) -> str:
    return "**required**" if required else _code(value)


def _code(value: Any) -> str:
    """A value as it would be written in YAML's flow style."""
    if value is None:
        return ""
    return f"`{_cell(_flow(value))}`"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and (not value or value in ("yes", "no") or value[0] in ":*$" or "\n" in value):
        return json.dumps(value)
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def with_tables(document: str) -> str:
    """`document` with the tables of now between the marks."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_tables(file.read_text()))
