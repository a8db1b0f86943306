import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.sidecar.ranges import merge, parse_networks, parse_ports
from fastmesh.sidecar.rules import PORTS_IN_A_RULE, Interception, _port_matches, rule_set


def test_the_rules_without_options():
    rules = rule_set(Interception(), "IPv4")
    assert rules.chains == (
        "FASTMESH_INBOUND",
        "FASTMESH_IN_REDIRECT",
        "FASTMESH_OUTPUT",
        "FASTMESH_REDIRECT",
    )
    assert rules.jumps == (
        "-A PREROUTING -p tcp -m addrtype --dst-type LOCAL -j FASTMESH_INBOUND",
        "-A OUTPUT -p tcp -j FASTMESH_OUTPUT",
    )
    assert rules.rules == (
        "-A FASTMESH_INBOUND -p tcp -m multiport --dports 9400,15001,15006 -j RETURN",
        "-A FASTMESH_INBOUND -p tcp -j FASTMESH_IN_REDIRECT",
        "-A FASTMESH_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
        "-A FASTMESH_OUTPUT -d 127.0.0.0/8 -j RETURN",
        "-A FASTMESH_OUTPUT -m owner --uid-owner 1337 -j RETURN",
        "-A FASTMESH_OUTPUT -p tcp -j FASTMESH_REDIRECT",
        "-A FASTMESH_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
    )


def test_ipv6_leaves_its_loopback_and_links_alone():
    rules = rule_set(Interception(), "IPv6").rules
    assert "-A FASTMESH_INBOUND -d fe80::/10 -j RETURN" in rules
    assert "-A FASTMESH_OUTPUT -d ::1/128 -j RETURN" in rules
    assert "-A FASTMESH_OUTPUT -d fe80::/10 -j RETURN" in rules
    assert not any("127." in rule for rule in rules)


def test_the_proxys_user_comes_before_whatever_is_chosen():
    """Else a chosen range would send its connections back to it."""
    wanted = Interception(
        uids=(1337, 4000),
        gids=(5,),
        include_outbound_ports=parse_ports(["80"]),
        include_outbound_ranges=parse_networks(["10.0.0.0/8,10.0.0.0/8,fd00::/8,192.0.2.1"]),
        exclude_outbound_ports=parse_ports(["22"]),
        exclude_outbound_ranges=parse_networks(["10.9.0.0/16,fd09::/64"]),
    )
    rules = [rule for rule in rule_set(wanted, "IPv4").rules if "FASTMESH_OUTPUT" in rule]
    assert rules == [
        "-A FASTMESH_OUTPUT -d 127.0.0.0/8 -j RETURN",
        "-A FASTMESH_OUTPUT -m owner --uid-owner 1337 -j RETURN",
        "-A FASTMESH_OUTPUT -m owner --uid-owner 4000 -j RETURN",
        "-A FASTMESH_OUTPUT -m owner --gid-owner 5 -j RETURN",
        "-A FASTMESH_OUTPUT -d 10.9.0.0/16 -j RETURN",
        "-A FASTMESH_OUTPUT -p tcp -m multiport --dports 22 -j RETURN",
        "-A FASTMESH_OUTPUT -d 10.0.0.0/8 -p tcp -m multiport --dports 80 -j FASTMESH_REDIRECT",
        "-A FASTMESH_OUTPUT -d 192.0.2.1/32 -p tcp -m multiport --dports 80 -j FASTMESH_REDIRECT",
    ]


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_direction_without_anything_has_no_chains(family):
    inbound = rule_set(Interception(include_outbound_ports=()), family)
    assert inbound.chains == ("FASTMESH_INBOUND", "FASTMESH_IN_REDIRECT")
    assert len(inbound.jumps) == 1
    outbound = rule_set(Interception(include_inbound_ports=()), family)
    assert outbound.chains == ("FASTMESH_OUTPUT", "FASTMESH_REDIRECT")
    nothing = rule_set(Interception(include_inbound_ports=(), include_outbound_ranges=()), family)
    assert (nothing.chains, nothing.jumps, nothing.rules) == ((), (), ())


def test_ranges_of_one_family_leave_the_other_alone():
    wanted = Interception(include_outbound_ranges=parse_networks(["10.0.0.0/8"]))
    assert "FASTMESH_OUTPUT" in rule_set(wanted, "IPv4").chains
    assert "FASTMESH_OUTPUT" not in rule_set(wanted, "IPv6").chains


@given(st.lists(st.tuples(st.integers(1, 60000), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair)))))
def test_rules_hold_as_many_ports_as_fit(ports):
    wanted = merge(ports)
    matches = list(_port_matches(wanted))
    found = []
    for match in matches:
        words = match.removeprefix(" -p tcp -m multiport --dports ").split(",")
        assert sum(1 + (":" in word) for word in words) <= PORTS_IN_A_RULE
        found += [(int(word.split(":")[0]), int(word.split(":")[-1])) for word in words]
    assert tuple(found) == wanted
    # Two that follow each other would not fit into one.
    assert len(matches) <= len(wanted) // 7 + 1
