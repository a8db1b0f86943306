"""The load of `clients.c`: visitors with a connection each, and residents who keep theirs."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.harness.place import BenchError
from bench.harness.process import Child, wait_until
from chaos.programs import program

REFUSED = ("refused",)
RESET = ("reset", "closed", "lost", "lost_reset", "late_reset", "idle_reset")
FAILED = ("status", "wrong", "corrupt", "connect", "cut", "protocol", "timeout", "crowded")
KINDS = (*REFUSED, *RESET, *FAILED)
"""Whatever a client notices. All but `late_reset` and `idle_reset` are ends of requests."""
WHO = ("new", "kept")
_RESULT = re.compile(r"^RESULT (.*)$", re.MULTILINE)
_START_SECONDS, _END_SECONDS = 10.0, 30.0


@dataclass(frozen=True)
class Account:
    """What `clients.c` counted; `log` has a line for each of the first failures."""

    numbers: Mapping[str, int]
    log: str

    def of(self, *kinds: str, who: tuple[str, ...] = WHO) -> int:
        """Of visitors (`new`) and residents (`kept`): `sent`, `ok`, `opened`, `KINDS` and so on."""
        return sum(self.numbers[f"{one}_{kind}"] for one in who for kind in kinds)

    @property
    def noticed(self) -> int:
        """All that a client could notice."""
        return self.of(*KINDS)

    def kinds(self, who: tuple[str, ...] = WHO) -> dict[str, int]:
        """Each kind that happened, statuses by number."""
        found = {kind: self.of(kind, who=who) for kind in KINDS if kind != "status"}
        for name, count in self.numbers.items():
            one, _, status = name.partition("_status_")
            if status and one in who:
                found[status] = found.get(status, 0) + count
        return {kind: count for kind, count in found.items() if count}

    def error_codes(self) -> dict[str, int]:
        """Of fastmesh's own answers."""
        prefix = "error_"
        return {name.removeprefix(prefix): n for name, n in self.numbers.items() if name.startswith(prefix)}

    def milliseconds(self, which: str) -> float:
        """`new_p99`, `kept_max` and so on, of good answers."""
        return self.numbers[which] / 1000


class Clients:
    """A run of `clients.c` that goes on until `finish`.

    `new_rate` visitors a second; `kept` residents that think for `think` (from, to) seconds between requests.
    `stay_away`: a resident whose connection has ended does not come back. `echo` False: the origin repeats no
    ids, so that only statuses are looked at; the path then begins with the benchmarks' `/small`.
    """

    def __init__(
        self,
        port: int,
        log: Path,
        *,
        new_rate: float = 0.0,
        kept: int = 0,
        think: tuple[float, float] = (0.0, 0.0),
        timeout: float = 5.0,
        close_share: float = 0.5,
        seed: int = 1,
        stay_away: bool = False,
        echo: bool = True,
    ) -> None:
        options: dict[str, object] = {
            "port": port,
            "new-rate": new_rate,
            "kept": kept,
            "think-ms": f"{think[0] * 1000}-{think[1] * 1000}",
            "timeout-ms": timeout * 1000,
            "close-share": close_share,
            "seed": seed,
        }
        if not echo:
            options["path"] = "/small"
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        flags = ["--stay-away"] * stay_away + ["--no-echo"] * (not echo)
        self._child = Child("clients", [program("clients"), *words, *flags], log=log)

    def wait_started(self) -> None:
        wait_until(lambda: "START " in self._output(), self._child, "start", _START_SECONDS)

    def pause(self, seconds: float) -> None:
        """Lets it go on for so long; BenchError if it ends meanwhile."""
        if self._child.wait(seconds) is not None:
            raise BenchError(f"the clients ended before the case did:\n{self._child.log_tail()}")

    def finish(self) -> Account:
        """Ends it after the answers that are outstanding."""
        self._child.signal(signal.SIGINT)
        try:
            code = self._child.wait(_END_SECONDS)
        finally:
            self._child.stop()
        text = self._output()
        result = _RESULT.search(text)
        if code or result is None:
            raise BenchError(f"the clients ended with exit code {code}:\n{self._child.log_tail()}")
        numbers = {name: int(value) for name, value in (pair.split("=") for pair in result[1].split())}
        return Account(numbers, text)

    def stop(self) -> None:
        self._child.stop()

    def _output(self) -> str:
        return self._child.log.read_text(errors="replace")


@contextmanager
def started(clients: Clients) -> Iterator[Clients]:
    """They are stopped when the block ends."""
    try:
        clients.wait_started()
        yield clients
    finally:
        clients.stop()
