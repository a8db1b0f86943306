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
LONG_FILES: dict[str, str] = {
    "fastmesh/config/table.py": "one table of every key, read as a whole",
}
LONG_FUNCTIONS: dict[str, str] = {}
CODE = {".py", ".pyi", ".pyx", ".pxd", ".h", ".c"}
# module, or folder with a slash at the end -> where it is tested instead, and why
NEEDS_A_WORKER = "works on the connections of a worker: tests/playbook"
READ_BY_THE_LOADER = "a part of reading a file: tests/unit/config/test_loader.py and test_mistakes.py"
NO_UNIT_TEST: dict[str, str] = {
    "fastmesh/config/expand.py": READ_BY_THE_LOADER,
    "fastmesh/config/kinds.py": READ_BY_THE_LOADER,
    "fastmesh/config/listeners.py": READ_BY_THE_LOADER,
    "fastmesh/config/services.py": READ_BY_THE_LOADER,
    "fastmesh/config/table.py": READ_BY_THE_LOADER,
    "fastmesh/config/texts.py": READ_BY_THE_LOADER,
    "src_ext/fastmesh/_native/core/": NEEDS_A_WORKER,
    "src_ext/fastmesh/_native/proxy/": NEEDS_A_WORKER,
}


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
        if path.suffix == ".py"
        and text.strip()
        and not ast.get_docstring(ast.parse(text))
        # The name of a file of unit tests says it all.
        and path.parts[:2] != ("tests", "unit")
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


def unit_test_pattern(path: Path) -> str:
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
    return "/".join(["tests/unit", *folder, f"test_{name}*.py"])


def imports_of(path: Path) -> set[str]:
    """Dotted names that a test file imports; ``from a import b`` gives ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def exercised_in(folder: Path) -> set[str]:
    """Modules, dotted, that the tests of a folder import: through a test module, what that one cimports."""
    test_modules = {s.module: s for s in native.all_sources() if native.is_test_module(s.path)}
    found = set()
    for path in tracked_files():
        if path.parent == folder and path.suffix == ".py":
            names = imports_of(path)
            found |= names
            for name in names & test_modules.keys():
                found |= {used.rpartition(".")[0] for _, used in test_modules[name].cimports}
                found |= {used for _, used in test_modules[name].cimports}
    return found


def test_tests_mirror_the_tree() -> None:
    """The folder under ``tests/unit`` has a file of the module's name, or one that imports it."""
    missing = []
    for path in modules_with_code():
        pattern = unit_test_pattern(path)
        dotted = ".".join(path.with_suffix("").parts).removeprefix("src_ext.").removesuffix(".__init__")
        if any(ROOT.glob(pattern)) or {str(path), f"{path.parent}/"} & NO_UNIT_TEST.keys():
            continue
        if not any(
            name.removesuffix("_t") == dotted.removesuffix("_t")
            for name in exercised_in(Path(pattern).parent)
        ):
            missing.append(f"{path}: no {pattern}, and nothing beside it imports {dotted}")
    assert not missing, "\n".join(missing)


def test_folders_of_unit_tests_belong_to_a_part() -> None:
    """A folder whose part is gone or renamed is found too."""
    parts = {path.parent.relative_to("fastmesh") for path in tracked_files() if path.parts[0] == "fastmesh"}
    parts |= {Path(source.floor) for source in native.all_sources()}
    others = {Path("bench")}
    folders = {
        path.parent.relative_to("tests/unit")
        for path in tracked_files()
        if path.parts[:2] == ("tests", "unit")
    }
    assert folders <= parts | others, sorted(map(str, folders - parts - others))


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
    assert unit_test_pattern(Path(path)) == pattern
