"""The commands, as click declares them. Each imports what it needs when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fastmesh import __version__
from fastmesh.cli import admin_client, quick
from fastmesh.cli.admin_client import AdminUnreachable, Answer
from fastmesh.cli.layout import Group
from fastmesh.cli.sidecar import sidecar

PORT = click.IntRange(1, 65535)
FORMATS = click.Choice(["text", "json"])


def _admin_address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return admin_client.normalise(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def admin_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--admin",
        default=admin_client.DEFAULT_ADMIN,
        show_default=True,
        envvar="FASTMESH_ADMIN",
        show_envvar=True,
        metavar="ADDRESS",
        callback=_admin_address,
        help="Where the admin API listens: host:port or unix:/path.",
    )(command)


def token_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--token",
        envvar="FASTMESH_ADMIN_TOKEN",
        show_envvar=True,
        metavar="TOKEN",
        help="The token of `admin: {token: …}`, if the file has one.",
    )(command)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""
Examples:
  fastmesh demo                      try it: three origins behind a proxy
  fastmesh run fastmesh.yaml         serve
  fastmesh validate fastmesh.yaml    check a file first
  fastmesh wait -- python app.py     beside an application: start it when ready

Exit codes: 0 done, 1 invalid configuration or start failed, 2 usage,
3 forced by a second signal, 4 drain deadline passed.

Completion: eval "$(fastmesh completion bash)" in ~/.bashrc (zsh and fish too).
""",
)
@click.version_option(__version__, "-V", "--version", message="fastmesh %(version)s")
def cli() -> None:
    """fastmesh, a load balancer and service-mesh sidecar."""


cli.add_command(sidecar)


@cli.command(
    epilog="""
Examples:
  fastmesh run fastmesh.yaml
  fastmesh run --takeover /run/fastmesh/takeover.sock fastmesh.yaml
The second one starts, and upgrades: run again, it takes the listening sockets
over from the process that serves, which finishes what it has begun and ends.
If it cannot start, the other one goes on.

A change of the file is in effect within a second. Signals: TERM and INT finish
what is in progress and end (a second one cuts it off), HUP reads the file
again, USR1 reopens the access log, USR2 starts a successor that takes over.
Exit codes: 0 drained, 1 invalid configuration or start failed, 2 usage,
3 forced by a second signal, 4 drain deadline passed.
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--takeover",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Take over from the fastmesh that listens at this Unix socket, if one does; let the next one do so.",
)
def run(file: Path, takeover: Path | None) -> None:
    """Serve with the configuration FILE."""
    quick.become_supervisor(str(file), str(takeover) if takeover is not None else None)


@cli.command(
    epilog="""
Examples:
  fastmesh validate fastmesh.yaml
  fastmesh validate --format json fastmesh.yaml    for editors and CI
Exit codes: 0 valid, 1 invalid, 2 usage.
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "form", type=FORMATS, default="text", show_default=True)
def validate(file: Path, form: str) -> None:
    """Check the configuration FILE; show all that is wrong."""
    from fastmesh.cli.validation import check

    sys.exit(check(str(file), form))


@cli.command(
    epilog="""
Example:
  fastmesh schema > fastmesh.schema.json
then begin a file with
  # yaml-language-server: $schema=fastmesh.schema.json
and an editor completes and checks it.
"""
)
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    from fastmesh.cli.validation import schema_text

    click.echo(schema_text())


