"""The counts as a table and as JSON, alone or beside older ones."""

from __future__ import annotations

import json
import platform
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.environment import environment
from bench.harness.place import BenchError, Pinning
from bench.instructions.callgrind import Count, valgrind_version
from bench.report import aligned

SUITE, SCHEMA_VERSION = "instructions", 2
TOOLS = ("valgrind", "python", "libc", "compiler")
# Counts repeat exactly, but for the whole exchange, in which the clock has a part of less than 0.1 %.
NOTEWORTHY = 0.002
Document = Mapping[str, Any]


def as_document(counts: Sequence[Count], cpu: int) -> dict[str, Any]:
    """`cpu`: the number of the CPU that it ran on."""
    versions = {
        "valgrind": valgrind_version(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "compiler": _compiler(),
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": SUITE,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(Pinning(cpu, cpu), versions),
        "instructions": {
            count.name: {
                "per_operation": round(count.per_operation, 4),
                "operations": count.operations,
                "note": count.note,
            }
            for count in counts
        },
    }


def _compiler() -> str:
    """The first line of what the compiler of the native half says of itself."""
    name = (sysconfig.get_config_var("CC") or "cc").split()[0]
    try:
        told = subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return "unknown"
    return (told.splitlines() or ["unknown"])[0]


def load(path: Path) -> Document:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: {error}") from error
    if not isinstance(document, dict) or document.get("suite") != SUITE:
        raise BenchError(f"{path}: no result of python -m bench.instructions")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise BenchError(f"{path}: schema_version is not {SCHEMA_VERSION}; count the old commit again")
    return document


def _figure(value: float) -> str:
    return f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"


def count_table(document: Document) -> str:
    lines = [
        (name, _figure(count["per_operation"]), count["note"])
        for name, count in document["instructions"].items()
    ]
    return aligned(("benchmark", "instructions", "of"), lines)


def instruction_table(old: Document, new: Document) -> str:
    """Two documents of `python -m bench.instructions`: instructions per operation before and after.

    A benchmark that only one of them has is shown with `-`. Changes worth a look are marked.
    """
    before, after = old["instructions"], new["instructions"]
    lines = []
    for name in (*after, *(name for name in before if name not in after)):
        was, now = (counts.get(name, {}).get("per_operation") for counts in (before, after))
        change, mark = "", ""
        if was and now is not None:
            share = (now - was) / was
            change = f"{share:+.2%}"
            if abs(share) >= NOTEWORTHY:
                mark = "more" if share > 0 else "fewer"
        lines.append(
            (name, "-" if was is None else _figure(was), "-" if now is None else _figure(now), change, mark)
        )
    note = "".join(f"\n{text}" for text in _differences(old, new))
    return aligned(("instructions per operation", "old", "new", "change", ""), lines) + note


def _differences(old: Document, new: Document) -> list[str]:
    """What changes counts without being fastmesh's, a sentence each."""

    def facts(document: Document) -> dict[str, object]:
        environment = document["environment"]
        versions = environment.get("versions", {})
        return {"cpu": environment.get("cpu"), **{tool: versions.get(tool) for tool in TOOLS}}

    before, after = facts(old), facts(new)
    return [
        f"The {what} differs ({before[what]}, {after[what]}): part of a change may be due to that."
        for what in after
        if before[what] != after[what]
    ]
