"""Changes while running: they apply within a second, whole or not at all, and fail no request."""

from __future__ import annotations

import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from support.client import Client
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.tcp import TcpServer, echo, receive_exactly
from support.waiting import eventually
from support.wire import get

Start = Callable[..., Proxy]
Origins = Callable[..., Origin]
Address = tuple[str, int]


class Site:
    """A configuration that tests change: one listener `web`, one service `s` with a weight for each
    origin."""

    def __init__(self, origins: dict[str, Origin]) -> None:
        self.origins = origins
        self.address: Address = ("127.0.0.1", free_port())
        self.weights = dict.fromkeys(origins, 1)
        self.listeners: dict[str, Any] = {
            "web": {"bind": f"127.0.0.1:{self.address[1]}", "routes": [{"path": "/", "service": "s"}]}
        }
        self.balance: Any = "round_robin"

    def config(self) -> dict[str, Any]:
        endpoints = [
            {"address": self.origins[name].text, "weight": weight} for name, weight in self.weights.items()
        ]
        return {
            "workers": 1,
            "drain": {"timeout": "2s"},
            "listeners": self.listeners,
            "services": {"s": {"endpoints": endpoints, "balance": self.balance}},
        }


def picks(address: Address, count: int) -> Counter[str]:
    with Client(address) as client:
        return Counter(client.request(get("/")).json()["origin"] for _ in range(count))


def applied(proxy: Proxy) -> float:
    return proxy.metric("fastmesh_config_reloads_total", result="applied")


@pytest.fixture
def site(origins: Origins) -> Site:
    return Site({name: origins(name) for name in "ab"})


@pytest.mark.parametrize("way", ["in-place", "rename", "hup", "api"])
def test_weight_changes_the_split_within_a_second(start: Start, site: Site, way: str) -> None:
    proxy = start(site.config())
    assert picks(site.address, 20) == {"a": 10, "b": 10}
    site.weights = {"a": 3, "b": 1}
    if way == "rename":
        proxy.replace(site.config())
    else:
        proxy.write(site.config())
    if way == "hup":
        proxy.signal(signal.SIGHUP)
    if way == "api":
        assert proxy.request("POST", "/api/v1/reload")[0] == 200
    eventually(lambda: picks(site.address, 20) == {"a": 15, "b": 5}, "the new split", within=1.0)
    # Workers adopt a change before the control plane has counted it.
    eventually(lambda: applied(proxy) == 1, "the change to be counted once")


def test_a_write_without_a_change_is_no_change(start: Start, site: Site) -> None:
    proxy = start(site.config())
    proxy.write(proxy.file.read_text() + "\n# a comment\n")
    assert proxy.request("POST", "/api/v1/reload")[0] == 200
    assert proxy.metric("fastmesh_config_reloads_total", result="unchanged") >= 1
    assert applied(proxy) == 0
    assert proxy.api("config")["reloads"]["applied"] == 0


def test_removed_endpoint_finishes_what_it_has(start: Start, site: Site) -> None:
    release = threading.Event()

    def held(exchange: Exchange) -> None:
        assert release.wait(10)
        exchange.reply_echo()

    proxy = start(site.config())
    clients = [Client(site.address) for _ in range(6)]
    with site.origins["a"].answering("/held", held), site.origins["b"].answering("/held", held):
        for client in clients:
            client.send(get("/held"))
        for origin in site.origins.values():
            origin.wait(lambda origin=origin: len(origin.requests_for("/held")) == 3, "three requests each")
        del site.weights["b"]
        proxy.write(site.config())
        eventually(lambda: applied(proxy) == 1, "the change", within=1.0)
        assert picks(site.address, 10) == {"a": 10}
        release.set()
        answers = Counter(client.read_response().json()["origin"] for client in clients)
    assert answers == {"a": 3, "b": 3}
    eventually(
        lambda: site.origins["b"].open_connections() == 0, "the removed endpoint's connections to be closed"
    )
    assert picks(site.address, 10) == {"a": 10}
    for client in clients:
        assert client.request(get("/")).json()["origin"] == "a", "the client's connection outlives the change"
        client.close()


def test_idle_connections_of_a_removed_endpoint_close_at_once(start: Start, site: Site) -> None:
    proxy = start(site.config())
    picks(site.address, 4)
    assert site.origins["b"].open_connections() == 1
    del site.weights["b"]
    proxy.write(site.config())
    eventually(
        lambda: site.origins["b"].open_connections() == 0, "the idle connection to be closed", within=2.0
    )
    assert site.origins["a"].open_connections() == 1, (
        "the connection of the endpoint that stays was closed too"
    )


