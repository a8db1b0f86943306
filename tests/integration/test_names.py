"""Endpoints by name, with a real DNS server: found, followed, kept, handed over."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import Client
from support.names import Dnsmasq, with_files
from support.origin import Origin
from support.ports import free_port
from support.proxy import Proxy
from support.waiting import eventually
from support.wire import get

# A sanitizer is loaded into all that is started, and the name server does not stand it.
pytestmark = pytest.mark.no_sanitizer

Origins = Callable[..., Origin]

FOLLOWED_WITHIN = 2.0  # seconds from the change in DNS to the first request there


class Names:
    """A dnsmasq on a loopback address, as Docker has one, and proxies on a machine that asks it alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dnsmasq = Dnsmasq(folder)
        self.resolv_conf = folder / "resolv.conf"
        self.hosts = folder / "hosts"
        self.resolv_conf.write_text(
            f"nameserver {self.dnsmasq.address}\nsearch svc.test test\noptions ndots:2\n"
        )
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.port = free_port()
        self.proxies: list[Proxy] = []

    def site(self, endpoints: Any, **service: Any) -> dict[str, Any]:
        return {
            "workers": 1,
            "drain": {"timeout": "2s"},
            "listeners": {"web": {"bind": f"127.0.0.1:{self.port}", "service": "s"}},
            "services": {"s": {"endpoints": endpoints, "balance": "round_robin", **service}},
        }

    def serve(self, endpoints: Any, *, arguments: tuple[str, ...] = (), **service: Any) -> Proxy:
        under = with_files(self.resolv_conf, self.hosts)
        proxy = Proxy(self.folder, self.site(endpoints, **service), under=under, arguments=arguments)
        self.proxies.append(proxy)
        return proxy.start()

    def stop(self) -> None:
        try:
            for proxy in self.proxies:
                print(proxy.new_stderr())
                proxy.stop()
        finally:
            for proxy in self.proxies:
                proxy.kill()
            self.dnsmasq.stop()

    def status(self) -> int:
        with Client(("127.0.0.1", self.port)) as client:
            return client.request(get("/")).status

    def reached(self, *origins: Origin) -> None:
        """Waits until requests reach each of these."""

        def each() -> bool:
            before = [len(origin.connections) for origin in origins]
            for _ in range(2 * len(origins)):
                assert self.status() == 200
            return all(len(one.connections) > count for one, count in zip(origins, before, strict=True))

        eventually(each, "requests reach every endpoint", within=FOLLOWED_WITHIN)


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Names]:
    names = Names(tmp_path)
    yield names
    names.stop()


def view(proxy: Proxy) -> Any:
    (name,) = proxy.api("services")["names"]
    return name


def test_a_service_that_grows_and_shrinks_is_followed(names: Names, origins: Origins) -> None:
    """By its short name, over the search list; a time to live of 600 s keeps nobody from asking."""
    one = origins("one", host="127.0.0.2")
    two = origins("two", host="127.0.0.3", port=one.address[1])
    names.dnsmasq.start()
    names.dnsmasq.say({"api.test": ["127.0.0.2"]})
    proxy = names.serve({"dns": f"api:{one.address[1]}"}, upstream={"keepalive": 0})
    names.reached(one)
    assert len(two.connections) == 0
    shown = view(proxy)
    assert (shown["name"], shown["addresses"], shown["ttl"]) == ("api", ["127.0.0.2"], 600)
    names.dnsmasq.say({"api.test": ["127.0.0.2", "127.0.0.3"]})
    names.reached(one, two)
    names.dnsmasq.say({"api.test": ["127.0.0.3"]})
    proxy.wait_log(f"now resolves to 127.0.0.3:{one.address[1]}", within=FOLLOWED_WITHIN)
    before = len(one.connections)
    for _ in range(6):
        assert names.status() == 200
    assert len(one.connections) == before
    assert 'fastmesh_dns_lookups_total{name="api"}' in proxy.metrics()
    assert proxy.stderr.count("now resolves to") == 2