@cli.command(
    epilog="""
Example:
  fastmesh demo
  fastmesh demo --host 0.0.0.0       inside a container
It writes a commented fastmesh.yaml here (never over a file of yours; into
shared memory if this folder cannot be written), starts three origins and
serves, exactly as `fastmesh run` does, until Ctrl-C.
"""
)
@click.option("--host", default="127.0.0.1", show_default=True, help="What the proxy and its admin API bind.")
@click.option("--port", type=PORT, default=8080, show_default=True, help="The proxy's port.")
@click.option("--admin-port", type=PORT, default=9400, show_default=True, help="The admin API's port.")
@click.option("--origin-port", type=PORT, default=9001, show_default=True, help="The first origin's port.")
def demo(host: str, port: int, admin_port: int, origin_port: int) -> None:
    """Try it: three origins, one of them slow, behind a proxy.

    A port that is taken is replaced by a free one.
    """
    from fastmesh.cli.demo import run_demo
    from fastmesh.cli.demo_file import Places

    sys.exit(run_demo(Places(host, port, admin_port, origin_port)))


def _call(method: str, path: str, admin: str, *, token: str | None = None, seconds: float = 5.0) -> Answer:
    try:
        return admin_client.request(method, path, admin, token=token, seconds=seconds)
    except AdminUnreachable as error:
        click.echo(str(error), err=True)
        sys.exit(1)


def _fail(answer: Answer) -> None:
    """Prints why the admin API said no, and exits 1."""
    try:
        problem = answer.json()
        text = "; ".join(str(problem[key]) for key in ("message", "hint") if problem.get(key))
    except (ValueError, AttributeError):
        text = ""
    click.echo(text or f"the admin API answered {answer.status}: {answer.body.strip()}", err=True)
    sys.exit(1)


@cli.command(
    epilog="""
Example:
  fastmesh reload
A change of the file is noticed without this; it says what happened.
Exit codes: 0 applied or unchanged, 1 refused or not running.
"""
)
@admin_option
@token_option
def reload(admin: str, token: str | None) -> None:
    """Let a running fastmesh read its configuration again."""
    answer = _call("POST", "/api/v1/reload", admin, token=token, seconds=60)
    if answer.status not in (200, 409):
        _fail(answer)
    outcome = answer.json()
    click.echo(outcome["result"], err=outcome["result"] == "refused")
    for line in (*outcome.get("changes", ()), *outcome.get("warnings", ())):
        click.echo(f"  {line}")
    for problem in outcome.get("problems", ()):
        place = (
            f"{problem['file']}:{problem['line']}:{problem['column']}" if problem["line"] else problem["file"]
        )
        advice = f"; {problem['suggestion']}" if problem.get("suggestion") else ""
        click.echo(f"  {place}: {problem['message']}{advice}", err=True)
    if outcome.get("error"):
        click.echo(f"  {outcome['error']}".replace("\n", "\n  "), err=True)
    sys.exit(1 if outcome["result"] == "refused" else 0)