def test_added_endpoint_gets_its_share(start: Start, site: Site, origins: Origins) -> None:
    proxy = start(site.config())
    site.origins["c"] = origins("c")
    site.weights["c"] = 2
    proxy.write(site.config())
    eventually(lambda: picks(site.address, 20) == {"a": 5, "b": 5, "c": 10}, "the third endpoint", within=1.0)


def test_listener_added_and_removed(start: Start, site: Site) -> None:
    proxy = start(site.config())
    second: Address = ("127.0.0.1", free_port())
    site.listeners["second"] = {"bind": f"127.0.0.1:{second[1]}", "routes": {"/": "s"}}
    proxy.write(site.config())

    def accepts() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(second) == 0

    eventually(accepts, "the new listener", within=1.0)
    with Client(second) as kept:
        assert kept.request(get("/")).status == 200
        del site.listeners["second"]
        proxy.write(site.config())
        # It drains: a connection in use is served once more, then told to go
        eventually(lambda: kept.request(get("/")).says_close, "the last answer", within=2.0)
        assert kept.how_it_ended() == "eof"
        eventually(lambda: not accepts(), "the removed listener to be closed")
    assert picks(site.address, 4).total() == 4


def test_listener_that_moves_to_another_port(start: Start, site: Site) -> None:
    proxy = start(site.config())
    old = site.address
    with Client(old) as kept:
        assert kept.request(get("/")).status == 200
        site.address = ("127.0.0.1", free_port())
        site.listeners["web"]["bind"] = f"127.0.0.1:{site.address[1]}"
        proxy.write(site.config())

        def moved() -> bool:
            with socket.socket() as probe, socket.socket() as gone:
                return probe.connect_ex(site.address) == 0 and gone.connect_ex(old) != 0

        eventually(moved, "the listener at its new port only", within=2.0)
        assert picks(site.address, 4).total() == 4


