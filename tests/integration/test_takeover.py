"""Upgrades: a second process takes over everything from the one that serves, or fails and changes nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chaos.programs import IdOrigin, Load
from support.client import Client
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.upgrade import (
    NewConnections,
    end,
    is_running,
    process_of,
    successor,
    upgrade,
    wait_serving,
)
from support.waiting import eventually
from support.wire import get

Origins = Callable[..., Origin]
Begin = Callable[..., Proxy]
Next = Callable[..., Proxy]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "takeover.sock"


@pytest.fixture
def processes(path: Path) -> Iterator[list[Proxy]]:
    """All that the test starts: those that still run at its end are stopped, with their verdict."""
    started: list[Proxy] = []
    yield started
    for proxy in started:
        print(f"--- pid {proxy.process and proxy.process.pid}\n{proxy.new_stderr()}")
    try:
        for proxy in reversed(started):
            if proxy.is_alive():
                proxy.stop()
            proxy.check_output()
    finally:
        for proxy in started:
            proxy.kill()
    assert not path.exists()


@pytest.fixture
def begin(tmp_path: Path, path: Path, processes: list[Proxy]) -> Begin:
    """The first process, on a configuration."""

    def begin(config: dict[str, Any], **settings: Any) -> Proxy:
        proxy = Proxy(tmp_path, config, arguments=("--takeover", str(path)))
        processes.append(proxy)
        return proxy.start(**settings)

    return begin


@pytest.fixture
def follow(processes: list[Proxy]) -> Next:
    """A process that takes over from the one given; that one drains, and ends with 0 unless `held`."""

    def follow(
        before: Proxy, config: dict[str, Any] | None = None, *, held: bool = False, apart: bool = False
    ) -> Proxy:
        after = upgrade(before, config, apart=apart)
        processes.append(after)
        pids = before.pid, after.pid
        assert f"taking over from pid {pids[0]} (fastmesh " in after.stderr
        before.wait_log(f"handed over to pid {pids[1]} (fastmesh ")
        if not held:
            assert before.wait_exit() == 0
            before.check_output()
        return after

    return follow


def site(port: int, endpoints: list[Any], **more: Any) -> dict[str, Any]:
    service = more.pop("service", {})
    return {
        "workers": 1,
        "drain": {"timeout": "5s"},
        "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "s"}}},
        "services": {"s": {"endpoints": endpoints, **service}},
        **more,
    }


def fetch(address: tuple[str, int] | str, target: str = "/") -> Any:
    with Client(address) as client:
        response = client.request(get(target))
        assert response.status == 200, response
        return response.json()


def states(proxy: Proxy) -> dict[str, Any]:
    return {item["address"]: item for item in proxy.api("services")["services"][0]["endpoints"]}


@contextmanager
def held(origin: Origin, address: tuple[str, int] | str) -> Iterator[tuple[Client, threading.Event]]:
    """A request that is with the origin until it is released; it is answered in the end."""
    release = threading.Event()

    def hold(exchange: Exchange) -> None:
        assert release.wait(30)
        exchange.reply_echo()

    with origin.answering("/held", hold), Client(address, timeout=20) as client:
        client.send(get("/held"))
        origin.wait_request("/held")
        try:
            yield client, release
        finally:
            release.set()


def sockets_of(pid: int) -> set[str]:
    """The sockets that a process has open, by their inodes."""
    found = set()
    for item in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = str(item.readlink())
            if target.startswith("socket:"):
                found.add(target)
    return found


# ---------------------------------------------------------------- nothing is lost


def test_five_upgrades_under_load(begin: Begin, follow: Next, origins: Origins, tmp_path: Path) -> None:
    """Other numbers of workers each time; the first one's socket, and what joined it, serve to the end."""
    port = free_port()
    origin = IdOrigin(0, free_port(), tmp_path)
    address = ("127.0.0.1", port)
    try:
        config = site(port, [origin.text])
        config["services"]["new"] = {"endpoints": [origins().text]}
        config["listeners"]["web"]["routes"] = {"/new": "new", "/": "s"}
        proxy = begin(config)
        load = Load(port, tmp_path / "load.log", seconds=60, connections=16)
        load.wait_started()
        with NewConnections(address) as new:
            for workers in (3, 1, 2, 2, 1):
                before = new.answered
                proxy = follow(proxy, {**config, "workers": workers})
                eventually(lambda: new.answered > before + 20, "new connections")  # noqa: B023
                assert len(proxy.api("workers")["workers"]) == workers
        kept = load.finish()
    finally:
        origin.stop()
    assert not new.failures, new.failures
    assert kept.failed() == 0, f"{kept.error_text()}\n{kept.log}"
    assert kept.ok > 1000
    assert new.answered > 200


