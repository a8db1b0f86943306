"""``fastmesh wait`` and ``fastmesh run FILE`` as they mostly are, without the library of the other commands,
whose import takes longer than either. What is not plain, help and mistakes among it, is left to
`fastmesh.cli.commands`."""

from __future__ import annotations

import os
import sys


def run(arguments: list[str]) -> int | None:
    """The exit code; None: nothing was done."""
    command, rest = arguments[:1], arguments[1:]
    if command == ["wait"]:
        return _wait(rest)
    if command == ["run"] and len(rest) == 1 and not rest[0].startswith("-"):
        become_supervisor(rest[0])
    return None


def become_supervisor(file: str, takeover: str | None = None) -> None:
    """The process goes on as the bare supervisor: the modules of the command line take 1 MiB that an idle
    proxy need not hold. Same pid, same descriptors, same environment."""
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = [file, *([takeover] if takeover is not None else [])]
    os.execv(sys.executable, [sys.executable, *_path_flag(), "-m", "fastmesh.supervisor", *arguments])


def _path_flag() -> list[str]:
    """``-P`` keeps the working directory out of the module path (a `yaml.py` in it must not be imported),
    unless that is where fastmesh itself is imported from."""
    package_root = os.path.realpath(f"{__file__}/../../..")
    return [] if package_root == os.path.realpath(".") else ["-P"]


def _wait(rest: list[str]) -> int | None:
    from fastmesh.cli import admin_client, waiting

    admin = os.environ.get("FASTMESH_ADMIN") or admin_client.DEFAULT_ADMIN
    seconds = waiting.DEFAULT_SECONDS
    while rest and rest[0].startswith("-"):
        word, *rest = rest
        if word == "--":
            break
        name, written, value = word.partition("=")
        if not written and rest:
            value, *rest = rest
        if name == "--admin":
            admin = value
        elif name == "--timeout" and value[-1:] == "s" and value[:-1].isdecimal():
            seconds = float(value[:-1])
        else:
            return None
    try:
        admin = admin_client.normalise(admin)
    except ValueError:
        return None
    return waiting.wait(admin, seconds, rest)