BROKEN = {
    "syntax": "listeners: [",
    "unknown-service": "listeners: {web: {bind: '127.0.0.1:1', routes: {/: nowhere}}}",
    "empty": "",
    "misspelt": "listners: {}",
    "bad-value": "services: {s: {endpoints: ['127.0.0.1:1'], timeouts: {idle: 5}}}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_invalid_change_is_refused_whole(start: Start, site: Site, name: str) -> None:
    proxy = start(site.config())
    proxy.write(BROKEN[name])
    eventually(
        lambda: proxy.metric("fastmesh_config_reloads_total", result="refused") >= 1,
        "the change to be refused",
    )
    assert picks(site.address, 20) == {"a": 10, "b": 10}
    assert proxy.metric("fastmesh_config_last_reload_successful") == 0
    assert proxy.api("config")["last_reload"]["problems"]
    site.weights = {"a": 3, "b": 1}
    proxy.write(site.config())
    eventually(lambda: picks(site.address, 20) == {"a": 15, "b": 5}, "the corrected file", within=1.0)
    eventually(lambda: proxy.metric("fastmesh_config_last_reload_successful") == 1, "the gauge to follow")


def test_change_that_needs_a_port_in_use_is_refused_whole(start: Start, site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        proxy = start(site.config())
        site.listeners["second"] = {"bind": f"127.0.0.1:{taken.getsockname()[1]}", "routes": {"/": "s"}}
        site.weights = {"a": 3, "b": 1}
        proxy.write(site.config())
        eventually(
            lambda: proxy.metric("fastmesh_config_reloads_total", result="refused") >= 1,
            "the change to be refused",
        )
        assert picks(site.address, 20) == {"a": 10, "b": 10}, "half of a refused change was applied"


def test_no_request_fails_during_changes(start: Start, site: Site, origins: Origins) -> None:
    """Weights, endpoints, routes, policies and listeners change while clients never pause."""
    proxy = start(site.config())
    site.origins["c"] = origins("c")
    stop = threading.Event()
    problems: list[str] = []
    done = [0] * 4

    def load(index: int) -> None:
        client = Client(site.address)
        while not stop.is_set():
            try:
                response = client.request(get(f"/load/{index}/{done[index]}"))
                if response.status != 200 or response.json()["target"] != f"/load/{index}/{done[index]}":
                    problems.append(f"{response.status} {response.error_code}")
                done[index] += 1
                if response.says_close:
                    problems.append("told to close")
            except AssertionError as error:
                problems.append(str(error))
                client = Client(site.address)
        client.close()

    threads = [threading.Thread(target=load, args=(index,), daemon=True) for index in range(4)]
    for thread in threads:
        thread.start()
    changes: list[Callable[[], object]] = [
        lambda: site.weights.update(a=5),
        lambda: site.weights.pop("b"),
        lambda: site.weights.update(c=1),
        lambda: setattr(site, "balance", "maglev"),
        lambda: site.weights.update(b=2),
        lambda: site.listeners["web"]["routes"].insert(
            0, {"path": "/load/1", "service": "s", "timeout": "9s"}
        ),
        lambda: setattr(site, "balance", "least_request"),
        lambda: site.listeners.update(x={"bind": f"127.0.0.1:{free_port()}", "routes": {"/": "s"}}),
        lambda: site.weights.pop("c"),
        lambda: site.listeners.pop("x"),
        lambda: setattr(site, "balance", {"policy": "ring_hash", "key": "path"}),
        lambda: site.weights.update(a=1),
    ]
    for number, change in enumerate(changes, start=1):
        before = sum(done)
        change()
        proxy.replace(site.config())
        eventually(lambda number=number: applied(proxy) == number or problems, f"change {number}")
        eventually(lambda before=before: sum(done) > before + 30 or problems, "requests to go on")
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not problems, problems[:5]


def test_tunnel_outlives_its_endpoint_and_listener(start: Start, site: Site) -> None:
    with TcpServer(echo) as server:
        port = free_port()
        config = site.config()
        config["listeners"]["db"] = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "service": "db"}
        config["services"]["db"] = {"endpoints": [server.text]}
        proxy = start(config)
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(b"before")
            assert receive_exactly(sock, 6) == b"before"
            site.listeners.pop("db", None)
            proxy.write(site.config())
            eventually(lambda: applied(proxy) == 1, "the change")
            sock.sendall(b"behind")
            assert receive_exactly(sock, 6) == b"behind"


def test_listener_renamed_with_a_client_connected(start: Start, site: Site) -> None:
    """The socket goes over to the new name with its clients: the gauges of both stay true."""
    proxy = start(site.config())

    def active() -> dict[str, int]:
        return {row["listener"]: row["connections_active"] for row in proxy.api("listeners")["listeners"]}

    with Client(site.address) as client:
        assert client.request(get("/")).status == 200
        assert active() == {"web": 1}
        site.listeners["shop"] = site.listeners.pop("web")
        proxy.write(site.config())
        eventually(lambda: applied(proxy) == 1, "the change")
        eventually(lambda: active() == {"shop": 1}, "the client to be counted under the new name")
        assert client.request(get("/")).status == 200
    eventually(lambda: active() == {"shop": 0}, "the client to be gone")


def test_retry_never_goes_to_an_endpoint_of_another_service(
    start: Start, site: Site, origins: Origins
) -> None:
    """A request that began before two changes is tried again on the endpoints of its own time: the place of
    one that was removed since must not be another service's by then."""
    release = threading.Event()

    def held(exchange: Exchange) -> None:
        assert release.wait(10)
        exchange.reset()

    proxy = start(site.config())
    stranger = origins("c")
    with (
        site.origins["a"].answering("/held", held),
        site.origins["b"].answering("/held", held),
        Client(site.address) as client,
    ):
        client.send(get("/held"))
        every = list(site.origins.items())
        eventually(lambda: any(origin.requests_for("/held") for _, origin in every), "the request")
        other = next(name for name, origin in every if not origin.requests_for("/held"))
        del site.weights[other]
        proxy.write(site.config())
        eventually(lambda: applied(proxy) == 1, "the endpoint's removal")
        config = site.config()
        config["services"]["t"] = {"endpoints": [stranger.text]}
        config["listeners"]["web"]["routes"].insert(0, {"path": "/t", "service": "t"})
        proxy.write(config)
        eventually(lambda: applied(proxy) == 2, "the other service")
        release.set()
        response = client.read_response()
    assert not stranger.requests_for("/held"), "a request for one service was sent to another"
    assert (response.status, response.error_code) == (502, "upstream_reset")
