"""``fastmesh sidecar``: what a sidecar needs beside the proxy itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fastmesh.cli.layout import Command, Group

if TYPE_CHECKING:
    from fastmesh.sidecar.rules import Interception
    from fastmesh.sidecar.tools import Mode

DONE, FAILED, REFUSED = 0, 1, 3
NUMBER = click.IntRange(0, 2**32 - 2)


@click.group(
    cls=Group,
    epilog="""
Example:
  fastmesh sidecar iptables --help
""",
)
def sidecar() -> None:
    """Stand beside an application and take its traffic."""


def _users(context: click.Context, parameter: click.Parameter, numbers: tuple[int, ...]) -> object:
    if 0 in numbers:
        raise click.BadParameter(
            "0 is root, as which most containers run: all that they open would be exempt; run the proxy as a "
            'user of its own (`user: "1337:1337"` in a compose file, `runAsUser: 1337` in a pod)'
        )
    return tuple(dict.fromkeys(numbers))


def _ports(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> object:
    from fastmesh.sidecar.ranges import parse_ports

    return _parsed(parse_ports, texts)


def _ranges(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> object:
    from fastmesh.sidecar.ranges import parse_networks

    return _parsed(parse_networks, texts)


def _parsed(parse: Callable[[tuple[str, ...]], object], texts: tuple[str, ...]) -> object:
    try:
        return parse(texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _list_option(name: str, what: str, callback: Callable[..., object], default: str) -> Callable[..., Any]:
    """Lists, separated by commas or by giving the option again."""
    return click.option(
        name,
        multiple=True,
        default=[default],
        show_default=True,
        metavar="LIST",
        callback=callback,
        help=what,
    )


def _port_option(name: str, what: str, default: int) -> Callable[..., Any]:
    return click.option(
        name,
        type=click.IntRange(1, 65535),
        default=default,
        show_default=True,
        metavar="PORT",
        help=what,
    )


@sidecar.command(
    cls=Command,
    epilog="""
Examples:
  fastmesh sidecar iptables --apply
  fastmesh sidecar iptables --apply --exclude-outbound-ports 5432,9000-9010
  fastmesh sidecar iptables --apply --include-outbound-ranges 10.0.0.0/8,fd00::/8
  fastmesh sidecar iptables --dry-run        what --apply would do, as text
  fastmesh sidecar iptables --remove
Lists are separated by commas: ports and ranges of them (80,8000-8010),
addresses and ranges (10.0.0.0/8). `*` is all of them, `none` not one.
It works on the network namespace that it runs in, and needs NET_ADMIN.
Exit codes: 0 done (with --remove also when there was nothing), 1 failed and all
is as it was, 2 usage, 3 refused: an application runs as the proxy's user, or
the proxy as another.
""",
)
@click.option("--apply", "apply", is_flag=True, help="Put the rules in force, in place of earlier ones.")
@click.option("--remove", "remove", is_flag=True, help="Take the rules away.")
@click.option("--dry-run", is_flag=True, help="Only print what would be fed to iptables-restore.")
@click.option(
    "--proxy-uid",
    "uids",
    type=NUMBER,
    multiple=True,
    default=[1337],
    show_default=True,
    metavar="UID",
    callback=_users,
    help="The user that the proxy runs as; exempt. May be repeated.",
)
@click.option(
    "--proxy-gid",
    "gids",
    type=NUMBER,
    multiple=True,
    metavar="GID",
    callback=_users,
    help="A group that is exempt too. May be repeated; none by default.",
)
@_port_option("--inbound-port", "Where inbound connections go.", 15006)
@_port_option("--outbound-port", "Where outbound connections go.", 15001)
@_port_option("--admin-port", "The admin API's port, which is left alone.", 9400)
@_list_option("--include-inbound-ports", "Inbound ports to redirect.", _ports, "*")
@_list_option("--exclude-inbound-ports", "Inbound ports to leave alone.", _ports, "none")
@_list_option("--include-outbound-ports", "Outbound ports to redirect.", _ports, "*")
@_list_option("--exclude-outbound-ports", "Outbound ports to leave alone.", _ports, "none")
@_list_option("--include-outbound-ranges", "Destinations to redirect.", _ranges, "*")
@_list_option("--exclude-outbound-ranges", "Destinations to leave alone.", _ranges, "none")
@click.option(
    "--iptables-mode",
    type=click.Choice(["auto", "nft", "legacy"]),
    default="auto",
    show_default=True,
    help="The kind of iptables to apply by. auto: the one that has rules here, or that works.",
)
def iptables(apply: bool, remove: bool, dry_run: bool, iptables_mode: str, **settings: Any) -> None:
    """Redirect the connections of this network namespace to the proxy."""
    from fastmesh.sidecar.rules import Interception

    if (apply and remove) or not (apply or remove or dry_run):
        raise click.UsageError("say one of --apply, --remove and --dry-run")
    wanted = Interception(**settings)
    if len({wanted.inbound_port, wanted.outbound_port, wanted.admin_port}) < 3:
        raise click.UsageError("--inbound-port, --outbound-port and --admin-port must differ")
    outbound = wanted.include_outbound_ports and wanted.include_outbound_ranges
    if not wanted.include_inbound_ports and not outbound:
        raise click.UsageError("nothing is left to redirect; --remove takes the rules away")
    mode: Mode | None = None if iptables_mode == "auto" else iptables_mode  # type: ignore[assignment]
    sys.exit(_do(None if remove else wanted, mode, dry_run=dry_run))


def _do(wanted: Interception | None, mode: Mode | None, *, dry_run: bool) -> int:
    """``wanted`` None: remove."""
    from fastmesh.sidecar import interception
    from fastmesh.sidecar.tools import InterceptionError

    try:
        if dry_run:
            lines = interception.dry_run(wanted, mode)
        else:
            lines = interception.remove() if wanted is None else interception.apply(wanted, mode)
    except interception.WrongUser as error:
        click.echo(f"refused: {error}", err=True)
        return REFUSED
    except InterceptionError as error:
        click.echo(str(error), err=True)
        return FAILED
    click.echo("\n".join(lines))
    return DONE
