"""wrk: the closed-loop load generator."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.place import BENCH, BenchError, find_tool
from bench.harness.process import Child, catches, wait_until

_RESULT = re.compile(r"^RESULT (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class LoadResult:
    """What wrk saw. Times in µs; `failed` counts what did not end in a 2xx or 3xx."""

    requests: int
    bytes: int
    duration_us: int
    p50_us: int
    p90_us: int
    p99_us: int
    max_us: int
    errors: dict[str, int]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def requests_per_second(self) -> float:
        return self.requests * 1e6 / self.duration_us if self.duration_us else 0.0

    def error_text(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.errors.items() if count)


def parse_result(output: str) -> LoadResult:
    """Reads the line that `wrk/report.lua` prints."""
    match = _RESULT.search(output)
    if match is None:
        raise BenchError(f"wrk printed no result:\n{output}")
    numbers = {name: int(value) for name, value in (pair.split("=") for pair in match[1].split())}
    kinds = ("connect", "read", "write", "status", "timeout")
    return LoadResult(
        errors={kind: numbers.pop(kind) for kind in kinds},
        **numbers,
    )


class Load:
    """A run of wrk that goes on while the caller does something else."""

    def __init__(
        self,
        url: str,
        *,
        log: Path,
        cpu: int | None,
        connections: int,
        seconds: float,
        threads: int = 1,
        headers: Sequence[str] = (),
        script: str = "report.lua",
    ) -> None:
        self._seconds = max(1, round(seconds))  # wrk takes whole seconds
        options = f"-t {threads} -c {connections} -d {self._seconds}s --timeout 5s"
        argv = [find_tool("wrk", "wrk"), *options.split(), "-s", str(BENCH / "wrk" / script)]
        for header in headers:
            argv += ["-H", header]
        self._child = Child("wrk", [*argv, url], log=log, cpu=cpu)

    @property
    def pid(self) -> int:
        return self._child.pid

    def running(self) -> bool:
        return self._child.exit_code() is None

    def result(self, check: Callable[[], None] | None = None) -> LoadResult:
        """Waits for the end; `check` is called meanwhile and may raise (a proxy that died, for one)."""
        deadline = time.monotonic() + self._seconds + 15
        try:
            while self._child.wait(0.1) is None:
                if check is not None:
                    check()
                if time.monotonic() > deadline:
                    raise BenchError("wrk did not end")
        finally:
            self._child.stop()
        return parse_result(self._child.log.read_text(errors="replace"))

    def finish(self) -> LoadResult:
        """Ends it now; what was measured so far."""
        while self.running():  # again, for wrk loses one that comes just before it falls asleep
            self._child.signal(signal.SIGINT)
            self._child.wait(0.5)
        return self.result()

    def wait_started(self) -> None:
        """Returns when wrk's threads are at work: it catches INT from then on."""
        wait_until(lambda: catches(self.pid, signal.SIGINT), self._child, "start", 30)

    def stop(self) -> None:
        self._child.stop()
