"""What needs no rules; those that do are in tests/integration/test_interception*.py."""

import os

import pytest

from fastmesh.sidecar import interception, tools
from fastmesh.sidecar.interception import Changes, Seen
from fastmesh.sidecar.rules import Interception, RuleSet, rule_set
from fastmesh.sidecar.table import Table, parse
from fastmesh.sidecar.tools import InterceptionError, Tool, Unsupported

IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fe8000000000000000fc00fffe000001 02 40 20 80     eth0
fd000000000000000000000000000002 02 40 00 82     eth0
20010db8000000000000000000000005 02 40 00 82     eth0
"""


class FakeTool(Tool):
    """A kind of iptables in memory, which understands no more than that a text is fed."""

    __slots__ = ()
    tables: dict = {}  # noqa: RUF012
    fails: dict = {}  # noqa: RUF012

    def read(self):
        return self.tables.get(self.command, Table())

    def restore(self, text):
        if self.command in self.fails:
            raise self.fails[self.command]
        rules = [line for line in text.splitlines() if line.startswith("-A ")]
        chains = [line for line in text.splitlines() if line.startswith(":")]
        self.tables[self.command] = parse("\n".join([*chains, *rules]))


@pytest.fixture
def fakes(monkeypatch):
    """Both kinds for both families, and a lock that no other process of the tests has."""
    monkeypatch.setattr(interception, "_LOCK", f"\0fastmesh-test-{os.getpid()}")
    FakeTool.tables, FakeTool.fails = {}, {}
    monkeypatch.setattr(
        tools, "find", lambda family: [FakeTool(family, mode, f"{mode} {family}") for mode in tools.MODES]
    )
    monkeypatch.setattr(tools, "has_capability", lambda number: True)
    for name in ("own_user_refusal", "other_user_refusal"):
        monkeypatch.setattr(interception, name, lambda wanted: None)
    return FakeTool


def test_addresses_that_matter(tmp_path):
    file = tmp_path / "if_inet6"
    assert interception.ipv6_addresses(file) == []
    file.write_text(IF_INET6)
    assert interception.ipv6_addresses(file) == ["fd00::2", "2001:db8::5"]


def test_a_kind_that_the_kernel_does_not_serve_is_passed_over(fakes):
    """It can be read, for there is nothing; it says so only when it is fed."""
    fakes.fails["nft IPv4"] = Unsupported("no nft_compat")
    said = interception.apply(Interception())
    assert said[0].endswith("by legacy IPv4")
    assert said[1].endswith("by nft IPv6")


def test_a_kind_that_has_rules_is_not_passed_over(fakes):
    fakes.fails["nft IPv4"] = Unsupported("no nft_compat")
    fakes.tables["nft IPv4"] = Table((), ("-A OUTPUT -j ACCEPT",))
    with pytest.raises(Unsupported, match="nft_compat"):
        interception.apply(Interception())
    with pytest.raises(Unsupported, match="nft_compat"):
        interception.apply(Interception(), "nft")
    assert set(fakes.tables) == {"nft IPv4"}


def test_what_cannot_be_undone_is_said_too(fakes):
    rules = rule_set(Interception(), "IPv4")
    tool = FakeTool("IPv4", "nft", "nft IPv4")

    def main():
        with interception._undone_by_failure() as changes:
            assert changes.make(Seen(tool, Table()), rules)
            fakes.fails["nft IPv4"] = InterceptionError("the undoing failed")
            raise InterceptionError("the second failed")

    with pytest.raises(InterceptionError) as raised:
        main()
    assert str(raised.value).splitlines()[0] == "the second failed"
    assert "could not be undone:\nthe undoing failed" in str(raised.value)


def test_what_is_so_already_is_not_done(fakes):
    changes = Changes()
    assert not changes.make(Seen(FakeTool("IPv4", "nft", "nft IPv4"), Table()), RuleSet((), (), ()))
    assert changes.done == []


def test_one_at_a_time(fakes):
    with interception._alone(), pytest.raises(InterceptionError, match="another `fastmesh sidecar iptables`"):
        interception.remove()
    assert "nothing to remove" in interception.remove()[0]
