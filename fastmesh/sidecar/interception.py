"""Putting rules of interception in force and taking them away, for both families or not at all."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fastmesh.sidecar import table, tools
from fastmesh.sidecar.processes import other_user_refusal, own_user_refusal
from fastmesh.sidecar.rules import FAMILIES, Family, Interception, RuleSet, rule_set
from fastmesh.sidecar.table import Table
from fastmesh.sidecar.tools import InterceptionError, Mode, Tool, Unsupported

_INET6 = Path("/proc/self/net/if_inet6")
_LOCK = "\0fastmesh-sidecar-iptables"
_NO_RULES = RuleSet((), (), ())


class WrongUser(InterceptionError):
    """An application runs as the user that the rules would exempt, or the proxy as another."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A kind of iptables, and what is in force by it."""

    tool: Tool
    table: Table

    def text_for(self, wanted: RuleSet) -> str | None:
        """What to feed to it so that ``wanted`` is in force; None if it is."""
        if table.is_in_force(self.table, wanted):
            return None
        return table.installation(self.table, wanted) if wanted.chains else table.removal(self.table)


@dataclass(slots=True)
class Changes:
    """What was changed so far, so that a failure can undo it."""

    done: list[Seen] = field(default_factory=list)

    def make(self, seen: Seen, wanted: RuleSet) -> bool:
        """Changes one table and looks whether it became what it should; False if it was so before."""
        text = seen.text_for(wanted)
        if text is None:
            return False
        seen.tool.restore(text)
        self.done.append(seen)
        wrong = table.difference(seen.tool.read(), wanted)
        if wrong is not None:
            raise InterceptionError(
                f"{seen.tool.name} said that it was done, and it was not: {wrong}. Does something else "
                "change rules here at the same time?"
            )
        return True

    def undo(self) -> None:
        """Newest first. Raises InterceptionError about what could not be undone."""
        wrong = []
        for seen in reversed(self.done):
            try:
                seen.tool.restore(table.restoration(seen.tool.read(), seen.table))
            except InterceptionError as error:
                wrong.append(str(error))
        if wrong:
            raise InterceptionError("What was done before that could not be undone:\n" + "\n".join(wrong))


def apply(wanted: Interception, mode: Mode | None = None) -> list[str]:
    """Makes ``wanted`` what is in force, whatever was before; returns lines that say what was done. ``mode``
    None: the kind of iptables that is in use here, or else one that works.

    Raises WrongUser, or InterceptionError; then all is as it was.
    """
    _demand_privilege()
    refusal = own_user_refusal(wanted) or other_user_refusal(wanted)
    if refusal is not None:
        raise WrongUser(refusal)
    with _alone(), _undone_by_failure() as changes:
        return [_for_family(family, partial(_apply, wanted, family, mode, changes)) for family in FAMILIES]


def remove() -> list[str]:
    """Takes everything of ours away, of every kind of iptables; returns lines that say what was done. Raises
    InterceptionError; then all is as it was."""
    _demand_privilege()
    with _alone(), _undone_by_failure() as changes:
        return [_for_family(family, partial(_remove, family, changes)) for family in FAMILIES]


def dry_run(wanted: Interception | None, mode: Mode | None = None) -> list[str]:
    """The texts that `apply` (None: `remove`) would feed to iptables-restore now, each below a comment that
    is the command. Without NET_ADMIN, nothing is taken to be in force. Raises InterceptionError."""
    may_look = tools.has_capability(tools.CAP_NET_ADMIN)

    def show(family: Family) -> str:
        rules = rule_set(wanted, family) if wanted is not None else _NO_RULES
        seen = _look(family, mode, may_look=may_look)
        texts = []
        for number, one in enumerate(seen):
            text = one.text_for(_NO_RULES if number else rules)
            if text is not None:
                texts.append(f"# {' '.join(one.tool.restore_command)}\n{text}")
        return "\n".join(texts) or f"# {family}: nothing to do"

    notes = [] if may_look else ["# without NET_ADMIN: as if no rules of fastmesh were in force"]
    return notes + [_for_family(family, partial(show, family), comment="# ") for family in FAMILIES]


