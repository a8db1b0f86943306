"""Real nginx origins are killed and started again, one after the other, under a closed loop of GETs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from chaos.programs import SLICE_SECONDS, Load, LoadResult
from chaos.stage import CONNECTIONS, Line, Stage, failures, pause, running, unmet
from support.real import Nginx

_WINDOW = 0.3  # seconds that a share is taken over


@dataclass(frozen=True)
class Course:
    """Seconds: before the first kill, from a kill to the restart, from there to the next."""

    origins: int
    before: float
    down: float
    up: float


IN_TURN = Course(origins=3, before=1.0, down=2.0, up=5.0)
# Each of two origins killed for 2 s in a run of 10 s.
TWO = Course(origins=2, before=1.0, down=2.0, up=2.5)


@contextmanager
def nginxes(folder: Path, count: int) -> Iterator[list[Nginx]]:
    """Origins that repeat an id in head and body and tell their number."""
    with ExitStack() as stack:
        found = []
        for number in range(count):
            place = folder / f"nginx-{number}"
            place.mkdir()
            server = (
                "location / { add_header x-chaos-id $http_x_chaos_id; "
                f'add_header x-origin {number}; return 200 "$http_x_chaos_id\\n"; }}'
            )
            found.append(Nginx(place, server))
            stack.callback(found[-1].stop)
        yield found


def play(stage: Stage, policy: str, course: Course) -> tuple[LoadResult, list[tuple[float, float]]]:
    """The load's result, and for each origin when it was back and until when it was watched."""
    folder = stage.fresh_folder()
    back = []
    with (
        nginxes(folder, course.origins) as origins,
        stage.mesh(folder, [one.text for one in origins], policy) as mesh,
    ):
        load = Load(
            mesh.port, folder / "load.log", seconds=3600, connections=CONNECTIONS, timeout=5, seed=stage.seed
        )
        with running(load):
            pause(load, course.before)
            for origin in origins:
                origin.kill()
                pause(load, course.down)
                origin.start()
                begin = time.monotonic()
                pause(load, course.up)
                back.append((begin, time.monotonic()))
            return load.finish(), back


def seconds_to_half(result: LoadResult, origin: int, fair: float, begin: float, end: float) -> float | None:
    """From its return until an origin had half of its fair share over 0.3 s; None: it never had."""
    moment = begin
    while moment + _WINDOW <= end:
        if result.share(origin, moment, moment + _WINDOW) >= fair / 2:
            return moment - begin
        moment += SLICE_SECONDS
    return None


def line(stage: Stage, policy: str, course: Course, what: str) -> Line:
    result, back = play(stage, policy, course)
    fair = 1 / course.origins
    halves: list[float | None] = []
    shares = []
    for number, (begin, end) in enumerate(back):
        halves.append(seconds_to_half(result, number, fair, begin, end))
        shares.append(result.share(number, end - 1.0, end) / fair)
    late = [number for number, half in enumerate(halves) if half is None]
    return Line(
        "killed",
        what,
        {
            **failures(result),
            "half of its share after s": "/".join(
                "never" if half is None else f"{half:.1f}" for half in halves
            ),
            "share of the fair one": "/".join(f"{share:.2f}" for share in shares),
            "p99 ms": result.latency_ms("ok_p99"),
            "max ms": result.latency_ms("ok_max"),
        },
        unmet(
            (result.sent > 0, "no requests"),
            (result.failed() == 0, f"{result.failed()} idempotent requests failed"),
            (result.mixed_up == 0, "answers of other requests"),
            (not late, f"origins {late} did not get half of their share again"),
            (
                min(shares) > 0.6,
                "an origin did not come back to its share",
            ),  # a ring's shares are not all equal
        ),
    )


def killed(stage: Stage) -> Iterator[Line]:
    """Every policy with three origins; the default one also with two, and with a slow start of 2 s."""
    for policy in stage.policies:
        yield line(stage, policy, IN_TURN, f"3 nginx in turn, {policy}")
    yield line(stage, stage.policies[0], TWO, f"2 nginx, 2 s each, {stage.policies[0]}")
    gentle = replace(stage, settings={**stage.settings, "slow_start": "2s"}, folder=stage.fresh_folder())
    yield line(gentle, stage.policies[0], IN_TURN, f"3 nginx in turn, {stage.policies[0]}, slow_start 2s")
