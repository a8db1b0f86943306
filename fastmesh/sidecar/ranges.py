"""Lists of ports and of address ranges as people write them: `80,8000-8010`, `10.0.0.0/8,fd00::/8`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

# Inclusive, in order, without overlap.
Ports = tuple[tuple[int, int], ...]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = tuple[Network, ...]

ALL_PORTS: Ports = ((1, 65535),)
ALL_NETWORKS: Networks = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
EVERYTHING, NOTHING = "*", "none"
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def _parts(texts: Iterable[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",")]


def parse_ports(texts: Sequence[str]) -> Ports:
    """Ports of lists such as ``80,8000-8010``; ``*`` is all of them, ``none`` no port. Raises ValueError."""
    if list(texts) in ([EVERYTHING], [NOTHING]):
        return ALL_PORTS if texts[0] == EVERYTHING else ()
    found = []
    for part in _parts(texts):
        match = _PORTS.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < first <= last < 65536:
            raise ValueError(f"`{part}` is no port; write numbers and ranges from 1 to 65535: 80,8000-8010")
        found.append((first, last))
    return merge(found)


def merge(ports: Iterable[tuple[int, int]]) -> Ports:
    """The same ports in order, with ranges that touch made one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ports):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def contains(ports: Ports, port: int) -> bool:
    return any(first <= port <= last for first, last in ports)


def parse_networks(texts: Sequence[str]) -> Networks:
    """Ranges of lists such as ``10.0.0.0/8,fd00::/8``, IPv4 first; an address is a range of one. ``*`` is all
    of them, ``none`` no address. Raises ValueError."""
    if list(texts) in ([EVERYTHING], [NOTHING]):
        return ALL_NETWORKS if texts[0] == EVERYTHING else ()
    four: list[ipaddress.IPv4Network] = []
    six: list[ipaddress.IPv6Network] = []
    for part in _parts(texts):
        network = _network(part)
        if isinstance(network, ipaddress.IPv4Network):
            four.append(network)
        else:
            six.append(network)
    return (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six))


def _network(part: str) -> Network:
    try:
        return ipaddress.ip_network(part)
    except ValueError as error:
        if "has host bits set" in str(error):
            meant = ipaddress.ip_network(part, strict=False)
            raise ValueError(f"`{part}` is an address within a range; the range is `{meant}`") from None
        raise ValueError(f"`{part}` is no range of addresses; write 10.0.0.0/8 or fd00::/8") from None
