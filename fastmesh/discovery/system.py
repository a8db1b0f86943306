"""What this machine says of names: resolv.conf(5) and hosts(5), read again when they change."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from msgspec import Struct

RESOLV_CONF = "/etc/resolv.conf"
HOSTS = "/etc/hosts"
PORT = 53
MOST_SERVERS = 3  # as many as libc asks: MAXNS of <resolv.h>
MOST_NDOTS = 15
MOST_TIMEOUT = 30
MOST_ATTEMPTS = 5
MOST_SEARCH = 32
LOOPBACK = ("127.0.0.1", "::1")


class Settings(Struct, frozen=True):
    """Whom to ask and how: (address, port) of each server; `timeout` are seconds until another is asked."""

    servers: tuple[tuple[str, int], ...] = (("127.0.0.1", PORT),)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: float = 5.0
    attempts: int = 2
    rotate: bool = False
    tcp: bool = False

    @property
    def on_loopback(self) -> bool:
        """The first server is on this machine, such as Docker's: to ask costs nothing, and what it says of
        how long an answer holds is not about the containers that it knows."""
        return ip_address(self.servers[0][0]).is_loopback


def parse_resolv_conf(text: str, host: str = "") -> Settings:
    """The settings in ``text``; what it does not say, and what makes no sense, is as resolv.conf(5) has it.
    ``host``: this machine's name, whose domain is searched when no line says another."""
    servers: list[tuple[str, int]] = []
    search = tuple(filter(None, [host.partition(".")[2]]))
    options: dict[str, str] = {}
    for line in text.splitlines():
        key, *values = line.split("#", 1)[0].split(";", 1)[0].split() or [""]
        if key == "nameserver" and values:
            if _is_address(values[0]):
                servers.append((values[0], PORT))
        elif key in ("search", "domain") and values:
            search = tuple(value.strip(".").lower() for value in values)  # the last line of these holds
        elif key == "options":
            options.update((name, value) for name, _, value in (item.partition(":") for item in values))
    return Settings(
        servers=tuple(servers[:MOST_SERVERS]) or Settings().servers,
        search=tuple(domain for domain in search if domain)[:MOST_SEARCH],
        ndots=_number(options.get("ndots"), 0, 1, MOST_NDOTS),
        timeout=_number(options.get("timeout"), 1, 5, MOST_TIMEOUT),
        attempts=_number(options.get("attempts"), 1, 2, MOST_ATTEMPTS),
        rotate="rotate" in options,
        tcp="use-vc" in options,
    )


def _number(text: str | None, least: int, default: int, most: int) -> int:
    if text is None or not (text.isascii() and text.isdigit()):
        return default
    return max(least, min(int(text[:9]), most))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def addresses_in_hosts(lines: Iterable[str], name: str) -> tuple[str, ...]:
    """The canonical addresses that hosts(5) has for ``name`` (lower case), in its order."""
    found: dict[str, None] = {}
    for line in lines:
        if name not in line.lower():  # before it is taken apart: such files may have 100,000 lines
            continue
        address, *names = line.split("#", 1)[0].split() or [""]
        if name in (one.lower().removesuffix(".") for one in names):
            try:
                known = ip_address(address)
            except ValueError:
                continue
            if "%" not in address:
                found[str(known)] = None
    return tuple(found)


class System:
    """The two files. A missing one is an empty one."""

    def __init__(self, resolv_conf: str = RESOLV_CONF, hosts: str = HOSTS) -> None:
        self._resolv_conf = _Watched(resolv_conf)
        self._hosts = _Watched(hosts)
        self._settings = Settings()
        self._of: dict[str, tuple[str, ...]] = {}

    def settings(self) -> Settings:
        if self._resolv_conf.changed():
            with suppress(Busy):
                text = "".join(self._resolv_conf.lines())
                self._settings = parse_resolv_conf(text, socket.gethostname())
        return self._settings

    def addresses(self, name: str) -> tuple[str, ...]:
        """What this machine itself says of ``name``: its hosts file, and that `localhost` is the loopback
        (RFC 6761 section 6.3)."""
        if self._hosts.changed():
            self._of.clear()  # what cannot be read just now is asked of DNS, which then has no socket either
        name = name.removesuffix(".")
        found = self._of.get(name)
        if found is None:
            try:
                found = self._of[name] = addresses_in_hosts(self._hosts.lines(), name)
            except Busy:
                found = ()
        if not found and (name == "localhost" or name.endswith(".localhost")):
            return LOOPBACK
        return found

    def keep_only(self, names: Iterable[str]) -> None:
        """Forgets what was looked up of others."""
        wanted = {name.removesuffix(".") for name in names}
        self._of = {name: found for name, found in self._of.items() if name in wanted}


class Busy(Exception):
    """A file cannot be read just now, and is likely to be in a moment."""


class _Watched:
    """A small file that others rewrite, in place or by another that takes its name."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._looked = False

    def changed(self) -> bool:
        """Since the last call; the first time it is."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 (this is asked at every lookup)
            stamp: tuple[int, ...] | None = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError:
            stamp = None
        before, self._stamp = self._stamp, stamp
        first, self._looked = not self._looked, True
        return first or stamp != before

    def lines(self) -> Iterator[str]:
        """Raises Busy; the next `changed` is then true."""
        try:
            with Path(self._path).open(encoding="utf-8", errors="replace") as file:
                yield from file
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                self._looked = False
                raise Busy from error
