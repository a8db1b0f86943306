"""The processes of a soak run: origins, one that dies, the toxic proxy, fastmesh, the load; and what is done
to them while they run. Each action takes a moment; `command.py` says when."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness.admin import Admin
from bench.harness.place import BenchError
from chaos.programs import Toxic
from soak.course import BAD_FILES, Course, Places
from soak.programs import RATES, Load, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.upgrade import upgrade

# How long the watcher, or what asked for a reload, may take on a machine that is busy with other things.
_APPLY_SECONDS = 60.0
_DRAIN_SECONDS = 60.0
# Most kinds of traffic are then at the bound of what the load has in progress, and no time-out has passed.
_STILL_SECONDS = 3.0
# With upgrades: how long a tunnel lasts at most, and how long a process that handed over may go on.
_LONGEST_ECHO, _OLD_SECONDS = 15.0, 90
_INSIDE = Path(__file__).resolve().parent / "inside"
_BLOCKS_SIGNAL = signal.SIGRTMIN + 20  # as in inside/sitecustomize.py
# A request of the load that is a line in the log exactly once, wherever the log was rotated.
_KEPT = b'"target":"/c/k/'
# In force in turn at the gates of the toxic service; shares leave some connections as they are.
TOXICS = (
    ("reset response 0-60000",),
    ("cut response 0-60000", "slow-close 0-20000 30ms share 0.5"),
    ("garbage inside 0-20000 40", "garbage behind 1-40 40 share 0.5"),
    ("stall response 0-200000 share 0.5",),
    ("latency 20ms 20ms", "bandwidth 400000"),
    ("garbage instead 0-20000 400", "accept-close share 0.3"),
    ("reset request 0-20000", "cut request 0-20000"),
    ("refuse",),
)
VIEWS = ("/metrics", "/healthz", "/readyz", "/api/v1/config", "/api/v1/services", "/api/v1/listeners",
         "/api/v1/latency", "/api/v1/workers")  # fmt: skip


@dataclass
class Doings:
    """What was done so far, and what of it did not come out as it should."""

    changes: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    hups: int = 0
    rotations: int = 0
    views: int = 0
    kills: int = 0
    upgrades: int = 0
    toxics: int = 0
    slowest_change: float = 0.0
    log_lines: int = 0
    kept_lines: int = 0
    wrong: list[str] = field(default_factory=list)


class World:
    """Started by `with`; what is still running ends with it. `upgrades`: processes can take over from each
    other; tunnels and relays are then short enough to end in the one where they began."""

    def __init__(self, folder: Path, seed: int, *, upgrades: bool = False) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.seed = seed
        self.doings = Doings()
        self.rates = dict(RATES)
        self._stack = ExitStack()
        self._views = itertools.cycle(VIEWS)
        self._asks = itertools.cycle(("watch", "HUP", "reload"))
        self._toxics = itertools.cycle(TOXICS)
        self._mortal_is_up = True
        self._rotated: list[Path] = []
        self.upgrades = upgrades
        self.dropped_lines = 0
        self.former: list[Proxy] = []

    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.origins = [self._origin(number) for number in range(5)]
        clean, self.mortal, spoilt = self.origins[:3], self.origins[3], self.origins[4]
        gates = {free_port(): spoilt.port for _ in range(2)}
        self.toxic = Toxic(gates, self.folder, seed=self.seed)
        self._stack.callback(self.toxic.stop)
        self.access_log = self.folder / "access.log"
        places = Places(
            web_port=free_port(),
            relay_port=free_port(),
            extra_ports=[free_port() for _ in range(3)],
            access_log=self.access_log,
            clean=[origin.text for origin in clean],
            echoes=[origin.echo_text for origin in clean],
            dying=[self.mortal.text, clean[0].text],
            toxic=[f"127.0.0.1:{port}" for port in gates],
        )
        self.course = Course(places, self.rng, drain=f"{_OLD_SECONDS}s" if self.upgrades else "30s")
        self._blocks = self.folder / "blocks"
        path = os.pathsep.join(filter(None, [str(_INSIDE), os.environ.get("PYTHONPATH")]))
        environment = {"SOAK_BLOCKS": str(self._blocks), "PYTHONPATH": path}
        arguments = ("--takeover", str(self.folder / "takeover")) if self.upgrades else ()
        self.proxy = Proxy(
            self.folder, self.course.bare(), environment=environment, arguments=arguments
        ).start()
        self._stack.callback(self.proxy.kill)
        self.admin = Admin(self.proxy.admin_port)

    def _origin(self, number: int) -> Origin:
        origin = Origin(number, free_port(), free_port(), self.folder)
        self._stack.callback(origin.stop)
        return origin

    def start_load(self) -> None:
        self.apply(self.course.config())
        places = self.course.places
        self.load = Load(
            places.web_port,
            places.relay_port,
            self.folder,
            seed=self.seed,
            rates=self.rates,
            longest=_LONGEST_ECHO if self.upgrades else None,
        )
        self._stack.callback(self.load.stop)

    def check_alive(self) -> None:
        """BenchError when a process that should run does not."""
        if not self.proxy.is_alive():
            raise BenchError(f"fastmesh ended:\n{self.proxy.stderr[-4000:]}")
        self.load.check_alive()

    def cpu_pids(self) -> dict[str, list[int]]:
        return {
            "fastmesh": [self.proxy.pid],
            "load": [self.load.pid],
            "origins": [origin.pid for origin in self.origins],
        }

    # Changes

    def change(self) -> None:
        name = self.course.change()
        self.apply(self.course.config())
        self.doings.changes[name] += 1

    def apply(self, config: dict[str, Any]) -> None:
        """Replaces the file as an editor would and lets fastmesh see it in one of three ways; then waits
        until it is in force."""
        begin, before = time.monotonic(), self._reloads("applied")
        self.proxy.replace(config)
        ask = next(self._asks)
        if ask == "HUP":
            self.hup()
        elif ask == "reload":
            self.admin.reload()
        self._wait("a change in force", lambda: self._reloads("applied") > before)
        self.doings.slowest_change = max(self.doings.slowest_change, time.monotonic() - begin)

    def spoil_file(self) -> None:
        """A file that is wrong is refused and changes nothing; then the good one is back."""
        before = self._reloads("refused")
        self.proxy.replace(self.rng.choice(BAD_FILES))
        self._wait("a bad file refused", lambda: self._reloads("refused") > before)
        self.doings.refused += 1
        self.proxy.replace(self.course.config())
        self.admin.reload()
        good = "fastmesh_config_last_reload_successful"
        self._wait("the good file back", lambda: self.admin.metrics()[good] == 1)

    def hup(self) -> None:
        self.proxy.signal(signal.SIGHUP)
        self.doings.hups += 1

    def _reloads(self, result: str) -> int:
        return self.admin.reloads(result)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _APPLY_SECONDS
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
                self.proxy_is_there()
                self.doings.wrong.append(f"the admin API failed: {type(error).__name__}: {error}")
                return
            time.sleep(0.1)
        self.doings.wrong.append(f"not within {_APPLY_SECONDS:g} s: {what}")

    def proxy_is_there(self) -> None:
        if not self.proxy.is_alive():
            raise BenchError(f"fastmesh ended:\n{self.proxy.stderr[-4000:]}")

    # The rest

    def look_at_a_view(self) -> None:
        path = next(self._views)
        try:
            status, text = self.admin.call("GET", path)
            if path.startswith("/api"):
                json.loads(text)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.proxy_is_there()
            self.doings.wrong.append(f"GET {path}: {type(error).__name__}: {error}")
            return
        self.doings.views += 1
        if status != 200:
            self.doings.wrong.append(f"GET {path}: {status}")

    def rotate(self) -> None:
        """Renames the access log; what was rotated before is counted and removed."""
        self._count_rotated()
        old = self.access_log.with_name(f"access.log.{self.doings.rotations}")
        self.access_log.rename(old)
        self._rotated.append(old)
        for proxy in [self.proxy, *self.former]:
            if proxy.is_alive():
                proxy.signal(signal.SIGUSR1)
        self._wait("the access log opened again", self.access_log.exists)
        self.doings.rotations += 1

    def _count_rotated(self) -> None:
        for path in self._rotated:
            self._count_lines(path)
            path.unlink()
        self._rotated.clear()

    def _count_lines(self, path: Path) -> None:
        text = path.read_bytes()
        if not text:
            return
        lines = text.count(b"\n")
        self.doings.log_lines += lines
        self.doings.kept_lines += text.count(_KEPT)
        try:
            for line in (
                text[: text.index(b"\n")],
                text[text.rindex(b"\n", 0, -1) + 1 :] if lines > 1 else b"{}",
            ):
                json.loads(line)
        except ValueError as error:
            self.doings.wrong.append(f"access log: {error}")

    def upgrade(self) -> None:
        """Another process takes over; the one before goes on with what it has."""
        self._note_dropped_lines()
        self.former.append(self.proxy)
        self.proxy = upgrade(self.proxy)
        self._stack.callback(self.proxy.kill)
        self.doings.upgrades += 1

    def end_former(self) -> None:
        """Waits for the processes that have handed over; each is judged as the last one is."""
        for proxy in self.former:
            code = proxy.wait_exit(_OLD_SECONDS + _DRAIN_SECONDS)
            if code != 0:
                self.doings.wrong.append(f"pid {proxy.pid} handed over and ended with {code}")
            try:
                proxy.check_output()
            except AssertionError as error:
                self.doings.wrong.append(f"pid {proxy.pid} handed over: {error}")

    def _note_dropped_lines(self) -> None:
        self.dropped_lines += int(self.admin.metrics().get("fastmesh_access_log_lines_dropped_total", 0))

    def kill_or_revive(self) -> None:
        if self._mortal_is_up:
            self.mortal.kill()
            self.doings.kills += 1
        else:
            self.mortal.restart()
        self._mortal_is_up = not self._mortal_is_up

    def stand_still(self) -> None:
        """No origin does anything for a while, so that as much is in progress as the load allows. What
        fastmesh keeps of the memory for that, it has from then on."""
        origins = [origin for origin in self.origins if origin is not self.mortal]
        for origin in origins:
            origin.signal(signal.SIGSTOP)
        time.sleep(_STILL_SECONDS)
        for origin in origins:
            origin.signal(signal.SIGCONT)

    def next_toxic(self) -> None:
        """For both gates, or for one of them, so that there are others to send to."""
        self.toxic.spoil("none")
        gates = self.toxic.ports if self.rng.random() < 0.5 else self.toxic.ports[:1]
        for toxic in next(self._toxics):
            self.toxic.spoil(toxic if toxic == "refuse" else f"also {toxic}", gates)
        self.doings.toxics += 1

    def ask_blocks(self) -> None:
        """The answer comes soon, by `blocks`."""
        self.proxy.signal(_BLOCKS_SIGNAL)

    def blocks(self) -> int:
        """Blocks of memory that Python objects had when asked last; 0: not asked yet."""
        try:
            return int(self._blocks.read_text())
        except (OSError, ValueError):
            return 0

    def ledger(self) -> dict[str, int]:
        """Living native objects of all workers, by kind."""
        total: Counter[str] = Counter()
        try:
            for worker in self.admin.json("/api/v1/workers")["workers"]:
                total.update(worker["ledger"])
        except (OSError, ValueError, http.client.HTTPException):
            self.proxy_is_there()
        return dict(total)

    # The end

    def end_traffic(self, within: float) -> None:
        if not self._mortal_is_up:
            self.kill_or_revive()
        self.toxic.spoil("none")
        self.load.finish(within)

    def drain(self) -> int:
        """The exit code; then all that was logged is counted."""
        self._note_dropped_lines()
        self.proxy.signal(signal.SIGTERM)
        code = self.proxy.wait_exit(_DRAIN_SECONDS)
        self._count_rotated()
        self._count_lines(self.access_log)
        return code
