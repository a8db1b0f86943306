"""Endpoints behind the toxic proxy: whose answers come, what is sent twice, what clients see of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.harness.place import BenchError
from chaos.programs import Load, LoadResult
from chaos.stage import Line, Spoilt, Stage, failures, local, pause, running, spoilt, unmet

ENDPOINTS = 3
# An exchange that `posts` makes is shorter, so that a reset comes at each of its bytes, and some behind them.
REQUEST_BYTES, RESPONSE_BYTES = 512, 256
_PATIENCE = 3.0
_GIVE_UP = 900.0


@dataclass(frozen=True)
class Phase:
    """Commands of `toxic_plan.h`, all in force together; `weight` is a share of the requests.

    Offsets go far beyond one exchange: a connection serves many before it is spoilt, and each is in the end,
    else the pool would fill with the others. `corrupts`: bytes of a body are replaced, which cannot be seen.
    """

    name: str
    toxics: Sequence[str]
    weight: float = 1.0
    corrupts: bool = False


_FAR = "0-20000"
PHASES = (
    Phase("latency", ["latency 4ms 4ms"], 0.3),
    Phase("bandwidth", ["bandwidth 400000"], 0.3),
    Phase("stall request", ["stall request 0-1000000"], 0.5),
    Phase("stall response", ["stall response 0-1000000"], 0.5),
    Phase("reset request", [f"reset request {_FAR}"]),
    Phase("reset response", [f"reset response {_FAR}"]),
    Phase("cut request", [f"cut request {_FAR}"]),
    Phase("cut response", [f"cut response {_FAR}"]),
    Phase("slow close", [f"slow-close {_FAR} 30ms"], 0.7),
    Phase("garbage inside", [f"garbage inside {_FAR} 40"], corrupts=True),
    Phase("garbage instead", [f"garbage instead {_FAR} 400"], corrupts=True),
    Phase("garbage behind", ["garbage behind 1-40 40"], corrupts=True),
    Phase("accept, then close", ["accept-close", f"reset response {_FAR}"]),
    Phase("refuse", []),
)
EVERYTHING = Phase("all of them", [toxic for phase in PHASES for toxic in phase.toxics], 3.0, corrupts=True)


def _put(plan: Sequence[str], at: Spoilt, ports: Sequence[int] | None = None) -> None:
    """These toxics in the place of those in force."""
    at.toxic.spoil("none", ports)
    for toxic in plan:
        at.toxic.spoil(f"also {toxic}", ports)


def _refuse_in_turn(at: Spoilt, load: Load, plan: Sequence[str], seed: int) -> None:
    """Until the load ends one port after the other refuses for a while; the others have the plan."""
    rng = random.Random(seed)
    deadline = time.monotonic() + _GIVE_UP
    while time.monotonic() < deadline:
        port = rng.choice(at.ports)
        at.toxic.spoil("refuse", [port])
        ended = load.wait(0.1)
        _put(plan, at, [port])
        if ended or load.wait(0.15):
            return
    raise BenchError(f"the load did not end within {_GIVE_UP:g} s")


# ---------------------------------------------------------------- all toxics


def toxics(stage: Stage, requests: int = 1_000_000) -> Iterator[Line]:
    """Every toxic, then all at once: no answer goes to another request, no POST is sent twice."""
    phases = [*PHASES, EVERYTHING]
    unit = stage.count(requests) / sum(phase.weight for phase in phases)
    for phase in phases:
        yield play_phase(stage, phase, max(200, round(unit * phase.weight) + 1))


def play_phase(stage: Stage, phase: Phase, requests: int) -> Line:
    folder = stage.fresh_folder()
    with (
        spoilt(stage, folder, ENDPOINTS, requests) as at,
        stage.mesh(folder, local(at.ports), stage.policies[0]) as mesh,
    ):
        _put(phase.toxics, at)
        load = Load(
            mesh.port,
            folder / "load.log",
            requests=requests,
            post_share=0.3,
            timeout=_PATIENCE,
            sizes=(0, 17, 17, 300, 3000, 40_000),
            body_sizes=(0, 100, 100, 3000, 40_000),
            seed=stage.seed,
        )
        with running(load):
            if phase.name in ("refuse", EVERYTHING.name):
                _refuse_in_turn(at, load, phase.toxics, stage.seed)
            result = load.result(_GIVE_UP)
        applied = sum(at.toxic.counts(port)["applied"] for port in at.ports)
        return _phase_line(phase, result, at, applied)


def _phase_line(phase: Phase, result: LoadResult, at: Spoilt, applied: int) -> Line:
    gets, posts, again = at.received.received()
    twice, wrong_bodies = at.received.posts_sent_twice(), at.wrong_bodies()
    corrupt = result.of("corrupt")
    return Line(
        "toxics",
        phase.name,
        {
            "requests": result.sent,
            "spoilt connections": applied,
            "GET failed": result.failed(["get"]),
            "POST failed": result.failed(["post"]),
            **result.errors(),
            "GET sent again": again,
        },
        unmet(
            (result.mixed_up == 0, f"{result.mixed_up} answers of other requests"),
            (corrupt == 0 or phase.corrupts, f"{corrupt} bodies were spoilt"),
            (not twice, f"{len(twice)} POSTs were sent twice"),
            (wrong_bodies == 0, f"{wrong_bodies} requests reached an origin with another's bytes"),
            (applied > 0 or not phase.toxics, "no connection was spoilt"),
            (gets + posts > 0, "no request reached an endpoint"),
        ),
    )


# ---------------------------------------------------------------- POSTs


def posts(stage: Stage, requests: int = 100_000) -> Iterator[Line]:
    """POSTs whose connections are reset at every byte of request and response: none is sent twice."""
    folder, count = stage.fresh_folder(), stage.count(requests)
    with (
        spoilt(stage, folder, ENDPOINTS, count) as at,
        stage.mesh(folder, local(at.ports), stage.policies[0]) as mesh,
    ):
        _put([f"reset request 0+{REQUEST_BYTES - 1}", f"reset response 0+{RESPONSE_BYTES - 1}"], at)
        load = Load(
            mesh.port,
            folder / "load.log",
            requests=count,
            post_share=1.0,
            timeout=_PATIENCE,
            body_sizes=(100,),
            seed=stage.seed,
        )
        with running(load):
            result = load.result(_GIVE_UP)
        swept = min(at.toxic.counts(port)["applied"] for port in at.ports)
        twice, wrong_bodies = at.received.posts_sent_twice(), at.wrong_bodies()
        _, received, _ = at.received.received()
        _, whole, _ = at.whole.received()
    yield Line(
        "posts",
        "reset at every byte",
        {
            **failures(result),
            "connections reset, least": swept,
            "reached an endpoint": received,
            "whole": whole,
            "sent twice": len(twice),
        },
        unmet(
            (not twice, f"{len(twice)} POSTs were sent twice, the first with id {twice[:1]}"),
            (result.mixed_up == 0, f"{result.mixed_up} answers of other requests"),
            (result.of("corrupt") == 0, "bodies were spoilt"),
            (wrong_bodies == 0, f"{wrong_bodies} requests reached an origin with another's bytes"),
            (received > 0 and swept > 0, "nothing was reset"),
        ),
    )


# ---------------------------------------------------------------- each policy, each fault


@dataclass(frozen=True)
class Fault:
    """`toxic` is in force on the first endpoint before the load begins, so that every connection has it: to
    end connections for it would get the endpoint ejected for that. `play` is what happens under load."""

    toxic: str
    play: Callable[[Spoilt, Load, float], None] | None = None


def _kill(at: Spoilt, load: Load, seconds: float) -> None:
    at.origins[0].kill()
    at.toxic.spoil("refuse", at.ports[:1])
    pause(load, seconds / 2)
    at.origins[0].restart()
    at.toxic.spoil("none", at.ports[:1])
    pause(load, seconds / 2)


def _refuse(at: Spoilt, load: Load, seconds: float) -> None:
    at.toxic.spoil("refuse", at.ports[:1])
    pause(load, seconds)


def _answer_500(at: Spoilt, load: Load, seconds: float) -> None:
    at.origins[0].tell("fail 500")
    pause(load, seconds)


FAULTS = {
    "kill": Fault("none", _kill),
    "stall": Fault("stall response 0-300"),
    "reset": Fault("reset response 0-300"),
    "cut": Fault("cut response 0-300"),
    "garbage": Fault("garbage instead 0-300 200"),
    "refuse": Fault("none", _refuse),
    "slow": Fault("latency 500ms 100ms"),
    "500": Fault("none", _answer_500),
}


def matrix(stage: Stage, seconds: float = 3.0, faults: Sequence[str] = tuple(FAULTS)) -> Iterator[Line]:
    """Each policy with each fault of one of three endpoints: how many GETs and POSTs fail."""
    for policy in stage.policies:
        figures: dict[str, object] = {}
        broken: list[str] = []
        for fault in faults:
            result, twice, met = _play_fault(stage, policy, FAULTS[fault], seconds)
            figures[fault] = f"{result.failed(['get'])}+{result.failed(['post'])}/{result.sent}"
            stage.say(
                f"matrix        {policy}, {fault}: {figures[fault]} {result.error_text()}, met {met} times"
            )
            broken += unmet(
                (result.mixed_up == 0, f"{fault}: {result.mixed_up} answers of other requests"),
                (result.of("corrupt") == 0 or fault == "garbage", f"{fault}: bodies were spoilt"),
                (not twice, f"{fault}: {len(twice)} POSTs were sent twice"),
                (result.ok > 0, f"{fault}: nothing was answered"),
                (met > 0, f"{fault}: no connection met it"),
            )
        yield Line("matrix", f"{policy} (GET+POST failed/all)", figures, broken)


def _play_fault(stage: Stage, policy: str, fault: Fault, seconds: float) -> tuple[LoadResult, list[int], int]:
    """The load's result, POSTs that were sent twice, and how many connections or answers the fault was in."""
    folder = stage.fresh_folder()
    with (
        spoilt(stage, folder, ENDPOINTS, 400_000) as at,
        stage.mesh(folder, local(at.ports), policy) as mesh,
    ):
        at.toxic.spoil(fault.toxic, at.ports[:1])
        load = Load(
            mesh.port,
            folder / "load.log",
            requests=400_000,
            post_share=0.2,
            timeout=2.0,
            sizes=(17, 300),
            seed=stage.seed,
        )
        with running(load):
            pause(load, 0.5)
            opened = at.toxic.counts(at.ports[0])
            if fault.play:
                fault.play(at, load, seconds)
            else:
                pause(load, seconds)
            result = load.finish()
        met = opened["open"] if fault.play else at.toxic.counts(at.ports[0])["applied"]
        return result, at.received.posts_sent_twice(), met
