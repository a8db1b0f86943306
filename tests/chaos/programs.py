"""The C programs of the fault tests: the checking load, the id origin, the toxic proxy, tables of ids."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.control import ask_control, is_heard
from bench.harness.native import built
from bench.harness.place import ROOT, BenchError
from bench.harness.process import Child, wait_until

SOURCES = Path(__file__).resolve().parent
BINARIES = ROOT / "build" / "chaos"
SLICE_SECONDS = 0.1
KINDS = ("status", "wrong", "corrupt", "truncated", "reset", "protocol", "timeout", "connect")
_RESULT = re.compile(r"^RESULT (.*)$", re.MULTILINE)
_START = re.compile(r"^START (\d+)$", re.MULTILINE)
_START_SECONDS, _END_SECONDS = 10.0, 30.0


def program(name: str) -> str:
    return str(built(name, SOURCES, BINARIES))


# ---------------------------------------------------------------- ids


class IdTable:
    """How often each id was received; `tests/chaos/chaos_id.h`. An odd id is a POST's."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        with path.open("wb") as file:
            file.truncate(size)

    def counts(self) -> bytes:
        """A byte for each id."""
        return self.path.read_bytes()

    def posts_sent_twice(self) -> list[int]:
        """The ids of POSTs that were received more than once."""
        counts = self.counts()
        if not counts[1::2].translate(None, b"\0\1"):
            return []
        return [number for number in range(1, len(counts), 2) if counts[number] > 1]

    def received(self) -> tuple[int, int, int]:
        """Distinct GETs, distinct POSTs, and how often a GET was received again."""
        counts = self.counts()
        gets, posts = counts[0::2], counts[1::2]
        return len(gets) - gets.count(0), len(posts) - posts.count(0), sum(gets) - len(gets) + gets.count(0)


# ---------------------------------------------------------------- the load


@dataclass(frozen=True)
class Slice:
    """Requests that ended in 100 ms; `origins`: the good ones by `x-origin`."""

    ok: int
    failed: int
    origins: tuple[int, ...]


@dataclass(frozen=True)
class LoadResult:
    """What `id_load.c` counted. `start` is the monotonic time of the first request, in seconds."""

    numbers: Mapping[str, int]
    slices: Sequence[Slice]
    start: float
    log: str

    def of(self, kind: str, methods: Sequence[str] = ("get", "post")) -> int:
        """Requests of a kind: `ok`, `sent`, one of `KINDS`."""
        return sum(self.numbers[f"{method}_{kind}"] for method in methods)

    def failed(self, methods: Sequence[str] = ("get", "post")) -> int:
        return sum(self.of(kind, methods) for kind in KINDS)

    @property
    def sent(self) -> int:
        return self.of("sent")

    @property
    def ok(self) -> int:
        return self.of("ok")

    @property
    def mixed_up(self) -> int:
        """Answers that belonged to another request."""
        return self.of("wrong")

    def errors(self) -> dict[str, int]:
        """Each kind of failure that happened; statuses by number, with the codes of fastmesh behind them."""
        found = {kind: self.of(kind) for kind in KINDS if kind != "status" and self.of(kind)}
        for name, count in self.numbers.items():
            status = re.fullmatch(r"(?:get|post)_status_(\d+)", name)
            if status:
                found[status[1]] = found.get(status[1], 0) + count
            elif name.startswith("error_"):
                found[name.removeprefix("error_")] = count
        return found

    def error_text(self) -> str:
        return " ".join(f"{kind}={count}" for kind, count in self.errors().items())

    def latency_ms(self, which: str) -> float:
        """`ok_p50`, `ok_p99`, `ok_max`, and the same of `all` whole answers."""
        return self.numbers[which] / 1000

    def failures_between(self, begin: float, end: float) -> int:
        """Of monotonic times in seconds."""
        return sum(item.failed for item in self._between(begin, end))

    def share(self, origin: int, begin: float, end: float) -> float:
        """Of an origin in the good answers; 0 if there are none."""
        taken = self._between(begin, end)
        total = sum(sum(item.origins) for item in taken)
        return sum(item.origins[origin] for item in taken) / total if total else 0.0

    def _between(self, begin: float, end: float) -> Sequence[Slice]:
        first, last = (round((moment - self.start) / SLICE_SECONDS) for moment in (begin, end))
        return self.slices[max(0, first) : max(0, last)]


