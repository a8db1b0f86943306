"""What clients notice of configuration changes: connections that are opened all the while, and kept ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.changes import configurations
from bench.contenders import CONTENDERS, RELOADABLE, start
from bench.harness.admin import Admin
from bench.harness.place import BenchError
from chaos.clients import FAILED, REFUSED, RESET, Account, Clients, started
from chaos.failing import origin_ports
from chaos.programs import IdOrigin
from chaos.stage import CONNECTIONS, Line, Stage, unmet
from support.ports import free_port
from support.proxy import Proxy

ORIGINS = 3
NEW_A_SECOND = 1000.0
THINK = (0.02, 0.08)
"""Seconds that a kept connection rests: 64 of them make some 1,300 requests a second."""
# What they do is shown beside it. Nobody asks whether it holds.
OTHERS = ("nginx", "haproxy")
_SETTLE_SECONDS = 0.5
_DRAIN_SECONDS = 40.0


@dataclass(frozen=True)
class Course:
    """How many changes, the seconds from one to the next, and new connections a second meanwhile."""

    changes: int
    every: float = 0.3
    rate: float = NEW_A_SECOND


def changes(stage: Stage, count: int = 100) -> Iterator[Line]:
    """100 reloads, then 10 upgrades, under 1,000 new connections a second and kept ones: none is refused,
    reset or failed."""
    course = Course(stage.count(count, least=3))
    yield reloads(stage, course)
    yield upgrades(stage, Course(stage.count(count // 10, least=2), every=3.0))
    for name in OTHERS:
        yield _reloads_of(stage, name, course)


# ---------------------------------------------------------------- the load


def _clients(stage: Stage, port: int, folder: Path, course: Course, echo: bool = True) -> Clients:
    return Clients(
        port,
        folder / "clients.log",
        new_rate=course.rate,
        kept=CONNECTIONS,
        think=THINK,
        seed=stage.seed,
        echo=echo,
    )


def _play(clients: Clients, course: Course, change: Callable[[], None]) -> Account:
    """What they noticed while `change` was called so often."""
    with started(clients):
        clients.pause(_SETTLE_SECONDS)
        begin = time.monotonic()
        for number in range(1, course.changes + 1):
            change()
            clients.pause(max(0.0, begin + number * course.every - time.monotonic()))
        clients.pause(_SETTLE_SECONDS)
        return clients.finish()


def _figures(account: Account) -> dict[str, object]:
    return {
        "new": account.of("sent", who=("new",)),
        "kept": account.of("sent", who=("kept",)),
        "refused": account.of(*REFUSED),
        "reset": account.of(*RESET),
        "failed": account.of(*FAILED),
        **account.kinds(),
        **account.error_codes(),
        "said close": account.of("said_close", who=("kept",)),
        "closed idle": account.of("idle_closed", who=("kept",)),
        "p99 ms": account.milliseconds("new_p99"),
        "max ms": max(account.milliseconds("new_max"), account.milliseconds("kept_max")),
    }


def _broken(account: Account) -> list[str]:
    return unmet(
        (account.of("ok", who=("new",)) > 0 and account.of("ok", who=("kept",)) > 0, "nothing was answered"),
        (account.of(*REFUSED) == 0, f"{account.of(*REFUSED)} connections were refused"),
        (account.of(*RESET) == 0, f"{account.of(*RESET)} connections were reset or closed under a request"),
        (account.of(*FAILED) == 0, f"{account.of(*FAILED)} requests failed"),
    )


# ---------------------------------------------------------------- fastmesh


class Changing:
    """A fastmesh whose configuration changes: an endpoint, routes, a listener, the policy, a weight, a split.

    `port` serves all the while.
    """

    def __init__(self, folder: Path, origins: Sequence[int]) -> None:
        self.port, admin_port = free_port(), free_port()
        self._texts = configurations(
            f"admin: 127.0.0.1:{admin_port}",
            self.port,
            free_port(),
            origins,
            [free_port() for _ in range(3)],
        )
        self.proxy = Proxy(folder, next(self._texts)[1])
        self.proxy.admin_port = admin_port
        self._admin = Admin(admin_port)

    def change(self) -> None:
        """Replaces the file and asks for a reload; BenchError unless the admin API says it was applied."""
        before = self._admin.reloads("applied")
        kind, text = next(self._texts)
        self.proxy.replace(text)
        answer = self._admin.reload()[1]
        # Its watcher may have been faster than we: then ours found the file unchanged.
        last = self._admin.json("/api/v1/config")["last_reload"]
        if self._admin.reloads("applied") != before + 1 or last["result"] == "refused":
            raise BenchError(f"a change of {kind} was not applied: {answer} {last}")


@contextmanager
def id_origins(folder: Path, count: int = ORIGINS) -> Iterator[list[IdOrigin]]:
    with ExitStack() as stack:
        found = []
        for number in range(count):
            found.append(IdOrigin(number, free_port(), folder))
            stack.callback(found[-1].stop)
        yield found


def reloads(stage: Stage, course: Course) -> Line:
    folder = stage.fresh_folder()
    with id_origins(folder) as origins:
        changing = Changing(folder, [origin.port for origin in origins])
        proxy = changing.proxy.start()
        try:
            account = _play(_clients(stage, changing.port, folder, course), course, changing.change)
            proxy.stop(within=_DRAIN_SECONDS)
        finally:
            proxy.kill()
    return Line("changes", f"{course.changes} reloads", _figures(account), _broken(account))


class Dynasty:
    """Processes of which each takes over from the one before, with the same configuration."""

    def __init__(self, folder: Path, origins: Sequence[int]) -> None:
        self.port, self._admin_port = free_port(), free_port()
        self._folder = folder
        self._text = next(
            configurations(
                f"admin: 127.0.0.1:{self._admin_port}", self.port, free_port(), origins, [free_port()]
            )
        )[1]
        self._count = 0
        self.proxy = self._start()

    def _start(self) -> Proxy:
        self._count += 1
        folder = self._folder / f"process-{self._count}"
        folder.mkdir()
        proxy = Proxy(folder, self._text, arguments=("--takeover", str(self._folder / "takeover.sock")))
        proxy.admin_port = self._admin_port
        return proxy.start()

    def upgrade(self) -> None:
        """Starts another process; returns when that one serves and its predecessor has ended with 0."""
        before = self.proxy
        self.proxy = self._start()
        code = before.wait_exit(_DRAIN_SECONDS)
        if code != 0:
            raise BenchError(f"the process that was upgraded ended with {code}: {before.stderr[-2000:]}")
        before.check_output()
        if self.proxy.api("process")["pid"] != self.proxy.pid:
            raise BenchError(f"the new process does not serve: {self.proxy.stderr[-2000:]}")


def upgrades(stage: Stage, course: Course) -> Line:
    folder = stage.fresh_folder()
    with id_origins(folder) as origins:
        dynasty = Dynasty(folder, [origin.port for origin in origins])
        try:
            account = _play(_clients(stage, dynasty.port, folder, course), course, dynasty.upgrade)
            dynasty.proxy.stop(within=_DRAIN_SECONDS)
        finally:
            dynasty.proxy.kill()
    return Line("changes", f"{course.changes} upgrades", _figures(account), _broken(account))


# ---------------------------------------------------------------- the others


def _reloads_of(stage: Stage, name: str, course: Course) -> Line:
    """Another proxy's reloads: an endpoint more, an endpoint less. Its origin repeats no ids."""
    folder = stage.fresh_folder()
    folder.chmod(0o755)
    with origin_ports(folder, ORIGINS) as origin:
        running = start(
            CONTENDERS[name],
            RELOADABLE,
            origin_ports=origin.ports,
            cpu=max(os.sched_getaffinity(0)),
            folder=folder,
        )

        def change() -> None:
            less = len(running.job.origin_ports) == ORIGINS
            running.reload(origin_ports=origin.ports[1:] if less else origin.ports)

        try:
            clients = _clients(stage, running.job.http_port, folder, course, echo=False)
            account = _play(clients, course, change)
        finally:
            running.stop()
    return Line("changes", f"(beside it) {name}, {course.changes} reloads", _figures(account))