def test_a_unix_listener_and_a_unix_admin_api(
    begin: Begin, follow: Next, origins: Origins, tmp_path: Path
) -> None:
    """Their files outlive the process that made them, and go with the last one."""
    origin, port = origins(), free_port()
    web, admin = str(tmp_path / "web.sock"), str(tmp_path / "admin.sock")
    config = site(0, [origin.text])
    config["listeners"]["web"]["bind"] = [f"unix:{web}", f"127.0.0.1:{port}"]
    config["admin"] = f"unix:{admin}"
    proxy = wait_serving(begin(config, ready=False))
    inodes = [Path(file).stat().st_ino for file in (web, admin)]
    with NewConnections(web) as new:
        for workers in (2, 1):
            proxy = follow(proxy, {**config, "workers": workers})
            assert [Path(file).stat().st_ino for file in (web, admin)] == inodes
    assert not new.failures, new.failures
    assert fetch(("127.0.0.1", port))["origin"] == "origin"
    with Client(admin) as client:
        shown = client.request(get("/api/v1/process")).json()
    assert shown["pid"] == proxy.pid
    assert shown["state"] == "serving"
    proxy.stop()
    assert not Path(web).exists()
    assert not Path(admin).exists()


def test_port_0_keeps_its_port(begin: Begin, follow: Next, origins: Origins) -> None:
    origin = origins()
    proxy = begin(site(0, [origin.text]))
    bound = proxy.api("listeners")["listeners"][0]["binds"]
    assert follow(proxy).api("listeners")["listeners"][0]["binds"] == bound
    assert fetch(("127.0.0.1", int(bound[0].rpartition(":")[2])))


def test_what_is_in_progress_ends_in_the_old_process(begin: Begin, follow: Next, origins: Origins) -> None:
    """It does not listen any more meanwhile, at nothing: every client is the new one's."""
    origin, port = origins(), free_port()
    address = ("127.0.0.1", port)
    old = begin(site(port, [origin.text]))
    with held(origin, address) as (client, release):
        new = follow(old, held=True)
        for _ in range(50):
            fetch(address)
        assert new.metric("fastmesh_connections_total", listener="web") == 50
        assert process_of(new)["takeover"]["took_over_from"] == old.pid
        assert old.is_alive()
        release.set()
        response = client.read_response()
        assert response.status == 200
        assert response.says_close
        assert client.how_it_ended() == "eof", "the other process holds this connection open"
    assert old.wait_exit() == 0


def test_a_listener_that_is_not_wanted_any_more_drains(begin: Begin, follow: Next, origins: Origins) -> None:
    origin, port, other = origins(), free_port(), free_port()
    config = site(port, [origin.text])
    two = {
        **config,
        "listeners": {**config["listeners"], "gone": {"bind": f"127.0.0.1:{other}", "routes": {"/": "s"}}},
    }
    old = begin(two)
    with NewConnections(("127.0.0.1", port)) as new:
        follow(old, config, apart=True)
    assert not new.failures
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", other))


def test_an_admin_address_that_changes(begin: Begin, follow: Next, origins: Origins) -> None:
    origin, port, admin = origins(), free_port(), free_port()
    config = site(port, [origin.text])
    old = begin(config)
    before = old.admin_port
    new = follow(old, {**config, "admin": f"127.0.0.1:{admin}"})
    new.admin_port = admin
    assert process_of(new)["pid"] == new.pid
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", before))


def test_nothing_leaks_into_the_successor(begin: Begin, follow: Next, origins: Origins) -> None:
    """It has the listening sockets of its predecessor, and no other descriptor of it."""
    origin, port = origins(), free_port()
    old = begin(site(port, [origin.text]))
    with held(origin, ("127.0.0.1", port)) as (_, release):
        before = sockets_of(old.pid)
        new = follow(old, held=True)
        shared = before & sockets_of(new.pid)
        assert len(shared) == 3, "a listener, the admin API, the takeover socket"
        assert not shared & sockets_of(old.pid), "the old one has let go of them"
        release.set()
    assert old.wait_exit() == 0


