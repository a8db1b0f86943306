"""Two processes' sides of a takeover in one: who gets what, who may, and who goes on when it fails."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from fastmesh.admin.sockets import open_admin
from fastmesh.errors import StartError
from fastmesh.supervisor import drain, handover, takeover
from fastmesh.supervisor.handover import Group, Hello, Left, Serving, Wire
from fastmesh.supervisor.takeover import Succession
from support.descriptors import open_descriptors
from support.fake_data_plane import FakeDataPlane
from support.succession import (
    DRAINS,
    NAMES,
    TOLD,
    House,
    following,
    play,
    reigning,
    servers,
    take_over,
    talking,
    until,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "takeover.sock"


@pytest.fixture(autouse=True)
def _no_socket_is_left(caplog):
    caplog.set_level(logging.INFO, logger="fastmesh")
    before = set(open_descriptors("socket:"))
    yield
    assert set(open_descriptors("socket:")) <= before


@pytest.fixture
def house():
    return House(a=1)


# ---------------------------------------------------------------- as it should be


def test_the_first_one_listens_and_removes_the_file_at_its_end(path, house):
    async def test():
        async with reigning(path, house) as first:
            assert path.stat().st_mode & 0o777 == 0o600
            assert first.view() == {"path": str(path), "took_over_from": None, "handed_over_to": None}
        assert not path.exists()

    play(test)


def test_without_the_option_nothing_happens(house):
    async def test():
        alone = Succession(None)
        assert not (await alone.enter()).given
        await alone.serve(house)
        await alone.still_wanted()
        await alone.serving(FakeDataPlane(workers=1, connection_limit=1), None)
        assert alone.view() is None
        alone.close()

    play(test)
    house.close()


@pytest.mark.parametrize("count", [1, 300])
def test_everything_is_handed_over(path, caplog, count):
    """What the new one has no use for stays with the old one."""
    house = House(a=count, b=1)
    addresses = {bind: [sock.getsockname() for sock in socks] for bind, socks in house.listeners.items()}

    async def test():
        async with reigning(path, house) as first, following(path) as (second, received, plane):
            found = {bind: [sock.getsockname() for sock in given.sockets] for bind, given in received.items()}
            assert found == addresses
            assert not any(given.ours for given in received.values())
            assert plane.told == TOLD
            del plane.given["a"]  # which it uses
            await second.still_wanted()
            await second.serving(plane, None)
            await until(lambda: house.successor)
            assert house.left == Serving(("a",), (), (str(path),))
            assert received["b"].sockets[0].fileno() == -1, "the old one could not close it else"
            assert plane.calls == ["own_listeners a"]
            assert first.view()["handed_over_to"] == second.view()["took_over_from"] == os.getpid()
            first.close()
            assert path.exists(), "the file is the second one's now"
        assert not path.exists()

    play(test)
    assert f"taking over from pid {os.getpid()} (fastmesh " in caplog.text
    assert f"): {count + 2} sockets, state of 2 endpoints" in caplog.text


def test_the_second_one_can_be_followed_too(path, house):
    other = House(b=2)

    async def test():
        async with reigning(path, house), following(path) as (second, _, plane):
            await second.serving(plane, None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(second.serve, other)
                await take_over(path, other)
            assert house.successor
            assert second.view()["handed_over_to"] == os.getpid()

    play(test)
    other.close()


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_the_admin_api_is_handed_over_with_its_file(path, tmp_path, used, ours):
    bind = f"unix:{tmp_path / 'admin.sock'}"
    old = open_admin(bind, {})
    old.ours = ours
    house = House(admin=old)

    async def test():
        async with reigning(path, house), following(path) as (second, received, plane):
            new = open_admin(bind, {bind: plane.given.pop(bind)}) if used else None
            assert new is None or not new.ours, "it would remove the file of a process that goes on"
            await second.serving(plane, new)
            await until(lambda: house.left)
            assert house.left.admin == ((bind,) if used or not ours else ())
            if new is not None:
                assert new.ours is ours
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(bind.removeprefix("unix:"))
            else:
                assert (received[bind].sockets[0].fileno() == -1) is ours, "systemd's are kept"

    play(test)


def test_what_the_api_was_asked_to_drain_is_told(path, house):
    async def test():
        async with reigning(path, house):
            second = Succession(str(path))
            inherited = await second.enter()
            assert inherited.drains == DRAINS
            assert inherited.names == NAMES
            second.close()
            for given in inherited.given.values():
                given.sockets[0].close()

    play(test)


def test_what_a_newer_version_has_more_is_closed(path, house):
    house.more = [(Group("telepathy", "x", 1), servers(1))]

    async def test():
        async with reigning(path, house):
            await take_over(path, house)
            assert house.left == Serving((), (), (str(path),))

    play(test)


# ---------------------------------------------------------------- who may not


async def refused(path, text):
    with pytest.raises(StartError, match=text) as caught:
        async with following(path):
            pass
    assert str(caught.value).startswith(f"--takeover {path}: ")


def test_one_that_drains_refuses(path, house, caplog):
    house.draining = True

    async def test():
        async with reigning(path, house):
            await refused(path, f"refuses: pid {os.getpid()} is draining already")

    play(test)
    assert f"pid {os.getpid()} wants to take over and may not: pid {os.getpid()} is draining" in caplog.text


def test_one_at_a_time(path, house, caplog):
    async def test():
        async with reigning(path, house):
            async with talking(path) as (_, offer):
                assert not offer.refused
                await refused(path, f"pid {os.getpid()} is taking over just now")
            await until(lambda: "did not take over" in caplog.text)
            await take_over(path, house)

    play(test)


@pytest.mark.parametrize("protocol", [0, 2, 99])
def test_another_protocol(path, house, protocol):
    async def test():
        async with reigning(path, house), talking(path, Hello(protocol, "9.9")) as (_, offer):
            assert f"protocol {protocol}" in offer.refused
            assert f"speaks {handover.PROTOCOL}" in offer.refused
            assert not house.left

    play(test)


@pytest.mark.parametrize("side", ["old", "new"])
def test_another_user(path, house, monkeypatch, side):
    real = handover.peer_of
    strange = os.geteuid() + 1
    calls = []

    def peer_of(sock):  # the new one looks first
        calls.append(sock)
        pid, uid = real(sock)
        return pid, strange if len(calls) == (1 if side == "new" else 2) else uid

    monkeypatch.setattr(handover, "peer_of", peer_of)
    text = f"belongs to user {strange}" if side == "new" else f"user {strange} may not take over"

    async def test():
        async with reigning(path, house):
            await refused(path, text)
            assert not house.left

    play(test)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_a_process_of_another_user_gets_no_socket(house):
    """Not even if the file's mode were not in its way."""
    path = Path(f"/tmp/fastmesh-test-{os.getpid()}.sock")  # a folder that all may enter
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "data, fds, _, _ = socket.recv_fds(s, 65536, 10)\n"
        "print(len(fds), data.decode())\n"
    )
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    def ask():
        command = [*become, "/usr/bin/env", "python3", "-c", code, str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    async def test():
        async with reigning(path, house):
            asked = await trio.to_thread.run_sync(ask)
            assert "PermissionError" in asked.stderr
            path.chmod(0o666)  # noqa: ASYNC240
            asked = await trio.to_thread.run_sync(ask)
            count, _, line = asked.stdout.partition(" ")
            assert count == "0", asked
            assert json.loads(line)["refused"] == "user 65534 may not take over"
            assert not house.left

    play(test)


@pytest.mark.parametrize("says", [b"GET / HTTP/1.1\r\n\r\n", b'{"protocol": "x"}\n', b""])
def test_nonsense_disturbs_nobody(path, house, caplog, says):
    async def test():
        async with reigning(path, house):
            with trio.socket.socket(socket.AF_UNIX) as sock:
                await sock.connect(str(path))
                if says:
                    await sock.send(says)
            await until(lambda: "wants to take over and may not" in caplog.text)
            await take_over(path, house)

    play(test)


def test_one_that_says_nothing(path, house, monkeypatch):
    monkeypatch.setattr(takeover, "HELLO_SECONDS", 0.05)

    async def test():
        async with reigning(path, house):
            with trio.socket.socket(socket.AF_UNIX) as sock:
                await sock.connect(str(path))
                assert b"it says nothing" in await sock.recv(1000)

    play(test)


# ---------------------------------------------------------------- who goes on


def test_a_successor_that_ends_before_it_serves(path, house, caplog):
    async def test():
        async with reigning(path, house) as first:
            async with following(path):
                pass
            await until(lambda: "did not take over" in caplog.text)
            assert path.exists(), "the file is the first one's"
            assert not house.left
            assert first.successor == 0
            await take_over(path, house)

    play(test)
    assert "it ended before it served; this process goes on" in caplog.text


def test_a_successor_that_hangs(path, house, monkeypatch, caplog):
    monkeypatch.setattr(takeover, "PATIENCE", 0.2)

    async def test():
        async with reigning(path, house):
            async with following(path) as (second, _, _):
                await until(lambda: "it did not serve within 0.2 s; this process goes on" in caplog.text)
                with pytest.raises(StartError, match="goes on: it did not serve within"):
                    await second.still_wanted()
            assert not house.left
            assert path.exists()

    play(test)


def test_who_is_to_stop_does_not_wait_for_a_successor_that_hangs(path, house, monkeypatch, caplog):
    monkeypatch.setattr(drain, "HASTE_SECONDS", 0.1)

    async def test():
        async with reigning(path, house):
            async with following(path) as (second, _, _):
                house.shutdown.request("SIGTERM")
                with trio.fail_after(takeover.PATIENCE / 2):
                    await until(lambda: "it did not serve before this one was to stop" in caplog.text)
                with pytest.raises(StartError, match="goes on: it did not serve"):
                    await second.still_wanted()
            assert not house.left

    play(test)


def test_a_successor_that_says_too_late_that_it_serves(path, house, monkeypatch, caplog):
    """Its line is not read any more, but what the old one said before is."""
    monkeypatch.setattr(takeover, "PATIENCE", 0.2)

    async def test():
        async with reigning(path, house):
            async with following(path) as (second, _, plane):
                await until(lambda: "this process goes on" in caplog.text)
                with pytest.raises(StartError, match="goes on: it did not serve within"):
                    await second.serving(plane, None)
                assert not plane.calls, "it owns nothing"
            assert path.exists()

    play(test)


def test_a_failure_of_handing_over_is_told(path, house, caplog):
    """Else the new one would take the old one for dead, and both would serve."""
    house.fails = ValueError("a bug")

    async def test():
        async with reigning(path, house), following(path) as (second, _, plane):
            with pytest.raises(StartError, match="goes on: ValueError: a bug"):
                await second.serving(plane, None)

    play(test)
    assert "handing over failed" in caplog.text


def test_a_failure_of_the_offer_is_told(path, house, monkeypatch):
    monkeypatch.setattr(house, "held", lambda: 1 / 0)

    async def test():
        async with reigning(path, house):
            await refused(path, "refuses: ZeroDivisionError")
        assert not house.left

    play(test)


def test_a_predecessor_that_dies_has_left_everything(path, house, monkeypatch, caplog):
    """Its connection then ends without a word."""
    wires = []

    class Kept(Wire):
        def __init__(self, sock):
            super().__init__(sock)
            wires.append(self)

    async def test():
        async with reigning(path, house) as first:
            monkeypatch.setattr(takeover, "Wire", Kept)
            async with following(path) as (second, _, plane):
                first._ours = False  # who is killed removes no file
                wires[-1].sock.shutdown(socket.SHUT_RDWR)
                await second.still_wanted()
                del plane.given["a"]
                await second.serving(plane, None)
                assert plane.calls == ["own_listeners a"]
            assert not path.exists()

    play(test)
    assert "ended without letting go; all of it is this process's now" in caplog.text


def test_a_predecessor_that_is_slow_to_let_go_is_waited_for(path, monkeypatch, caplog):
    """It alone knows whether it goes on."""
    monkeypatch.setattr(takeover, "PATIENCE", 0.05)

    async def test():
        async with trio.open_nursery() as nursery:
            ours, theirs = trio.socket.socketpair(socket.AF_UNIX)
            second = Succession(str(path))
            second.predecessor, second._wire = 77, Wire(ours)
            plane = FakeDataPlane(workers=1, connection_limit=1)
            nursery.start_soon(second.serving, plane, None)
            with Wire(theirs) as old:
                await old.receive(Serving)
                await until(lambda: caplog.text.count("pid 77 does not say that it has let go") >= 2)
                assert not plane.calls
                await old.send(Left())
                await until(lambda: plane.calls)

    play(test)


# ---------------------------------------------------------------- what may lie at the path


def listening_at(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.mark.parametrize(
    ("says", "text"),
    [
        (b"220 mail.example.com ESMTP\r\n", "is no Offer"),
        (b'{"protocol": 1, "refused": "no"}\n', "refuses: no$"),
        (b'{"protocol": 7}\n', "speaks protocol 7, this one 1"),
        (b'{"protocol": 1, "groups": [{"kind": "listener", "bind": "x", "sockets": 0}]}\n', "`int` >= 1"),
        (
            b'{"protocol": 1, "groups": [{"kind": "listener", "bind": "x", "sockets": 1}]}\n',
            "closed the conn",
        ),
        (b'{"protocol": 1, "endpoints": 1}\n{"endpoints": []}\n', "0 endpoints where 1"),
    ],
)
def test_an_answer_that_is_no_offer(path, says, text):
    async def answer(door):
        sock, _ = await door.accept()
        with sock:
            await sock.recv(1000)
            await sock.send(says)

    async def test():
        with trio.socket.from_stdlib_socket(listening_at(path)) as door:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, door)
                await refused(path, text)
        assert path.exists()

    play(test)


def test_one_that_does_not_answer(path, monkeypatch):
    monkeypatch.setattr(takeover, "PATIENCE", 0.05)
    with listening_at(path):
        play(lambda: refused(path, "does not answer within 0.05 s"))


def test_a_dead_process_is_replaced(path, house):
    listening_at(path).close()

    async def test():
        async with reigning(path, house):
            await take_over(path, house)

    play(test)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_anything_else_is_left_alone(path, kind):
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to("/dev/null")
    play(lambda: refused(path, "something else than a socket"))
    assert os.path.lexists(path)


@pytest.mark.parametrize(
    ("where", "text"),
    [("no/such/folder.sock", "choose a folder"), ("x" * 200, "too long; choose another path")],
)
def test_a_path_that_cannot_be(tmp_path, where, text):
    play(lambda: refused(tmp_path / where, text))


def test_who_comes_second_of_two_asks_the_first(path, house, monkeypatch):
    """Both saw nobody there; the second's bind fails."""
    connect, listen = takeover._connect, takeover._listen

    async def nobody(_):
        monkeypatch.setattr(takeover, "_connect", connect)

    def overtaken(where):
        monkeypatch.setattr(takeover, "_listen", listen)
        raise FileExistsError(where)

    async def test():
        async with reigning(path, house):
            monkeypatch.setattr(takeover, "_connect", nobody)
            monkeypatch.setattr(takeover, "_listen", overtaken)
            await take_over(path, house)

    play(test)


# ---------------------------------------------------------------- USR2


def test_usr2_without_the_option(caplog):
    play(Succession(None).start_successor)
    assert "`fastmesh run --takeover PATH`" in caplog.text


DETACHED = "from fastmesh.supervisor.successor import detach\ndetach()\n"


def test_usr2_of_one_that_fails(path, house, monkeypatch, caplog):
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", DETACHED + "raise SystemExit(7)"])

    async def test():
        async with reigning(path, house) as first:
            await first.start_successor()
            started = re.search(r"USR2: pid (\d+) is started and takes over", caplog.text)
            assert f"pid {started[1]} ended before it took over; this process goes on" in caplog.text
            monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", "raise SystemExit(1)"])
            await first.start_successor()
            assert "what was started ended at once; this process goes on" in caplog.text
            monkeypatch.setattr(sys, "executable", "/no/such/python")
            await first.start_successor()
            assert "/no/such/python cannot be started: No such file or directory" in caplog.text

    play(test)


def test_usr2_twice_starts_one(path, house, monkeypatch, caplog, tmp_path):
    """The one that is started waits for a file."""
    go = tmp_path / "go"
    wait = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)"
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", DETACHED + wait, str(go)])

    async def test():
        async with reigning(path, house) as first, trio.open_nursery() as nursery:
            nursery.start_soon(first.start_successor)
            nursery.start_soon(first.start_successor)
            await until(lambda: "USR2: no successor is started" in caplog.text)
            await until(lambda: "is started and takes over" in caplog.text)
            go.touch()

    play(test)
    assert caplog.text.count("is started and takes over") == 1
