"""The open-loop load: a constant rate, latency from when each request was due, and how far to believe it."""

from __future__ import annotations

import io
import re
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hdrh.histogram import HdrHistogram

from bench.harness.native import built
from bench.harness.place import BenchError
from bench.harness.process import Child, catches, wait_until

KINDS = ("connect", "reset", "cut", "status", "timeout", "protocol")
# A quantile is shown only where the error is less than this share of it.
SHOWN_SHARE = 0.1
# The most that openloop.c records, in ns, and its precision.
_HIGHEST_NS, _DIGITS = 60_000_000_000, 3
_START_SECONDS, _END_SECONDS = 10.0, 10.0
_RESULT = re.compile(r"^RESULT (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Slice:
    """What became of the requests that were due in 100 ms; the latency in ns is 0 if none was answered."""

    answered: int
    failed: int
    max_latency_ns: int


@dataclass(frozen=True)
class OpenLoopResult:
    """What `openloop.c` saw, without the requests of the warm-up; every intended one was answered or failed.

    `latency` (ns, from when a request was due) holds the answered ones, and those that timed out at the
    time-out; `refused` those that got a status of 400 or more; `retry_after` of them said when to come
    again. `late` (ns) is by how much the generator itself missed the time of sending. `realtime` says
    whether it had priority over what it shares a core with.
    """

    intended: int
    answered: int
    errors: dict[str, int]
    statuses: dict[int, int]
    duration_us: int
    bytes: int
    closed: int
    stray: int
    retry_after: int
    realtime: bool
    latency: HdrHistogram = field(repr=False)
    refused: HdrHistogram = field(repr=False)
    late: HdrHistogram = field(repr=False)
    timeline: list[Slice] = field(repr=False)

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def requests_per_second(self) -> float:
        return self.answered * 1e6 / self.duration_us if self.duration_us else 0.0

    @property
    def max_us(self) -> float:
        return self.quantile_us(100)

    def quantile_us(self, percent: float) -> float:
        """Latency in µs that this share of the requests did not exceed; 0 if there is none."""
        return _quantile_us(self.latency, percent)

    def refused_quantile_us(self, percent: float) -> float:
        """The same of those that got a status of 400 or more."""
        return _quantile_us(self.refused, percent)

    def error_text(self) -> str:
        """Each kind that happened, statuses by their number."""
        kinds = [f"{count} {kind}" for kind, count in self.errors.items() if count and kind != "status"]
        return ", ".join([*kinds, *(f"{count} status {status}" for status, count in self.statuses.items())])


def new_histogram() -> HdrHistogram:
    """An empty one for ns, with the layout that openloop.c counts in."""
    return HdrHistogram(1, _HIGHEST_NS, _DIGITS)


def merged(histograms: Iterable[HdrHistogram]) -> HdrHistogram:
    """A new histogram of all values of the others, which stay as they are."""
    total = new_histogram()
    for histogram in histograms:
        total.add(histogram)
    return total


def write_hgrm(histogram: HdrHistogram, path: Path) -> None:
    """Writes a histogram in ns as the percentile file that HdrHistogram's plotter reads, in its ms."""
    output = io.BytesIO()
    histogram.output_percentile_distribution(output, 1e6)
    text = output.getvalue().decode("ascii")
    # hdrh divides all but the deviation by the ratio.
    deviation = f"StdDeviation   = {histogram.get_stddev() / 1e6:12.{_DIGITS}f}]"
    path.write_text(re.sub(r"StdDeviation   = .*\]", deviation, text))


def distribution(histogram: HdrHistogram, ticks_per_half: int = 5) -> list[list[float]]:
    """Points `[percentile 0..100, µs]` for an axis of 1 ÷ (1 − p), ascending; the last (100) is the maximum.

    There are `ticks_per_half` between 0 and 50 %, as many between 50 and 75 %, and so on up to the share that
    a single request is.
    """
    count = histogram.get_total_count()
    if not count:
        return []
    percents: list[float] = []
    distance = 1.0
    while distance * count >= 1:
        percents += [100 * (1 - distance * (1 - tick / ticks_per_half / 2)) for tick in range(ticks_per_half)]
        distance /= 2
    percents = [percent for percent in percents if (100 - percent) * count >= 100]
    values = histogram.get_percentile_to_value_dict([*percents, 100.0])
    return [[round(percent, 6), values[percent] / 1000] for percent in sorted(values)]


def error_us(
    direct: OpenLoopResult | Sequence[OpenLoopResult],
    percent: float,
    run: OpenLoopResult | Sequence[OpenLoopResult] = (),
) -> float:
    """By how many µs a latency at this percentile may be the measuring side's and not the proxy's.

    `direct` are runs at the same rate straight to the origin, `run` those whose figure is judged (if given).
    The error is the greater of

    - the lateness at the percentile, direct or in the run itself: how late requests were sent. It is known
      exactly, request by request, but says nothing of answers that were read late or of an origin that was
      kept waiting on the core it shares;
    - what direct latency at the percentile is above its own median: whatever makes some direct requests
      slower than usual (origin, kernel, other processes, answers read late) is in the proxy's figures, too.

    The base is the median and not the minimum. The minimum is a request that found origin and generator awake
    already; on a quiet machine the median lies 17 µs above it while lateness is 0.3 µs, and the kernel's own
    time stamps of arriving answers show that as waking up: what every client and origin pays each time. It
    belongs to the latency, alike for all contenders, and `direct` is shown beside them. So at the median and
    below it only lateness counts. Above, this errs on the safe side: a slow origin counts as our error.
    """
    direct_runs = _as_list(direct)
    if not direct_runs:
        raise BenchError("the generator's error needs a run against direct access")
    latency = merged(result.latency for result in direct_runs)
    excess = _quantile_us(latency, percent) - _quantile_us(latency, 50)
    late = [merged(result.late for result in runs) for runs in (direct_runs, _as_list(run))]
    return max(excess, *(_quantile_us(histogram, percent) for histogram in late))


def shown(value_us: float, error: float) -> bool:
    """Whether a quantile may be shown: the error is under 10 % of it."""
    return error < SHOWN_SHARE * value_us


def _as_list(results: OpenLoopResult | Sequence[OpenLoopResult]) -> list[OpenLoopResult]:
    return [results] if isinstance(results, OpenLoopResult) else list(results)


def _quantile_us(histogram: HdrHistogram, percent: float) -> float:
    return float(histogram.get_value_at_percentile(percent)) / 1000


def parse_result(output: str, histogram_text: str) -> OpenLoopResult:
    """Reads the line and the file that openloop.c writes."""
    match = _RESULT.search(output)
    if match is None:
        raise BenchError(f"openloop printed no result:\n{output}")
    numbers = {name: int(value) for name, value in (pair.split("=") for pair in match[1].split())}
    histograms = {name: new_histogram() for name in ("latency", "refused", "late")}
    timeline: list[Slice] = []
    for line in histogram_text.splitlines():
        name, *values = line.split()
        if name == "slice":
            timeline.append(Slice(*map(int, values[1:])))
        else:
            histograms[name].record_value(*map(int, values))
    prefix = "status_"
    return OpenLoopResult(
        intended=numbers["intended"],
        answered=numbers["answered"],
        errors={kind: numbers[kind] for kind in KINDS},
        statuses={int(n.removeprefix(prefix)): c for n, c in numbers.items() if n.startswith(prefix)},
        duration_us=numbers["duration_us"],
        bytes=numbers["bytes"],
        closed=numbers["closed"],
        stray=numbers["stray"],
        retry_after=numbers["retry_after"],
        realtime=bool(numbers["realtime"]),
        latency=histograms["latency"],
        refused=histograms["refused"],
        late=histograms["late"],
        timeline=timeline,
    )


class OpenLoop:
    """A run of openloop that goes on while the caller does something else."""

    def __init__(
        self,
        port: int,
        path: str,
        *,
        rate: float,
        seconds: float,
        log: Path,
        cpu: int | None,
        connections: int = 64,
        timeout_seconds: float = 5.0,
        warm_seconds: float = 0.0,
        headers: Sequence[str] = (),
        method: str = "GET",
        body_bytes: int = 0,
        close: bool = False,
    ) -> None:
        self._seconds = warm_seconds + seconds + timeout_seconds
        self._histogram = log.with_name(f"{log.name}.histogram")
        self._histogram.unlink(missing_ok=True)
        options: dict[str, object] = {
            "--port": port,
            "--path": path,
            "--rate": rate,
            "--seconds": seconds,
            "--connections": connections,
            "--timeout-ms": timeout_seconds * 1000,
            "--warm-seconds": warm_seconds,
            "--method": method,
            "--body-bytes": body_bytes,
            "--histogram": self._histogram,
        }
        argv = [str(built("openloop"))]
        for name, value in options.items():
            argv += [name, str(value)]
        for header in headers:
            argv += ["--header", header]
        self._child = Child("openloop", [*argv, "--close"] if close else argv, log=log, cpu=cpu)

    @property
    def pid(self) -> int:
        return self._child.pid

    def running(self) -> bool:
        return self._child.exit_code() is None

    def result(self, check: Callable[[], None] | None = None) -> OpenLoopResult:
        """Waits for the end; `check` is called meanwhile and may raise (a proxy that died, for one)."""
        deadline = time.monotonic() + _START_SECONDS + self._seconds + _END_SECONDS
        try:
            while (code := self._child.wait(0.1)) is None:
                if check is not None:
                    check()
                if time.monotonic() > deadline:
                    raise BenchError("openloop did not end")
        finally:
            self._child.stop()
        if code:
            raise BenchError(f"openloop ended with exit code {code}:\n{self._child.log_tail()}")
        return parse_result(self._child.log.read_text(errors="replace"), self._histogram.read_text())

    def finish(self) -> OpenLoopResult:
        """Ends it now, after the answers that are outstanding; what was measured so far."""
        wait_until(lambda: not self.running() or self._at_work(), self._child, "start", 30)
        if self.running():
            self._child.signal(signal.SIGINT)
        return self.result()

    def wait_started(self) -> None:
        """Returns when the connections are open and the first request is due: it catches INT from then on."""
        wait_until(self._at_work, self._child, "start", 30)

    def stop(self) -> None:
        self._child.stop()

    def _at_work(self) -> bool:
        return catches(self.pid, signal.SIGINT)