# ---------------------------------------------------------------- what is known of endpoints


def test_an_endpoint_that_is_left_out_stays_so(begin: Begin, follow: Next, origins: Origins) -> None:
    good, port, dead = origins("good"), free_port(), free_port()
    rules = {"outlier_detection": {"base_ejection_time": "30s", "max_ejection_time": "60s"}}
    config = site(port, [good.text, f"127.0.0.1:{dead}"], service={"balance": "round_robin", **rules})
    proxy = begin(config)
    for _ in range(4):
        fetch(("127.0.0.1", port))
    bad = states(proxy)[f"127.0.0.1:{dead}"]
    assert (bad["state"], bad["ejections"]) == ("down", 1)
    with socket.create_server(("127.0.0.1", dead)) as server:  # it would be back
        server.setblocking(False)
        for _ in range(2):
            proxy = follow(proxy)
            shown = states(proxy)[f"127.0.0.1:{dead}"]
            assert (shown["state"], shown["reason"]) == ("down", bad["reason"])
            assert shown["ejections"] == 0, "counters begin anew"
            assert {fetch(("127.0.0.1", port))["origin"] for _ in range(10)} == {"good"}
        with pytest.raises(BlockingIOError):
            server.accept()


def test_checks_go_on_where_they_were(begin: Begin, follow: Next, origins: Origins) -> None:
    """The one that failed is not used before it is checked, and the other is not waited for."""
    good, bad, port = origins("good"), origins("bad"), free_port()
    # The second check falls anywhere in the interval: about once in a thousand times while this test runs.
    health = {"path": "/healthz", "interval": "1h", "timeout": "1s"}
    config = site(port, [good.text, bad.text], service={"health": health, "balance": "round_robin"})
    with bad.answering("/healthz", lambda exchange: exchange.reply(500)):
        proxy = begin(config)
    before = states(proxy)
    checks = [len(origin.requests_for("/healthz")) for origin in (good, bad)]
    proxy = follow(proxy)
    after = states(proxy)
    for origin, state in ((good, "healthy"), (bad, "unhealthy")):
        assert after[origin.text]["health"]["state"] == state
        assert after[origin.text]["health"]["last_error"] == before[origin.text]["health"]["last_error"]
        assert abs(since(after[origin.text]) - since(before[origin.text])) < timedelta(seconds=1)
    assert {fetch(("127.0.0.1", port))["origin"] for _ in range(10)} == {"good"}
    assert [len(origin.requests_for("/healthz")) for origin in (good, bad)] == checks, "checked at the start"


def since(shown: Any) -> datetime:
    return datetime.fromisoformat(shown["health"]["since"])


def test_what_the_api_drains_drains_on(begin: Begin, follow: Next, origins: Origins) -> None:
    kept, other, port = origins("kept"), origins("other"), free_port()
    config = site(port, [kept.text, other.text], service={"balance": "round_robin"})
    proxy = begin(config)
    assert proxy.request("POST", f"/api/v1/drain?service=s&endpoint={other.text}")[0] == 200
    for _ in range(2):
        proxy = follow(proxy)
        assert states(proxy)[other.text]["state"] == "draining"
        assert {fetch(("127.0.0.1", port))["origin"] for _ in range(6)} == {"kept"}
    assert proxy.request("POST", f"/api/v1/undrain?service=s&endpoint={other.text}")[0] == 200
    assert {fetch(("127.0.0.1", port))["origin"] for _ in range(6)} == {"kept", "other"}


# ---------------------------------------------------------------- what goes wrong


def still_serves(old: Proxy, port: int) -> None:
    assert old.is_alive()
    assert process_of(old)["pid"] == old.pid
    assert old.get("/readyz")[0] == 200
    assert fetch(("127.0.0.1", port))


