import logging
import os
import socket
import time

import pytest
import trio
import trio.testing

from fastmesh.errors import ConfigError, Problem, StartError
from fastmesh.supervisor import notify

SECOND = 1_000_000


class Manager:
    """The service manager's end."""

    def __init__(self, address):
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind(address)

    def heard(self):
        """The lines of each message since the last call."""
        messages = []
        while True:
            try:
                messages.append(self._sock.recv(65536).decode().split("\n"))
            except BlockingIOError:
                return messages

    def close(self):
        self._sock.close()


@pytest.fixture
def manager(tmp_path, monkeypatch):
    path = str(tmp_path / "notify")
    manager = Manager(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    yield manager
    manager.close()


@pytest.fixture(autouse=True)
def _no_watchdog(monkeypatch):
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


def on_jumping_clock(main):
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_nothing_happens_without_a_manager(monkeypatch, caplog):
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        else:
            monkeypatch.setenv("NOTIFY_SOCKET", value)
        notify.notify("READY=1")
    assert not caplog.records


def test_lines_are_one_message(manager):
    notify.notify("READY=1", "STATUS=ü")
    notify.notify("WATCHDOG=1")
    assert manager.heard() == [["READY=1", "STATUS=ü"], ["WATCHDOG=1"]]


def test_an_abstract_address(monkeypatch):
    name = f"fastmesh-test-notify-{os.getpid()}"
    manager = Manager(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    notify.notify("READY=1")
    assert manager.heard() == [["READY=1"]]
    manager.close()


def test_a_text_is_no_assignment_of_its_own(manager):
    notify.ready("a\nMAINPID=1\n\n b")
    assert manager.heard() == [["READY=1", "STATUS=a MAINPID=1 b"]]


@pytest.mark.parametrize(
    ("address", "why"),
    [("/nonexistent/notify", "No such file"), ("relative", "neither a path"), ("/" + "x" * 200, "too long")],
)
def test_a_manager_that_is_not_there_is_a_warning(monkeypatch, caplog, address, why):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.notify("READY=1", "STATUS=x")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert address in record.message
    assert "READY=1" in record.message
    assert why in record.message


def test_a_manager_that_does_not_read_is_not_waited_for(manager, caplog):
    while not caplog.records:
        notify.notify("WATCHDOG=1", "STATUS=" + "x" * 10_000)
    assert "unavailable" in caplog.text


def test_a_reload_carries_the_time(manager):
    before = microseconds()
    notify.reloading()
    notify.ready("done")
    reloading, done = manager.heard()
    assert reloading[0] == "RELOADING=1"
    name, _, value = reloading[1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= microseconds()
    assert done[0] == "READY=1"


def microseconds():
    """Microseconds of the clock that systemd compares with."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_an_invalid_file_is_einval(manager):
    problem = Problem(file="a.yaml", line=3, column=1, message="the file has no key `x`")
    notify.failed(ConfigError([problem]))
    assert manager.heard() == [["STATUS=cannot start: a.yaml:3:1: the file has no key `x`", "ERRNO=22"]]


def test_an_error_of_the_system_is_named_by_its_number(manager):
    try:
        try:
            try:
                raise PermissionError(13, "no")
            except OSError as error:
                raise StartError("listener web: no permission") from error
        except StartError as error:
            raise StartError("listener web: no permission\nadmin: in use") from error
    except StartError as error:
        notify.failed(error)
    notify.failed(StartError("of its own"))
    assert manager.heard() == [
        ["STATUS=cannot start: listener web: no permission admin: in use", "ERRNO=13"],
        ["STATUS=cannot start: of its own"],
    ]


def test_nothing_is_said_after_the_hand_over(manager, monkeypatch):
    notify.hand_over(4711)
    assert "NOTIFY_SOCKET" not in os.environ

    async def main():
        with trio.move_on_after(5):
            await notify.tell_drain("replaced", lambda: 1)

    on_jumping_clock(main)
    assert manager.heard() == [["MAINPID=4711"]]


def test_a_drain_stops_once_and_asks_for_time(manager):
    left = iter([3, 2, 2, 0])

    async def main():
        with trio.move_on_after(3.5 * notify.PROGRESS_SECONDS):
            await notify.tell_drain("SIGTERM", lambda: next(left))

    on_jumping_clock(main)
    extend = f"EXTEND_TIMEOUT_USEC={notify.PATIENCE_SECONDS * SECOND}"
    assert manager.heard() == [
        ["STOPPING=1", "STATUS=drains (SIGTERM), 3 in progress", extend],
        ["STATUS=drains (SIGTERM), 2 in progress", extend],
        ["STATUS=drains (SIGTERM), 2 in progress", extend],
        ["STATUS=drains (SIGTERM), 0 in progress", extend],
    ]
    assert notify.PATIENCE_SECONDS > 5 * notify.PROGRESS_SECONDS


@pytest.mark.parametrize("pid", [None, "ours"])
def test_the_watchdog_is_fed_twice_in_its_time(manager, monkeypatch, pid):
    monkeypatch.setenv("WATCHDOG_USEC", str(10 * SECOND))
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

    async def main():
        with trio.move_on_after(16):
            await notify.feed_watchdog()

    on_jumping_clock(main)
    assert manager.heard() == [["WATCHDOG=1"]] * 4  # at 0, 5, 10 and 15 s
    # A successor, which has another pid, is to feed it too.
    assert "WATCHDOG_PID" not in os.environ
    assert os.environ["WATCHDOG_USEC"] == str(10 * SECOND)


@pytest.mark.parametrize(
    ("allowed", "pid", "warned"),
    [(None, None, False), ("10000000", "1", False), ("0", None, True), ("soon", None, True)],
)
def test_a_watchdog_that_is_not_ours_is_left_alone(manager, monkeypatch, caplog, allowed, pid, warned):
    for name, value in (("WATCHDOG_USEC", allowed), ("WATCHDOG_PID", pid)):
        if value is not None:
            monkeypatch.setenv(name, value)

    trio.run(notify.feed_watchdog)  # returns
    assert manager.heard() == []
    assert bool(caplog.records) is warned