def _demand_privilege() -> None:
    if not tools.has_capability(tools.CAP_NET_ADMIN):
        raise InterceptionError(tools.NEEDS_NET_ADMIN)


@contextmanager
def _alone() -> Iterator[None]:
    """One at a time: an abstract name of a Unix socket belongs to the network namespace, as the rules do."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(_LOCK)
        except OSError as error:
            raise InterceptionError(
                "another `fastmesh sidecar iptables` is at work in this network namespace; try again when it "
                "has ended"
            ) from error
        yield


@contextmanager
def _undone_by_failure() -> Iterator[Changes]:
    changes = Changes()
    try:
        yield changes
    except BaseException as error:
        try:
            changes.undo()
        except InterceptionError as second:
            raise InterceptionError(f"{error}\n{second}") from error
        raise


def _for_family(family: Family, do: Callable[[], str], comment: str = "") -> str:
    """The family's line. IPv6 may be missing where no connection could come or go by it."""
    if family == "IPv6" and not _INET6.exists():
        return f"{comment}IPv6: left out, the kernel has none"
    try:
        return do()
    except Unsupported as error:
        addresses = ipv6_addresses()
        if family == "IPv6" and not addresses:
            said = str(error).splitlines()[0]
            return f"{comment}IPv6: left out, there is no address but ::1 and link-local ones ({said})"
        if family == "IPv6":
            raise InterceptionError(
                f"IPv6 cannot be intercepted, and this network namespace has {', '.join(addresses)}: what "
                "uses it would go past the proxy. Switch IPv6 off (sysctl net.ipv6.conf.all.disable_ipv6=1), "
                f"or mend this:\n{error}"
            ) from error
        raise


def ipv6_addresses(file: Path = _INET6) -> list[str]:
    """Those of this network namespace but for the loopback's and link-local ones, which rules exempt."""
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return []
    every = [ipaddress.IPv6Address(int(line.split()[0], 16)) for line in lines]
    return [str(one) for one in every if not one.is_loopback and not one.is_link_local]


def _look(family: Family, mode: Mode | None, *, may_look: bool = True) -> list[Seen]:
    """What is in force by each kind of iptables that works. First the one to use: ``mode``, or that with
    rules of ours, or with the most rules, or nft. Raises InterceptionError."""
    found = tools.find(family)
    if not any(mode in (None, tool.mode) for tool in found):
        raise tools.missing(family, mode)
    seen, lacking = [], []
    for tool in found:
        try:
            seen.append(Seen(tool, tool.read() if may_look else Table()))
        except Unsupported as error:
            lacking.append(error)
    if not any(mode in (None, one.tool.mode) for one in seen):
        raise Unsupported("\n".join(map(str, lacking)))
    seen.sort(key=lambda one: (one.tool.mode != mode, not one.table.own_chains, -len(one.table.rules)))
    return seen


def _apply(wanted: Interception, family: Family, mode: Mode | None, changes: Changes) -> str:
    rules = rule_set(wanted, family)
    seen = _look(family, mode)
    chosen = seen[0]
    try:
        changed = changes.make(chosen, rules)
    except Unsupported:
        # A kind may be there and be read, and lack the kernel's half. What is not in use may be passed over.
        if mode is not None or chosen.table.rules or len(seen) == 1 or chosen in changes.done:
            raise
        chosen = seen[1]
        changed = changes.make(chosen, rules)
    for other in seen:
        if other is not chosen:
            changes.make(other, _NO_RULES)
    if not rules.chains:
        return f"{family}: nothing to redirect"
    ways = []
    if any(" PREROUTING " in jump for jump in rules.jumps):
        ways.append(f"inbound to port {wanted.inbound_port}")
    if any(" OUTPUT " in jump for jump in rules.jumps):
        ways.append(f"outbound to port {wanted.outbound_port}")
    return f"{family}: {' and '.join(ways)}, by {chosen.tool.name}{'' if changed else ', as before'}"


def _remove(family: Family, changes: Changes) -> str:
    removed = [one.tool.name for one in _look(family, None) if changes.make(one, _NO_RULES)]
    return (
        f"{family}: removed, by {' and '.join(removed)}"
        if removed
        else f"{family}: there was nothing to remove"
    )
