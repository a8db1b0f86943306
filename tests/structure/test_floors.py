"""Both halves are built in floors: a part may import what lies below it, and never its neighbour.

The table is the one of docs/architecture.md, which a test compares with this one.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import native_source as native

ROOT = native.ROOT
PYTHON_FLOORS = (
    ("cli",),
    ("supervisor",),
    ("admin",),
    ("observability", "sidecar"),
    ("engine",),
    ("discovery", "health", "security"),
    ("registry",),
    ("config", "routing"),
    ("model",),
    ("errors", "units"),
)
NATIVE_FLOORS = (("core",), ("proxy",), ("net",), ("proto", "route", "lb"), ("base",), ("sys",))
# The only Python part that sees the native half.
DOOR = "engine"
# Modules at the top of the package that stand above the table: the version, and `python -m fastmesh`.
TOP = {"__init__", "__main__"}


def heights(floors: tuple[tuple[str, ...], ...]) -> dict[str, int]:
    return {part: -row for row, parts in enumerate(floors) for part in parts}


PYTHON_HEIGHT = heights(PYTHON_FLOORS)
NATIVE_HEIGHT = heights(NATIVE_FLOORS)


def python_files() -> list[Path]:
    return sorted(
        p.relative_to(ROOT) for p in (ROOT / "fastmesh").rglob("*.py*") if p.suffix in (".py", ".pyi")
    )


def part_of(path: Path) -> str:
    """``fastmesh/config/loader.py`` is of ``config``, ``fastmesh/errors.py`` of ``errors``."""
    return Path(path.parts[1]).stem


def imported_modules(text: str, path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, those within functions too; ``from a import b`` gives ``a.b``."""
    package = path.with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            start = ".".join(filter(None, (base, node.module)))
            for name in node.names:
                yield node.lineno, f"{start}.{name.name}"


def python_violations(text: str, path: Path) -> list[str]:
    here = part_of(path)
    found = []
    for line, name in imported_modules(text, path):
        top, _, rest = name.partition(".")
        if top != "fastmesh" or not rest:
            continue
        part = rest.split(".")[0]
        if part == here or part.startswith("__"):
            continue
        if part == "_native":
            if here != DOOR:
                found.append(f"{path}:{line}: only `{DOOR}` may import the native half, not `{here}`")
        elif here == "_native":
            found.append(f"{path}:{line}: the native half imports `{part}` of the Python half")
        elif part not in PYTHON_HEIGHT:
            found.append(f"{path}:{line}: `{part}` has no floor")
        elif here not in TOP and PYTHON_HEIGHT[part] >= PYTHON_HEIGHT[here]:
            found.append(f"{path}:{line}: `{here}` imports `{part}`, which is not below it")
    return found


def native_floor_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[2] if parts[:2] == ["fastmesh", "_native"] and len(parts) > 2 else None


def native_violations(source: native.Source) -> list[str]:
    found = []
    uses = [(line, native_floor_of(name)) for line, name in (*source.cimports, *source.imports)]
    for line, header in source.headers:
        if header.startswith("<"):
            continue
        target = (ROOT / source.path.parent / header).resolve()
        if not target.exists():  # found through include_dirs, which holds `sys` alone
            target = native.SOURCES / "fastmesh/_native/sys" / header
        if target.is_relative_to(native.SOURCES):
            uses.append((line, target.relative_to(native.SOURCES).parts[2]))
    for line, part in uses:
        if part is not None and part != source.floor and NATIVE_HEIGHT[part] >= NATIVE_HEIGHT[source.floor]:
            found.append(f"{source.path}:{line}: `{source.floor}` uses `{part}`, which is not below it")
    for line, name in source.imports:
        if name.split(".")[0] == "fastmesh" and native_floor_of(name) is None:
            found.append(f"{source.path}:{line}: the native half imports `{name}` of the Python half")
    return found


def test_python_half() -> None:
    found = [v for path in python_files() for v in python_violations((ROOT / path).read_text(), path)]
    assert not found, "\n".join(found)


def test_every_python_part_has_a_floor() -> None:
    parts = {part_of(path) for path in python_files()} - TOP - {"_native"}
    assert parts <= set(PYTHON_HEIGHT), sorted(parts - set(PYTHON_HEIGHT))


def test_native_half() -> None:
    found = [v for source in native.all_sources() for v in native_violations(source)]
    assert not found, "\n".join(found)


def test_every_native_part_has_a_floor() -> None:
    assert {source.floor for source in native.all_sources()} <= set(NATIVE_HEIGHT)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("fastmesh/model/a.py", "from fastmesh.config import loader"),
        ("fastmesh/config/a.py", "from fastmesh.routing.table import Table"),
        ("fastmesh/config/a.py", "from ..routing import table"),
        ("fastmesh/config/a.py", "def f():\n    import fastmesh.supervisor.app"),
        ("fastmesh/admin/a.py", "from fastmesh._native.core import engine"),
        ("fastmesh/units.py", "from fastmesh import errors"),
        ("fastmesh/admin/a.py", "from fastmesh.somewhere import x"),
        ("fastmesh/_native/core/engine.pyi", "from fastmesh.model import Config"),
    ],
)
def test_a_python_violation_is_caught(path: str, text: str) -> None:
    assert python_violations(text, Path(path))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("fastmesh/cli/main.py", "from fastmesh.supervisor.app import run\nfrom fastmesh import __version__"),
        ("fastmesh/engine/plane.py", "from fastmesh._native.core.engine import Engine"),
        ("fastmesh/config/a.py", "from .loader import load\nimport fastmesh.units"),
        ("fastmesh/__main__.py", "from fastmesh.cli import main"),
    ],
)
def test_what_is_allowed_passes(path: str, text: str) -> None:
    assert python_violations(text, Path(path)) == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("base.buf", "from fastmesh._native.net.conn cimport conn_t"),
        ("route.match", "cimport fastmesh._native.lb.lb"),
        ("proto.h1", "from fastmesh._native.core import engine"),
        ("core.engine", "from fastmesh.errors import FastmeshError"),
        ("sys.epoll", 'cdef extern from "../base/fm_errors.h":\n    int x'),
        ("base.buf", "from ..net cimport conn"),
    ],
)
def test_a_native_violation_is_caught(module: str, text: str) -> None:
    dotted = f"fastmesh._native.{module}"
    path = Path("src_ext", *dotted.split(".")).with_suffix(".pyx")
    assert native_violations(native.parse(text + "\n", dotted, path, is_pxd=False))


def test_the_table_in_the_documents_is_this_one() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    blocks = re.findall(r"```floors (python|native)\n(.*?)```", text, re.DOTALL)
    documented = {
        half: tuple(tuple(line.split("  ")[0].split()) for line in block.splitlines() if line.strip())
        for half, block in blocks
    }
    assert documented == {"python": PYTHON_FLOORS, "native": NATIVE_FLOORS}
