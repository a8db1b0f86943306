"""The C programs of the soak run: its load, with what it counts, and its origins."""

from __future__ import annotations

import mmap
import re
import signal
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.native import built
from bench.harness.place import ROOT, BenchError
from bench.harness.process import Child, wait_for_port, wait_until

SOURCES = Path(__file__).resolve().parent
BINARIES = ROOT / "build" / "soak"
# Sessions a second of each kind of `soak_kinds.h`; a pipelined one has five requests in the mean, a tunnel or
# a relay goes on for up to five minutes with some messages a second. About 2,900 requests a second in all.
RATES: dict[str, float] = {
    "keep-alive": 1300,
    "connection each": 250,
    "HTTP/1.0": 80,
    "pipelined": 60,
    "POST": 450,
    "HEAD, 204, 304": 150,
    "upload": 5,
    "download": 8,
    "slow reader": 3,
    "slow sender": 4,
    "proxy's own": 120,
    "tunnel": 1,
    "TCP relay": 1,
    "leaves early": 40,
    "dying endpoint": 120,
    "toxic endpoint": 80,
}
# What is behind endpoints that are killed or spoilt on purpose: failures are explained there.
FAULTY = ("dying endpoint", "toxic endpoint")
# Their messages are no lines of the access log.
ECHOES = ("tunnel", "TCP relay")
_START = re.compile(r"^START ", re.MULTILINE)
_START_SECONDS = 10.0

# `struct counts` of soak_counts.h.
_NAME, _CAUSES, _STEPS, _SLOTS = 24, 24, 4, 160
_NUMBERS = struct.Struct("9Q")
_CAUSE = struct.Struct(f"{_NAME}sQ")
_LATENCY = struct.Struct(f"{_SLOTS}Q")
_RECORD = _NAME + _NUMBERS.size + _CAUSES * _CAUSE.size + _LATENCY.size


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()


@dataclass(frozen=True)
class KindCounts:
    """What the load has counted of a kind of traffic; `causes` are those of all that is not ok."""

    name: str
    active: int = 0
    sent: int = 0
    ok: int = 0
    mismatched: int = 0
    failed: int = 0
    left: int = 0
    late: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)
    latency: tuple[int, ...] = ()

    @property
    def faulty(self) -> bool:
        return self.name in FAULTY

    def quantile_ms(self, share: float) -> float:
        """Upper end of the step that the quantile lies in; 0 without an answer."""
        total, below = sum(self.latency), 0
        for slot, count in enumerate(self.latency):
            below += count
            if total and below >= share * total:
                shift = 0 if slot < 2 * _STEPS else slot // _STEPS - 1
                return ((slot - shift * _STEPS + 1) << shift) / 1000
        return 0.0


def read_counts(file: bytes | mmap.mmap) -> list[KindCounts]:
    found = []
    for at in range(0, len(file), _RECORD):
        name = _text(file[at : at + _NAME])
        numbers = _NUMBERS.unpack_from(file, at + _NAME)
        begin = at + _NAME + _NUMBERS.size
        causes = (_CAUSE.unpack_from(file, begin + number * _CAUSE.size) for number in range(_CAUSES))
        latency = _LATENCY.unpack_from(file, begin + _CAUSES * _CAUSE.size)
        found.append(
            KindCounts(
                name,
                *numbers,
                causes={_text(cause): count for cause, count in causes if count},
                latency=latency,
            )
        )
    return found


class Load:
    """`soak_load.c`, running. `rates` as `RATES`; kinds that are not named do not run. `longest`: seconds
    that a tunnel or a relay lasts at most; None: to the end."""

    def __init__(
        self,
        port: int,
        relay_port: int,
        folder: Path,
        *,
        seed: int,
        rates: Mapping[str, float] = RATES,
        longest: float | None = None,
    ) -> None:
        path = folder / "load.counts"
        argv = [
            str(built("soak_load", SOURCES, BINARIES)),
            *("--counts", str(path), "--port", str(port), "--relay-port", str(relay_port)),
            *("--seed", str(seed)),
            *(() if longest is None else ("--longest", f"{longest:g}")),
            *(f"{kind}={rate:g}" for kind, rate in rates.items()),
        ]
        self._child = Child("soak_load", argv, log=folder / "load.log")
        self.pid = self._child.pid
        try:
            wait_until(lambda: _START.search(self.log()) is not None, self._child, "start", _START_SECONDS)
            with path.open("rb") as file:
                self._counts = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except BaseException:
            self._child.stop()
            raise

    def counts(self) -> list[KindCounts]:
        return read_counts(self._counts)

    def log(self) -> str:
        """`FAIL` lines of the first failures."""
        return self._child.log.read_text(errors="replace")

    def check_alive(self) -> None:
        self._child.check_alive()

    def finish(self, within: float) -> None:
        """Begins nothing new and waits for what is in progress; BenchError if that does not end."""
        self._child.check_alive()
        self._child.signal(signal.SIGINT)
        code = self._child.wait(within)
        if code != 0:
            raise BenchError(
                f"the load did not end in order within {within:g} s: {code}\n{self._child.log_tail()}"
            )

    def stop(self) -> None:
        self._child.stop()


class Origin:
    """`soak_origin.c`, with a port for HTTP and one that echoes. Its counts outlive `kill`."""

    def __init__(self, number: int, port: int, echo_port: int, folder: Path) -> None:
        self.port, self.echo_port = port, echo_port
        self.text, self.echo_text = f"127.0.0.1:{port}", f"127.0.0.1:{echo_port}"
        self._counts = folder / f"origin-{number}.counts"
        self._log = folder / f"origin-{number}.log"
        self._argv = [
            str(built("soak_origin", SOURCES, BINARIES)),
            *("--counts", str(self._counts), str(number), str(port), str(echo_port)),
        ]
        self._child = self._start()

    def _start(self) -> Child:
        child = Child("soak_origin", self._argv, log=self._log)
        try:
            wait_for_port(child, self.echo_port)
        except BaseException:
            child.stop()
            raise
        return child

    @property
    def pid(self) -> int:
        return self._child.pid

    def signal(self, number: signal.Signals) -> None:
        self._child.signal(number)

    def kill(self) -> None:
        """As a crash would; returns when it is gone."""
        self._child.signal(signal.SIGKILL)
        self._child.wait(10)

    def restart(self) -> None:
        self._child.stop()
        self._child = self._start()

    def counts(self) -> dict[str, int]:
        """Whole `requests`, `wrong` bodies, `bad` heads, `echoes` (tunnels and relays)."""
        numbers = struct.unpack_from("4Q", self._counts.read_bytes())
        return dict(zip(("requests", "wrong", "bad", "echoes"), numbers, strict=True))

    def stop(self) -> None:
        self._child.stop()
