"""The access log's writer thread: batches, blocked readers, errors, reopening, and the end."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections import Counter

import pytest

from fastmesh._native.core._t_access import COMBINED, JSON, Rings, Writer

EXCHANGE = {
    "started_us": 1_763_711_111_123_456,
    "status": 200,
    "protocol": 2,
    "listener": b"web",
    "client": b"192.168.1.77",
    "method": b"GET",
    "target": b"/user/17",
}


class Running:
    """A writer in its thread, and the workers' side of its rings."""

    def __init__(self, out, *, rings=1, capacity=1 << 16, style=JSON):
        self.rings = Rings(rings, capacity)
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.writer = Writer(self.rings, self.wake, out, style)
        self.thread = threading.Thread(target=self.writer.run)
        self.thread.start()

    def send(self, count, *, ring=0, turn=1, **changes):
        return self.rings.produce(ring, EXCHANGE | changes, count, turn, self.wake)

    def wait_for(self, **wanted):
        """Waits until the counters have at least these values."""
        deadline = time.monotonic() + 10
        while any(self.writer.counters()[name] < value for name, value in wanted.items()):
            assert time.monotonic() < deadline, self.writer.counters()
            time.sleep(0.001)
        return self.writer.counters()

    def stop(self):
        self.writer.stop()
        self.thread.join()
        return self.writer.counters()


@contextlib.contextmanager
def running(out, **settings):
    it = Running(out, **settings)
    try:
        yield it
    finally:
        it.stop()
        os.close(it.wake)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "access.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    yield path, descriptor
    os.close(descriptor)


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_record_is_written_at_once_and_without_a_stop(log):
    path, out = log
    with running(out) as log_writer:
        log_writer.send(1)
        log_writer.wait_for(lines_written=1)
        assert [line["target"] for line in lines(path)] == ["/user/17"]
        log_writer.send(1)
        log_writer.wait_for(lines_written=2)


def test_all_that_is_in_the_rings_is_written_at_the_stop(log):
    path, out = log
    with running(out, rings=3, capacity=1 << 20) as log_writer:
        for ring in range(3):
            assert log_writer.send(700, ring=ring, turn=700) == 0
        counters = log_writer.stop()
    assert counters["lines_written"] == 2100
    assert counters["bytes_written"] == path.stat().st_size
    assert Counter(line["bytes_sent"] for line in lines(path)) == dict.fromkeys(range(700), 3)


def test_combined_lines(log):
    path, out = log
    with running(out, style=COMBINED) as log_writer:
        log_writer.send(1)
    first = "192.168.1.77 - - [21/Nov/2025:07:45:11 +0000]"
    assert path.read_text() == f'{first} "GET /user/17 HTTP/1.1" 200 0 "-" "-"\n'


@pytest.mark.tsan
def test_workers_in_threads_lose_no_line_that_was_not_counted(log):
    path, out = log
    dropped = []
    with running(out, rings=4, capacity=1 << 14) as log_writer:

        def work(ring):
            dropped.append(log_writer.send(20_000, ring=ring, turn=5))

        workers = [threading.Thread(target=work, args=(ring,)) for ring in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        counters = log_writer.stop()
        assert sum(dropped) == sum(log_writer.rings.dropped(ring) for ring in range(4))
    written = lines(path)
    assert len(written) == counters["lines_written"] == 80_000 - sum(dropped)
    assert max(Counter(line["bytes_sent"] for line in written).values()) <= 4


def test_reopening_by_dup2_splits_the_lines_cleanly(log, tmp_path):
    path, out = log
    with running(out) as log_writer:
        log_writer.send(1, target=b"/old")
        log_writer.wait_for(lines_written=1)
        moved = path.rename(tmp_path / "access.log.1")
        fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        os.dup2(fresh, out, inheritable=False)
        os.close(fresh)
        log_writer.send(1, target=b"/new")
        log_writer.wait_for(lines_written=2)
    assert [line["target"] for line in lines(moved)] == ["/old"]
    assert [line["target"] for line in lines(path)] == ["/new"]


def test_a_full_disk_costs_lines_and_nothing_else(log):
    path, out = log
    full = os.open("/dev/full", os.O_WRONLY)
    kept = os.dup(out)
    os.dup2(full, out)
    with running(out) as log_writer:
        log_writer.send(3, turn=3)
        counters = log_writer.wait_for(lines_lost=3)
        assert counters["last_errno"] == errno.ENOSPC
        assert counters["write_errors"] >= 1
        assert counters["lines_written"] == counters["bytes_written"] == 0
        os.dup2(kept, out)
        log_writer.send(1)
        log_writer.wait_for(lines_written=1)
    os.close(kept)
    os.close(full)
    assert len(lines(path)) == 1


@pytest.mark.tsan
def test_the_format_can_change_while_the_writer_runs(log):
    path, out = log
    with running(out) as log_writer:
        log_writer.send(1)
        log_writer.wait_for(lines_written=1)
        log_writer.writer.set_style(COMBINED)
        log_writer.send(1)
        log_writer.wait_for(lines_written=2)
    first, second = path.read_text().splitlines()
    assert json.loads(first)["time"] == "2025-11-21T07:45:11.123456Z"
    assert second.startswith("192.168.1.77 - - [21/Nov/2025:07:45:11 +0000] ")


def pipe(size):
    reader, out = os.pipe()
    fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, size)
    return reader, out


