"""What stands still is told of once, while it lasts: looks at times of the test's choice, and real ones."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

watchdog = pytest.importorskip("fastmesh._native.core._t_watchdog")

T0 = 10_000_000
ADOPT, LETTERS = 2, 6
REPORTS_PER_MINUTE = 6


@pytest.fixture
def log() -> Iterator[int]:
    fd = os.memfd_create("log")
    yield fd
    os.close(fd)


def written(fd: int) -> str:
    """What was written since the last call."""
    text = os.pread(fd, 1 << 20, 0).decode()
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    return text


# ---------------------------------------------------------------- workers


def test_a_turn_of_a_second_is_told_once(log: int) -> None:
    dog = watchdog.Dog(log)
    dog.begin_turn(T0)
    dog.look(T0 + 999)
    assert written(log) == ""
    dog.look(T0 + 1200)
    first = written(log)
    assert " error   fastmesh.watchdog: worker 0 has been in one turn for 1.2 s\n    phase: events\n" in first
    dog.look(T0 + 5000)
    assert written(log) == ""
    dog.end_turn()
    dog.look(T0 + 9000)
    assert written(log) == ""
    dog.begin_turn(T0 + 10_000)
    dog.look(T0 + 11_500)
    assert "one turn for 1.5 s" in written(log)
    assert dog.counts()[2:] == (2, 0, 0)


def test_waiting_for_events_is_no_turn(log: int) -> None:
    dog = watchdog.Dog(log)
    dog.begin_turn(T0)
    dog.end_turn()
    dog.look(T0 + 60_000)
    assert (written(log), dog.counts()[2]) == ("", 0)


def test_the_phase_is_named(log: int) -> None:
    dog = watchdog.Dog(log, json=True)
    dog.begin_turn(T0)
    dog.phase(ADOPT)
    dog.look(T0 + 2000)
    assert json.loads(written(log))["phase"] == "adopting a configuration"


def test_few_entries_a_minute(log: int) -> None:
    dog = watchdog.Dog(log)
    for number in range(20):
        dog.begin_turn(T0 + number * 2000)
        dog.look(T0 + number * 2000 + 1500)
        dog.end_turn()
    assert written(log).count("in one turn") == REPORTS_PER_MINUTE
    assert dog.counts()[2:4] == (20, 20 - REPORTS_PER_MINUTE)
    dog.begin_turn(T0 + 62_000)
    dog.look(T0 + 63_500)
    assert written(log).count("in one turn") == 1


def test_a_process_that_was_stopped_as_a_whole_says_nothing(log: int) -> None:
    dog = watchdog.Dog(log)
    dog.begin_turn(T0)
    dog.beat(T0)
    dog.awake_since(T0 + 60_000)
    dog.look(T0 + 60_100)
    assert written(log) == ""
    dog.look(T0 + 66_000)
    assert "in one turn for 6.0 s" in written(log)


@contextlib.contextmanager
def running(dog: object, *bodies: object) -> Iterator[None]:
    threads = [threading.Thread(target=body) for body in (dog.run, *bodies)]  # type: ignore[attr-defined]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads[1:]:
            thread.join()
        dog.stop()  # type: ignore[attr-defined]
        threads[0].join()


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("burning", [True, False])
def test_a_worker_that_can_be_asked_shows_its_stack(log: int, form: str, burning: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        port = server.getsockname()[1]
        dog = watchdog.Dog(log, client.fileno(), json=form == "json")
        with running(dog, lambda: dog.stand(1700, burning)):
            pass
        fd = client.fileno()
        client.close()
    text = written(log)
    where = f"client, head, fd {fd}, peer 127.0.0.1 port {port}, requests on it 0"
    if form == "json":
        (line,) = text.splitlines()
        entry = json.loads(line)
        assert entry["connection"] == where
        stack = entry["stack"]
        assert entry["logger"] == "fastmesh.watchdog"
    else:
        assert f"\n    connection: {where}\n    stack:\n" in text
        stack = [line.strip() for line in text.partition("    stack:\n")[2].splitlines()]
    assert re.search(r"core\._t_watchdog\.Dog\.stand\+0x\w+ \(_t_watchdog\.cpython-", "\n".join(stack)), text
    # Where a signal finds it comes first, behind what a sanitizer puts in front of a handler.
    assert burning or re.search(r"poll\+0x\w+ \(lib", "\n".join(stack[:4]))
    turns, slow, stalls, _, _ = dog.counts()
    assert (turns, slow, stalls) == (1, 1, 1)


def test_a_full_log_holds_nobody_up() -> None:
    """The entry is lost; the watchdog still ends."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(65536))
    dog = watchdog.Dog(writing)
    began = time.monotonic()
    with running(dog, lambda: dog.stand(1300, False)):
        pass
    assert time.monotonic() - began < 10
    assert dog.counts()[2] == 1
    os.close(reading)
    os.close(writing)


def test_nobody_is_asked_who_asked_nothing(log: int) -> None:
    """The signal from elsewhere finds no question, and harms neither a worker nor another thread."""
    import signal

    dog = watchdog.Dog(log)
    ended = threading.Event()

    def work() -> None:
        dog.stand(500, False)
        ended.set()

    with running(dog, work):
        while not ended.wait(0.01):
            for task in os.listdir("/proc/self/task"):  # noqa: PTH208
                with contextlib.suppress(ProcessLookupError):
                    ctypes.CDLL(None).tgkill(os.getpid(), int(task), signal.SIGRTMIN + 5)
    assert written(log) == ""
    assert dog.counts()[0] == 1


