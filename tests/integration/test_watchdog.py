"""A process in which something stands still: a worker, the control plane, all of it; and one whose control
plane fails. Threads are stopped by ptrace, for real."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.harness.native import built
from bench.harness.place import ROOT
from support.client import BadResponse, Client, ConnectionEnded
from support.origin import Origin
from support.ports import free_port
from support.proxy import Proxy
from support.real import Nginx
from support.stopping import stopped, stopped_at_work, thread_named
from support.waiting import eventually
from support.wire import get

Start = Callable[..., Proxy]
Origins = Callable[..., Origin]
BLOCKED = "the control plane has not run for 5 s; traffic goes on with the last configuration"
BACK = "the control plane runs again"
FAILED = "the control plane failed; traffic goes on with the last configuration"


def config(port: int, endpoints: list[str], form: str = "text", **more: Any) -> dict[str, Any]:
    return {
        "workers": 1,
        "log": {"format": form},
        "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "s"}}},
        "services": {"s": {"endpoints": endpoints}},
        "drain": {"timeout": "5s"},
        **more,
    }


class Load:
    """Clients that come, ask a few times and go, on so many threads; every answer must be a 200."""

    def __init__(self, port: int, clients: int = 2) -> None:
        self.good = 0
        self.bad: list[str] = []
        self._end = threading.Event()
        self._port = port
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                with Client(("127.0.0.1", self._port), timeout=20) as client:
                    for _ in range(5):
                        response = client.request(get("/"))
                        if response.status == 200:
                            self.good += 1
                        else:
                            self.bad.append(str(response))
            except (OSError, BadResponse, ConnectionEnded) as error:
                self.bad.append(repr(error))

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def loaded(port: int) -> Iterator[Load]:
    load = Load(port)
    try:
        eventually(lambda: load.good, "an answer")
        yield load
    finally:
        load.stop()
    assert load.bad == []


def entries(proxy: Proxy, message: str) -> list[dict[str, Any]]:
    """Lines of a JSON log whose message has these words."""
    lines = [json.loads(line) for line in proxy.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if message in line["message"]]


def wait_for(seconds: float) -> None:
    """The time itself is what the test is about."""
    time.sleep(seconds)


# ---------------------------------------------------------------- workers


def test_a_worker_that_is_stopped_is_told_of_while_it_lasts(start: Start, origins: Origins) -> None:
    port = free_port()
    proxy = start(config(port, [origins().text], "json"))
    with loaded(port):
        worker = thread_named(proxy.pid, "worker-0")
        begun = time.monotonic()
        with stopped_at_work(worker):
            eventually(lambda: entries(proxy, "in one turn"), "the entry of the stall", within=5)
            (told,) = entries(proxy, "in one turn")
            assert told["message"].startswith("worker 0 has been in one turn for 1.")
            assert told["thread"] == str(worker)
            assert told["reaction"].startswith("none")
            assert told["kernel"][0] == "state t"
            wait_for(0.6)
        (record,) = eventually(lambda: entries(proxy, "worker 0: a turn took"), "the record of the turn")
        took_ms = int(re.search(r"took (\d+) ms", record["message"])[1])
        assert 1600 <= took_ms <= (time.monotonic() - begun) * 1000
    assert len(entries(proxy, "in one turn")) == 1
    assert proxy.metric("fastmesh_worker_stalls_total", worker="0") == 1
    assert proxy.metric("fastmesh_worker_slow_turns_total", worker="0") == 1
    (shown,) = proxy.api("workers")["workers"]
    assert (shown["slow_turns"], shown["stalls"]) == (1, 1)


def test_a_slow_turn_is_logged_with_what_it_did(start: Start, origins: Origins) -> None:
    port = free_port()
    proxy = start(config(port, [origins().text]))
    with loaded(port):
        with stopped_at_work(thread_named(proxy.pid, "worker-0")):
            wait_for(0.15)
        proxy.wait_log("worker 0: a turn took 1")
    (line,) = [line for line in proxy.stderr.splitlines() if "a turn took" in line]
    assert " warning fastmesh: worker 0: a turn took 1" in line
    assert " ms in " in line
    assert "has been in one turn" not in proxy.stderr


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_worker_that_is_busy_shows_its_stack(tmp_path: Path, origins: Origins, form: str) -> None:
    library = built("burning", Path(__file__).parent, ROOT / "build" / "tests", ("-shared", "-fPIC", "-ldl"))
    before = os.environ.get("LD_PRELOAD")
    port = free_port()
    proxy = Proxy(
        tmp_path,
        config(port, [origins().text], form),
        environment={"LD_PRELOAD": f"{before}:{library}" if before else str(library)},
    ).start()
    try:
        with Client(("127.0.0.1", port)) as client:
            assert client.request(get("/burn/150")).status == 200
            proxy.wait_log("worker 0: a turn took ")
            assert "in one turn" not in proxy.stderr
            assert client.request(get("/burn/1500")).status == 200
        if form == "json":
            (told,) = entries(proxy, "in one turn")
            where, stack = told["connection"], "\n".join(told["stack"])
        else:
            told = proxy.stderr.partition("in one turn for 1.")[2]
            where, _, stack = told.partition("connection: ")[2].partition("stack:")
        assert where.startswith("client, head, fd ")
        assert ", peer 127.0.0.1 port " in where
        assert ", listener web, requests on it 1" in where
        assert "burn_on_request+0x" in stack
        assert "core.engine.Engine.run_worker+0x" in stack
        proxy.stop()
    finally:
        proxy.kill()


# ---------------------------------------------------------------- a control plane that stands still


def stop_the_control_plane(start: Start, folder: Path, seconds: float) -> None:
    servers = []
    for name in "ab":
        (folder / name).mkdir()
        servers.append(Nginx(folder / name, "location / { return 200 ok; }"))
    killed, port = servers[0], free_port()
    proxy = start(config(port, [server.text for server in servers], "json"))
    try:
        with loaded(port) as load:
            with stopped(proxy.pid):
                begun = time.monotonic()
                eventually(lambda: entries(proxy, BLOCKED), "the entry", within=10)
                killed.kill()
                good = load.good
                eventually(
                    lambda: load.good > good + 200, "answers without the one that was killed", within=10
                )
                killed.start()
                good = load.good
                eventually(lambda: load.good > good + 200, "answers of both", within=10)
                eventually(lambda: time.monotonic() - begun >= seconds, "the time", within=seconds)
            eventually(lambda: entries(proxy, BACK), "the end of it")
            assert len(entries(proxy, BLOCKED)) == 1
            assert load.bad == []
            # Everything works again
            proxy.write(config(port, [servers[1].text], "json"))
            assert proxy.request("POST", "/api/v1/reload")[0] == 200
            (only,) = proxy.api("services")["services"][0]["endpoints"]
            assert only["address"] == servers[1].text
            assert proxy.metric("fastmesh_control_plane_stalls_total") == 1
            assert proxy.metric("fastmesh_requests_total", code="200") > 400
            if seconds > 10:
                (shown,) = [one for one in entries(proxy, "has not run") if "thread" in one]
                assert shown["thread"] == str(proxy.pid)
                assert shown["kernel"][0] == "state t"
    finally:
        for server in servers:
            server.stop()


def test_traffic_goes_on_while_the_control_plane_is_stopped(start: Start, tmp_path: Path) -> None:
    """And an endpoint that dies meanwhile costs nobody a request."""
    stop_the_control_plane(start, tmp_path, 5)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_traffic_goes_on_while_the_control_plane_is_stopped_for_long(start: Start, tmp_path: Path) -> None:
    stop_the_control_plane(start, tmp_path, 30)


def test_a_process_that_was_stopped_as_a_whole_reports_nothing(start: Start, origins: Origins) -> None:
    port = free_port()
    proxy = start(config(port, [origins().text]))
    with loaded(port):
        proxy.signal(signal.SIGSTOP)
        wait_for(6)
        proxy.signal(signal.SIGCONT)
        before = proxy.metric("fastmesh_requests_total", code="200")
        eventually(lambda: proxy.metric("fastmesh_requests_total", code="200") > before, "traffic")
        wait_for(0.6)  # two looks of the watchdog
    assert "fastmesh.watchdog" not in proxy.stderr


BLOCKING = """
from fastmesh.supervisor.keeper import ConfigKeeper
def blocks_for_a_while(self):
    import time
    end = time.monotonic() + 11.5
    while time.monotonic() < end:
        pass