@cli.command(
    epilog="""
Examples:
  fastmesh drain --wait              the whole process: returns when it has ended
  fastmesh drain --listener web      no new connections; the process serves on
  fastmesh drain --service user --endpoint 10.0.0.1:8080 --wait
  fastmesh drain --service user --endpoint 10.0.0.1:8080 --undo
What drains by this command lasts until --undo or a restart; `drain: true` in
the file outlasts that.
Exit codes: 0 done (with --wait: drained), 1 refused or not running, 2 usage,
4 the deadline of the process's drain passed and something was cut off.
"""
)
@admin_option
@token_option
@click.option("--listener", metavar="NAME", help="Drain this listener only.")
@click.option("--service", metavar="NAME", help="Drain this service only.")
@click.option("--endpoint", metavar="ADDRESS", help="Drain this endpoint of --service only.")
@click.option("--undo", is_flag=True, help="Let what is named take new requests again.")
@click.option("--wait", is_flag=True, help="Show the progress until it has drained.")
def drain(
    admin: str,
    token: str | None,
    listener: str | None,
    service: str | None,
    endpoint: str | None,
    undo: bool,
    wait: bool,
) -> None:
    """Let a running fastmesh finish what is in progress and end; or only a part of it drain."""
    given = {"listener": listener, "service": service, "endpoint": endpoint}
    target = {key: value for key, value in given.items() if value is not None}
    if listener is not None and len(target) > 1:
        raise click.UsageError("--listener cannot stand beside --service and --endpoint")
    if endpoint is not None and service is None:
        raise click.UsageError("--endpoint needs --service")
    if undo and (wait or not target):
        raise click.UsageError("--undo needs --listener or --service, and no --wait")
    from urllib.parse import urlencode

    from fastmesh.cli import draining

    query = urlencode(target) if target else "watch" if wait else ""
    path = f"/api/v1/{'undrain' if undo else 'drain'}{'?' if query else ''}{query}"
    answer = _call("POST", path, admin, token=token, seconds=60)
    if answer.status not in (200, 202):
        _fail(answer)
    if not target:
        click.echo("draining")
        sys.exit(draining.wait_for_the_end(admin, draining.Display()) if wait else 0)
    outcome = answer.json()
    click.echo(outcome["message"])
    if wait:
        sys.exit(draining.wait_for(outcome["target"], admin, draining.Display()))
    if "note" in outcome:
        click.echo(outcome["note"])


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    from fastmesh.units import parse_duration

    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@cli.command(
    context_settings={"allow_interspersed_args": False},
    epilog="""
Examples:
  fastmesh wait -- python app.py     the application starts when the proxy is ready
  ENTRYPOINT ["fastmesh", "wait", "--timeout", "2m", "--"]      in a Dockerfile
  fastmesh wait && echo ready
CMD takes the place of this command: same pid, standard input and environment;
signals and the exit code are its own. A proxy that intercepts connections lets
those of its own user pass: CMD is not started as that user.
Exit codes: those of CMD; 0 ready, without CMD; 2 usage, 124 not ready in time,
125 CMD must not be started as this user, 126 it cannot be started, 127 there
is no such program.
""",
)
@admin_option
@click.option(
    "--timeout",
    default="60s",
    show_default=True,
    metavar="DURATION",
    callback=_seconds,
    help="How long to wait, such as 90s or 2m.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[CMD]...")
def wait(admin: str, timeout: float, command: tuple[str, ...]) -> None:
    """Wait until a running fastmesh is ready, then start CMD."""
    from fastmesh.cli import waiting

    sys.exit(waiting.wait(admin, timeout, list(command)))


@cli.command(
    epilog="""
Examples:
  fastmesh healthcheck
  fastmesh healthcheck --admin unix:/run/fm.sock
  HEALTHCHECK CMD ["fastmesh", "healthcheck"]      in a Dockerfile
Exit codes: 0 ready, 1 not ready or not running.
"""
)
@admin_option
@click.option("--timeout", "seconds", type=click.FloatRange(0.1, 60), default=3.0, show_default=True)
def healthcheck(admin: str, seconds: float) -> None:
    """Ask a running fastmesh whether traffic is welcome."""
    answer = _call("GET", "/readyz", admin, seconds=seconds)
    click.echo(answer.body.strip(), err=answer.status != 200)
    sys.exit(0 if answer.status == 200 else 1)


@cli.command(
    epilog="""
Examples:
  fastmesh version
  fastmesh version --format json
"""
)
@click.option("--format", "form", type=FORMATS, default="text", show_default=True)
def version(form: str) -> None:
    """Print the version."""
    import platform

    if form == "json":
        facts = {
            "version": __version__,
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "machine": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
        }
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(f"fastmesh {__version__} (Python {platform.python_version()}, {platform.machine()})")


@cli.command(
    epilog="""
Examples:
  eval "$(fastmesh completion bash)"               in ~/.bashrc
  eval "$(fastmesh completion zsh)"                in ~/.zshrc
  fastmesh completion fish > ~/.config/fish/completions/fastmesh.fish
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a SHELL."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    # The script itself, not `source()` of the class, which would first ask the shell for its version.
    maker = kind(cli, {}, "fastmesh", "_FASTMESH_COMPLETE")
    click.echo(maker.source_template % maker.source_vars())
