"""One name as libc looks it up: candidates, both families, aliases; and SRV records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from fastmesh.discovery import lookup
from fastmesh.discovery.answers import Hosts, Record, Services
from fastmesh.discovery.lookup import Lookups, candidates, reachable
from fastmesh.discovery.system import Settings, System
from support.names import DnsServer, Question, dns_server

pytestmark = pytest.mark.trio

# name and kind -> records, or the word of a refusal; what is not here does not exist
Zone = dict[tuple[str, str], tuple[str, ...] | str]


class Fixed(System):
    """A machine with these settings and this hosts file."""

    def __init__(self, settings: Settings, hosts: str = "/dev/null") -> None:
        super().__init__("/dev/null", hosts)
        self._fixed = settings

    def settings(self) -> Settings:
        return self._fixed


def of(zone: Zone) -> Callable[[Question], list[bytes]]:
    def answer(question: Question) -> list[bytes]:
        found = zone.get((question.name, question.kind))
        if found is None:
            there = any(name == question.name for name, _ in zone)
            return [question.answer(rcode="NOERROR" if there else "NXDOMAIN").to_wire()]
        if found == "silence":
            return []
        if isinstance(found, str):
            return [question.answer(rcode=found).to_wire()]
        records = [record for record in found if not record.startswith("+")]
        more = tuple(record[1:] for record in found if record.startswith("+"))
        return [question.answer(*records, additional=more).to_wire()]

    return answer


def lookups(server: DnsServer, *search: str, ndots: int = 1, hosts: str = "/dev/null") -> Lookups:
    return Lookups(Fixed(Settings((server.address,), search, ndots), hosts))


@pytest.fixture(autouse=True)
def everything_is_reachable(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """What this machine can reach is not what these tests are about."""
    if "reachable" not in request.node.name:
        monkeypatch.setattr(lookup, "reachable", tuple)


@pytest.mark.parametrize(
    ("name", "ndots", "tried"),
    [
        ("api", 1, ["api.a.", "api.b.c.", "api."]),
        ("api.x", 1, ["api.x.", "api.x.a.", "api.x.b.c."]),
        ("api.x", 2, ["api.x.a.", "api.x.b.c.", "api.x."]),
        ("api", 0, ["api.", "api.a.", "api.b.c."]),
        ("api.", 5, ["api."]),
        ("_http._tcp.api", 5, ["_http._tcp.api.a.", "_http._tcp.api.b.c.", "_http._tcp.api."]),
    ],
)
async def test_candidates(name: str, ndots: int, tried: list[str]) -> None:
    assert list(candidates(name, Settings(search=("a", "b.c"), ndots=ndots))) == tried


async def test_all_addresses_of_both_families() -> None:
    zone: Zone = {
        ("api.", "A"): ("api. 60 A 10.0.0.2", "api. 60 A 10.0.0.1"),
        ("api.", "AAAA"): ("api. 20 AAAA 2001:DB8::1", "api. 20 AAAA ::", "api. 20 AAAA ff02::1"),
    }
    with dns_server(of(zone)) as server:
        assert await lookups(server).hosts("api") == Hosts(("10.0.0.1", "10.0.0.2", "2001:db8::1"), 20)
        assert sorted(question.kind for question in server.questions) == ["A", "AAAA"]


async def test_the_search_list_is_gone_through() -> None:
    zone: Zone = {
        ("api.a.", "A"): (),  # it is there, and has no address
        ("api.b.", "A"): "SERVFAIL",
        ("api.b.", "AAAA"): "REFUSED",
        ("api.c.", "A"): ("api.c. 60 A 10.0.0.1",),
        ("api.", "A"): ("api. 60 A 10.6.6.6",),
    }
    with dns_server(of(zone)) as server:
        assert await lookups(server, "a", "b", "c").hosts("api") == Hosts(("10.0.0.1",), 60)
        assert (await lookups(server, "a", "b").hosts("x")).missing == "there is no such name"
        assert (await lookups(server, "a").hosts("api.")).addresses == ("10.6.6.6",)
        del zone["api.", "A"]
        assert (await lookups(server, "a").hosts("api")).missing == "it has no address"
        failed = await lookups(server, "b").hosts("api")
        assert "SERVFAIL" in failed.failed or "REFUSED" in failed.failed  # it may be in that domain


async def test_a_domain_that_makes_the_name_too_long_is_passed_over() -> None:
    with dns_server(of({("api.", "A"): ("api. 60 A 10.0.0.1",)})) as server:
        assert (await lookups(server, ".".join(["x" * 60] * 5)).hosts("api")).addresses == ("10.0.0.1",)


async def test_aliases_are_followed_within_an_answer_and_beyond_it() -> None:
    zone: Zone = {
        ("api.", "A"): ("api. 60 CNAME b.", "b. 5 CNAME c.", "c. 60 A 10.0.0.1"),
        ("api.", "AAAA"): ("api. 60 CNAME b.", "b. 5 CNAME c."),
        ("c.", "AAAA"): ("c. 60 AAAA 2001:db8::1",),
        ("round.", "A"): ("round. 60 CNAME trip.", "trip. 60 CNAME round."),
        ("on.", "A"): ("on. 60 CNAME off.",),
        ("off.", "A"): ("off. 60 CNAME on.",),
        ("dead.", "A"): ("dead. 60 CNAME end.",),
    }
    with dns_server(of(zone)) as server:
        assert await lookups(server).hosts("api.") == Hosts(("10.0.0.1", "2001:db8::1"), 5)
        with trio.fail_after(5):
            assert (await lookups(server).hosts("round.")).failed.startswith("the answer makes no sense")
            assert (await lookups(server).hosts("on.")).failed == "its aliases lead on and on"
        assert (await lookups(server).hosts("dead.")).missing == "there is no such name"


async def test_one_family_does_not_wait_long_for_the_other() -> None:
    zone: Zone = {("api.", "A"): ("api. 60 A 10.0.0.1",), ("api.", "AAAA"): "silence"}
    with dns_server(of(zone)) as server:
        with trio.fail_after(2):
            assert await lookups(server).hosts("api.") == Hosts(("10.0.0.1",), 60, unknown="inet6")
        zone["api.", "AAAA"] = "SERVFAIL"
        assert await lookups(server).hosts("api.") == Hosts(("10.0.0.1",), 60, unknown="inet6")
        del zone["api.", "A"]
        assert "SERVFAIL" in (await lookups(server).hosts("api.")).failed


async def test_the_hosts_file_comes_first(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.0.9 api\n10.0.0.8 api\n")
    with dns_server(of({("api.", "A"): ("api. 60 A 10.0.0.1",)})) as server:
        assert await lookups(server, hosts=str(hosts)).hosts("api") == Hosts(("10.0.0.8", "10.0.0.9"))
        assert (await lookups(server, hosts=str(hosts)).hosts("localhost")).addresses == ("127.0.0.1", "::1")
        assert server.questions == []


async def test_srv_records() -> None:
    name = "_http._tcp.api.a."
    zone: Zone = {
        (name, "SRV"): (
            f"{name} 30 SRV 10 5 8080 One.a.",
            f"{name} 30 SRV 20 0 8081 two.a.",
            f"{name} 30 SRV 20 0 0 none.a.",
            "+one.a. 60 A 10.0.0.1",
            "+one.a. 60 AAAA 2001:db8::1",
            "+other.a. 60 A 10.6.6.6",
        ),
        ("_gone._tcp.api.", "SRV"): ("_gone._tcp.api. 30 SRV 0 0 0 .",),
        ("host.", "A"): ("host. 60 A 10.0.0.1",),
        ("bad.", "SRV"): "SERVFAIL",
    }
    with dns_server(of(zone)) as server:
        found = await lookups(server, "a").services("_http._tcp.api")
        records = (Record(10, 5, 8080, "one.a."), Record(20, 0, 8081, "two.a."))
        assert found == Services(records, {"one.a.": ("10.0.0.1", "2001:db8::1")}, 30)
        gone = await lookups(server).services("_gone._tcp.api.")
        assert gone == Services(missing="its SRV record says that there is none")
        assert (await lookups(server).services("host.")).missing == "it has no SRV record"
        assert (await lookups(server).services("none.")).missing == "there is no such name"
        assert "SERVFAIL" in (await lookups(server).services("bad.")).failed


async def test_reachable_addresses_alone_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a way to neither or to both families, all are."""
    ways = {"10.0.0.1": True, "2001:db8::1": False}
    monkeypatch.setattr(lookup, "_any_way", lambda _, addresses: any(ways[one] for one in addresses))
    assert reachable(["10.0.0.1", "2001:db8::1"]) == ("10.0.0.1",)
    assert reachable(["2001:db8::1"]) == ("2001:db8::1",)
    ways["2001:db8::1"] = True
    assert reachable(["10.0.0.1", "2001:db8::1"]) == ("10.0.0.1", "2001:db8::1")
    ways.update(dict.fromkeys(ways, False))
    assert reachable(["10.0.0.1", "2001:db8::1"]) == ("10.0.0.1", "2001:db8::1")


async def test_reachable_is_the_ipv6_loopback_where_there_is_ipv6(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interfaces = tmp_path / "if_inet6"
    monkeypatch.setattr(lookup, "IF_INET6", str(interfaces))
    assert reachable(["127.0.0.1", "::1"]) == ("127.0.0.1",)
    interfaces.write_text("00000000000000000000000000000001 01 80 10 80       lo\n")
    assert reachable(["127.0.0.1", "::1"]) == ("127.0.0.1",)
    interfaces.write_text("fe800000000000000000000000000001 02 40 20 80     eth0\n")
    assert "127.0.0.1" in reachable(["127.0.0.1", "::1"])
