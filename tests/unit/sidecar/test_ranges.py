from ipaddress import ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.sidecar.ranges import ALL_NETWORKS, ALL_PORTS, contains, merge, parse_networks, parse_ports


@pytest.mark.parametrize(
    ("texts", "ports"),
    [
        (["80"], ((80, 80),)),
        (["80, 22"], ((22, 22), (80, 80))),
        (["80", "443,8000-8010"], ((80, 80), (443, 443), (8000, 8010))),
        (["5-9,1-4,8-20"], ((1, 20),)),
        (["65535"], ((65535, 65535),)),
        (["1-65535"], ALL_PORTS),
        (["*"], ALL_PORTS),
        (["none"], ()),
    ],
)
def test_ports(texts, ports):
    assert parse_ports(texts) == ports


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "8-5", "1-", "-1", "a", "80,", "1-2-3", "80:90", "*,80", "none,80", "123456"]
)
def test_what_is_no_list_of_ports(text):
    with pytest.raises(ValueError, match="8000-8010"):
        parse_ports([text])


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 20)).map(lambda pair: (pair[0], sum(pair)))))
def test_merged_ports_are_the_same_ports(ports):
    merged = merge(ports)
    for port in range(1, 330):
        assert contains(merged, port) == any(first <= port <= last for first, last in ports)
    assert all(after[0] > before[1] + 1 for before, after in pairwise(merged))


@pytest.mark.parametrize(
    ("texts", "networks"),
    [
        (["10.0.0.0/8"], ["10.0.0.0/8"]),
        (["10.1.2.3"], ["10.1.2.3/32"]),
        (["fd00::/8, 10.0.0.0/9", "10.128.0.0/9,::5"], ["10.0.0.0/8", "::5/128", "fd00::/8"]),
        (["none"], []),
    ],
)
def test_networks(texts, networks):
    assert parse_networks(texts) == tuple(map(ip_network, networks))


def test_all_networks():
    assert parse_networks(["*"]) == ALL_NETWORKS


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("10.0.0.1/8", "the range is `10.0.0.0/8`"),
        ("example.org", "write 10.0.0.0/8"),
        ("10.0.0.0/33", "write 10.0.0.0/8"),
        ("", "write"),
        ("*,10.0.0.0/8", "write"),
    ],
)
def test_what_is_no_list_of_networks(text, match):
    with pytest.raises(ValueError, match=match.replace(".", r"\.")):
        parse_networks([text])
