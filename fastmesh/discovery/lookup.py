"""Looking up one name, the way libc does: hosts file, search list, IPv4 and IPv6 (resolv.conf(5)); and SRV
records (RFC 2782). Unicast DNS alone: no mDNS, no other source of nsswitch.conf(5)."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import trio

from fastmesh.discovery import wire
from fastmesh.discovery.answers import Family, Hosts, Record, Services
from fastmesh.discovery.system import Settings, System
from fastmesh.discovery.wire import NoAnswer

# How much longer one family of addresses is waited for than the other (RFC 8305 section 3 calls it a delay).
SECOND_FAMILY_SECONDS = 0.5
MOST_QUESTIONS = 8  # for one name: a chain of aliases that goes on where an answer ends
IF_INET6 = "/proc/net/if_inet6"
KINDS: Final = {"inet": dns.rdatatype.A, "inet6": dns.rdatatype.AAAA}


def candidates(name: str, settings: Settings) -> Iterator[str]:
    """The absolute names to try for ``name``, in order: one with at least `ndots` dots is tried as it is
    first, another last; one that ends in a dot is tried as it is alone."""
    if name.endswith("."):
        yield name
        return
    searched = [f"{name}.{domain}." for domain in settings.search]
    first = name.count(".") >= settings.ndots
    yield from [f"{name}.", *searched] if first else [*searched, f"{name}."]


class Lookups:
    """Asks. Nothing here has a time limit of its own."""

    def __init__(self, system: System | None = None) -> None:
        self.system = system or System()
        self._turn = 0

    async def hosts(self, name: str) -> Hosts:
        """All addresses of ``name``."""
        own = self.system.addresses(name)
        if own:
            return Hosts(reachable(sorted(own)))
        settings = self.system.settings()
        missing, refused = "there is no such name", ""
        for candidate in candidates(name, settings):
            found = await self._hosts_at(candidate, settings)
            if found.addresses or (found.failed and not found.refused):
                return found
            if found.failed:  # the next domain may have another server behind it
                refused = refused or found.failed
            elif found.missing == NO_ADDRESS:
                missing = found.missing
        return Hosts(failed=refused) if refused else Hosts(missing=missing)

    async def services(self, name: str) -> Services:
        """The SRV records of ``name``."""
        settings = self.system.settings()
        missing, refused = "there is no such name", ""
        for candidate in candidates(name, settings):
            try:
                owner, reply, ttl = await self._ask(candidate, dns.rdatatype.SRV, settings)
            except _Missing as error:
                missing = NO_RECORD if error.there else missing
                continue
            except NoAnswer as error:
                if not error.servfail:
                    return Services(failed=str(error))
                refused = refused or str(error)
                continue
            return _services(owner, reply, ttl)
        return Services(failed=refused) if refused else Services(missing=missing)

    async def _hosts_at(self, name: str, settings: Settings) -> Hosts:
        """Both families at the same time; one that answers does not wait long for the other."""
        got: dict[Family, tuple[tuple[str, ...], float] | _Missing | NoAnswer] = {}

        async def family(kind: Family, scope: trio.CancelScope) -> None:
            try:
                got[kind] = await self._addresses(name, kind, settings)
            except (_Missing, NoAnswer) as error:
                got[kind] = error
            if isinstance(got[kind], tuple):
                scope.deadline = min(scope.deadline, trio.current_time() + SECOND_FAMILY_SECONDS)

        with trio.move_on_after(float("inf")) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(family, "inet", scope)
                nursery.start_soon(family, "inet6", scope)
        return _both(got)

    async def _addresses(
        self, name: str, family: Family, settings: Settings
    ) -> tuple[tuple[str, ...], float]:
        owner, reply, ttl = await self._ask(name, KINDS[family], settings)
        return _addresses_of(reply, owner, KINDS[family]), ttl

    async def _ask(
        self, name: str, kind: dns.rdatatype.RdataType, settings: Settings
    ) -> tuple[dns.name.Name, dns.message.QueryMessage, float]:
        """(owner of the records at the end of the aliases, answer with them, time to live). Raises _Missing
        and NoAnswer."""
        try:
            asked = dns.name.from_text(name)
        except dns.exception.DNSException:  # a search domain made it too long
            raise _Missing(there=False) from None
        least = float("inf")
        for _ in range(MOST_QUESTIONS):
            self._turn += 1
            reply = await wire.ask(asked, kind, settings, self._turn)
            try:
                chain = reply.resolve_chaining()
            except dns.exception.DNSException as error:
                raise NoAnswer(f"the answer makes no sense: {error}", servfail=True) from None
            if chain.answer is not None:
                return chain.canonical_name, reply, min(least, chain.minimum_ttl)
            if reply.rcode() == dns.rcode.NXDOMAIN:
                raise _Missing(there=False)
            if chain.canonical_name == asked:
                raise _Missing(there=True)
            asked = chain.canonical_name  # an alias, and the server did not say of what
            least = min(least, *(alias.ttl for alias in chain.cnames))
        raise NoAnswer("its aliases lead on and on", servfail=True)


NO_ADDRESS = "it has no address"
NO_RECORD = "it has no SRV record"


class _Missing(Exception):
    """``there``: the name exists, and has nothing of what was asked for."""

    def __init__(self, there: bool) -> None:
        self.there = there


def _both(got: dict[Family, tuple[tuple[str, ...], float] | _Missing | NoAnswer]) -> Hosts:
    """One family without an answer leaves what is known of it as it is, when the other has one. A name that
    does not exist for one does not exist."""
    found: list[tuple[tuple[str, ...], float]] = []
    unknown: list[Family] = []
    failures: list[NoAnswer] = []
    there = True
    for kind in KINDS:
        family: Family = "inet" if kind == "inet" else "inet6"
        one = got.get(family, NoAnswer("no answer in time"))
        if isinstance(one, tuple):
            found.append(one)
        elif isinstance(one, NoAnswer):
            failures.append(one)
            unknown.append(family)
        else:
            there = there and one.there
    if found:
        addresses = reachable(sorted({address for part, _ in found for address in part}))
        return Hosts(addresses, min(ttl for _, ttl in found), unknown=unknown[0] if unknown else None)
    if not there:
        return Hosts(missing="there is no such name")
    if failures:
        return Hosts(failed=str(failures[0]), refused=all(failure.servfail for failure in failures))
    return Hosts(missing=NO_ADDRESS)


def _services(owner: dns.name.Name, reply: dns.message.QueryMessage, ttl: float) -> Services:
    records = [
        Record(one.priority, one.weight, one.port, one.target.to_text().lower())
        for one in reply.find_rrset(reply.answer, owner, dns.rdataclass.IN, dns.rdatatype.SRV)
    ]
    records = [one for one in records if one.target != "." and one.port]
    if not records:
        return Services(missing="its SRV record says that there is none")
    addresses: dict[str, tuple[str, ...]] = {}
    for target in {one.target for one in records}:
        name = dns.name.from_text(target)
        both = (_addresses_of(reply, name, kind, reply.additional) for kind in KINDS.values())
        found = reachable(sorted(address for part in both for address in part))
        if found:
            addresses[target] = found
    return Services(tuple(sorted(records)), addresses, ttl)


def _addresses_of(
    reply: dns.message.QueryMessage,
    owner: dns.name.Name,
    kind: dns.rdatatype.RdataType,
    section: list[dns.rrset.RRset] | None = None,
) -> tuple[str, ...]:
    section = reply.answer if section is None else section
    found = reply.get_rrset(section, owner, dns.rdataclass.IN, kind)
    known = (ip_address(one.address) for one in found or ())
    # 0.0.0.0 is how some servers say that there is none, and means this machine to connect(2).
    return tuple(str(one) for one in known if not one.is_unspecified and not one.is_multicast)


def reachable(addresses: Iterable[str]) -> tuple[str, ...]:
    """Without those of a family that this machine has no way to at all, if it has one to the other's: a name
    with IPv6 addresses means nothing in a network without IPv6. Nothing is sent."""
    families: dict[int, list[str]] = {}
    for address in addresses:
        families.setdefault(socket.AF_INET6 if ":" in address else socket.AF_INET, []).append(address)
    if len(families) == 2:
        with_a_way = [family for family, found in families.items() if _any_way(family, found)]
        if len(with_a_way) == 1:
            return tuple(families[with_a_way[0]])
    return tuple(addresses)


def _any_way(family: int, addresses: Iterable[str]) -> bool:
    for address in addresses:
        if address == "::1" and not _has_ipv6():
            continue  # every machine has it, and few listen there: AI_ADDRCONFIG of getaddrinfo(3)
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((address, 9))
            return True
        except OSError:
            continue
    return False


def _has_ipv6() -> bool:
    """Whether an interface other than the loopback has an IPv6 address."""
    try:
        return any(not line.endswith(" lo") for line in Path(IF_INET6).read_text().splitlines())
    except OSError:
        return False