def test_an_invalid_file_disturbs_nobody(begin: Begin, processes: list[Proxy], origins: Origins) -> None:
    origin, port = origins(), free_port()
    config = site(port, [origin.text])
    old = begin(config)
    new = successor(old, {**config, "nonsense": 1}, apart=True)
    processes.append(new.start(ready=False))
    assert new.wait_exit() == 1
    assert "nonsense" in new.stderr
    assert "over" not in old.stderr, "it was not even asked"
    still_serves(old, port)


def test_a_port_in_use_leaves_the_old_one_serving(
    begin: Begin, follow: Next, processes: list[Proxy], origins: Origins, tmp_path: Path
) -> None:
    """Sockets that the new process had by then close without harm, also the file of a Unix one."""
    origin, port, web = origins(), free_port(), str(tmp_path / "web.sock")
    config = site(port, [origin.text])
    config["listeners"]["web"]["bind"] = [f"127.0.0.1:{port}", f"unix:{web}"]
    old = begin(config)
    with socket.create_server(("127.0.0.1", 0)) as taken, NewConnections(web) as new_clients:
        used = taken.getsockname()[1]
        new = successor(
            old,
            {
                **config,
                "workers": 3,
                "listeners": {
                    **config["listeners"],
                    "more": {"bind": f"127.0.0.1:{used}", "routes": {"/": "s"}},
                },
            },
            apart=True,
        )
        processes.append(new.start(ready=False))
        assert new.wait_exit() == 1
        assert f"127.0.0.1:{used} is in use" in new.stderr
        old.wait_log(f"pid {new.pid} did not take over: it ended before it served; this process goes on")
        still_serves(old, port)
        assert fetch(web)
    assert not new_clients.failures
    follow(old)  # and the next one may