ConfigKeeper.reopen_logs = blocks_for_a_while
"""


@pytest.mark.slow
def test_a_control_plane_that_is_busy_shows_its_stacks(tmp_path: Path, origins: Origins) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKING)
    port = free_port()
    proxy = Proxy(
        tmp_path, config(port, [origins().text], "json"), environment={"PYTHONPATH": str(tmp_path)}
    ).start()
    try:
        with loaded(port):
            proxy.signal(signal.SIGUSR1)
            eventually(lambda: entries(proxy, BACK), "the end of it", within=20)
        (shown,) = [one for one in entries(proxy, "has not run") if "stacks" in one]
        assert "has not run for 10 s" in shown["message"]
        assert any("blocks_for_a_while" in line for line in shown["stacks"])
        assert not any("hread 0x" in line for line in shown["stacks"]), (
            "others run: their frames are not safe"
        )
        proxy.stop()
    finally:
        proxy.kill()


# ---------------------------------------------------------------- a control plane that fails

FAILING = """
from fastmesh.supervisor.keeper import ConfigKeeper
def fails(self):
    raise RuntimeError("made to fail")
ConfigKeeper.reopen_logs = fails
"""


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """A proxy whose control plane fails at USR1."""
    (tmp_path / "sitecustomize.py").write_text(FAILING)
    made: list[Proxy] = []

    def start(settings: dict[str, Any]) -> Proxy:
        made.append(Proxy(tmp_path, settings, environment={"PYTHONPATH": str(tmp_path)}).start())
        return made[-1]

    yield start
    for proxy in made:
        print(proxy.new_stderr())
        proxy.kill()


def is_ready(proxy: Proxy) -> bool:
    try:
        return proxy.get("/readyz")[0] == 200
    except OSError:
        return False


def test_a_control_plane_that_fails_is_started_again(failing: Callable[..., Proxy], origins: Origins) -> None:
    """The data plane serves on; then a file that is broken changes nothing, and a good one is taken."""
    first, second = origins("a"), origins("b")
    port = free_port()
    proxy = failing(config(port, [first.text]))
    with loaded(port) as load:
        proxy.signal(signal.SIGUSR1)
        proxy.wait_log(FAILED)
        proxy.write("listeners: [nonsense]")
        good = load.good
        proxy.wait_log("the control plane starts again", within=15)
        assert load.good > good + 10
        proxy.wait_log("the new configuration is refused, the last good one stays in force")
        eventually(lambda: is_ready(proxy), "the admin API on its old address")
        assert proxy.metric("fastmesh_control_plane_failures_total") == 1
        assert proxy.metric("fastmesh_control_plane_stalls_total") == 0
        assert proxy.metric("fastmesh_config_last_reload_successful") == 0
        proxy.write(config(port, [second.text]))
        proxy.wait_log(f"endpoint {second.text} added")
    with Client(("127.0.0.1", port)) as client:
        assert client.request(get("/")).json()["origin"] == "b"
    assert "RuntimeError: made to fail" in proxy.stderr
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit() == 0
    assert "leak" not in proxy.stderr


def test_a_change_made_meanwhile_is_taken(failing: Callable[..., Proxy], origins: Origins) -> None:
    port, second = free_port(), origins("b")
    proxy = failing(config(port, [origins("a").text]))
    proxy.signal(signal.SIGUSR1)
    proxy.wait_log(FAILED)
    proxy.write(config(port, [second.text]))
    proxy.wait_log(f"endpoint {second.text} added", within=15)
    with Client(("127.0.0.1", port)) as client:
        assert client.request(get("/")).json()["origin"] == "b"


def test_asked_to_stop_between_two_control_planes_it_drains(
    failing: Callable[..., Proxy], origins: Origins
) -> None:
    origin, port = origins(), free_port()
    release = threading.Event()

    def hold(exchange: Any) -> None:
        assert release.wait(20)
        exchange.reply_echo()

    proxy = failing(config(port, [origin.text], drain={"timeout": "10s"}))
    with origin.answering("/held", hold), Client(("127.0.0.1", port)) as client:
        client.send(get("/held"))
        origin.wait_request("/held")
        proxy.signal(signal.SIGUSR1)
        proxy.wait_log(FAILED)
        proxy.signal(signal.SIGTERM)
        proxy.wait_log("listeners are closed, 1 in progress")
        release.set()
        assert client.read_response().status == 200
    assert proxy.wait_exit() == 0