def test_a_name_that_does_not_exist_yet(names: Names, origins: Origins) -> None:
    origin = origins()
    names.dnsmasq.start()
    proxy = names.serve([f"later.test:{origin.address[1]}"])
    assert names.status() == 503
    assert view(proxy)["last_error"] == "there is no such name"
    assert 'fastmesh_dns_lookup_failures_total{name="later.test"}' in proxy.metrics()
    names.dnsmasq.say({"later.test": ["127.0.0.1"]})
    eventually(lambda: names.status() == 200, "the name is used", within=FOLLOWED_WITHIN)


def test_what_was_good_outlives_dns_and_the_process(names: Names, origins: Origins) -> None:
    """A name that is gone for a moment, then no server, then a successor that finds none."""
    origin = origins()
    names.dnsmasq.start()
    names.dnsmasq.say({"api.test": ["127.0.0.1"]})
    takeover = ("--takeover", str(names.folder / "takeover.sock"))
    proxy = names.serve([f"api:{origin.address[1]}"], arguments=takeover)
    assert names.status() == 200
    names.dnsmasq.say({})
    proxy.wait_log("its last addresses stay in use")
    assert names.status() == 200
    names.dnsmasq.stop()
    eventually(lambda: "refused" in view(proxy)["last_error"], "the server is gone")
    assert names.status() == 200
    fresh = names.serve([f"api:{origin.address[1]}"], arguments=takeover)
    assert proxy.wait_exit() == 0
    assert view(fresh)["addresses"] == ["127.0.0.1"]
    assert names.status() == 200


def test_srv_records_give_ports_and_priorities(names: Names, origins: Origins) -> None:
    first, second = origins("first"), origins("second")
    at = [f"--srv-host=_http._tcp.api.test,one.test,{first.address[1]},10,5"]
    at += [f"--srv-host=_http._tcp.api.test,two.test,{second.address[1]},20,0"]
    names.dnsmasq.start(*at)
    names.dnsmasq.say({"one.test": ["127.0.0.1"], "two.test": ["127.0.0.1"]})
    proxy = names.serve([{"dns_srv": "_http._tcp.api"}], upstream={"keepalive": 0})
    for _ in range(8):
        assert names.status() == 200
    assert (len(first.connections), len(second.connections)) == (8, 0)
    endpoints = {one["address"]: one["weight"] for one in proxy.api("services")["services"][0]["endpoints"]}
    assert endpoints == {first.text: 5, second.text: 1}
    first.close()
    eventually(lambda: names.status() == 200 and len(second.connections) > 0, "the next priority serves")


def test_the_machines_files_are_followed(names: Names, origins: Origins) -> None:
    """/etc/hosts comes before DNS, and another /etc/resolv.conf is asked by without a restart."""
    one = origins(host="127.0.0.2")
    port = one.address[1]
    two, three = origins(host="127.0.0.3", port=port), origins(host="127.0.0.4", port=port)
    names.dnsmasq.start()
    names.dnsmasq.say({"api.test": ["127.0.0.3"], "api.other": ["127.0.0.4"]})
    names.hosts.write_text("127.0.0.2 api\n")
    names.serve([f"api:{port}"], upstream={"keepalive": 0}, refresh="1s")
    names.reached(one)
    names.hosts.write_text("")
    names.reached(two)
    names.resolv_conf.write_text(f"nameserver {names.dnsmasq.address}\nsearch other\n")
    names.reached(three)


def test_a_silent_server_holds_the_start_for_five_seconds_at_most(names: Names) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((names.dnsmasq.address, 53))
        began = time.monotonic()
        proxy = names.serve(["api.test:80", "db.test:81"])
        assert 5 <= time.monotonic() - began < 12
        assert names.status() == 503
        assert {one["last_error"] for one in proxy.api("services")["names"]} == {"no answer within 5 s"}