class Load:
    """A run of `id_load.c` that goes on while the caller does something else.

    Ends after `requests` or `seconds`, or by `finish`. `echo` False: the origin repeats no ids, so that only
    statuses are looked at; the path then begins with the benchmarks' `/small`.
    """

    def __init__(
        self,
        port: int,
        log: Path,
        *,
        requests: int = 0,
        seconds: float = 0.0,
        connections: int = 64,
        post_share: float = 0.0,
        timeout: float = 5.0,
        sizes: Sequence[int] = (17,),
        body_sizes: Sequence[int] = (100,),
        base: int = 0,
        seed: int = 1,
        echo: bool = True,
    ) -> None:
        self._slices = log.with_name(f"{log.name}.slices")
        self._slices.unlink(missing_ok=True)
        options: dict[str, object] = {
            "port": port,
            "requests": requests,
            "seconds": seconds,
            "connections": connections,
            "post-share": post_share,
            "timeout-ms": timeout * 1000,
            "bytes": ",".join(map(str, sizes)),
            "body-bytes": ",".join(map(str, body_sizes)),
            "base": base,
            "seed": seed,
            "slices": self._slices,
        }
        if not echo:
            options["path"] = "/small"
        argv = [
            program("id_load"),
            *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
        ]
        self._child = Child("id_load", argv if echo else [*argv, "--no-echo"], log=log)

    def running(self) -> bool:
        return self._child.exit_code() is None

    def wait_started(self) -> None:
        wait_until(lambda: _START.search(self._output()) is not None, self._child, "start", _START_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Waits so long; True if it ended meanwhile."""
        return self._child.wait(seconds) is not None

    def finish(self) -> LoadResult:
        """Ends it after the answers that are outstanding."""
        self.wait_started()
        if self.running():
            self._child.signal(signal.SIGINT)
        return self.result(_END_SECONDS)

    def result(self, within: float) -> LoadResult:
        """Waits for the end; BenchError if it does not come."""
        try:
            code = self._child.wait(within)
            if code is None:
                raise BenchError(f"the load did not end within {within:g} s:\n{self._child.log_tail()}")
        finally:
            self._child.stop()
        text = self._output()
        result, start = _RESULT.search(text), _START.search(text)
        if code or result is None or start is None:
            raise BenchError(f"the load ended with exit code {code}:\n{self._child.log_tail()}")
        numbers = {name: int(value) for name, value in (pair.split("=") for pair in result[1].split())}
        slices = [
            Slice(ok, failed, tuple(origins))
            for ok, failed, *origins in (
                map(int, line.split()[2:]) for line in self._slices.read_text().splitlines()
            )
        ]
        return LoadResult(numbers, slices, int(start[1]) / 1e9, text)

    def stop(self) -> None:
        self._child.stop()

    def _output(self) -> str:
        return self._child.log.read_text(errors="replace")


# ---------------------------------------------------------------- origins and the toxic proxy


class _Controlled:
    """A program with a control socket, which is the last that it opens."""

    def __init__(self, name: str, label: str, argv: Sequence[str], folder: Path, netns: str = "") -> None:
        self._control = folder / f"{label}.control"
        inside = ["ip", "netns", "exec", netns] if netns else []
        self._argv = [*inside, program(name), "--control", str(self._control), *argv]
        self._log = folder / f"{label}.log"
        self._name = name
        self._child = self._start()

    def _start(self) -> Child:
        child = Child(self._name, self._argv, log=self._log)
        try:
            wait_until(lambda: is_heard(self._control), child, "open its control socket")
        except BaseException:
            child.stop()
            raise
        return child

    def ask(self, command: str) -> str:
        self._child.check_alive()
        try:
            return ask_control(self._control, command)
        except OSError as error:
            self._child.check_alive()
            raise BenchError(f"{self._name} does not answer {command!r}: {error}") from error

    def tell(self, command: str) -> None:
        """BenchError if it is not taken."""
        answer = self.ask(command)
        if answer != "ok":
            raise BenchError(f"{self._name} does not take {command!r}: {answer}")

    def kill(self) -> None:
        """As a crash would; returns when it is gone."""
        self._child.signal(signal.SIGKILL)
        self._child.wait(5)

    def restart(self) -> None:
        self._child.stop()
        self._child = self._start()

    def stop(self) -> None:
        self._child.stop()


class IdOrigin(_Controlled):
    """`id_origin.c`, number 0 to 15, on a port of an address, which may lie in a network namespace."""

    def __init__(
        self,
        number: int,
        port: int,
        folder: Path,
        *,
        seen: IdTable | None = None,
        address: str = "127.0.0.1",
        netns: str = "",
    ) -> None:
        self.number, self.port = number, port
        self.text = f"{address}:{port}"
        table = ["--seen", str(seen.path)] if seen else []
        super().__init__(
            "id_origin",
            f"o{number}-{port}",
            [*table, "--address", address, str(number), str(port)],
            folder,
            netns,
        )

    def counts(self) -> dict[str, int]:
        """`requests`; `wrong`: bodies that were not their requests'; `bad`: heads that made no sense."""
        words = self.ask("count").split()
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


class Toxic(_Controlled):
    """`toxic.c` with a gate for each (port, target port) of 127.0.0.1; every gate passes all on."""

    def __init__(
        self, gates: Mapping[int, int], folder: Path, *, seed: int, seen: IdTable | None = None
    ) -> None:
        self.ports = list(gates)
        table = ["--seen", str(seen.path)] if seen else []
        pairs = [f"{port}:{target}" for port, target in gates.items()]
        super().__init__("toxic", f"t{self.ports[0]}", [*table, "--seed", str(seed % 2**31), *pairs], folder)

    def spoil(self, toxic: str, ports: Sequence[int] | None = None) -> None:
        """A command of `toxic_plan.h` to these ports, or to all; it is about connections from now on."""
        for port in self.ports if ports is None else ports:
            self.tell(f"{port} {toxic}")

    def counts(self, port: int) -> dict[str, int]:
        """`accepted` connections, to how many of them a toxic was `applied`, and how many are `open`."""
        words = self.ask(f"{port} count").split()
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}