# ---------------------------------------------------------------- the control plane


def test_a_late_control_plane_is_told_once_and_when_it_is_back(log: int) -> None:
    dog = watchdog.Dog(log, json=True)
    dog.look(T0 + 100_000)
    assert written(log) == "", "it is watched from its first beat on"
    dog.beat(T0)
    dog.look(T0 + 4999)
    assert written(log) == ""
    dog.look(T0 + 5000)
    entry = json.loads(written(log))
    assert entry["message"] == (
        "the control plane has not run for 5 s; traffic goes on with the last configuration"
    )
    assert entry["level"] == "error"
    dog.look(T0 + 9999)
    assert written(log) == ""
    dog.beat(T0 + 9999)
    dog.look(T0 + 10_000)
    assert json.loads(written(log))["message"] == "the control plane runs again"
    dog.look(T0 + 11_000)
    assert written(log) == ""
    assert dog.counts()[4] == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_its_stacks_are_shown_after_ten_seconds(log: int, form: str) -> None:
    from fastmesh._native.core.engine import STACKS_SIGNAL

    stacks = os.memfd_create("stacks")
    faulthandler.register(STACKS_SIGNAL, file=stacks, all_threads=False)
    dog = watchdog.Dog(log, stacks_fd=stacks, json=form == "json")
    try:
        dog.beat(T0)
        dog.look(T0 + 5000)
        written(log)
        watching = threading.Thread(target=dog.look, args=(T0 + 10_000,))
        watching.start()
        watching.join()
        text = written(log)
        shown = json.loads(text)["stacks"] if form == "json" else text.splitlines()
        assert any(
            "test_watchdog.py" in line and "test_its_stacks_are_shown_after_ten_seconds" in line
            for line in shown
        ), text
        dog.look(T0 + 20_000)
        assert written(log) == ""
    finally:
        faulthandler.unregister(STACKS_SIGNAL)
        os.close(stacks)


# ---------------------------------------------------------------- the record of a turn


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def test_a_slow_turn_says_what_it_did(log: int) -> None:
    dog = watchdog.Dog(log)
    dog.begin_turn(now_ms() - 300, events=7)  # the events took 300 ms
    dog.phase(LETTERS)
    began = time.monotonic()
    while time.monotonic() - began < 0.05:
        pass
    dog.end_turn()
    took, phases, events = dog.slow_turn(0)
    assert events == 7
    assert 345_000 < took < 3_000_000
    assert 280_000 < phases[1] <= took - 40_000
    assert 40_000 < phases[LETTERS] < took - 280_000
    assert abs(sum(phases) - took) < 10_000, "the phases are the turn"
    assert dog.clean()


def test_a_quick_turn_leaves_no_record(log: int) -> None:
    dog = watchdog.Dog(log)
    dog.begin_turn(now_ms())
    dog.phase(ADOPT)
    dog.end_turn()
    assert dog.counts()[:2] == (1, 0)
    assert dog.clean()


# ---------------------------------------------------------------- entries and names


NASTY = bytes(range(256))


def test_a_json_entry_is_one_valid_line() -> None:
    line = watchdog.report(
        True, NASTY, [(b"a", NASTY), (b"b", b"")], [(b"none", []), (b"two", [b"x", NASTY])]
    )
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    entry = json.loads(line)
    text = NASTY.decode("latin-1")
    assert entry == {**entry, "message": text, "a": text, "b": "", "none": [], "two": ["x", text]}
    assert set(entry) == {"time", "level", "logger", "message", "a", "b", "none", "two"}


def test_a_text_entry_cannot_be_forged() -> None:
    text = watchdog.report(False, b"one\ntwo", [(b"a", b"b\r\nc")], [(b"list", [b"d\ne"])]).decode()
    head, *lines = text.splitlines()
    assert head.endswith(r" error   fastmesh.watchdog: one\x0atwo")
    assert lines == [r"    a: b\x0d\x0ac", "    list:", r"        d\x0ae"]


@pytest.mark.parametrize("size", [1, 300, 32_000, 40_000])
def test_what_has_no_room_is_left_out_and_the_rest_is_valid(size: int) -> None:
    texts = [b'"' * 400] * (40_000 // max(1, size) if size < 1000 else 90)
    line = watchdog.report(True, b"m", [(b"field", b"\x01" * size)], [(b"list", texts), (b"after", [b"x"])])
    assert len(line) <= 32_768
    entry = json.loads(line)
    assert entry["field"] == "\x01" * min(size, len(entry["field"]))


def test_addresses_have_names() -> None:
    libc = ctypes.CDLL(None)
    shown = watchdog.address(ctypes.cast(libc.getpid, ctypes.c_void_p).value)
    assert "getpid+0x0 (libc" in shown
    own = watchdog.burn_address()
    assert watchdog.address(own).startswith("core._t_watchdog.burn+0x0 (_t_watchdog.cpython-")
    assert watchdog.address(own + 3).startswith("core._t_watchdog.burn+0x3 (")
    assert watchdog.address(0x10) == "0x10"
