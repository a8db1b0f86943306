"""The watchdog asks workers while they work, stand still and end, and while their counters are read. Meant
for ThreadSanitizer (``tools/sanitize thread``), and cheap enough for any build."""

import os
import threading

import pytest

watchdog = pytest.importorskip("fastmesh._native.core._t_watchdog")

TURNS = 4
TURN_MS = 2000  # twice what the watchdog allows: the machine may stand still meanwhile


@pytest.mark.parametrize("burning", [True, False])
def test_workers_that_are_asked(tmp_path, burning):
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    dog = watchdog.Dog(log)
    threads = [threading.Thread(target=dog.run)]
    for _ in range(TURNS):
        worker = threading.Thread(target=dog.stand, args=(TURN_MS, burning))
        threads[0].is_alive() or threads[0].start()
        worker.start()
        while worker.is_alive():
            dog.beat()
            dog.counts()
            worker.join(0.01)
    dog.stop()
    threads[0].join()
    turns, slow, stalls, _, _ = dog.counts()
    assert (turns, slow) == (TURNS, TURNS)
    assert stalls == TURNS
    text = (tmp_path / "log").read_text()
    assert text.count("in one turn") == TURNS
    os.close(log)
