"""`fastmesh sidecar iptables` with real rules, in network namespaces: which connections come to the proxy."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from support.netns import (
    APP,
    LOOPBACK,
    OTHER,
    PEER,
    POD,
    PROXY,
    REFUSED,
    Namespace,
    Voices,
    cable,
    give_address,
    namespaces,
    pod_and_peer,
)

pytestmark = [
    pytest.mark.no_sanitizer,  # the command starts programs without what a sanitizer preloads
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

INBOUND, OUTBOUND, ADMIN = 15006, 15001, 9400
FAMILIES = ("IPv4", "IPv6")
ANY = {"IPv4": "0.0.0.0", "IPv6": "::"}
ROOT_USER = 0


@pytest.fixture(params=["nft", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Pod:
    """A pod with an application on 8000 and 8001, and where a proxy would listen; a peer that listens too."""

    def __init__(self, pod: Namespace, peer: Namespace, mode: str) -> None:
        self.pod, self.peer, self.mode = pod, peer, mode

    def apply(self, *options: str) -> None:
        said = self.pod.done("--apply", "--iptables-mode", self.mode, *options)
        assert said.count(self.mode) == 2, said

    def ask(self, host: str, port: int, uid: int = APP) -> str:
        return self.pod.ask(host, port, uid)


@pytest.fixture
def pod(mode: str) -> Iterator[Pod]:
    with pod_and_peer() as (pod, peer):
        voices = Voices()
        for family in FAMILIES:
            voices.add("inbound", pod.listen(ANY[family], INBOUND, PROXY))
            voices.add("outbound", pod.listen(LOOPBACK[family], OUTBOUND, PROXY))
            voices.add("admin", pod.listen(ANY[family], ADMIN, PROXY))
            for port in (8000, 8001):
                voices.add(f"app {port}", pod.listen(ANY[family], port))
            for port in (7000, 7001, 7002):
                voices.add(f"peer {port}", peer.listen(ANY[family], port))
            for place in (pod, peer):
                server = place.socket(ANY[family], socket.SOCK_DGRAM)
                server.bind((ANY[family], 5353))
                voices.add("by udp", server)
        voices.start()
        try:
            yield Pod(pod, peer, mode)
        finally:
            voices.close()


def test_without_rules_nothing_is_redirected(pod: Pod) -> None:
    for family in FAMILIES:
        assert pod.peer.ask(POD[family], 8000) == "app 8000"
        assert pod.ask(PEER[family], 7000) == "peer 7000"


def test_both_directions_go_through_the_proxy(pod: Pod) -> None:
    pod.apply()
    for family in FAMILIES:
        assert pod.peer.ask(POD[family], 8000) == f"inbound {POD[family]} 8000"
        assert (
            pod.peer.ask(POD[family], 8999) == f"inbound {POD[family]} 8999"
        )  # whether somebody listens or not
        assert pod.ask(PEER[family], 7000) == f"outbound {PEER[family]} 7000"
        assert pod.ask(PEER[family], 7000, ROOT_USER) == f"outbound {PEER[family]} 7000"


def test_the_proxys_own_connections_are_left_alone(pod: Pod) -> None:
    pod.apply()
    for family in FAMILIES:
        assert pod.ask(PEER[family], 7000, PROXY) == "peer 7000"
        assert pod.ask(LOOPBACK[family], 8000, PROXY) == "app 8000"
        assert pod.ask(POD[family], 8000, PROXY) == "app 8000"


def test_the_loopback_is_left_alone_and_an_own_address_is_not(pod: Pod) -> None:
    """A name of a service may give the address of this very replica as well."""
    pod.apply()
    for family in FAMILIES:
        assert pod.ask(LOOPBACK[family], 8000) == "app 8000"
        assert pod.ask(POD[family], 8000) == f"outbound {POD[family]} 8000"
    assert pod.ask("127.8.8.8", 8000) == "app 8000"


def test_ports_of_the_proxy_are_reached_as_they_are(pod: Pod) -> None:
    pod.apply()
    for family in FAMILIES:
        assert pod.peer.ask(POD[family], ADMIN) == "admin"
        # Its own address as the original destination tells the proxy that it was not redirected.
        assert pod.peer.ask(POD[family], INBOUND) == f"inbound {POD[family]} {INBOUND}"
        assert pod.peer.ask(POD[family], OUTBOUND) == REFUSED  # it is on the loopback alone


def test_udp_is_left_alone(pod: Pod) -> None:
    pod.apply()
    for family in FAMILIES:
        assert pod.pod.ask_by_udp(PEER[family], 5353) == "by udp"
        assert pod.peer.ask_by_udp(POD[family], 5353) == "by udp"


def test_other_users_ports_and_groups(pod: Pod) -> None:
    pod.apply("--proxy-uid", str(PROXY), "--proxy-uid", "4000", "--proxy-gid", "5000")
    for family in FAMILIES:
        redirected = f"outbound {PEER[family]} 7000"
        for uid, said in ((PROXY, "peer 7000"), (4000, "peer 7000"), (5000, "peer 7000"), (5001, redirected)):
            assert pod.ask(PEER[family], 7000, uid) == said


def test_the_proxys_ports_can_be_others(pod: Pod) -> None:
    """Those of the usual places changed about, so that somebody listens there."""
    ports = ("--inbound-port", str(ADMIN), "--outbound-port", str(INBOUND), "--admin-port", "8000")
    pod.apply(*ports, "--exclude-inbound-ports", str(OUTBOUND))
    for family in FAMILIES:
        assert pod.peer.ask(POD[family], 8999) == "admin"
        assert pod.peer.ask(POD[family], 8000) == "app 8000"
        assert pod.ask(PEER[family], 7000) == f"inbound {PEER[family]} 7000"


def test_chosen_inbound_ports(pod: Pod) -> None:
    pod.apply("--exclude-inbound-ports", "8001,22")
    for family in FAMILIES:
        assert pod.peer.ask(POD[family], 8000).startswith("inbound")
        assert pod.peer.ask(POD[family], 8001) == "app 8001"
    pod.apply("--include-inbound-ports", "8001", "--include-inbound-ports", "9400-9500")
    for family in FAMILIES:
        assert pod.peer.ask(POD[family], 8000) == "app 8000"
        assert pod.peer.ask(POD[family], 8001).startswith("inbound")
        assert pod.peer.ask(POD[family], ADMIN) == "admin"
        assert pod.ask(PEER[family], 7000).startswith("outbound")


def test_chosen_outbound_ports(pod: Pod) -> None:
    pod.apply("--exclude-outbound-ports", "1-6,7001-7002")
    for family in FAMILIES:
        assert pod.ask(PEER[family], 7000).startswith("outbound")
        assert pod.ask(PEER[family], 7001) == "peer 7001"
        assert pod.ask(PEER[family], 7002) == "peer 7002"
    pod.apply("--include-outbound-ports", "7001-7002", "--exclude-outbound-ports", "7002")
    for family in FAMILIES:
        assert pod.ask(PEER[family], 7000) == "peer 7000"
        assert pod.ask(PEER[family], 7001).startswith("outbound")
        assert pod.ask(PEER[family], 7002) == "peer 7002"


def test_more_ports_than_a_rule_holds(pod: Pod) -> None:
    """Of every list the last port is looked at, and one that is in none."""
    many = ",".join(f"{2 * n}" for n in range(1, 40)) + ",7000-7001"
    pod.apply("--exclude-outbound-ports", many, "--include-inbound-ports", f"{many},8001")
    for family in FAMILIES:
        assert pod.ask(PEER[family], 7001) == "peer 7001"
        assert pod.ask(PEER[family], 7002).startswith("outbound")
        assert pod.peer.ask(POD[family], 8001).startswith("inbound")
        assert pod.peer.ask(POD[family], 8000) == "app 8000"


def test_chosen_ranges(pod: Pod) -> None:
    pod.apply("--exclude-outbound-ranges", "10.77.5.0/24,fd77:5::/64")
    for family in FAMILIES:
        assert pod.ask(PEER[family], 7000).startswith("outbound")
        assert pod.ask(OTHER[family], 7000) == "peer 7000"
    pod.apply("--include-outbound-ranges", "10.77.5.1,192.0.2.0/24", "--include-outbound-ports", "7001")
    assert pod.ask(OTHER["IPv4"], 7001).startswith("outbound")
    assert pod.ask(OTHER["IPv4"], 7000) == "peer 7000"
    assert pod.ask(PEER["IPv4"], 7001) == "peer 7001"
    assert pod.ask(OTHER["IPv6"], 7001) == "peer 7001"  # none of its ranges is included


def test_one_direction_alone(pod: Pod) -> None:
    pod.apply("--include-inbound-ports", "none")
    for family in FAMILIES:
        assert pod.peer.ask(POD[family], 8000) == "app 8000"
        assert pod.ask(PEER[family], 7000).startswith("outbound")
    pod.apply("--include-outbound-ports", "none")
    for family in FAMILIES:
        assert pod.peer.ask(POD[family], 8000).startswith("inbound")
        assert pod.ask(PEER[family], 7000) == "peer 7000"


def test_link_local_addresses_are_left_alone(pod: Pod) -> None:
    """They mean nothing without the interface, which is lost when a connection is redirected."""
    pod.apply()
    shown = pod.pod.run("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link").split()
    address = shown[shown.index("inet6") + 1].split("/")[0]
    index = pod.peer.call(lambda: socket.if_nametoindex("eth0"))
    assert pod.peer.ask(address, 8000, scope=index) == "app 8000"
    shown = pod.peer.run("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link").split()
    address = shown[shown.index("inet6") + 1].split("/")[0]
    index = pod.pod.call(lambda: socket.if_nametoindex("eth0"))
    assert pod.pod.ask(address, 7000, scope=index) == "peer 7000"


def test_after_removal_nothing_is_redirected(pod: Pod) -> None:
    pod.apply()
    pod.pod.done("--remove")
    for family in FAMILIES:
        assert pod.peer.ask(POD[family], 8000) == "app 8000"
        assert pod.ask(PEER[family], 7000) == "peer 7000"


# What Docker puts into a container's network namespace for its DNS, which listens on ports of its own choice.
DOCKER = """\
*nat
:DOCKER_OUTPUT - [0:0]
:DOCKER_POSTROUTING - [0:0]
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:{tcp}
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:{udp}
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport {tcp} -j SNAT --to-source :53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport {udp} -j SNAT --to-source :53
COMMIT
"""


@pytest.mark.parametrize("docker_first", [True, False])
def test_dockers_dns_is_left_alone(mode: str, docker_first: bool) -> None:
    with pod_and_peer(ipv6=False) as (pod, _):
        voices = Voices()
        by_tcp = pod.listen("127.0.0.11", 0, ROOT_USER)
        by_udp = pod.socket("127.0.0.11", socket.SOCK_DGRAM)
        by_udp.bind(("127.0.0.11", 0))
        voices.add("dns by tcp", by_tcp)
        voices.add("dns by udp", by_udp)
        voices.add("outbound", pod.listen("127.0.0.1", OUTBOUND, PROXY))
        voices.start()
        docker = DOCKER.format(tcp=by_tcp.getsockname()[1], udp=by_udp.getsockname()[1])
        try:
            if docker_first:
                pod.restore(f"iptables-{mode}", docker)
                before = pod.rules()
                said = pod.done("--apply")  # it finds out by which kind Docker made its rules
            else:
                said = pod.done("--apply", "--iptables-mode", mode)
                pod.restore(f"iptables-{mode}", docker)
            assert f"iptables-{mode}" in said
            assert pod.ask_by_udp("127.0.0.11", 53) == "dns by udp"
            assert pod.ask("127.0.0.11", 53) == "dns by tcp"
            assert pod.ask("127.0.0.11", by_tcp.getsockname()[1]) == "dns by tcp"
            assert pod.ask(PEER["IPv4"], 7000) == f"outbound {PEER['IPv4']} 7000"
            pod.done("--remove")
            assert pod.ask("127.0.0.11", 53) == "dns by tcp"
            assert pod.ask_by_udp("127.0.0.11", 53) == "dns by udp"
            if docker_first:
                assert pod.rules() == before
        finally:
            voices.close()


def test_what_the_pod_forwards_is_left_alone(mode: str) -> None:
    """Containers within the container, or a tunnel: their connections are not the application's."""
    with namespaces("near", "pod", "far") as (near, pod, far):
        cable(near, "eth0", pod, "eth0")
        cable(pod, "eth1", far, "eth0")
        for place, device, address in (
            (near, "eth0", "10.1.0.1/24"),
            (pod, "eth0", "10.1.0.2/24"),
            (pod, "eth1", "10.2.0.2/24"),
            (far, "eth0", "10.2.0.1/24"),
        ):
            give_address(place, device, address)
        near.run("ip", "route", "add", "default", "via", "10.1.0.2")
        far.run("ip", "route", "add", "default", "via", "10.2.0.2")
        pod.run("tee", "/proc/sys/net/ipv4/ip_forward", text="1")
        voices = Voices()
        voices.add("inbound", pod.listen("0.0.0.0", INBOUND, PROXY))
        voices.add("far", far.listen("0.0.0.0", 8000))
        voices.start()
        try:
            pod.done("--apply", "--iptables-mode", mode)
            assert near.ask("10.2.0.1", 8000) == "far"
            assert near.ask("10.2.0.2", 8000) == "inbound 10.2.0.2 8000"
        finally:
            voices.close()
