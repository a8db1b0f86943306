"""Who listens, by the kernel's tables; what ends with whom, on real processes and ports."""

import contextlib
import os
import socket
import subprocess
import threading

import pytest
import trio

from fastmesh.model import Address, Bind, Config, ExitWith, Listener, Sidecar
from fastmesh.supervisor import beside
from fastmesh.supervisor.beside import Outbound, end_with_application, listens, outbound_of
from fastmesh.supervisor.drain import Shutdown

NOTHING = Config({}, {})


class Keeper:
    """What `beside` asks of the real one."""

    def __init__(self, config=NOTHING):
        self.config = config
        self.told = []

    async def end_inbound(self):
        self.told.append("end_inbound")

    async def close(self, why):
        self.told.append(why)


def sidecar(app=(), exit_with=None, **listeners):
    return Config(listeners, {}, sidecar=Sidecar(app=app, exit_with=exit_with))


def at(*binds, direction="inbound"):
    return Listener("x", binds, direction=direction)


@pytest.fixture
def quick(monkeypatch):
    for name in ("LOOK_SECONDS", "APPEAR_SECONDS", "CHANGE_SECONDS"):
        monkeypatch.setattr(beside, name, 0.01)
    monkeypatch.setattr(beside, "GONE_SECONDS", 0.1)


@pytest.fixture
def sleeper():
    """Starts processes that sleep; they are gone when the test ends."""
    started = []

    def start():
        started.append(subprocess.Popen(["sleep", "600"]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


# ---------------------------------------------------------------- who listens


@pytest.mark.parametrize(
    ("family", "host"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
    ],
)
def test_who_listens_is_seen_at_any_address(family, host):
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        assert listens(port, NOTHING)
    assert not listens(port, NOTHING)


def test_a_connection_is_nobody_who_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        assert not listens(client.getsockname()[1], NOTHING)
    with client, accepted:
        assert not listens(accepted.getsockname()[1], NOTHING)


@pytest.mark.parametrize(
    ("family", "bound", "bind", "other"),
    [
        (socket.AF_INET, "127.0.0.5", ("inet", "127.0.0.5"), ("inet", "127.0.0.6")),
        (socket.AF_INET, "0.0.0.0", ("inet6", ""), ("inet6", "::1")),
        (socket.AF_INET6, "::", ("inet6", ""), ("inet", "127.0.0.1")),
        (socket.AF_INET6, "::", ("inet6", "::"), ("inet", "0.0.0.0")),
        (socket.AF_INET6, "::1", ("inet6", "::1"), ("inet6", "::")),
    ],
)
def test_our_own_listeners_do_not_count(family, bound, bind, other):
    with socket.create_server((bound, 0), family=family) as server:
        port = server.getsockname()[1]
        assert not listens(port, Config({"x": at(Bind(*bind, port))}, {}))
        assert listens(port, Config({"x": at(Bind(*other, port))}, {}))
        assert listens(port, Config({"x": at(Bind(*bind, port + 1), Bind("unix", path="/x"))}, {}))


# ---------------------------------------------------------------- the end with it


def ends(config, meanwhile):
    """Runs `end_with_application` until it asks for the end; returns the reason. ``meanwhile(keeper)`` runs
    beside it."""
    shutdown = None

    async def main():
        nonlocal shutdown
        shutdown = Shutdown()
        keeper = Keeper(config)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_with_application, keeper, shutdown)
                await meanwhile(keeper)
                await shutdown.requested.wait()
                nursery.cancel_scope.cancel()
        assert shutdown.application_gone.is_set()
        assert not shutdown.asked

    trio.run(main)
    return shutdown.reason


async def logged(caplog, text):
    with trio.fail_after(10):
        while text not in caplog.text:  # noqa: ASYNC110
            await trio.sleep(0.005)


def test_the_end_with_a_port(quick, caplog):
    caplog.set_level("INFO", logger="fastmesh")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]

        async def meanwhile(keeper):
            await logged(caplog, f"fastmesh ends when nobody listens on port {port} any more")
            server.close()

        reason = ends(sidecar(exit_with=ExitWith("port", port)), meanwhile)
    assert reason == f"exit_with: nobody listens on port {port} any more"


