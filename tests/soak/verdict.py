"""Whether a soak run held, line by line.

**Answers.** None may be mismatched, in any kind of traffic: an answer of another request, bytes that are in
no answer, or not in its order. On clean services nothing may fail either. Behind the dying and the toxic
endpoint failures have a cause, but not all may fail. What the kernel itself cut off because memory for
sockets had run out (`TCPAbortOnMemory`, of the whole machine) is nobody's failure here: as many truncated
and reset answers pass.

**Memory.** From half an hour on, the slope of resident memory after the warm-up must be below 1 MiB an
hour. It is the slope between 60 stretches, of each of which the lowest tenth counts (`samples.bucketed`):
some 0.6 MiB come and go with each file that is read, and 3 MiB with each thousand connections. Slabs and
arenas keep what was needed when most was in progress, and that grows ever more seldom, but for long. So in
the warm-up the origins stand still twice, until the load has as much in progress as it may have at all.

A shorter run cannot tell that slope from noise: in the two minutes that are judged of three, 1 MiB an hour
is 35 KiB, nine pages, where a single reload moves some hundred. So it is judged by growth: the lowest tenth
of the last third of the samples less that of the first must be below `SHORT_GROWTH`. Runs of three minutes
grew by 1 MiB at most, also on a machine where sixteen threads wanted two cores. When more descriptors are
open even then, for clients or endpoints that have become slow, `PER_DESCRIPTOR` more is allowed for each.
Between the middles of the two thirds lie 80 s and over 200,000 requests: 15 bytes that each of them loses
are seen, and 150 KiB that each change loses.

With upgrades no process lives long enough for a slope. Then the quiet moments of the last half of each life
count: the processes of the last third of the run may have `SHORT_GROWTH` more than those of the first.

**Descriptors and objects.** With no traffic and no endpoint, there are as many of each kind as before the
traffic, but for the pipes that each worker keeps for splice(2): two descriptors each, `MOST_PIPES` at most.

**The end.** Nothing is living in the native half, the drain ends with exit code 0, and the log has neither
leaks nor tracebacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from soak.programs import ECHOES, KindCounts
from soak.samples import MIB, Sample, growth, low, slope

MOST_SLOPE = 1 * MIB
"""Bytes an hour."""
LONG_RUN = 1800.0
"""Seconds from which on the slope is judged."""
SHORT_GROWTH = 3 * MIB
MOST_PIPES = 2 * 64
"""Those of two workers: PIPES_MAX of base/limits.pxd."""
PER_DESCRIPTOR = 4 * 1024
_LEAST_SAMPLES = 12
_KERNEL_CUTS = ("truncated", "reset")
# The least share of good answers where faults are: what is below is more than the faults explain.
LEAST_GOOD: Mapping[str, float] = {"dying endpoint": 0.9, "toxic endpoint": 0.1}


@dataclass(frozen=True)
class Check:
    """One line of the verdict; `broken` says what does not hold."""

    name: str
    figure: str
    broken: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        return not self.broken

    def text(self) -> str:
        return f"{self.name:<20} {self.figure}  {'ok' if self.holds else 'FAILED: ' + '; '.join(self.broken)}"


@dataclass
class Account:
    """What was seen of a run. Times in seconds; `samples` only those after the warm-up; `lives`: with
    upgrades, the samples of each process."""

    seconds: float = 0.0
    kinds: Sequence[KindCounts] = ()
    origins: Sequence[Mapping[str, int]] = ()
    kernel_cuts: int = 0
    samples: Sequence[Sample] = ()
    lives: list[Sequence[Sample]] = field(default_factory=list)
    descriptors_before: Counter[str] = field(default_factory=Counter)
    descriptors_after: Counter[str] = field(default_factory=Counter)
    ledger_before: Mapping[str, int] = field(default_factory=dict)
    ledger_after: Mapping[str, int] = field(default_factory=dict)
    exit_code: int | None = None
    log: str = ""
    changes: int = 0
    refused: int = 0
    doings_wrong: Sequence[str] = ()
    kept_lines: int = 0
    dropped_lines: int = 0


def judge(account: Account) -> list[Check]:
    return [
        judge_matches(account),
        judge_failures(account),
        judge_lives(account.lives) if account.lives else judge_memory(account.samples, account.seconds),
        judge_descriptors(account),
        judge_ledger(account),
        judge_end(account),
        judge_doings(account),
        judge_access_log(account),
    ]


def judge_matches(account: Account) -> Check:
    mismatched = sum(kind.mismatched for kind in account.kinds)
    answers = sum(kind.ok for kind in account.kinds)
    broken = [
        f"{kind.name}: {kind.mismatched} ({_causes(kind)})" for kind in account.kinds if kind.mismatched
    ]
    wrong = sum(origin["wrong"] + origin["bad"] for origin in account.origins)
    if wrong:
        broken.append(f"{wrong} requests reached an origin with other bytes")
    if not answers:
        broken.append("nothing was answered")
    return Check("mismatched responses", f"{mismatched} beside {answers:,} right ones", broken)


def judge_failures(account: Account) -> Check:
    clean = [kind for kind in account.kinds if not kind.faulty]
    failed = sum(kind.failed for kind in clean)
    cut = sum(kind.causes.get(cause, 0) for kind in clean for cause in _KERNEL_CUTS)
    broken = []
    if failed > min(cut, account.kernel_cuts):
        broken += [f"{kind.name}: {kind.failed} ({_causes(kind)})" for kind in clean if kind.failed]
    broken += [f"{kind.name}: none was begun" for kind in clean if not kind.sent]
    for kind in account.kinds:
        least = LEAST_GOOD.get(kind.name, 0.0)
        if kind.faulty and kind.sent and kind.ok < least * kind.sent:
            broken.append(f"{kind.name}: only {kind.ok} of {kind.sent} answered ({_causes(kind)})")
    figure = f"{failed} on clean services"
    if account.kernel_cuts:
        figure += f", where the kernel cut off {account.kernel_cuts} for want of memory"
    explained = [f"{kind.name} {kind.failed}" for kind in account.kinds if kind.faulty]
    return Check("failed requests", f"{figure}; explained: {', '.join(explained) or 'none'}", broken)


def _causes(kind: KindCounts) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in kind.causes.items())


def judge_memory(samples: Sequence[Sample], seconds: float) -> Check:
    """`samples` after the warm-up of a run of so many seconds."""
    if len(samples) < _LEAST_SAMPLES:
        return Check(
            "memory", f"{len(samples)} samples", ["too few samples: let it run for a minute or longer"]
        )
    resident = slope(samples, lambda sample: sample.resident)
    anonymous = slope(samples, lambda sample: sample.anonymous)
    more = growth(samples, lambda sample: sample.resident)
    figure = (
        f"{samples[-1].resident / MIB:.1f} MiB; {resident.value / MIB:+.2f} ± "
        f"{resident.uncertainty / MIB:.2f} MiB/h (anonymous {anonymous.value / MIB:+.2f}), "
        f"{more / MIB:+.2f} MiB from the first third to the last"
    )
    broken = []
    if seconds >= LONG_RUN and resident.value >= MOST_SLOPE:
        broken.append(f"it grows by {resident.value / MIB:.2f} MiB/h, and {MOST_SLOPE / MIB:g} is the limit")
    limit = SHORT_GROWTH + PER_DESCRIPTOR * max(0.0, growth(samples, lambda sample: sample.descriptors))
    if seconds < LONG_RUN and more >= limit:
        broken.append(f"it grew by {more / MIB:.2f} MiB, and {limit / MIB:.2f} is the limit of a short run")
    return Check("memory", figure, broken)


def judge_lives(lives: Sequence[Sequence[Sample]]) -> Check:
    sizes = [low(sample.resident for sample in life[len(life) // 2 :]) for life in lives if life]
    third = max(1, len(sizes) // 3)
    more = median(sizes[-third:]) - median(sizes[:third]) if sizes else 0.0
    shown = ", ".join(f"{size / MIB:.1f}" for size in sizes)
    broken = []
    if more >= SHORT_GROWTH:
        broken.append(f"processes have {more / MIB:.2f} MiB more than those before them")
    return Check("memory", f"{shown} MiB, by process", broken)


def judge_descriptors(account: Account) -> Check:
    more = account.descriptors_after - account.descriptors_before
    before, after = account.descriptors_before.total(), account.descriptors_after.total()
    kept = 2 * account.ledger_after.get("pipes", 0)
    figure = f"{before} before the traffic, {after} after"
    if kept:
        figure += f", of which {kept} belong to pipes that are kept"
    more["pipe"] -= kept
    broken = [f"{count} {kind} more than before" for kind, count in more.items() if count > 0]
    return Check("descriptors", figure, broken)


def judge_ledger(account: Account) -> Check:
    living = {
        kind: count - account.ledger_before.get(kind, 0) for kind, count in account.ledger_after.items()
    }
    pipes = living.pop("pipes", 0)
    broken = [f"{count} {kind} live without traffic" for kind, count in living.items() if count > 0]
    if pipes > MOST_PIPES:
        broken.append(f"{pipes} pipes are kept, and {MOST_PIPES} is the most")
    if not account.ledger_after:
        broken.append("the admin API did not tell what lives")
    leaks = [line for line in account.log.splitlines() if "leaked" in line]
    figure = f"{sum(living.values())} objects more than before the traffic, {len(leaks)} leaks at the end"
    return Check("leak ledger", figure, broken + leaks)


def judge_end(account: Account) -> Check:
    broken = [] if account.exit_code == 0 else [f"exit code {account.exit_code}"]
    if "Traceback (most recent call last)" in account.log:
        at = account.log.index("Traceback (most recent call last)")
        broken.append(account.log[at : at + 2000])
    return Check("final drain", f"exit code {account.exit_code}", broken)


def judge_doings(account: Account) -> Check:
    broken = list(account.doings_wrong)
    if not account.changes:
        broken.append("no change was applied")
    return Check("changes", f"{account.changes} in force, {account.refused} bad files refused", broken)


def judge_access_log(account: Account) -> Check:
    """Each request of the kind `keep-alive` is one line, over all rotations; dropped ones are told."""
    asked = sum(kind.sent for kind in account.kinds if kind.name == "keep-alive")
    missing = asked - account.kept_lines
    broken = []
    if not 0 <= missing <= account.dropped_lines:
        broken.append(
            f"{asked} requests have {account.kept_lines} lines, {account.dropped_lines} were dropped"
        )
    return Check("access log", f"{account.kept_lines:,} lines of {asked:,} requests", broken)


def requests(kinds: Sequence[KindCounts]) -> int:
    return sum(kind.sent for kind in kinds if kind.name not in ECHOES)
