"""`${VAR}`, `${VAR:-default}`, `${VAR:?message}`, `${file:/path}` and `$$` in scalars.

It happens after parsing, so what a variable holds can never change the structure of the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fastmesh.config.source import Document, unreadable

MAX_SECRET_BYTES = 1 << 20

_REFERENCE = re.compile(r"\$(?:(\$)|\{((?:[^{}]|\{[^{}]*\})*)\}|(\{))")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::([-?])(.*))?", re.DOTALL)


class Expander:
    """Expands scalars; remembers the files that were read (`files`) and what they held (`secrets`)."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.files: list[Path] = []
        self.secrets: list[str] = []

    def __call__(self, document: Document, text: str, line: int, column: int) -> str | None:
        """`text` with its references replaced, or None when a problem was reported at the scalar's place."""
        before = len(document.problems)

        def replace(match: re.Match[str]) -> str:
            if match[1]:
                return "$"
            if match[3]:
                document.report(
                    line, column, f"`{text}`: `${{` has no closing `}}`", "write `$$` for a dollar sign"
                )
                return ""
            body = match[2]
            if body.startswith("file:"):
                return self._file(document, body[5:], line, column)
            return self._variable(document, body, line, column)

        expanded = _REFERENCE.sub(replace, text)
        return expanded if len(document.problems) == before else None

    def _variable(self, document: Document, body: str, line: int, column: int) -> str:
        match = _VARIABLE.fullmatch(body)
        if match is None:
            document.report(
                line,
                column,
                f"`${{{body}}}` is not a reference",
                "write `${VAR}`, `${VAR:-default}`, `${VAR:?message}` or `${file:/path}`, or `$$` for a "
                "dollar sign",
            )
            return ""
        name, operator, rest = match[1], match[2], match[3]
        value = self.env.get(name, "")
        if not value.isascii() and value.encode("utf-8", "replace").decode() != value:
            document.report(line, column, f"the environment variable `{name}` is not UTF-8 text")
            return ""
        if value or (operator is None and name in self.env):
            return value
        if operator == "-":
            return rest
        if operator == "?":
            document.report(
                line, column, f"the environment variable `{name}` is not set: {rest or 'it is needed'}"
            )
        else:
            document.report(
                line,
                column,
                f"the environment variable `{name}` is not set",
                f"set it, or write `${{{name}:-default}}`",
            )
        return ""

    def _file(self, document: Document, name: str, line: int, column: int) -> str:
        path = Path(name)
        if not path.is_absolute():
            path = document.path.parent / path
        self.files.append(path)
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            what, advice = unreadable(error)
            document.report(line, column, f"`${{file:{name}}}`: {what}", advice)
            return ""
        except ValueError:
            document.report(line, column, f"`${{file:{name}}}`: the path has a NUL character")
            return ""
        if len(raw) > MAX_SECRET_BYTES:
            document.report(line, column, f"`${{file:{name}}}`: the file is larger than 1 MiB")
            return ""
        try:
            value = raw.decode("utf-8")
        except UnicodeDecodeError:
            document.report(line, column, f"`${{file:{name}}}`: the file is not UTF-8 text")
            return ""
        value = value.removesuffix("\n").removesuffix("\r")
        self.secrets.append(value)
        return value
