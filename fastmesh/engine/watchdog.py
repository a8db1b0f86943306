"""Who stands still: the watchdog's thread, and what slow turns did, in words.

The thread is native (`core/watchdog.pxd`) and writes its findings itself, for the control plane may be what
stands still. The control thread's Python stack is written by `faulthandler`, in a signal handler of that
thread, to a file in memory, from which the watchdog copies it into its entry. Of that thread alone: others
may run meanwhile, and to walk their frames without the interpreter's lock can end the process.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Iterator, Sequence

from fastmesh._native.core.engine import STACKS_SIGNAL, Engine

STDERR = 2
TOLD_AT_ONCE = 7  # of the eight slow turns that are kept, the oldest may be overwritten meanwhile
# By `turn_phase_t` of net/turn_t.pxd.
EVENTS, ADOPT, READY, TIMERS, WAITING, LETTERS, FREEING = range(1, 8)

SlowTurn = tuple[int, tuple[int, ...], int, int, int, int, int]


class Watchdog:
    """Watches the workers of an engine from `start` to `stop`, and whoever calls `beat` from then on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread: threading.Thread | None = None
        self._stacks = -1
        self._told: dict[int, int] = {}

    def start(self) -> None:
        self._stacks = os.memfd_create("fastmesh-stacks", os.MFD_CLOEXEC)
        faulthandler.register(STACKS_SIGNAL, file=self._stacks, all_threads=False)
        self._engine.set_watchdog(STDERR, self._stacks)
        self._thread = threading.Thread(target=self._engine.run_watchdog, name="watchdog")
        self._thread.start()

    def stop(self) -> None:
        """To be called before the workers are stopped."""
        if self._thread is None:
            return
        self._engine.stop_watchdog()
        self._thread.join()
        self._thread = None
        faulthandler.unregister(STACKS_SIGNAL)
        os.close(self._stacks)

    def beat(self) -> None:
        """The control plane runs. Called each second by the thread that is to be watched."""
        self._engine.beat()

    def news(self) -> Iterator[str]:
        """What slow turns did since the last call, a line each."""
        for worker in range(self._engine.worker_count):
            count, _ = self._engine.slow_turns(worker)
            told = self._told.get(worker, 0)
            self._told[worker] = count
            first = max(told, count - TOLD_AT_ONCE)
            for number in range(first, count):
                turn = self._engine.slow_turn(worker, number)
                if turn is None:
                    first += 1
                else:
                    yield f"worker {worker}: a turn took {describe_turn(turn)}"
            if first > told:
                yield f"worker {worker}: {_counted(first - told, 'more turn')} took over 100 ms"


def describe_turn(turn: SlowTurn) -> str:
    """How long a turn took and what with, the longest first: ``240 ms: 236 ms in 512 events (37 accepted),
    3 ms in 2 letters``. What took under 1 ms is left out: the clock of the phases moves in steps of some
    milliseconds."""
    took_us, phases, events, accepted, ready, timers, letters = turn
    words = {
        EVENTS: _counted(events, "event"),
        ADOPT: "adopting a configuration",
        READY: _counted(ready, "ready connection"),
        TIMERS: _counted(timers, "timer"),
        WAITING: "requests that waited",
        LETTERS: _counted(letters, "letter"),
        FREEING: "freeing connections",
    }
    spent = [(us, phase) for phase, us in enumerate(phases) if phase in words and us >= 1000]
    parts = [
        f"{us / 1000:.0f} ms in {words[phase]}{_accepted(accepted, phase)}" for us, phase in _longest(spent)
    ]
    return f"{took_us / 1000:.0f} ms: {', '.join(parts)}" if parts else f"{took_us / 1000:.0f} ms"


def _longest(spent: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted(spent, key=lambda item: (-item[0], item[1]))


def _accepted(accepted: int, phase: int) -> str:
    return f" ({accepted} accepted)" if phase == EVENTS and accepted else ""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
