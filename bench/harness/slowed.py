"""A copy of fastmesh that burns CPU time for each request, to prove that the suite sees a slower fastmesh.

It is built of the sources as they are now, into a folder of its own below `build/`, with
`FASTMESH_SLOWDOWN_NS` (see `setup.py`). The modules in the source tree stay as they are.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.harness.place import ROOT, BenchError

_ASK = "from fastmesh._native.core import engine; print(engine.SLOWDOWN_NS, engine.__file__)"


def _say_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def slowed_python_path(
    nanoseconds: int, say: Callable[[str], None] = _say_to_stderr, python: str = sys.executable
) -> Path:
    """A folder with a fastmesh each of whose exchanges burns so many nanoseconds more of CPU time.

    To run it with `python`, set `PYTHONPATH` to the folder and `PYTHONSAFEPATH` to 1, or the package in the
    current folder is taken. Building takes under a minute; a copy of the same sources is used again.
    BenchError: it cannot be built, or what was built is not slowed.
    """
    if nanoseconds <= 0:
        raise BenchError(f"a slowed fastmesh needs some nanoseconds, not {nanoseconds}")
    tree = ROOT / "build" / f"slowed-{nanoseconds}"
    library = tree / "lib"
    stamp, sources = tree / "sources", _digest(python)
    if not stamp.exists() or stamp.read_text() != sources:
        stamp.unlink(missing_ok=True)
        say(f"building a fastmesh that is {nanoseconds} ns slower (up to a minute)")
        _build(nanoseconds, tree, library, say, python)
        _remove_what_is_gone(library)
    _check(nanoseconds, library, python)
    stamp.write_text(sources)
    return library


def _digest(python: str) -> str:
    """Of everything that the copy is made of."""
    digest = hashlib.sha256(python.encode())
    files = [ROOT / "setup.py", *(ROOT / "fastmesh").rglob("*.py*"), *(ROOT / "src_ext").rglob("*.*")]
    for path in sorted(files):
        if path.is_file() and path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".h"):
            digest.update(f"{path.relative_to(ROOT)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _build(nanoseconds: int, tree: Path, library: Path, say: Callable[[str], None], python: str) -> None:
    """Says which module is compiled, which setuptools tells when it begins with one."""
    argv = [python, "setup.py", "build", "--build-base", str(tree), "--build-lib", str(library)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTMESH_")}
    environment["FASTMESH_SLOWDOWN_NS"] = str(nanoseconds)
    told: list[str] = []
    with subprocess.Popen(
        [*argv, "--build-temp", str(tree / "objects")],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                told.append(line)
                if line.startswith("building '"):
                    say(f"compiling {line.split(chr(39))[1]}")
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        raise BenchError(
            f"the slowed fastmesh could not be built ({child.returncode}):\n{''.join(told[-30:])}"
        )


def _remove_what_is_gone(library: Path) -> None:
    """`build` copies the Python half and leaves there what was deleted since."""
    for path in library.rglob("*"):
        if (
            path.is_file()
            and path.suffix in (".py", ".pyi")
            and not (ROOT / path.relative_to(library)).exists()
        ):
            path.unlink()


def _check(nanoseconds: int, library: Path, python: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(library), "PYTHONSAFEPATH": "1"}
    result = subprocess.run(
        [python, "-c", _ASK], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    slowdown, _, path = result.stdout.strip().partition(" ")
    if result.returncode or slowdown != str(nanoseconds) or not Path(path).is_relative_to(library):
        raise BenchError(
            f"{library} holds no fastmesh slowed by {nanoseconds} ns; remove its folder and try again:\n"
            f"{result.stdout}{result.stderr}"
        )
