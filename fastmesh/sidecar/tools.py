"""The programs iptables and ip6tables: which are there, what they say is in force, and what they failed of.

There are two kinds, each with tables of its own in the kernel: *nft* (over nf_tables) and *legacy* (over
ip_tables). A machine or an image may have either or both, and a kernel may serve only one. Each of the two is
three programs: `iptables-nft`, `iptables-nft-save`, `iptables-nft-restore`; without a kind in its name it is
either, and says which by `--version`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastmesh.errors import FastmeshError
from fastmesh.sidecar import table
from fastmesh.sidecar.rules import FAMILIES, Family

Mode = Literal["nft", "legacy"]
MODES: tuple[Mode, ...] = ("nft", "legacy")

# Where distributions put them, which the PATH of an ordinary user leaves out.
_MORE_PLACES = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_NAMES = dict(zip(FAMILIES, ("iptables", "ip6tables"), strict=True))
# The tables of ip_tables that this network namespace has (net/ipv4/netfilter/ip_tables.c).
_LEGACY_TABLES = dict(zip(FAMILIES, ("ip_tables_names", "ip6_tables_names"), strict=True))
_MODULES: dict[tuple[Family, Mode], str] = {
    ("IPv4", "nft"): "nf_tables nft_compat nft_chain_nat",
    ("IPv6", "nft"): "nf_tables nft_compat nft_chain_nat",
    ("IPv4", "legacy"): "ip_tables iptable_nat",
    ("IPv6", "legacy"): "ip6_tables ip6table_nat",
}
_MATCHES = "xt_REDIRECT xt_owner xt_multiport xt_addrtype"
# capability.h
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13
# For who holds the lock of the legacy tables.
LOCK_SECONDS = "10"
_RUN_SECONDS = 60.0

_DENIED = re.compile(r"Permission denied|Operation not permitted|you must be root")
# What iptables-legacy-restore says whatever the reason.
_NO_TABLE = re.compile(r"unable to initialize table")
_LOCKED = re.compile(r"xtables[. ]lock", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"Protocol not supported|Operation not supported|do you need to insmod|missing kernel module|"
    r"No chain/target/match by that name|Could not fetch rule set generation id: Invalid argument|"
    r"RULE_APPEND failed \(No such file|" + _NO_TABLE.pattern
)


class InterceptionError(FastmeshError):
    """Rules cannot be read or put in force; the text says what to do."""


class Unsupported(InterceptionError):
    """The kernel or the image lacks what it takes; another kind of iptables may do."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One kind of iptables for one family. ``command`` is its path, which `-save` and `-restore` follow."""

    family: Family
    mode: Mode
    command: str

    @property
    def name(self) -> str:
        return Path(self.command).name

    @property
    def restore_command(self) -> tuple[str, ...]:
        return (f"{self.command}-restore", "--noflush", "-w", LOCK_SECONDS)

    def read(self) -> table.Table:
        """The nat table that is in force. Raises InterceptionError."""
        if self.mode == "legacy" and not self._has_legacy_table():
            return table.Table()  # to ask iptables for it would make it
        return table.parse(self._run((f"{self.command}-save", "-t", "nat")))

    def _has_legacy_table(self) -> bool:
        try:
            return "nat" in Path("/proc/self/net", _LEGACY_TABLES[self.family]).read_text().split()
        except FileNotFoundError:
            return False
        except PermissionError:
            return True

    def restore(self, text: str) -> None:
        """Puts a transaction in force, or raises InterceptionError and has changed nothing."""
        self._run(self.restore_command, text)

    def _run(self, command: tuple[str, ...], text: str = "") -> str:
        try:
            done = subprocess.run(
                command,
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=_RUN_SECONDS,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise Unsupported(f"{command[0]} cannot be started: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise InterceptionError(f"{command[0]} did not end within {_RUN_SECONDS:g} s") from error
        if done.returncode:
            raise self._failure(Path(command[0]).name, done.returncode, done.stderr)
        return done.stdout

    def _failure(self, program: str, code: int, stderr: str) -> InterceptionError:
        lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("#")]
        said = " / ".join(line.strip() for line in lines) or "nothing"
        what = f"{program} failed with exit code {code} and said: {said}"
        if _LOCKED.search(said):
            return InterceptionError(
                f"{what}\nAnother iptables holds the lock, or its file cannot be written: try again, and on "
                "a read-only file system mount a tmpfs at /run"
            )
        if _DENIED.search(said) or (_NO_TABLE.search(said) and not has_capability(CAP_NET_RAW)):
            return InterceptionError(f"{what}\n{self._how_to_be_allowed()}")
        if _UNSUPPORTED.search(said):
            modules = f"{_MODULES[self.family, self.mode]} {_MATCHES}"
            return Unsupported(
                f"{what}\nThe kernel lacks a part that {self.name} needs for NAT of {self.family}. On the "
                f"machine itself, outside of containers: modprobe -a {modules}"
            )
        return InterceptionError(what)

    def _how_to_be_allowed(self) -> str:
        if not has_capability(CAP_NET_ADMIN):
            return NEEDS_NET_ADMIN
        if self.mode == "legacy" and not has_capability(CAP_NET_RAW):
            return f"{self.name} needs the capability NET_RAW beside NET_ADMIN: cap_add: [NET_ADMIN, NET_RAW]"
        return "It has NET_ADMIN, so something else forbids it: a security profile, or a user namespace"


NEEDS_NET_ADMIN = (
    "rules need root with the capability NET_ADMIN: add `cap_add: [NET_ADMIN]` to the container (in a pod "
    "`securityContext: {runAsUser: 0, capabilities: {add: [NET_ADMIN, NET_RAW]}}`), or let the init image do "
    "this, so that the proxy needs no privilege"
)


def has_capability(number: int) -> bool:
    """Whether this process has a capability (capabilities(7)) in effect."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> number & 1)
    return False


def find(family: Family) -> list[Tool]:
    """What is installed for a family, nft first."""
    name = _NAMES[family]
    found: dict[Mode, Tool] = {}
    for mode in MODES:
        command = _command(f"{name}-{mode}")
        if command is not None:
            found[mode] = Tool(family, mode, command)
    if len(found) < len(MODES):
        command = _command(name)
        if command is not None:
            mode = _mode_of(command)
            found.setdefault(mode, Tool(family, mode, command))
    return [found[mode] for mode in MODES if mode in found]


def _command(name: str) -> str | None:
    """The path of a program whose two companions stand beside it."""
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *_MORE_PLACES))
    restore = shutil.which(f"{name}-restore", path=places)
    if restore is None:
        return None
    command = restore.removesuffix("-restore")
    return command if shutil.which(f"{command}-save") else None


def _mode_of(command: str) -> Mode:
    try:
        said = subprocess.run(
            (f"{command}-restore", "--version"),
            capture_output=True,
            text=True,
            check=False,
            timeout=_RUN_SECONDS,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    return "nft" if "nf_tables" in said else "legacy"  # before there were two it said nothing


def missing(family: Family, mode: Mode | None) -> Unsupported:
    name = _NAMES[family]
    kind = f"{name} of the kind {mode}" if mode else name
    return Unsupported(
        f"there is no {kind} here ({name}-save and {name}-restore belong to it): install it (`apt-get "
        "install iptables`, `apk add iptables`), or use the init image, which has it"
    )
