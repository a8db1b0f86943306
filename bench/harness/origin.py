"""The origin as the suite runs it: on its ports, told by its control socket to be slow or to fail."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.control import ANSWER_SECONDS, ask_control, is_heard
from bench.harness.native import built
from bench.harness.place import BenchError
from bench.harness.process import Child, wait_for_port, wait_until

_COUNTS = re.compile(r"requests (\d+) delayed (\d+) failed (\d+) waiting (\d+) serving (\d+)")


@dataclass(frozen=True)
class Counts:
    """Of one port: whole requests since the start, those of them that were delayed or failed on command, and
    how many wait for a slot and hold one now."""

    requests: int
    delayed: int
    failed: int
    waiting: int
    serving: int


class Origin:
    """`bench/origin.c` on these ports of 127.0.0.1; several ports are several endpoints of one process.

    Starts at once and returns when all accept; every port is `normal`. Errors are BenchError.
    """

    def __init__(self, ports: Sequence[int], *, cpu: int | None, folder: Path) -> None:
        self.ports = tuple(ports)
        self._cpu = cpu
        self._log = folder / f"origin-{ports[0]}.log"
        self._control = folder / f"origin-{ports[0]}.control"
        self._first = False
        self._child = self._start()

    def _start(self) -> Child:
        argv = [str(built("origin")), "--control", str(self._control), *map(str, self.ports)]
        child = Child("origin", argv, log=self._log, cpu=self._cpu)
        try:
            for port in self.ports:
                wait_for_port(child, port)
            # The last that it opens; of an origin that was killed, one may lie there that nobody reads.
            wait_until(lambda: is_heard(self._control), child, "open its control socket")
        except BaseException:
            child.stop()
            raise
        return child

    @property
    def pid(self) -> int:
        """Of the process that runs now; `restart` changes it."""
        return self._child.pid

    def behave(self, port: int, behaviour: str) -> None:
        """From the next request on, until told otherwise: `normal`, `delay exponential 5ms`,
        `fail status 500 share 0.25`, `slots 16`; `bench/origin_behaviour.h` has them all.

        A BenchError says what is wrong with the text, and what there is instead.
        """
        answer = self._ask(f"{port} {behaviour}")
        if answer != "ok":
            raise BenchError(f"the origin does not take {behaviour!r} for port {port}: {answer}")

    def count(self, port: int) -> int:
        """Whole requests that the port has received since the start."""
        return self.counts(port).requests

    def counts(self, port: int) -> Counts:
        answer = self._ask(f"{port} count")
        numbers = _COUNTS.fullmatch(answer)
        if numbers is None:
            raise BenchError(f"the origin cannot count for port {port}: {answer}")
        return Counts(*map(int, numbers.groups()))

    def check_alive(self) -> None:
        self._child.check_alive()

    def stop(self) -> None:
        self._child.stop()

    def kill(self) -> None:
        """As a crash would end it: to its connections only the kernel says so. Returns when it is gone."""
        self._child.signal(signal.SIGKILL)
        if self._child.wait(ANSWER_SECONDS) is None:
            raise BenchError(
                f"the origin, pid {self.pid}, is still there after SIGKILL; look at its state in /proc"
            )

    def restart(self) -> None:
        """A new process on the same ports, all `normal`, counts at 0; the old one is stopped if it runs."""
        self._child.stop()
        self._child = self._start()
        if self._first:
            self.go_first(True)

    def go_first(self, first: bool) -> None:
        """Whether it runs before all else on its CPU, as long as it has something to do; only root may ask.

        The open loop polls for the moment of its next request with real-time priority: an origin without
        would have to wait for the end of that, and latencies would tend to the distance of two requests.
        """
        self._first = first
        policy, priority = (os.SCHED_FIFO, 2) if first else (os.SCHED_OTHER, 0)
        try:
            os.sched_setscheduler(self.pid, policy, os.sched_param(priority))
        except PermissionError:
            pass

    def _ask(self, command: str) -> str:
        self.check_alive()
        try:
            return ask_control(self._control, command)
        except OSError as error:
            self.check_alive()
            raise BenchError(f"the origin, pid {self.pid}, does not answer {command!r}: {error}") from error
