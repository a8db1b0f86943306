"""Brings a copy of the sources up to date: ``copy_tree.py ROOT COPY``.

Only what changed is copied, with its time of change, so that the build in the copy compiles no more than it
must. Sources that are gone are removed; what the build made there (shared objects, ``build``) stays.
"""

import shutil
import sys
from pathlib import Path

FOLDERS = ("fastmesh", "src_ext", "tests", "bench", "examples")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
MADE = {".so", ".pyc"}


def sources(root: Path) -> dict[Path, Path]:
    """Relative path -> path of each source file."""
    found = {Path(name): root / name for name in FILES if (root / name).is_file()}
    for folder in FOLDERS:
        for path in (root / folder).rglob("*"):
            if path.is_file() and path.suffix not in MADE and "__pycache__" not in path.parts:
                found[path.relative_to(root)] = path
    return found


def main(root: Path, copy: Path) -> None:
    wanted = sources(root)
    for relative in sources(copy).keys() - wanted.keys():
        (copy / relative).unlink()
    for relative, path in wanted.items():
        target = copy / relative
        if target.exists() and target.stat().st_mtime_ns == path.stat().st_mtime_ns:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
