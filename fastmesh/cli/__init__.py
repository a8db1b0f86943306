"""The command line. `main` is the entry point; what is heavy is imported by the commands that need it."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 usage (see
    `fastmesh.supervisor.drain.Exit` for those of ``run``)."""
    if not sys.platform.startswith("linux"):
        print(
            f"fastmesh needs Linux (it is built on epoll and splice); this is {sys.platform}.",
            file=sys.stderr,
        )
        return 1
    from fastmesh.cli import quick

    code = quick.run(sys.argv[1:] if arguments is None else arguments)
    if code is not None:
        return code
    from fastmesh.cli.commands import cli

    cli.main(args=arguments, prog_name="fastmesh")  # ends by SystemExit with the exit code
    return 0
