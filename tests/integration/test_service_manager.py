"""What a service manager is told over a whole life, message by message: sd_notify(3)."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import Client
from support.notify import Manager
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.wire import get

Origins = Callable[..., Origin]
SECOND = 1_000_000


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def under(manager: Manager, tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Starts fastmesh under the manager."""
    started: list[Proxy] = []

    def start(
        config: dict[str, Any], ready: bool = True, before: tuple[str, ...] = (), **environment: str
    ) -> Proxy:
        proxy = Proxy(
            tmp_path,
            {"workers": 1, **config},
            environment={"NOTIFY_SOCKET": manager.address, **environment},
            under=before,
        )
        started.append(proxy)
        return proxy.start(ready=ready)

    yield start
    for proxy in started:
        print(proxy.new_stderr())
        proxy.kill()


def one_service(origin: Origin, port: int, **top: Any) -> dict[str, Any]:
    listener = {"bind": f"127.0.0.1:{port}", "routes": {"/": "o"}}
    return {"listeners": {"web": listener}, "services": {"o": {"endpoints": [origin.text]}}, **top}


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_whole_life(under: Callable[..., Proxy], manager: Manager, origins: Origins) -> None:
    origin, port, release = origins(), free_port(), threading.Event()
    proxy = under(one_service(origin, port, drain={"timeout": "30s"}), ready=False)

    # It is ready when, and not before, it serves.
    ready = manager.wait_for("READY")
    with Client(("127.0.0.1", port)) as client:
        assert client.request(get("/")).status == 200
    assert ready["READY"] == "1"
    assert f"web (http) on 127.0.0.1:{port}" in ready["STATUS"]
    assert f"pid {proxy.pid}" in ready["STATUS"]
    assert manager.states() == ["READY"]

    # Each reload that is asked for is announced with its time, and ends in READY whatever becomes of it.
    times = []
    changed = one_service(origin, port, drain={"timeout": "40s"})
    for number, (file, status) in enumerate(
        [(None, "unchanged (generation 1)"), (changed, "(generation 2)")], 2
    ):
        if file is not None:
            proxy.write({"workers": 1, **file})
        before = now()
        proxy.signal(signal.SIGHUP)
        assert status in manager.wait_for("READY", number)["STATUS"]
        message = manager.wait_for("RELOADING", number - 1)
        assert message["RELOADING"] == "1"
        assert before <= int(message["MONOTONIC_USEC"]) <= now()
        times.append(int(message["MONOTONIC_USEC"]))
    assert times == sorted(set(times))
    proxy.write({"nonsense": 1})
    proxy.signal(signal.SIGHUP)
    assert "refused" in manager.wait_for("READY", 4)["STATUS"]
    assert proxy.request("POST", "/api/v1/reload")[0] == 409
    manager.wait_for("READY", 5)
    assert manager.states() == ["READY"] + ["RELOADING", "READY"] * 4

    # The drain: that it begins, how far it is, that it needs time; and nothing that sounds like a service.
    def held(exchange: Exchange) -> None:
        assert release.wait(20)
        exchange.reply_echo()

    with origin.answering("/held", held), Client(("127.0.0.1", port)) as client:
        client.send(get("/held"))
        origin.wait_request("/held")
        proxy.signal(signal.SIGTERM)
        stopping = manager.wait_for("STOPPING")
        assert stopping["STOPPING"] == "1"
        assert stopping["STATUS"] == "drains (SIGTERM), 1 in progress"
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 10 * SECOND
        manager.wait_for("EXTEND_TIMEOUT_USEC", 3)
        release.set()
        assert client.read_response().status == 200
    assert proxy.wait_exit() == 0
    assert manager.states()[9:] == ["STOPPING"]
    for message in manager.told[manager.told.index(stopping) + 1 :]:
        assert list(message) == ["STATUS", "EXTEND_TIMEOUT_USEC"]
    proxy.check_output()


