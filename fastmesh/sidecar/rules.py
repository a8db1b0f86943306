"""The rules of interception: what is redirected to the proxy, and what is not.

Two jumps lead from the chains of the kernel into our own, and nothing else of the nat table is ours:

- PREROUTING -> FASTMESH_INBOUND -> FASTMESH_IN_REDIRECT: connections from elsewhere to addresses of this
  network namespace. What it forwards for others is left alone, and so is what it sends itself, which the nat
  table sees in OUTPUT only.
- OUTPUT -> FASTMESH_OUTPUT -> FASTMESH_REDIRECT: connections that are opened here. An address of its own that
  is not of the loopback counts as any other: it may be one of several that the name of a service gives.

Only the first packet of a connection comes here. The proxy's own connections return before anything else is
asked, so that none comes back to it. 127.0.0.0/8 returns before that: there are Docker's DNS (127.0.0.11),
whose own rules lead to a port that changes, and what the application keeps to itself. Link-local IPv6
addresses mean nothing without their interface, which a redirected connection does not tell.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from fastmesh.sidecar.ranges import ALL_NETWORKS, ALL_PORTS, Network, Networks, Ports, merge

Family = Literal["IPv4", "IPv6"]
FAMILIES: tuple[Family, ...] = ("IPv4", "IPv6")

OURS = "FASTMESH_"
INBOUND, IN_REDIRECT = OURS + "INBOUND", OURS + "IN_REDIRECT"
OUTPUT, REDIRECT = OURS + "OUTPUT", OURS + "REDIRECT"

# Of the multiport match; a range takes two (iptables-extensions(8)).
PORTS_IN_A_RULE = 15
_LOOPBACK = {"IPv4": "127.0.0.0/8", "IPv6": "::1/128"}
_LINK_LOCAL = "fe80::/10"


@dataclass(frozen=True, slots=True)
class Interception:
    """What to redirect where. `uids` and `gids` are those that the proxy runs as. Of what is included, what
    is excluded is left out."""

    uids: tuple[int, ...] = (1337,)
    gids: tuple[int, ...] = ()
    inbound_port: int = 15006
    outbound_port: int = 15001
    admin_port: int = 9400
    include_inbound_ports: Ports = ALL_PORTS
    exclude_inbound_ports: Ports = ()
    include_outbound_ports: Ports = ALL_PORTS
    exclude_outbound_ports: Ports = ()
    include_outbound_ranges: Networks = ALL_NETWORKS
    exclude_outbound_ranges: Networks = ()

    @property
    def own_ports(self) -> Ports:
        """Where the proxy itself listens, and what else is never redirected inbound."""
        own = ((port, port) for port in (self.inbound_port, self.outbound_port, self.admin_port))
        return merge((*own, *self.exclude_inbound_ports))


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Chains of our own, the jumps into them, and what is in them, each a line as iptables-save prints it."""

    chains: tuple[str, ...]
    jumps: tuple[str, ...]
    rules: tuple[str, ...]


def rule_set(wanted: Interception, family: Family) -> RuleSet:
    inbound = tuple(_inbound(wanted, family))
    output = tuple(_output(wanted, family))
    chains: list[str] = []
    jumps: list[str] = []
    rules: list[str] = []
    if inbound:
        chains += [INBOUND, IN_REDIRECT]
        jumps.append(f"-A PREROUTING -p tcp -m addrtype --dst-type LOCAL -j {INBOUND}")
        rules += [*inbound, f"-A {IN_REDIRECT} -p tcp -j REDIRECT --to-ports {wanted.inbound_port}"]
    if output:
        chains += [OUTPUT, REDIRECT]
        jumps.append(f"-A OUTPUT -p tcp -j {OUTPUT}")
        rules += [*output, f"-A {REDIRECT} -p tcp -j REDIRECT --to-ports {wanted.outbound_port}"]
    return RuleSet(tuple(chains), tuple(jumps), tuple(rules))


def _inbound(wanted: Interception, family: Family) -> Iterator[str]:
    if not wanted.include_inbound_ports:
        return
    if family == "IPv6":
        yield f"-A {INBOUND} -d {_LINK_LOCAL} -j RETURN"
    for match in _port_matches(wanted.own_ports):
        yield f"-A {INBOUND}{match} -j RETURN"
    for match in _port_matches(wanted.include_inbound_ports):
        yield f"-A {INBOUND}{match} -j {IN_REDIRECT}"


def _output(wanted: Interception, family: Family) -> Iterator[str]:
    included = [one for one in wanted.include_outbound_ranges if _is_of(one, family)]
    if not included or not wanted.include_outbound_ports:
        return
    yield f"-A {OUTPUT} -d {_LOOPBACK[family]} -j RETURN"
    for uid in wanted.uids:
        yield f"-A {OUTPUT} -m owner --uid-owner {uid} -j RETURN"
    for gid in wanted.gids:
        yield f"-A {OUTPUT} -m owner --gid-owner {gid} -j RETURN"
    if family == "IPv6":
        yield f"-A {OUTPUT} -d {_LINK_LOCAL} -j RETURN"
    for network in wanted.exclude_outbound_ranges:
        if _is_of(network, family):
            yield f"-A {OUTPUT}{_to(network)} -j RETURN"
    for match in _port_matches(wanted.exclude_outbound_ports):
        yield f"-A {OUTPUT}{match} -j RETURN"
    for network, match in product(included, _port_matches(wanted.include_outbound_ports)):
        yield f"-A {OUTPUT}{_to(network)}{match} -j {REDIRECT}"


def _is_of(network: Network, family: Family) -> bool:
    return isinstance(network, ipaddress.IPv4Network) == (family == "IPv4")


def _to(network: Network) -> str:
    return f" -d {network}" if network.prefixlen else ""


def _port_matches(ports: Ports) -> Iterator[str]:
    """As many matches as it takes; one without ports where all are meant, none where none is."""
    if ports == ALL_PORTS:
        yield " -p tcp"
        return
    held: list[str] = []
    room = PORTS_IN_A_RULE
    for first, last in ports:
        places = 1 if first == last else 2
        if places > room:
            yield f" -p tcp -m multiport --dports {','.join(held)}"
            held, room = [], PORTS_IN_A_RULE
        held.append(str(first) if first == last else f"{first}:{last}")
        room -= places
    if held:
        yield f" -p tcp -m multiport --dports {','.join(held)}"
