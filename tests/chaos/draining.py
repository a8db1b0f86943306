"""The whole process drains, under kept connections, downloads, tunnels and new arrivals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from chaos.changes import id_origins
from chaos.clients import FAILED, KINDS, RESET, Account, Clients, started
from chaos.long_streams import Download, StreamOrigin, Tunnel
from chaos.stage import Line, Stage, local, unmet
from support.ports import free_port
from support.proxy import Proxy

_SETTLE_SECONDS = 1.0
_LATE_SECONDS = 10.0
_MIB = 1 << 20
DONE, TIMED_OUT = 0, 4
"""Exit codes, as docs/operations.md has them."""


@dataclass(frozen=True)
class Course:
    """Clients that keep a connection and think for 0 to `think` seconds between requests; downloads of `size`
    bytes at `pace` bytes a second; tunnels that end in turn within `tunnel_seconds` of the signal, and
    `staying` ones that do not end. `timeout` is `drain.timeout`; `arrivals` are new connections a second."""

    clients: int = 1000
    think: float = 5.0
    downloads: int = 10
    size: int = 100 * _MIB
    pace: float = 12.5 * _MIB
    tunnels: int = 10
    tunnel_seconds: float = 10.0
    staying: int = 0
    timeout: float = 30.0
    arrivals: float = 100.0


def draining(stage: Stage) -> Iterator[Line]:
    """TERM under 1,000 kept connections, 10 downloads and 10 tunnels: all ends whole, nobody sees a reset."""
    size, clients = stage.count(100 * _MIB, least=24 * _MIB), stage.count(1000, least=20)
    course = Course(clients=clients, size=size, pace=size / 8)
    yield drain(stage, course)
    yield drain(stage, Course(clients=clients, size=size, pace=size / 8, staying=3, timeout=12.0))
    yield drain(stage, Course(clients=clients, downloads=0, tunnels=0))


# ---------------------------------------------------------------- what happens


@dataclass
class Seen:
    """What became of everybody. `seconds`: from the signal to the end of the process."""

    downloads: list[Download] = field(default_factory=list)
    tunnels: list[Tunnel] = field(default_factory=list)
    code: int = -1
    seconds: float = 0.0
    account: Account | None = None


def drain(stage: Stage, course: Course, how: signal.Signals = signal.SIGTERM) -> Line:
    folder = stage.fresh_folder()
    with id_origins(folder) as origins:
        port, streams = free_port(), free_port()
        routes = {"/stream": "streams", "/": "origins"}
        config = {
            "drain": {"timeout": f"{course.timeout:g}s"},
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": routes}},
            "services": {
                "origins": {"endpoints": local([origin.port for origin in origins])},
                "streams": {"endpoints": local([streams])},
            },
        }
        proxy = Proxy(folder, config).start()
        try:
            seen = trio.run(_play, stage, folder, course, how, proxy, port, streams)
            proxy.check_output()
        finally:
            proxy.kill()
    what = f"{course.clients} kept, {course.downloads} downloads, {course.tunnels}+{course.staying} tunnels"
    return Line("draining", what, _figures(seen), _broken(course, seen))


async def _play(
    stage: Stage,
    folder: Path,
    course: Course,
    how: signal.Signals,
    proxy: Proxy,
    port: int,
    stream_port: int,
) -> Seen:
    clients = Clients(
        port,
        folder / "clients.log",
        new_rate=course.arrivals,
        kept=course.clients,
        think=(0.0, course.think),
        seed=stage.seed,
        stay_away=True,
    )
    seen = Seen()
    async with trio.open_nursery() as origin:
        await origin.start(StreamOrigin().serve, stream_port)
        with started(clients):
            async with trio.open_nursery() as nursery:
                await trio.sleep(_SETTLE_SECONDS)
                seen.downloads += [Download(port, course.size, course.pace) for _ in range(course.downloads)]
                seen.tunnels += [Tunnel(port) for _ in range(course.tunnels + course.staying)]
                for run in [one.run for one in seen.downloads] + [one.run for one in seen.tunnels]:
                    await nursery.start(run)
                await trio.sleep(_SETTLE_SECONDS)
                begin = trio.current_time()
                proxy.signal(how)
                nursery.start_soon(_end_in_turn, seen.tunnels[: course.tunnels], course.tunnel_seconds)
                seen.code = await trio.to_thread.run_sync(proxy.wait_exit, course.timeout + _LATE_SECONDS)
                seen.seconds = trio.current_time() - begin
                nursery.cancel_scope.deadline = trio.current_time() + _LATE_SECONDS
            seen.account = await trio.to_thread.run_sync(clients.finish)
        origin.cancel_scope.cancel()
    return seen


async def _end_in_turn(tunnels: list[Tunnel], seconds: float) -> None:
    for tunnel in tunnels:
        await trio.sleep(seconds / len(tunnels))
        tunnel.finish()


# ---------------------------------------------------------------- what is to be said of it


def _ends(ends: list[str]) -> str:
    return " ".join(f"{ends.count(end)} {end or 'going on'}" for end in sorted(set(ends))) or "none"


def _figures(seen: Seen) -> dict[str, object]:
    account = seen.account
    assert account is not None
    return {
        "exit": seen.code,
        "after s": seen.seconds,
        "requests": account.of("sent", who=("kept",)),
        "said close": account.of("said_close", who=("kept",)),
        "closed idle": account.of("idle_closed", who=("kept",)),
        **{f"kept {kind}": count for kind, count in account.kinds(("kept",)).items()},
        **{f"new {kind}": count for kind, count in account.kinds(("new",)).items()},
        "downloads": _ends([one.end for one in seen.downloads]),
        "tunnels": _ends([one.end for one in seen.tunnels]),
    }


def _broken(course: Course, seen: Seen) -> list[str]:
    account, expected = seen.account, TIMED_OUT if course.staying else DONE
    assert account is not None
    ending, staying = seen.tunnels[: course.tunnels], seen.tunnels[course.tunnels :]
    kept, arrived = account.of(*KINDS, who=("kept",)), account.of(*RESET, *FAILED, who=("new",))
    return unmet(
        (seen.code == expected, f"exit code {seen.code}, not {expected}"),
        (account.of("ok", who=("kept",)) > 0, "nothing was answered"),
        (kept == 0, f"kept connections noticed it {kept} times"),
        (account.numbers["gone"] == course.clients, f"{account.numbers['gone']} kept connections ended"),
        (arrived == 0, f"new connections were reset or failed {arrived} times"),
        (all(one.end == "whole" for one in seen.downloads), "downloads did not end whole"),
        (all(one.end == "whole" and one.echoes for one in ending), "tunnels did not end whole"),
        (all(one.end in ("cut", "reset") for one in staying), "tunnels outlived the process"),
        (not staying or seen.seconds >= course.timeout, f"cut off after {seen.seconds:.1f} s"),
    )