def test_a_port_that_nobody_has_opened_yet(quick, caplog, monkeypatch):
    """It is said once, and waited for."""
    monkeypatch.setattr(beside, "SAY_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    said = f"nobody has listened on port {port} of this network namespace yet"

    async def meanwhile(keeper):
        await logged(caplog, said)
        await trio.sleep(0.2)
        with socket.create_server(("127.0.0.1", port)):
            await trio.sleep(0.1)

    ends(sidecar(exit_with=ExitWith("port", port)), meanwhile)
    assert caplog.text.count(said) == 1


def test_the_end_with_a_process(quick, caplog, sleeper):
    caplog.set_level("INFO", logger="fastmesh")
    process = sleeper()

    async def meanwhile(keeper):
        await logged(caplog, f"fastmesh ends with process {process.pid}")
        process.kill()

    reason = ends(sidecar(exit_with=ExitWith("pid", process.pid)), meanwhile)
    assert reason == f"exit_with: process {process.pid} has ended"


def test_our_own_process_is_not_that_of_an_application(quick, caplog):
    """As pid 1 is where each container has its own pids."""

    async def meanwhile(keeper):
        await logged(caplog, f"exit_with: process {os.getpid()} is fastmesh itself.")
        await trio.sleep(0.1)
        with socket.create_server(("127.0.0.1", 0)) as server:
            keeper.config = sidecar(exit_with=ExitWith("port", server.getsockname()[1]))
            await trio.sleep(0.2)

    ends(sidecar(exit_with=ExitWith("pid", os.getpid())), meanwhile)
    assert caplog.text.count("is fastmesh itself") == 1


@pytest.fixture
def thread():
    """The number of a thread, which is no process's."""
    ended, started = threading.Event(), threading.Event()
    one = threading.Thread(target=lambda: (started.set(), ended.wait()))
    one.start()
    started.wait()
    yield one.native_id
    ended.set()
    one.join()


def test_a_process_that_cannot_be_watched(quick, caplog, thread, monkeypatch):
    """It is said once and asked again, and a drain does not fail of it."""

    def refused(pid):
        raise PermissionError(1, "Operation not permitted")

    async def meanwhile(keeper):
        await logged(caplog, f"exit_with: process {thread} is not there.")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", refused)
            keeper.config = sidecar(exit_with=ExitWith("pid", 7))
            await logged(caplog, "exit_with: process 7 cannot be watched (Operation not permitted).")
            await trio.sleep(0.1)
        with socket.create_server(("127.0.0.1", 0)) as server:
            keeper.config = sidecar(exit_with=ExitWith("port", server.getsockname()[1]))
            await trio.sleep(0.2)

    ends(sidecar(exit_with=ExitWith("pid", thread)), meanwhile)
    assert caplog.text.count("cannot be watched") == 1
    nowhere = (Address("inet", "127.0.0.1", 1),)
    assert gone(Keeper(sidecar(app=nowhere, exit_with=ExitWith("pid", thread))))


def test_a_change_of_what_to_end_with(quick, caplog, sleeper):
    caplog.set_level("INFO", logger="fastmesh")
    first, second = sleeper(), sleeper()

    async def meanwhile(keeper):
        await logged(caplog, f"fastmesh ends with process {first.pid}")
        keeper.config = NOTHING
        await trio.sleep(0.1)
        first.kill()
        await trio.sleep(0.1)
        keeper.config = sidecar(exit_with=ExitWith("pid", second.pid))
        await logged(caplog, f"fastmesh ends with process {second.pid}")
        second.kill()

    reason = ends(sidecar(exit_with=ExitWith("pid", first.pid)), meanwhile)
    assert reason == f"exit_with: process {second.pid} has ended"


# ---------------------------------------------------------------- in a drain


def gone(keeper, seconds=10.0):
    """Whether the application is found to have gone in that time."""

    async def main():
        with trio.move_on_after(seconds):
            await Outbound(keeper).application_gone()
            return True
        return False

    return trio.run(main)


def test_nobody_at_the_port_of_the_application(quick):
    with socket.create_server(("127.0.0.1", 0)) as server:
        keeper = Keeper(sidecar(app=(Address("inet", "127.0.0.1", server.getsockname()[1]),)))
        assert not gone(keeper, 0.1)
    assert gone(keeper)


def test_nobody_at_the_port_to_end_with(quick):
    """An application that failed before it listened has gone too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        keeper = Keeper(sidecar(exit_with=ExitWith("port", port)))
        assert not gone(keeper, 0.1)
    assert gone(keeper)


def test_an_address_that_only_a_connection_tells_of(quick, monkeypatch):
    monkeypatch.setattr(beside, "listens", lambda *_: 1 / 0)
    monkeypatch.setattr(beside, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(beside, "_in_this_namespace", lambda address: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        keeper = Keeper(sidecar(app=(Address("inet", "127.0.0.1", server.getsockname()[1]),)))
        assert not gone(keeper, 0.1)
    assert gone(keeper)


def test_nobody_at_the_name_of_the_machine(quick):
    with socket.create_server(("127.0.0.1", 0)) as server:
        keeper = Keeper(sidecar(app=(Address("name", "web-7f", server.getsockname()[1]),)))
        assert not gone(keeper, 0.1)
    assert gone(keeper)


def test_nobody_at_the_path_of_the_application(quick, tmp_path):
    path = str(tmp_path / "app.sock")
    keeper = Keeper(sidecar(app=(Address("unix", path=path),)))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert not gone(keeper, 0.1)
    assert gone(keeper)


def test_a_process_that_is_there_counts_more_than_a_port(quick, sleeper):
    nowhere = (Address("inet", "127.0.0.1", 1),)
    process = sleeper()
    keeper = Keeper(sidecar(app=nowhere, exit_with=ExitWith("pid", process.pid)))
    assert not gone(keeper, 0.1)
    process.kill()
    process.wait()
    assert gone(keeper)


@pytest.mark.parametrize("config", [NOTHING, sidecar()])
def test_an_application_that_nobody_knows_of(quick, config):
    assert not gone(Keeper(config), 0.1)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (sidecar(app=(Address("inet", "127.0.0.1", 80),)), "nobody listens on 127.0.0.1:80 any more"),
        (sidecar(exit_with=ExitWith("pid", 7)), "process 7 has ended"),
        (sidecar(exit_with=ExitWith("port", 80)), "nobody listens on port 80 any more"),
        (sidecar(), "the deadline: `sidecar` has no `app` and no `exit_with`"),
    ],
)
def test_what_is_waited_for_in_words(config, words):
    assert Outbound(Keeper(config)).waits_for() == words


def test_the_steps_are_the_keeper_s():
    async def main():
        keeper = Keeper()
        outbound = Outbound(keeper)
        await outbound.end_inbound()
        await outbound.end()
        assert keeper.told == ["end_inbound", "fastmesh is draining"]

    trio.run(main)


def test_what_goes_on_in_a_drain():
    bind = Bind("inet", "127.0.0.1", 80)

    async def main():
        shutdown = Shutdown()
        outbound = Keeper(sidecar(a=at(bind, direction="outbound")))
        assert outbound_of(outbound, shutdown) is not None
        for config in (NOTHING, sidecar(a=at(bind)), sidecar(a=at(direction="outbound"))):
            assert outbound_of(Keeper(config), shutdown) is None
        shutdown.hand_over(7, "9.9")
        assert outbound_of(outbound, shutdown) is None, "the other process serves it"

    trio.run(main)