def test_a_reader_that_is_gone_costs_lines_and_nothing_else():
    reader, out = pipe(65536)
    with running(out) as log_writer:
        os.close(reader)
        log_writer.send(2, turn=2)
        assert log_writer.wait_for(lines_lost=2)["last_errno"] == errno.EPIPE
    os.close(out)


def read_all(reader, into):
    while piece := os.read(reader, 65536):
        into.append(piece)


def test_a_slow_reader_gets_whole_lines_and_workers_are_not_held_up():
    reader, out = pipe(4096)
    with running(out, capacity=1 << 14) as log_writer:
        sent, dropped = 500, log_writer.send(500, turn=5)
        deadline = time.monotonic() + 10
        while not dropped:
            dropped += log_writer.send(500, turn=5)
            sent += 500
            assert time.monotonic() < deadline
        pieces = []
        thread = threading.Thread(target=read_all, args=(reader, pieces))
        thread.start()
        counters = log_writer.stop()
        os.close(out)
        thread.join()
    os.close(reader)
    assert counters["lines_lost"] == 0
    assert counters["lines_written"] == sent - dropped
    assert len([json.loads(line) for line in b"".join(pieces).splitlines()]) == sent - dropped


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_stands_still_does_not_hold_up_the_stop_for_ever(blocking):
    reader, out = pipe(4096)
    os.set_blocking(out, blocking)
    with running(out) as log_writer:
        log_writer.send(100, turn=100)
        started = time.monotonic()
        counters = log_writer.stop()
        assert time.monotonic() - started < 5
    os.close(out)
    taken = os.read(reader, 1 << 20)
    os.close(reader)
    assert taken.endswith(b"\n")
    assert counters["lines_written"] == taken.count(b"\n")
    assert counters["lines_written"] + counters["lines_lost"] == 100


def test_a_stream_socket_that_is_full_does_not_block_either():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with running(ours.fileno(), capacity=1 << 20) as log_writer:
            log_writer.send(1000, turn=1000)
            started = time.monotonic()
            counters = log_writer.stop()
            assert time.monotonic() - started < 5
        ours.close()
        taken = b""
        while piece := theirs.recv(65536):
            taken += piece
    assert counters["lines_lost"] > 0
    assert counters["lines_written"] + counters["lines_lost"] == 1000
    assert taken.count(b"\n") == counters["lines_written"]


def test_after_a_cut_line_the_next_one_starts_afresh():
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with ours, theirs:
        out = os.dup(ours.fileno())
        with running(out, capacity=1 << 20) as log_writer:
            # The socket takes a part and is full; then it becomes a full disk: the batch ends in an error.
            log_writer.send(1000, turn=1000)
            theirs.setblocking(True)
            taken = theirs.recv(1)
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, out)
            log_writer.wait_for(lines_lost=1, write_errors=1)
            os.dup2(ours.fileno(), out)
            ours.close()
            before = log_writer.writer.counters()["lines_written"]
            pieces = [taken]
            thread = threading.Thread(target=lambda: pieces.extend(iter(lambda: theirs.recv(65536), b"")))
            thread.start()
            log_writer.send(1, target=b"/after")
            log_writer.wait_for(lines_written=before + 1)
            log_writer.stop()
            os.close(out)
            os.close(full)
            thread.join()
    text = b"".join(pieces).splitlines()
    assert json.loads(text[-1])["target"] == "/after"


def test_a_closed_descriptor_is_an_error_like_any_other():
    # A high number, so that nothing that is opened meanwhile gets it.
    low = os.open(os.devnull, os.O_WRONLY)
    out = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 700)
    os.close(out)
    os.close(low)
    with running(out) as log_writer:
        log_writer.send(1)
        assert log_writer.wait_for(lines_lost=1)["last_errno"] == errno.EBADF
