"""Host names of endpoints, looked up in threads so that the control plane never waits for DNS."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio

from fastmesh.model import Address, Config

log = logging.getLogger("fastmesh.discovery")

Name = tuple[str, int]  # host name and port
Resolved = dict[Name, tuple[Address, ...]]

LOOKUP_TIMEOUT = 5.0  # seconds
REFRESH_INTERVAL = 30.0  # seconds
PARALLEL_LOOKUPS = 8


def names_of(config: Config) -> set[Name]:
    """The host names that the endpoints of `config` need resolved."""
    return {
        (endpoint.address.host, endpoint.address.port)
        for service in config.services.values()
        for endpoint in service.endpoints
        if endpoint.address.kind == "name"
    }


class Resolver:
    """Resolves names and remembers the last good answer of each.

    `resolved` has an entry for each name asked for last, the empty tuple where it was never resolved;
    `failures` says why a name's last lookup failed.
    """

    def __init__(
        self,
        *,
        timeout: float = LOOKUP_TIMEOUT,
        parallel: int = PARALLEL_LOOKUPS,
        getaddrinfo: Callable[..., list[Any]] = socket.getaddrinfo,
    ) -> None:
        self.resolved: Resolved = {}
        self.failures: dict[Name, str] = {}
        self._timeout = timeout
        self._limiter = trio.CapacityLimiter(parallel)
        self._getaddrinfo = getaddrinfo

    async def resolve(self, names: Iterable[Name]) -> Resolved:
        """Look up all `names` and give every address of each, sorted and without duplicates.

        Takes at most about `timeout` seconds. A name whose lookup fails keeps its last good addresses; the
        failure is in `failures`, and logged when it is new. Names not asked for are forgotten.
        """
        wanted = set(names)
        hosts = {host for host, _ in wanted}
        answers: dict[str, tuple[tuple[str, str], ...] | str] = {}
        async with trio.open_nursery() as nursery:
            for host in sorted(hosts):
                nursery.start_soon(self._look_up, host, answers)
        resolved: Resolved = {}
        failures: dict[Name, str] = {}
        for name in sorted(wanted):
            host, port = name
            answer = answers[host]
            if isinstance(answer, str):
                failures[name] = answer
                resolved[name] = self.resolved.get(name, ())
                if self.failures.get(name) != answer:
                    kept = "its last addresses stay in use" if resolved[name] else "it has no address"
                    log.warning("%s cannot be resolved (%s): %s", host, answer, kept)
            else:
                resolved[name] = tuple(_address(family, text, port) for family, text in answer)
        self.resolved, self.failures = resolved, failures
        return resolved

    async def refresh_loop(
        self,
        names: Callable[[], Iterable[Name]],
        on_change: Callable[[Resolved], Awaitable[None]],
        interval: float = REFRESH_INTERVAL,
    ) -> None:
        """Resolve `names()` again every `interval` seconds; call `on_change` when an answer differs."""
        while True:
            await trio.sleep(interval)
            wanted = set(names())
            before = {name: self.resolved.get(name, ()) for name in wanted}
            if not wanted and not before:
                continue
            after = await self.resolve(wanted)
            if after != before:
                await on_change(after)

    async def _look_up(self, host: str, answers: dict[str, tuple[tuple[str, str], ...] | str]) -> None:
        """Put the sorted (family, address) pairs of `host` into `answers`, or why there are none."""
        answers[host] = f"no answer within {self._timeout:g} s"
        with trio.move_on_after(self._timeout):
            # A lookup cannot be interrupted: past its time it ends alone, and holds its place till then.
            answers[host] = await trio.to_thread.run_sync(
                self._blocking, host, abandon_on_cancel=True, limiter=self._limiter
            )

    def _blocking(self, host: str) -> tuple[tuple[str, str], ...] | str:
        try:
            try:
                found = self._getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            except socket.gaierror:  # a machine with nothing but a loopback has no configured family
                found = self._getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            return str(error.strerror if isinstance(error, OSError) and error.strerror else error)
        pairs = {
            ("inet" if family == socket.AF_INET else "inet6", str(address[0]))
            for family, _, _, _, address in found
            if family in (socket.AF_INET, socket.AF_INET6) and "%" not in str(address[0])
        }
        return tuple(sorted(pairs)) or "no address"


def _address(family: str, text: str, port: int) -> Address:
    return Address("inet" if family == "inet" else "inet6", text, port)
