"""What is handed over, and what letting go of it means."""

import socket

import trio

from fastmesh.admin.control import DrainTarget
from fastmesh.admin.server import AdminServer
from fastmesh.admin.sockets import open_admin
from fastmesh.model.told import Checked, Passive, Told
from fastmesh.supervisor.drain import Shutdown
from fastmesh.supervisor.estate import Estate
from fastmesh.supervisor.handover import Group, Serving
from fastmesh.supervisor.keeper import ConfigKeeper
from support.fake_data_plane import FakeDataPlane

PAST = Passive(bad_5xx=2)
HEALTHY = Checked("healthy", 3.0)


def estate_of(data_plane, *, admin=None, server=None):
    keeper, shutdown = ConfigKeeper("x"), Shutdown()
    return Estate(keeper, data_plane, shutdown, admin, server), keeper, shutdown


def plane(**settings):
    return FakeDataPlane(workers=1, connection_limit=1, **settings)


def test_all_sockets_are_named_by_their_binds():
    data_plane = plane()
    admin = open_admin("127.0.0.1:0", {})
    with socket.create_server(("127.0.0.1", 0)) as sock:
        data_plane._sockets["127.0.0.1:80"] = sock
        estate, _, _ = estate_of(data_plane, admin=admin)
        assert estate.held() == [
            (Group("listener", "127.0.0.1:80", 1), (sock,)),
            (Group("admin", "127.0.0.1:0", 1), admin.sockets),
        ]
        assert estate_of(data_plane)[0].held() == estate.held()[:1], "without an admin API"
    admin.close()


def test_requests_and_checks_are_told_together(monkeypatch):
    async def main():
        estate, keeper, _ = estate_of(plane(told=[Told("s", "a", PAST), Told("s", "b", PAST)]))
        monkeypatch.setattr(keeper.checker, "tell", lambda: {("s", "b"): HEALTHY, ("s", "c"): HEALTHY})
        assert set(await estate.tell()) == {
            Told("s", "a", PAST),
            Told("s", "b", PAST, HEALTHY),
            Told("s", "c", None, HEALTHY),
        }

    trio.run(main)


def test_what_the_api_was_asked_to_drain_is_told():
    estate, keeper, _ = estate_of(plane())
    targets = (DrainTarget("service", "s"), DrainTarget("listener", "web"))
    keeper.inherit([Told("s", "a", checked=HEALTHY), Told("s", "b", PAST)], targets)
    assert estate.drains() == targets
    assert keeper.checker._told == {("s", "a"): HEALTHY}


def test_letting_go(tmp_path):
    """Of what the other one named, and only of that."""

    async def main():
        data_plane = plane()
        admin = open_admin(f"unix:{tmp_path / 'admin.sock'}", {})
        server = AdminServer(None)
        estate, keeper, shutdown = estate_of(data_plane, admin=admin, server=server)
        assert not estate.leaving()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, admin.sockets)
            await trio.testing.wait_all_tasks_blocked()
            async with estate.unchanging():
                await estate.leave(Serving(("127.0.0.1:80",), (), ()))
        assert admin.ours, "nobody else has it"
        assert data_plane.calls == ["leave_listeners 127.0.0.1:80"]
        keeper._watching.set()
        assert "handed over" in (await keeper.reload("SIGHUP")).error
        await estate.leave(Serving((), (admin.bind,), ()))
        assert not admin.ours
        admin.close()
        assert (tmp_path / "admin.sock").exists()
        estate.handed_over(77, "9.9")
        assert estate.leaving()
        assert shutdown.successor == 77

    trio.run(main)


def test_the_service_manager_is_told_who_serves_now(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        async def main():
            estate_of(plane())[0].handed_over(77, "9.9")

        trio.run(main)
        assert manager.recv(1000) == b"MAINPID=77"
