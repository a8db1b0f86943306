"""Which listener an intercepted connection belongs to, as the native half looks it up: by where it was going.

No I/O, no state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from socket import AF_INET, AF_INET6, inet_pton

from msgspec.structs import replace

from fastmesh.engine.compile import Destination, Endpoints, services_of
from fastmesh.model import Address, Config, Listener

_ANY = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"
_NOWHERE = ("0.0.0.0", "::")  # connections were going to an address, and `::` would read as any


def destinations(
    listener: Listener,
    config: Config,
    endpoints: Mapping[str, Endpoints],
    numbers: Mapping[str, int],
) -> list[Destination]:
    """Whose the connections are that `listener` takes: of two for the same place the first counts.

    ``numbers`` are those of listeners. A listener without `ports` is for all addresses of all services that
    its routes name.
    """
    return [
        (packed, port, numbers[within.name])
        for within in config.listeners.values()
        if within.within == listener.name
        for packed, port in _places(within, endpoints)
    ]


def _places(within: Listener, endpoints: Mapping[str, Endpoints]) -> Iterator[tuple[bytes, int]]:
    if within.ports:
        yield from ((_ANY, port) for port in within.ports)
        return
    for service in sorted(services_of(within) - {""}):
        for address, *_ in endpoints[service]:
            if address.kind in ("inet", "inet6") and address.host not in _NOWHERE:
                yield _packed(address), address.port


def _packed(address: Address) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d. The zone of a link-local address is left out."""
    if address.kind == "inet":
        return _MAPPED + inet_pton(AF_INET, address.host)
    return inet_pton(AF_INET6, address.host.partition("%")[0])


def unjudged(config: Config) -> Config:
    """The configuration without checks, outlier detection, slow start and kept connections of services with
    an `original` endpoint: that is many places, of which none speaks for another or gets what is for it."""
    plain = {
        name: replace(
            service,
            health=None,
            outlier_detection=None,
            slow_start=None,
            upstream=replace(service.upstream, keepalive=0),
        )
        for name, service in config.services.items()
        if any(endpoint.address.kind == "original" for endpoint in service.endpoints)
    }
    return replace(config, services={**config.services, **plain}) if plain else config


def closed_within(before: Config | None, now: Config) -> bool:
    """Whether a listener within another has gone or begun to drain, or one intercepts that did not, or no
    longer does: its clients are to go, too."""
    if before is None:
        return False
    return any(
        (one.within is not None and not one.drain and _has_closed(now.listeners.get(name)))
        or (name in now.listeners and now.listeners[name].intercept != one.intercept)
        for name, one in before.listeners.items()
    )


def _has_closed(listener: Listener | None) -> bool:
    return listener is None or listener.drain or listener.within is None


def refused_news(before: int, now: int) -> tuple[str, ...]:
    """The line about connections that were not redirected, from how often that was counted."""
    count = now - before
    if count <= 0:
        return ()
    return (
        f"{count} connection{'s' * (count > 1)} refused: made to an intercepting listener itself, and not"
        " redirected to it (was its port called by hand, or are the rules in another network namespace?)",
    )
