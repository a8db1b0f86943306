"""Rules about files: their length, their headers, what lies beside what."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import native_source as native

ROOT = native.ROOT
MAX_LINES = 600
MAX_FUNCTION_LINES = 60
# path -> why it is longer
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
CODE = {".py", ".pyi", ".pyx", ".pxd", ".h", ".c"}
# module -> where it is tested instead of in its own file, and why
NO_UNIT_TEST: dict[str, str] = {}


def tracked_files() -> list[Path]:
    """What git knows or would add, as paths relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [Path(p) for p in sorted(listed.stdout.split("\0")) if p and (ROOT / p).is_file()]
    skipped = {"build", "dist", ".venv", ".git"}  # an archive without .git
    every = (p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file())
    return sorted(p for p in every if not skipped & set(p.parts) and "__pycache__" not in p.parts)


def text_files() -> Iterator[tuple[Path, str]]:
    for path in tracked_files():
        try:
            yield path, (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_files_are_short_enough_to_read() -> None:
    long = {
        str(path): text.count("\n")
        for path, text in text_files()
        if path.suffix in CODE and text.count("\n") > MAX_LINES and str(path) not in LONG_FILES
    }
    assert not long, f"longer than {MAX_LINES} lines; split, or list in LONG_FILES with the reason: {long}"


def test_functions_are_short_enough_to_read() -> None:
    long = []
    for path, text in text_files():
        if path.suffix != ".py" or path.parts[0] != "fastmesh":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES and f"{path}:{node.name}" not in LONG_FUNCTIONS:
                    long.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def test_listed_exceptions_still_exist() -> None:
    listed = {*LONG_FILES, *NO_UNIT_TEST, *(name.partition(":")[0] for name in LONG_FUNCTIONS)}
    assert not [path for path in listed if not (ROOT / path).exists()]


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path)
        for path, text in text_files()
        if path.suffix == ".py" and text.strip() and not ast.get_docstring(ast.parse(text))
    ]
    silent += [str(s.path) for s in native.all_sources() if not s.docstring and not header_speaks_for(s)]
    silent += [
        str(p) for p, t in text_files() if p.suffix in (".h", ".c") and not t.lstrip().startswith("/*")
    ]
    assert not silent, f"no docstring: {silent}"


def header_speaks_for(source: native.Source) -> bool:
    """A pxd is the documented header of the pyx beside it."""
    path = ROOT / source.path
    return path.suffix == ".pyx" and path.with_suffix(".pxd").exists()


def test_no_path_of_a_developers_machine() -> None:
    bad = re.compile(
        r"(?<![\w.$}])/(?:" + "|".join(["work", "Users", r"home/(?!user\b|you\b)\w+", "root"]) + r")/\w"
    )
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if bad.search(line)
    ]
    assert not found, "\n".join(found)


def modules_with_code() -> Iterator[Path]:
    for path, text in text_files():
        if path.suffix == ".py" and path.parts[0] == "fastmesh":
            # Data alone (a class without a function) has nothing to test.
            nodes = ast.walk(ast.parse(text))
            if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes):
                yield path
    seen = set()
    for source in native.all_sources():
        module = source.path.with_suffix("")
        if source.functions and not native.is_test_module(source.path) and module not in seen:
            seen.add(module)
            yield source.path


def unit_test_patterns(path: Path) -> list[str]:
    """Where the tests of a module may lie: its folder under ``tests/unit``, its name first in the file's.

    ``fastmesh/config/loader.py`` -> ``tests/unit/config/test_loader*.py``; a package's own code is tested in
    ``test_<package>*.py``; ``src_ext/fastmesh/_native/proto/h1.pxd`` -> ``tests/unit/proto/test_h1*.py``.
    A pxd of types (``h1_t.pxd``) belongs to the module whose types it holds.
    """
    parts = path.with_suffix("").parts
    parts = parts[3:] if parts[0] == "src_ext" else parts[1:]
    folder, name = parts[:-1], parts[-1].strip("_").removesuffix("_t")
    if name == "init":
        name = folder[-1] if folder else "fastmesh"
    return ["/".join(["tests/unit", *folder, f"test_{name}*.py"])]


def test_tests_mirror_the_tree() -> None:
    missing = [
        f"{path}: no {patterns[0]}"
        for path in modules_with_code()
        if str(path) not in NO_UNIT_TEST
        for patterns in [unit_test_patterns(path)]
        if not any(any(ROOT.glob(pattern)) for pattern in patterns)
    ]
    assert not missing, "\n".join(missing)


def test_unit_tests_belong_to_a_module() -> None:
    """A test file whose module is gone or renamed is found too."""
    files = [
        path
        for path in tracked_files()
        if path.parts[0] in ("fastmesh", "src_ext") and path.suffix in (".py", ".pyx", ".pxd", ".h")
    ]
    patterns = {p for path in files if path.parts[-1] != "__init__.pxd" for p in unit_test_patterns(path)}
    known = sorted(re.escape(pattern).replace(r"\*", ".*") for pattern in patterns)
    every = re.compile("|".join(known))
    stray = [
        str(path)
        for path in tracked_files()
        if path.parts[:2] == ("tests", "unit")
        and path.name.startswith("test_")
        and not every.fullmatch(str(path))
    ]
    assert not stray, f"test files that mirror no module: {stray}"


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("fastmesh/units.py", "tests/unit/test_units*.py"),
        ("fastmesh/config/loader.py", "tests/unit/config/test_loader*.py"),
        ("fastmesh/model/__init__.py", "tests/unit/model/test_model*.py"),
        ("src_ext/fastmesh/_native/proto/h1.pxd", "tests/unit/proto/test_h1*.py"),
    ],
)
def test_where_a_test_belongs(path: str, pattern: str) -> None:
    assert unit_test_patterns(Path(path)) == [pattern]
