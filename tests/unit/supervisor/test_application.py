import os
import socket

import pytest
import trio
import trio.testing

from fastmesh.model import Sidecar
from fastmesh.model.address import Address
from fastmesh.supervisor.application import LOOK_SECONDS, ApplicationUser


@pytest.fixture
def application():
    """A listening socket of this process's user, and the sidecar before it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        yield server, Sidecar(app=(Address("inet", "127.0.0.1", port),), transparent=True)


def test_the_proxys_own_user_is_complained_of_once_until_it_is_mended(application, caplog):
    server, sidecar = application
    caplog.set_level("INFO")
    user = ApplicationUser(lambda: sidecar)
    assert user.not_ready() is None
    user.look()
    user.look()
    assert f"uid {os.geteuid()}" in user.not_ready()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].getMessage() == user.not_ready()
    server.close()
    user.look()
    assert user.not_ready() is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_another_user_is_welcome(application, caplog):
    _, sidecar = application
    user = ApplicationUser(lambda: sidecar, uid=os.geteuid() + 1)
    user.look()
    assert user.not_ready() is None
    assert not caplog.records


@pytest.mark.parametrize("how", ["explicit", "none", "unix"])
def test_where_nothing_is_intercepted_nothing_is_complained_of(application, how):
    _, sidecar = application
    other = {
        "explicit": Sidecar(app=sidecar.app),
        "none": None,
        "unix": Sidecar(app=(Address("unix", path="/run/app.sock"),), transparent=True),
    }[how]
    user = ApplicationUser(lambda: other)
    user.look()
    assert user.not_ready() is None


def test_it_goes_on_looking(application):
    server, sidecar = application
    seen = []

    async def main():
        user = ApplicationUser(lambda: sidecar)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(user.watch)
            await trio.testing.wait_all_tasks_blocked()
            seen.append(user.not_ready() is None)
            server.close()
            await trio.sleep(LOOK_SECONDS * 1.5)
            seen.append(user.not_ready() is None)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert seen == [False, True]
