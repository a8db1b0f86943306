"""The live table of a soak run: in place on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from soak.programs import KindCounts
from soak.samples import MIB, Sample, Slope
from soak.world import Doings

_LINE_SECONDS = 30.0


@dataclass
class Scene:
    """What is to be shown. Times in seconds, `cpu`: cores in use by name."""

    seed: int
    at: float
    seconds: float
    warm: float
    kinds: Sequence[KindCounts]
    rate: float
    cpu: Mapping[str, float]
    sample: Sample
    slope: Slope | None
    blocks: int
    ledger: Mapping[str, int]
    doings: Doings
    notes: list[str] = field(default_factory=list)


def clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def table(scene: Scene) -> list[str]:
    cpu = ", ".join(f"{name} {cores:.2f}" for name, cores in scene.cpu.items())
    lines = [
        f"soak {clock(scene.at)} of {clock(scene.seconds)}, seed {scene.seed}: {scene.rate:,.0f} requests/s, "
        f"cores: {cpu}",
        f"{'':<16}{'active':>7}{'sent':>13}{'right':>13}{'mismatched':>11}{'failed':>8}{'left':>9}"
        f"{'p50 ms':>9}{'p99 ms':>9}",
    ]
    lines += [
        f"{kind.name:<16}{kind.active:>7}{kind.sent:>13,}{kind.ok:>13,}{kind.mismatched:>11}{kind.failed:>8,}"
        f"{kind.left:>9,}{kind.quantile_ms(0.5):>9.1f}{kind.quantile_ms(0.99):>9.1f}"
        for kind in scene.kinds
    ]
    lines += [_memory(scene), _objects(scene), *_doings(scene.doings)]
    lines += [
        f"{kind.name + ':':<17}" + ", ".join(f"{cause} {count:,}" for cause, count in kind.causes.items())
        for kind in scene.kinds
        if kind.causes
    ]
    late = ", ".join(f"{kind.name} {kind.late:,}" for kind in scene.kinds if kind.late)
    lines += [f"{'begun too late:':<17}{late}"] if late else []
    return lines + scene.notes


def _memory(scene: Scene) -> str:
    sample = scene.sample
    course = f"warm-up until {clock(scene.warm)}"
    if scene.slope is not None:
        course = f"{scene.slope.value / MIB:+.2f} ± {scene.slope.uncertainty / MIB:.2f} MiB/h"
    return (
        f"{'memory':<17}resident {sample.resident / MIB:.1f} MiB, private {sample.private / MIB:.1f}, "
        f"proportional {sample.proportional / MIB:.1f}; {course}"
    )


def _objects(scene: Scene) -> str:
    ledger = ", ".join(f"{kind} {count}" for kind, count in scene.ledger.items())
    return f"{'objects':<17}{ledger}; Python blocks {scene.blocks:,}; descriptors {scene.sample.descriptors}"


def _doings(doings: Doings) -> list[str]:
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(doings.changes.items()))
    return [
        f"{'changes':<17}{doings.changes.total()} ({kinds}), slowest {doings.slowest_change:.1f} s",
        f"{'events':<17}bad files {doings.refused}, HUP {doings.hups}, log rotations {doings.rotations}, "
        f"views {doings.views}, endpoint killed {doings.kills}, toxics {doings.toxics}"
        + (f", upgrades {doings.upgrades}" if doings.upgrades else ""),
    ]


def line(scene: Scene) -> str:
    sent, right = (sum(getattr(kind, name) for kind in scene.kinds) for name in ("sent", "ok"))
    mismatched = sum(kind.mismatched for kind in scene.kinds)
    failed = sum(kind.failed for kind in scene.kinds if not kind.faulty)
    explained = sum(kind.failed for kind in scene.kinds if kind.faulty)
    course = "" if scene.slope is None else f" ({scene.slope.value / MIB:+.2f} MiB/h)"
    return (
        f"{clock(scene.at)} of {clock(scene.seconds)}: {sent:,} sent, {right:,} right, "
        f"{mismatched} mismatched, {failed} failed, {explained:,} explained; "
        f"{scene.sample.resident / MIB:.1f} MiB{course}, "
        f"{scene.sample.descriptors} descriptors, {scene.doings.changes.total()} changes"
    )


class Screen:
    def __init__(self, *, quiet: bool = False, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._quiet = quiet
        self._terminal = self._out.isatty()
        self._shown = 0
        self._next_line = time.monotonic() + _LINE_SECONDS

    def show(self, scene: Scene) -> None:
        if self._quiet:
            return
        if self._terminal:
            lines = table(scene)
            back = f"\033[{self._shown}F" if self._shown else ""
            self._out.write(back + "".join(f"\033[K{text}\n" for text in lines) + "\033[J")
            self._out.flush()
            self._shown = len(lines)
        elif time.monotonic() >= self._next_line:
            self._next_line += _LINE_SECONDS
            print(line(scene), file=self._out, flush=True)
