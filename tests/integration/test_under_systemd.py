"""The example units under a real systemd: start, reload, upgrade, drain, watchdog, sockets."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from support.client import Client
from support.origin import Exchange, Origin
from support.systemd import Machine
from support.waiting import eventually
from support.wire import get

pytestmark = [
    pytest.mark.slow,
    pytest.mark.no_sanitizer,  # the machine starts programs without what a sanitizer preloads
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a machine of its own"),
    pytest.mark.xdist_group("systemd"),
]

WEB = ("127.0.0.1", 80)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    yield machine
    machine.close()


@pytest.fixture
def origin(machine: Machine) -> Iterator[Origin]:
    origin = machine.in_network(lambda: Origin(name="origin"))
    yield origin
    origin.close()


@pytest.fixture(autouse=True)
def _stopped_afterwards(machine: Machine) -> Iterator[None]:
    yield
    machine.systemctl("stop", "fastmesh.socket", "fastmesh.service", check=False)
    machine.systemctl("reset-failed", check=False)
    for name in ("time", "watchdog"):
        machine.run("rm", "-f", f"/run/units/fastmesh.service.d/{name}.conf")
    machine.systemctl("daemon-reload")
    print(machine.log)
    (machine.shared / "fastmesh.log").unlink(missing_ok=True)


def to(origin: Origin, **top: Any) -> dict[str, Any]:
    listeners = {"web": {"bind": ":80", "routes": {"/": "o"}}}
    return {"listeners": listeners, "services": {"o": {"endpoints": [origin.text]}}, **top}


def connect(machine: Machine) -> Client:
    return machine.in_network(lambda: Client(WEB))


def status_of(machine: Machine, target: str = "/") -> int:
    with connect(machine) as client:
        return client.request(get(target)).status


class Visitors:
    """Two clients, each with a new connection for each request, from the machine's network; none may be
    refused, reset or left without its answer."""

    def __init__(self, machine: Machine) -> None:
        self.served = 0
        self._failures: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=machine.in_network, args=(self._visit,)) for _ in range(2)]

    def _visit(self) -> None:
        while not self._ended.is_set():
            try:
                with Client(WEB, timeout=20) as client:
                    status = client.request(get("/", b"Connection: close")).status
            except Exception as error:
                self._failures.append(repr(error))
                continue
            self.served += 1
            if status != 200:
                self._failures.append(str(status))

    def more(self, than: int = 100) -> None:
        before = self.served
        eventually(lambda: self.served > before + than, "visitors to be served", within=20)

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        assert not self._failures, self._failures[:10]


def field(pid: int, name: str, machine: Machine) -> str:
    lines = machine.run("cat", f"/proc/{pid}/status").stdout.splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


def test_started_means_serving(machine: Machine, origin: Origin) -> None:
    machine.configure(to(origin, access_log={"to": "/var/log/fastmesh/access.log"}))
    machine.systemctl("start", "fastmesh")
    assert status_of(machine) == 200
    assert machine.show("ActiveState") == "active"
    assert machine.show("StatusText").startswith("fastmesh ")
    assert "web (http) on :80" in machine.show("StatusText")
    # As the unit wants it: another user, one capability, a filter of system calls.
    pid = int(machine.show("MainPID"))
    assert field(pid, "Uid", machine).split()[0] != "0"
    assert int(field(pid, "CapEff", machine), 16) == 1 << 10
    assert field(pid, "Seccomp", machine) == "2"
    assert field(pid, "NoNewPrivs", machine) == "1"
    assert "warning" not in machine.log
    eventually(
        lambda: '"status":200' in machine.run("cat", "/var/log/fastmesh/access.log").stdout, "an access line"
    )
    machine.systemctl("stop", "fastmesh")
    assert machine.show("Result") == "success"
    assert "leaked" not in machine.log
    assert "Traceback" not in machine.log


def test_what_cannot_start_is_not_started(machine: Machine) -> None:
    machine.configure({"nonsense": 1})
    assert machine.systemctl("start", "fastmesh", check=False).returncode != 0
    eventually(lambda: machine.show("StatusErrno") == "22", "EINVAL")
    assert machine.show("StatusText").startswith("cannot start: /etc/fastmesh/fastmesh.yaml:")


def test_reload(machine: Machine, origin: Origin) -> None:
    machine.configure(to(origin))
    machine.systemctl("start", "fastmesh")
    machine.configure(to(origin, defaults={"timeouts": {"response": "7s"}}))
    machine.systemctl("reload", "fastmesh")
    eventually(lambda: "generation 2" in machine.show("StatusText"), "the change")
    machine.configure({"nonsense": 1})
    machine.systemctl("reload", "fastmesh")
    eventually(lambda: "refused" in machine.show("StatusText"), "the refusal")
    eventually(lambda: machine.show("SubState") == "running", "the reload to end")
    assert status_of(machine) == 200


def test_a_drain_takes_longer_than_the_unit_allows(machine: Machine, origin: Origin) -> None:
    """It asks for more time, so TimeoutStopSec= does not cut it off."""
    machine.drop_in("time", TimeoutStopSec="3s")
    machine.configure(to(origin))
    machine.systemctl("start", "fastmesh")
    release = threading.Event()

    def held(exchange: Exchange) -> None:
        assert release.wait(20)
        exchange.reply_echo()

    with origin.answering("/held", held), connect(machine) as client:
        client.send(get("/held"))
        origin.wait_request("/held")
        machine.systemctl("stop", "--no-block", "fastmesh")
        eventually(lambda: "1 in progress" in machine.show("StatusText"), "the progress")
        assert machine.show("SubState") == "stop-sigterm"
        assert not threading.Event().wait(7), "twice the time that the unit allows"
        assert machine.show("SubState") == "stop-sigterm"
        release.set()
        assert client.read_response().status == 200
    eventually(lambda: machine.show("ActiveState") == "inactive", "the end")
    assert machine.show("Result") == "success"


@pytest.mark.parametrize("activated", [False, True], ids=["own sockets", "activated"])
def test_an_upgrade_is_the_same_service(machine: Machine, origin: Origin, activated: bool) -> None:
    """Twice, while clients come; a request of the first process ends in its own time."""
    machine.configure(to(origin))
    machine.systemctl("start", "fastmesh.socket" if activated else "fastmesh.service")
    release = threading.Event()

    def held(exchange: Exchange) -> None:
        assert release.wait(40)
        exchange.reply_echo()

    with origin.answering("/held", held), connect(machine) as patient, Visitors(machine) as visitors:
        patient.send(get("/held"))
        origin.wait_request("/held")
        first = previous = machine.show("MainPID")
        for _ in range(2):
            machine.systemctl("kill", "--kill-whom=main", "--signal=USR2", "fastmesh")
            eventually(lambda before=previous: machine.show("MainPID") != before, "a successor", within=15)
            previous = machine.show("MainPID")
            assert (machine.show("ActiveState"), machine.show("SubState")) == ("active", "running")
            eventually(lambda now=previous: f"pid {now}" in machine.show("StatusText"), "its own status")
            visitors.more()
        assert int(first) in machine.pids()
        release.set()
        assert patient.read_response().status == 200
        eventually(lambda: machine.pids() == [int(previous)], "the others to end", within=15)
        visitors.more()
        assert (machine.show("ActiveState"), machine.show("NRestarts")) == ("active", "0")
    machine.systemctl("stop", "fastmesh.socket", "fastmesh.service")
    assert machine.show("Result") == "success"
    assert machine.log.count("handed over to pid") == 2
    assert "Traceback" not in machine.log
    assert "leaked" not in machine.log


def test_the_watchdog_restarts_what_stands_still(machine: Machine, origin: Origin) -> None:
    machine.drop_in("watchdog", WatchdogSec="1s")
    machine.configure(to(origin))
    machine.systemctl("start", "fastmesh")
    first = machine.show("MainPID")
    fed: set[str] = set()
    eventually(lambda: fed.add(machine.show("WatchdogTimestampMonotonic")) or len(fed) > 5, "signs of life")
    assert machine.show("MainPID") == first
    machine.run("kill", "-STOP", first)
    eventually(lambda: machine.show("NRestarts") == "1", "the restart", within=10)
    eventually(lambda: machine.show("ActiveState") == "active", "the next one", within=10)
    assert machine.show("MainPID") != first
    assert status_of(machine) == 200


def test_the_first_client_starts_it(machine: Machine, origin: Origin) -> None:
    machine.configure(to(origin))
    machine.systemctl("start", "fastmesh.socket")
    assert machine.show("ActiveState") == "inactive"
    assert status_of(machine) == 200
    eventually(lambda: machine.show("ActiveState") == "active", "READY, which follows the first answers")
    assert "systemd handed in :80" in machine.log
    assert "warning" not in machine.log


def test_nobody_is_refused_while_it_restarts(machine: Machine, origin: Origin) -> None:
    machine.configure(to(origin))
    machine.systemctl("start", "fastmesh.socket")
    with Visitors(machine) as visitors:
        for _ in range(2):
            before = machine.show("MainPID")
            machine.systemctl("restart", "fastmesh")
            assert machine.show("MainPID") != before
            visitors.more()
