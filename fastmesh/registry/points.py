"""Which names in which folders must be watched to see a path change, and what its content is now.

A path can change without its own folder changing: where it, or a folder above it, is a symlink (the `..data`
of a Kubernetes ConfigMap), the swap happens in the symlink's folder. So each symlink on the way adds a point.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from fastmesh.config.loader import registry_files

ANY_NAME = ""  # stands for every name that is not hidden

Points = dict[Path, set[str]]
Fingerprint = dict[Path, bytes]

_MAX_SYMLINKS = 40  # what the kernel follows in one path


def watch_points(files: Iterable[Path]) -> Points:
    """Folder -> names in it. A path that is a folder itself (the registry) is watched for any name."""
    points: Points = {}
    for file in files:
        _add_path(points, Path(os.path.abspath(file)))  # noqa: PTH100 (no resolving: the symlinks matter)
        if file.is_dir():
            points.setdefault(Path(os.path.realpath(file)), set()).add(ANY_NAME)
    return points


def _add_path(points: Points, path: Path) -> None:
    """Add `path` itself, and each symlink that is met on the way to it."""
    waiting = list(reversed(path.parts[1:]))
    current = Path("/")
    links = 0
    while waiting:
        name = waiting.pop()
        if name == "..":
            current = current.parent
            continue
        step = current / name
        try:
            target = os.readlink(step) if stat.S_ISLNK(step.lstat().st_mode) else None  # noqa: PTH115
        except OSError:
            target = None
        if target is None:
            if not waiting:
                points.setdefault(current, set()).add(name)
            current = step
            continue
        points.setdefault(current, set()).add(name)
        links += 1
        if links > _MAX_SYMLINKS:
            return
        if target.startswith("/"):
            current = Path("/")
        waiting.extend(part for part in reversed(Path(target).parts) if part != "/")


def concerns(points: Points, folder: Path, name: str) -> bool:
    """Whether an event on `name` in `folder` may be a change of what is watched."""
    names = points.get(folder)
    if names is None:
        return False
    if name == "" or name in names:
        return True
    return ANY_NAME in names and not name.startswith(".") and name.endswith((".yaml", ".yml"))


def fingerprint(files: Iterable[Path]) -> Fingerprint:
    """A digest of each path now: a file's bytes, a folder's names, or why it cannot be read."""
    result: Fingerprint = {}
    for file in files:
        try:
            if file.is_dir():
                content = b"folder\0" + b"\0".join(os.fsencode(name) for name in registry_files(file))
            else:
                content = b"file\0" + file.read_bytes()
        except OSError as error:
            content = _unreadable(error.errno)
        result[file] = _digest(content)
    return result


def digest_of_missing() -> bytes:
    """What `fingerprint` gives for a path that does not exist."""
    return _digest(_unreadable(errno.ENOENT))


def _unreadable(number: int | None) -> bytes:
    return b"error\0" + str(number).encode()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