def test_a_reload_makes_nothing_ready(under: Callable[..., Proxy], manager: Manager) -> None:
    """Which waits for first results, whatever is asked for meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        check = {"path": "/", "timeout": "30s", "interval": "60s"}
        listener = {"bind": f"127.0.0.1:{free_port()}", "service": "o"}
        services = {"o": {"endpoints": [endpoint], "health": check}}
        proxy = under(
            {"ready_timeout": "3s", "listeners": {"web": listener}, "services": services}, ready=False
        )
        proxy.wait_log("serves web")
        proxy.signal(signal.SIGHUP)
        proxy.wait_log("the configuration is unchanged")
        assert proxy.get("/readyz")[0] == 503
        assert manager.states() == []
        manager.wait_for("READY")
        assert proxy.get("/readyz")[0] == 200
        proxy.signal(signal.SIGHUP)
        manager.wait_for("READY", 2)
        assert manager.states() == ["READY", "RELOADING", "READY"]


def test_a_change_of_the_file_alone_is_not_announced(
    under: Callable[..., Proxy], manager: Manager, origins: Origins
) -> None:
    """systemd did not ask for it, and would show the service as reloading at each change of the registry."""
    origin = origins()
    proxy = under(one_service(origin, free_port()))
    proxy.write(one_service(origin, free_port()))
    proxy.wait_log("configuration applied (generation 2)")
    assert manager.states() == ["READY"]


def test_the_drain_by_the_admin_api(under: Callable[..., Proxy], manager: Manager, origins: Origins) -> None:
    proxy = under(one_service(origins(), free_port()))
    proxy.request("POST", "/api/v1/drain")
    assert proxy.wait_exit() == 0
    assert manager.wait_for("STOPPING")["STATUS"].startswith("drains (drain asked for), 0 in progress")


@pytest.mark.parametrize("for_whom", ["anybody", "it", "another"])
def test_the_watchdog(under: Callable[..., Proxy], manager: Manager, origins: Origins, for_whom: str) -> None:
    """Fed while the control plane turns, if it is this process that is watched."""
    environment = {"WATCHDOG_USEC": str(SECOND // 5)}
    before: tuple[str, ...] = ()
    if for_whom == "it":
        # Who becomes fastmesh keeps the pid, through all of the start.
        before = ("sh", "-c", 'export WATCHDOG_PID=$$; exec "$@"', "sh")
    elif for_whom == "another":
        environment["WATCHDOG_PID"] = "1"
    proxy = under(one_service(origins(), free_port()), ready=False, before=before, **environment)
    if for_whom == "another":
        proxy.wait_ready()
        assert manager.states() == ["READY"]
        return
    manager.wait_for("WATCHDOG", 10)
    assert set(manager.states()) == {"READY", "WATCHDOG"}


def test_who_cannot_start_says_why(under: Callable[..., Proxy], manager: Manager, origins: Origins) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        proxy = under(one_service(origins(), port), ready=False)
        assert proxy.wait_exit() == 1
    (message,) = manager.hear()
    assert message["ERRNO"] == "98"  # EADDRINUSE
    assert message["STATUS"].startswith(f"cannot start: listener web: 127.0.0.1:{port} is in use")


def test_an_invalid_file(under: Callable[..., Proxy], manager: Manager) -> None:
    proxy = under({"nonsense": 1}, ready=False)
    assert proxy.wait_exit() == 1
    (message,) = manager.hear()
    assert message["ERRNO"] == "22"  # EINVAL
    assert message["STATUS"].startswith(f"cannot start: {proxy.file}:")
    assert "the file has no key `nonsense`" in message["STATUS"]


def test_a_manager_that_is_gone_changes_nothing(
    under: Callable[..., Proxy], manager: Manager, origins: Origins
) -> None:
    manager.close()
    port = free_port()
    proxy = under(one_service(origins(), port))
    with Client(("127.0.0.1", port)) as client:
        assert client.request(get("/")).status == 200
    assert "the service manager" in proxy.stderr
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit() == 0
