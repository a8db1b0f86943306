"""What slow turns did, in words; the thread itself is tested in tests/unit/core and tests/integration."""

from __future__ import annotations

import pytest

from fastmesh.engine.watchdog import TOLD_AT_ONCE, SlowTurn, Watchdog, describe_turn


def turn(took_ms: int, count: int = 0, accepted: int = 0, **phases_ms: int) -> SlowTurn:
    names = ("idle", "events", "adopt", "ready", "timers", "waiting", "letters", "freeing")
    phases = tuple(phases_ms.get(name, 0) * 1000 for name in names)
    return (took_ms * 1000, phases, count, accepted, 3, 1, 2)


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        (
            turn(240, 512, 37, adopt=0, events=236, letters=3),
            "240 ms: 236 ms in 512 events (37 accepted), 3 ms in 2 letters",
        ),
        (turn(150, 1, events=150), "150 ms: 150 ms in 1 event"),
        (
            turn(300, 2, events=20, adopt=100, ready=180),
            "300 ms: 180 ms in 3 ready connections, 100 ms in adopting a configuration, 20 ms in 2 events",
        ),
        (
            turn(130, timers=70, waiting=40, freeing=20),
            "130 ms: 70 ms in 1 timer, 40 ms in requests that waited, 20 ms in freeing connections",
        ),
        (turn(101), "101 ms"),
    ],
)
def test_a_turn_in_words(slow: SlowTurn, words: str) -> None:
    assert describe_turn(slow) == words


class Turns:
    """An engine whose workers had slow turns; ``lost`` are overwritten while they are read."""

    worker_count = 2

    def __init__(self) -> None:
        self.counts = [0, 0]
        self.lost: set[int] = set()

    def slow_turns(self, worker: int) -> tuple[int, int]:
        return self.counts[worker], 0

    def slow_turn(self, worker: int, number: int) -> SlowTurn | None:
        assert self.counts[worker] - TOLD_AT_ONCE <= number < self.counts[worker]
        return None if number in self.lost else turn(100 + number, 1, events=100 + number)


def test_each_slow_turn_is_told_once() -> None:
    turns = Turns()
    dog = Watchdog(turns)  # type: ignore[arg-type]
    assert list(dog.news()) == []
    turns.counts = [0, 2]
    assert list(dog.news()) == [
        "worker 1: a turn took 100 ms: 100 ms in 1 event",
        "worker 1: a turn took 101 ms: 101 ms in 1 event",
    ]
    assert list(dog.news()) == []
    turns.counts = [1, 2]
    assert list(dog.news()) == ["worker 0: a turn took 100 ms: 100 ms in 1 event"]


def test_more_than_are_kept_are_counted() -> None:
    turns = Turns()
    dog = Watchdog(turns)  # type: ignore[arg-type]
    turns.counts, turns.lost = [20, 0], {13}
    news = list(dog.news())
    assert len(news) == TOLD_AT_ONCE
    assert news[0] == "worker 0: a turn took 114 ms: 114 ms in 1 event"
    assert news[-1] == "worker 0: 14 more turns took over 100 ms"
