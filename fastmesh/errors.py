"""The errors that fastmesh raises, and `Problem`, one finding about a configuration file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from msgspec import Struct

Severity = Literal["error", "warning"]


class Problem(Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a configuration, and where.

    `line` and `column` count from 1, in characters; both are 0 when the problem is about the file as a whole
    (it cannot be read, it is missing), and then `source_line` is empty. `message` says what is wrong,
    `suggestion` what to do about it (a sentence part such as "did you mean `balance`?").
    """

    file: str
    line: int
    column: int
    message: str
    suggestion: str | None = None
    severity: Severity = "error"
    source_line: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        label = "warning: " if self.severity == "warning" else ""
        text = f"{place}: {label}{self.message}"
        return f"{text}; {self.suggestion}" if self.suggestion else text


class FastmeshError(Exception):
    """The base of every error that fastmesh raises on purpose."""


class ConfigError(FastmeshError):
    """A configuration is invalid: `problems` holds every finding, errors and warnings, in file order.

    `files` are the files and folders that were read or looked for: a change of one of them may be the cure.
    """

    def __init__(self, problems: Iterable[Problem], files: Iterable[Path] = ()) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.files: tuple[Path, ...] = tuple(files)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StartError(FastmeshError):
    """The process cannot start (a port in use, a missing permission); the text says what to do."""