@contextmanager
def stuck(old: Proxy, config: dict[str, Any], processes: list[Proxy]) -> Iterator[Proxy]:
    """A process that has all the sockets and is stopped (SIGSTOP) before it serves."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        health = {"path": "/", "interval": "60s", "timeout": "10s"}
        slow = {"endpoints": [f"127.0.0.1:{hole.getsockname()[1]}"], "health": health}
        more = {**config, "services": {**config["services"], "slow": slow}}
        new = successor(old, more, apart=True)
        processes.append(new.start(ready=False))
        new.wait_log("taking over from pid", within=20)
        new.signal(signal.SIGSTOP)
        assert "fastmesh: fastmesh " not in new.stderr
        try:
            yield new
        finally:
            new.signal(signal.SIGCONT)


def test_killed_before_it_serves(
    begin: Begin, follow: Next, processes: list[Proxy], origins: Origins
) -> None:
    origin, port = origins(), free_port()
    config = site(port, [origin.text], workers=2)
    old = begin(config)
    with NewConnections(("127.0.0.1", port)) as new_clients:
        with stuck(old, {**config, "workers": 4}, processes) as new:
            refused = successor(old)
            processes.append(refused.start(ready=False))
            assert refused.wait_exit() == 1
            assert f"pid {new.pid} is taking over just now" in refused.stderr
            before = new_clients.answered
            eventually(lambda: new_clients.answered > before + 100, "answers while it hangs")
            new.kill()
        old.wait_log(f"pid {new.pid} did not take over: it ended before it served; this process goes on")
        processes.remove(new)
        still_serves(old, port)
        follow(old)
    assert not new_clients.failures, new_clients.failures


@pytest.mark.slow
def test_one_that_hangs_is_given_up(
    begin: Begin, follow: Next, processes: list[Proxy], origins: Origins
) -> None:
    origin, port = origins(), free_port()
    config = site(port, [origin.text])
    old = begin(config)
    with NewConnections(("127.0.0.1", port), pause=0.05) as new_clients, stuck(old, config, processes) as new:
        why = "it did not serve within 30 s"
        eventually(lambda: why in old.stderr, why, within=40)
        still_serves(old, port)
        new.signal(signal.SIGCONT)
        assert new.wait_exit() == 1
        assert f"the process that serves goes on: {why}" in new.stderr
        still_serves(old, port)
    assert not new_clients.failures, new_clients.failures
    follow(old)


def test_one_that_drains_hands_nothing_over(begin: Begin, processes: list[Proxy], origins: Origins) -> None:
    origin, port = origins(), free_port()
    old = begin(site(port, [origin.text], drain={"timeout": "20s"}))
    with held(origin, ("127.0.0.1", port)) as (_, release):
        old.signal(signal.SIGTERM)
        old.wait_log("SIGTERM: draining")
        new = successor(old)
        processes.append(new.start(ready=False))
        assert new.wait_exit() == 1
        assert f"pid {old.pid} is draining already; start when it has ended" in new.stderr
        release.set()
    assert old.wait_exit() == 0


def test_after_handing_over_one_signal_does_not_cut_off(begin: Begin, follow: Next, origins: Origins) -> None:
    """It drains already; a second one does."""
    origin, port = origins(), free_port()
    old = begin(site(port, [origin.text]))
    with held(origin, ("127.0.0.1", port)) as (client, release):
        follow(old, held=True)
        old.signal(signal.SIGTERM)
        assert fetch(("127.0.0.1", port))
        release.set()
        assert client.read_response().status == 200
    assert old.wait_exit() == 0


def test_a_file_of_a_killed_process_is_replaced(
    begin: Begin, path: Path, processes: list[Proxy], origins: Origins
) -> None:
    origin, port = origins(), free_port()
    old = begin(site(port, [origin.text]))
    assert path.stat().st_mode & 0o777 == 0o600
    old.kill()
    processes.remove(old)
    assert path.exists()
    new = successor(old)
    processes.append(wait_serving(new.start(ready=False)))
    assert "taking over" not in new.stderr
    still_serves(new, port)


def test_something_else_in_the_place_of_the_socket(begin: Begin, path: Path, processes: list[Proxy]) -> None:
    path.write_text("precious")
    proxy = begin(site(free_port(), ["127.0.0.1:1"]), ready=False)
    assert proxy.wait_exit() == 1
    assert "there is something else than a socket" in proxy.stderr
    assert path.read_text() == "precious"
    path.unlink()


# ---------------------------------------------------------------- SIGUSR2


def test_usr2_starts_the_successor(begin: Begin, origins: Origins, path: Path) -> None:
    """The same command on the same standard error; the chain goes on."""
    origin, port = origins(), free_port()
    first = begin(site(port, [origin.text]))
    pids = [first.pid]
    with NewConnections(("127.0.0.1", port)) as new:
        for _ in range(2):
            os.kill(pids[-1], signal.SIGUSR2)
            eventually(lambda: serving_pid(first) not in (0, *pids), "another process", within=15)
            pids.append(serving_pid(first))
            eventually(lambda: not is_running(pids[-2]), "the end of the one before", within=15)
        assert first.wait_exit() == 0
    assert not new.failures, new.failures
    assert first.stderr.count("USR2: pid ") == 2
    for before, after in itertools.pairwise(pids):
        assert f"taking over from pid {before} " in first.stderr
        assert f"handed over to pid {after} " in first.stderr
    end(pids[-1])
    first.check_output()
    assert not path.exists()


def serving_pid(proxy: Proxy) -> int:
    """0: it is not known just now."""
    try:
        shown = process_of(proxy)
    except (OSError, json.JSONDecodeError):
        return 0
    return int(shown["pid"]) if shown["state"] == "serving" else 0


def test_usr2_with_a_file_that_is_invalid_by_now(begin: Begin, origins: Origins) -> None:
    origin, port = origins(), free_port()
    config = site(port, [origin.text])
    proxy = begin(config)
    proxy.write({**config, "nonsense": 1})
    proxy.signal(signal.SIGUSR2)
    proxy.wait_log("before it took over; this process goes on", within=20)
    assert "fastmesh cannot" in proxy.stderr or "nonsense" in proxy.stderr
    still_serves(proxy, port)
    proxy.write(config)
    proxy.signal(signal.SIGUSR2)
    proxy.wait_log("handed over to pid", within=15)
    assert proxy.wait_exit() == 0
    end(serving_pid(proxy))


def test_usr2_without_the_option_says_what_to_do(tmp_path: Path, origins: Origins) -> None:
    origin, port = origins(), free_port()
    proxy = Proxy(tmp_path, site(port, [origin.text])).start()
    try:
        proxy.signal(signal.SIGUSR2)
        proxy.wait_log("`fastmesh run --takeover PATH`")
        still_serves(proxy, port)
        assert process_of(proxy)["takeover"] is None
    finally:
        proxy.stop()
