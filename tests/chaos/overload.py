"""More requests than the endpoint can serve: what is still served, how fast, and how the rest is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness.openloop import OpenLoop, OpenLoopResult
from bench.harness.origin import Origin
from chaos.failing import origin_ports
from chaos.stage import Line, Mesh, Stage, local, unmet

SLOTS, SERVICE_MS = 16, 5
CAPACITY = SLOTS / SERVICE_MS * 1000
"""Requests a second that the endpoint can serve; more of them wait in its queue."""
LIMITS: Mapping[str, object] = {"requests": 20, "queue": 8, "queue_timeout": "100ms"}
"""As docs/operations.md says for such an endpoint: its slots and a quarter more, which keeps them busy while
answers travel; half as many may wait."""
GOODPUT, SLOWER, GROWTH = 0.9, 3.0, 0.1
"""Least share of the peak, times the normal p99, and growth of memory."""
_CONNECTIONS = 1024
_MIB = 1 << 20


@dataclass(frozen=True)
class Offer:
    """So many times the capacity, for some seconds; the first are not counted."""

    name: str
    load: float
    warm: float = 1.0
    seconds: float = 8.0


OFFERS = (Offer("normal", 0.5), Offer("peak", 1.0), Offer("overload", 3.0))


@dataclass(frozen=True)
class Served:
    """What came of an offer. Memory: resident, the most that was seen, in bytes."""

    offer: Offer
    result: OpenLoopResult
    memory: int

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return self.result.requests_per_second

    def figures(self) -> dict[str, object]:
        result = self.result
        return {
            "offered/s": round(self.offer.load * CAPACITY),
            "goodput/s": round(self.goodput),
            "p50 ms": result.quantile_us(50) / 1000,
            "p99 ms": result.quantile_us(99) / 1000,
            "refused": f"{result.errors['status'] / max(1, result.intended):.1%}",
            "refusals' p99 ms": result.refused_quantile_us(99) / 1000,
            "other failures": result.failed - result.errors["status"],
            "late p99 ms": result.late.get_value_at_percentile(99) / 1e6,
            "MiB": self.memory / _MIB,
        }

    def told(self) -> bool:
        """Whether each that was refused got a 503 that says when to come again."""
        return set(self.result.statuses) <= {503} and self.result.retry_after == self.result.errors["status"]


def overload(stage: Stage) -> Iterator[Line]:
    """An endpoint that serves 16 requests of 5 ms at a time is offered up to three times that."""
    offers = [replace(offer, seconds=max(1.0, offer.seconds * stage.scale)) for offer in OFFERS]
    limited = replace(stage, settings={**stage.settings, "limits": LIMITS}, folder=stage.fresh_folder())
    yield from play(limited, offers, "with limits")
    for line in play(stage, offers, "without"):
        yield replace(line, what=f"(beside it) {line.what}", broken=())


def play(stage: Stage, offers: list[Offer], what: str) -> Iterator[Line]:
    """A line for each offer: the first is the normal one, the second the peak, the last the overload."""
    folder = stage.fresh_folder()
    with slots(folder) as origin, stage.mesh(folder, local(origin.ports), stage.policies[0]) as mesh:
        served = [_offer(mesh, folder, offer) for offer in offers]
    normal, peak, worst = served
    for one in served:
        yield Line("overload", f"{one.offer.name}, {what}", one.figures(), correct(one))
    share = worst.goodput / peak.goodput if peak.goodput else 0.0
    slower = worst.result.quantile_us(99) / (normal.result.quantile_us(99) or 1.0)
    growth = worst.memory / peak.memory - 1 if peak.memory else 0.0
    yield Line(
        "overload",
        f"{worst.offer.load:g} times the capacity, {what}",
        {"of the peak's goodput": f"{share:.1%}", "times the normal p99": slower, "memory": f"{growth:+.1%}"},
        unmet(
            (stage.unhurried or share >= GOODPUT, f"goodput {share:.1%} of its peak"),
            (stage.unhurried or slower <= SLOWER, f"p99 {slower:.1f} times the normal one"),
            (stage.unhurried or growth <= GROWTH, f"memory grew by {growth:.1%}"),
        ),
    )


def correct(served: Served) -> list[str]:
    """What does not hold on whatever machine."""
    result = served.result
    others = result.failed - result.errors["status"]
    return unmet(
        (result.answered > 0, "nothing was answered"),
        (others == 0, f"{others} failed otherwise than by a status: {result.error_text()}"),
        (served.told(), f"{result.retry_after} of {result.statuses} said when to come again"),
    )


@contextmanager
def slots(folder: Path) -> Iterator[Origin]:
    """The endpoint."""
    with origin_ports(folder, 1) as origin:
        origin.behave(origin.ports[0], f"slots {SLOTS}")
        origin.behave(origin.ports[0], f"delay fixed {SERVICE_MS}ms")
        yield origin


def _offer(mesh: Mesh, folder: Path, offer: Offer) -> Served:
    load = OpenLoop(
        mesh.port,
        "/",
        rate=offer.load * CAPACITY,
        seconds=offer.seconds,
        warm_seconds=offer.warm,
        log=folder / f"{offer.name}.log",
        cpu=None,
        connections=_CONNECTIONS,
    )
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, mesh.proxy.resident_bytes())

    return Served(offer, load.result(look), most)
