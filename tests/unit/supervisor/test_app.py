"""The parts of the stack that can be looked at without a process."""

import os
import socket

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from fastmesh.errors import StartError
from fastmesh.model import Given
from fastmesh.model.stats import ListenerStats
from fastmesh.supervisor import app
from fastmesh.supervisor.drain import Shutdown
from fastmesh.supervisor.keeper import ConfigKeeper
from fastmesh.supervisor.readiness import Readiness
from fastmesh.supervisor.takeover import Succession
from support.fake_data_plane import FakeDataPlane

FILE = """\
admin: "{admin}"
listeners:
  web: {{bind: "{bind}", routes: {{/: a}}}}
services:
  a: {{endpoints: [127.0.0.1:1]}}
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "fastmesh.yaml"


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_everything_in_the_way_is_said_at_once(file, taken):
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        file.write_text(FILE.format(admin=taken, bind=bind))

        async def main():
            keeper = ConfigKeeper(str(file))
            await keeper.load()
            await app.bind_everything(keeper, FakeDataPlane(workers=1, connection_limit=1), {})

        with pytest.raises(StartError) as raised:
            trio.run(main)
    assert f"admin: {taken} is in use" in str(raised.value)
    assert f"{bind} is in use" in str(raised.value)


@pytest.mark.parametrize(("given", "seconds"), [({}, 0.5), ({"127.0.0.1:80": Given((), True)}, 5.0)])
def test_who_waits_in_a_socket_waits_for_names_too(file, given, seconds):
    file.write_text(FILE.format(admin="off", bind="127.0.0.1:0"))
    asked = []

    class Keeper(ConfigKeeper):
        async def apply_first(self, data_plane, seconds):
            asked.append(seconds)

    async def main():
        keeper = Keeper(str(file))
        await keeper.load()
        await app.bind_everything(keeper, FakeDataPlane(workers=1, connection_limit=1), {}, given)

    trio.run(main)
    assert asked == [seconds]


def test_what_the_api_shows_of_the_process(file):
    file.write_text(FILE.format(admin="off", bind="127.0.0.1:0"))
    transparent = "sidecar: {mode: transparent, app: 8000}\n"

    async def main():
        keeper = ConfigKeeper(str(file))
        shutdown = Shutdown()
        missing = ["a name"]
        control = app.Control(keeper, None, shutdown, Succession(None), Readiness(lambda: missing))
        await keeper.load()
        assert control.process()["state"] == "starting"
        control.started = True
        assert control.process()["state"] == "waiting"
        missing.clear()
        shown = control.process()
        assert (shown["state"], shown["uid"], shown["transparent"]) == ("serving", os.geteuid(), False)
        file.write_text(file.read_text() + transparent)
        await keeper.load()
        assert control.process()["transparent"]
        control.quit()
        assert control.process()["state"] == "draining"
        assert shutdown.application_gone.is_set()

    trio.run(main)


def test_a_service_manager_hears_of_readiness_and_not_of_a_start_that_ends(file, monkeypatch):
    told = []
    monkeypatch.setattr(app.notify, "ready", told.append)
    file.write_text(FILE.format(admin="off", bind="127.0.0.1:0"))
    missing = ["a name"]

    async def main():
        keeper = ConfigKeeper(str(file))
        await keeper.load()
        async with trio.open_nursery() as nursery:
            shutdown = Shutdown()
            nursery.start_soon(app.tell_ready, Readiness(lambda: missing), keeper, shutdown, "serves")
            await trio.sleep(5)
            assert told == []
            missing.clear()
        assert told == ["serves"]
        missing.append("a name")
        shutdown.request("SIGTERM")
        await app.tell_ready(Readiness(lambda: missing), keeper, shutdown, "serves")
        assert told == ["serves"]
        assert trio.current_time() == pytest.approx(15, abs=0.2)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_readiness_follows_the_stack():
    shutdown_at = []
    missing, objections = ["a name"], ["an objection"]

    async def main():
        shutdown = Shutdown()
        data_plane = FakeDataPlane(workers=1, connection_limit=1)
        readiness = Readiness(lambda: missing)
        control = app.Control(ConfigKeeper("x"), data_plane, shutdown, Succession(None), readiness)
        assert control.not_ready() == ("starting",)
        control.started = True
        assert control.not_ready() == ("a name",)
        readiness.object(lambda: objections)
        missing.clear()
        assert control.not_ready() == ("an objection",)
        objections.clear()
        assert control.not_ready() == ()
        control.application._complaint = "the application is us"
        assert control.not_ready() == ("the application is us",)
        control.application._complaint = None
        assert control.health() == {}
        control.start_drain()
        assert control.not_ready() == ("draining",)
        shutdown_at.append(shutdown.reason)

    trio.run(main)
    assert shutdown_at == ["drain asked for"]


def test_a_part_that_fails_is_started_again(caplog):
    runs = []

    async def part():
        runs.append(trio.current_time())
        if len(runs) < 3:
            raise OSError("no")

    async def main():
        await app.go_on("the part", part)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [run - runs[0] for run in runs] == pytest.approx([0, app.RESTART_SECONDS, 2 * app.RESTART_SECONDS])
    assert caplog.text.count("the part failed") == 2


def test_the_start_line_names_all_addresses(file):
    file.write_text(FILE.format(admin="127.0.0.1:0", bind="127.0.0.1:0"))

    async def main():
        keeper = ConfigKeeper(str(file))
        await keeper.load()
        data_plane = FakeDataPlane(workers=2, connection_limit=1)
        admin = await app.bind_everything(keeper, data_plane, {})
        assert admin is not None
        try:
            line = app.describe_start(data_plane.stats(), admin)
            port = admin.sockets[0].getsockname()[1]
            assert "web (http) on 127.0.0.1:0" in line
            assert f"admin http://127.0.0.1:{port}/" in line
            assert "workers: 2" in line
            assert "admin off" in app.describe_start(data_plane.stats(), None)
            (web,) = data_plane.stats().listeners
            within = replace(web, listener="web/a", binds=(), within="web")
            line = app.describe_start(replace(data_plane.stats(), listeners=(web, within)), None)
            assert "web (http) on 127.0.0.1:0; web/a (http) within web; admin" in line
        finally:
            data_plane.stop()
            admin.close()

    trio.run(main)


def test_the_start_line_says_whose_connections_a_listener_without_an_address_gets():
    stats = [
        ListenerStats("out", (":15001",), "tcp", 0, 0, 0, 0, intercept=True),
        ListenerStats("out/orders", (), "http", 0, 0, 0, 0, within="out"),
        ListenerStats("web", (), "http", 0, 0, 0, 0, draining=True),
    ]
    assert [app._where(one) for one in stats] == ["on :15001", "within out", "drains"]
