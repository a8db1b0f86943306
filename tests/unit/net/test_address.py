"""Addresses from the kernel, as text and in ranges: compared with Python's own ideas of them."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastmesh._native.net import _t_destination
from fastmesh._native.net import _t_net as net
from fastmesh.engine.numbering import pack_address
from fastmesh.model import Address

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
BLOCKS = [0, 0xFF, 0xFFFF, 1, 0x0101, 0x7F00]
# Few distinct groups, so that runs of zeros, mapped addresses and near misses of them come up.
ipv6 = st.one_of(
    st.ip_addresses(v=6),
    st.lists(st.sampled_from(BLOCKS), min_size=8, max_size=8).map(
        lambda groups: ipaddress.IPv6Address(struct.pack("!8H", *groups))
    ),
)


def packed(ip: Ip, port: int = 80) -> bytes:
    return pack_address(Address("inet" if ip.version == 4 else "inet6", str(ip), port))


def mapped(ip: ipaddress.IPv4Address) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + ip.packed)


def plain(ip: Ip) -> Ip:
    """An IPv4 address that came as an IPv6 one is an IPv4 address."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


@given(st.ip_addresses(v=4), st.integers(0, 65535))
def test_ipv4(ip: ipaddress.IPv4Address, port: int) -> None:
    for address in (ip, mapped(ip)):
        family, raw, got_port, text = net.peer_of(packed(address, port))
        assert (family, raw[:4], got_port, text) == (4, ip.packed, port, str(ip))


@given(ipv6, st.integers(0, 65535))
@example(ipaddress.IPv6Address("::ffff:0:1.2.3.4"), 1)
@example(ipaddress.IPv6Address("::1.2.3.4"), 1)
@example(ipaddress.IPv6Address("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255"), 1)
def test_ipv6(ip: ipaddress.IPv6Address, port: int) -> None:
    family, raw, got_port, text = net.peer_of(packed(ip, port))
    assert got_port == port
    assert ipaddress.ip_address(text) == plain(ip)
    if ip.ipv4_mapped is None:
        assert (family, raw) == (6, ip.packed)
        assert text == socket.inet_ntop(socket.AF_INET6, ip.packed)


def test_a_unix_peer_has_no_text() -> None:
    family, _, port, text = net.peer_of(struct.pack("=H", socket.AF_UNIX))
    assert (family, port, text) == (1, 0, "")


def range_of(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[bytes, int]:
    if isinstance(network, ipaddress.IPv4Network):
        return mapped(network.network_address).packed, network.prefixlen + 96
    return network.network_address.packed, network.prefixlen


def holds(network: ipaddress.IPv4Network | ipaddress.IPv6Network, ip: Ip) -> bool:
    """An IPv4 address is in ranges of IPv4, and of IPv6 in those that lie within ::ffff:0:0/96."""
    if isinstance(ip, ipaddress.IPv4Address) and isinstance(network, ipaddress.IPv6Network):
        return network.prefixlen >= 96 and mapped(ip) in network
    return ip in network


@given(st.ip_addresses(), st.data())
def test_ranges(ip: Ip, data: st.DataObject) -> None:
    """Around the address: its own ranges of any length, and those that differ in one bit."""
    networks = []
    for _ in range(data.draw(st.integers(0, 4))):
        bits = data.draw(st.integers(0, ip.max_prefixlen))
        value = int(ip) ^ (
            1 << data.draw(st.integers(0, ip.max_prefixlen - 1)) if data.draw(st.booleans()) else 0
        )
        networks.append(
            ipaddress.ip_network((value, bits) if ip.version == 4 else (type(ip)(value), bits), strict=False)
        )
    expected = any(holds(network, plain(ip)) for network in networks)
    assert net.in_ranges(packed(ip), [range_of(network) for network in networks]) == expected


@pytest.mark.parametrize(
    ("ip", "network", "inside"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "0.0.0.0/0", True),
        ("::1", "0.0.0.0/0", False),
        ("10.1.2.3", "::/0", False),
        ("::ffff:10.1.2.3", "::/0", False),
        ("10.1.2.3", "::ffff:10.0.0.0/104", True),
        ("::1", "::/0", True),
        ("192.168.1.129", "192.168.1.128/25", True),
        ("192.168.1.127", "192.168.1.128/25", False),
        ("10.1.2.3", "10.1.2.3/32", True),
        ("10.1.2.2", "10.1.2.3/32", False),
        ("fe80::1", "fe80::/10", True),
        ("fec0::1", "fe80::/10", False),
    ],
)
def test_known_ranges(ip: str, network: str, inside: bool) -> None:
    assert (
        net.in_ranges(packed(ipaddress.ip_address(ip)), [range_of(ipaddress.ip_network(network))]) == inside
    )


def test_a_unix_peer_is_in_no_range() -> None:
    everything = [range_of(ipaddress.ip_network("::/0")), range_of(ipaddress.ip_network("0.0.0.0/0"))]
    assert not net.in_ranges(struct.pack("=H", socket.AF_UNIX), everything)


def test_the_own_side_is_asked_of_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with client, accepted:
            family, raw, port = net.local_of(accepted.fileno())
            assert (family, raw[:4], port) == (4, b"\x7f\0\0\1", server.getsockname()[1])


@given(st.one_of(ipv6, st.ip_addresses(v=4)), st.integers(0, 65535))
def test_an_address_leads_back(ip: Ip, port: int) -> None:
    again, text = _t_destination.there_and_back(packed(ip, port), 0)
    assert again == packed(plain(ip), port)
    host = str(plain(ip)) if plain(ip).version == 4 else f"[{plain(ip)}]"
    assert text.rpartition(":")[2] == str(port)
    assert ipaddress.ip_address(text.rpartition(":")[0].strip("[]")) == plain(ip)
    assert text.startswith("[") == host.startswith("[")


def test_a_link_local_address_keeps_its_interface() -> None:
    again, _ = _t_destination.there_and_back(packed(ipaddress.ip_address("fe80::1")), 7)
    assert struct.unpack("=I", again[24:28]) == (7,)


def test_a_unix_address_leads_nowhere() -> None:
    assert _t_destination.there_and_back(pack_address(Address("unix", path="/x")), 0)[0] == b""
