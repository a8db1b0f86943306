"""`python -m tests.soak`: starts everything, does what is due until the time is over, and judges."""

from __future__ import annotations

import argparse
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from bench.harness.meters import cpu_ns
from bench.harness.place import BenchError, raise_descriptor_limit, workspace
from fastmesh.units import parse_duration
from soak import verdict
from soak.samples import MIB, Sample, Slope, bucketed, descriptors, slope, take_sample, theil_sen, warm_up
from soak.table import Scene, Screen, table
from soak.verdict import Account, Check
from soak.world import World
from support.waiting import eventually

# Uploads and downloads that have begun, read by slow clients, on a slow machine.
_FINISH_SECONDS = 240.0
# Until idle connections to endpoints are closed once there is none, and clients' ends are seen.
_SETTLE_SECONDS = 60.0
_SHOWN_EVERY = 15.0  # seconds between two estimates of the slope


@dataclass
class Duty:
    """Something that is due every so often."""

    every: float
    act: Callable[[], None]
    due: float = 0.0


@dataclass(frozen=True)
class Used:
    """Up to a moment of the run: requests that were sent, and CPU time by name."""

    at: float
    requests: int
    cpu_ns: dict[str, int]


class Soak:
    """One run. `world` is started; what was seen is in `account` after `run`."""

    def __init__(
        self, world: World, seconds: float, screen: Screen, *, upgrade_every: float | None = None
    ) -> None:
        self.world, self.seconds, self.screen = world, seconds, screen
        self.warm = warm_up(seconds)
        self.upgrade_every = upgrade_every
        self._begun = 0
        self.samples: list[Sample] = []
        self.blocks: list[tuple[float, int]] = []
        self.account = Account(seconds=seconds)
        self._slope_at = 0.0
        self._slope: Slope | None = None

    def run(self) -> list[Check]:
        world, account = self.world, self.account
        cuts = kernel_cuts()
        account.descriptors_before = self._quiet_descriptors()
        account.ledger_before = world.ledger()
        world.start_load()
        self._begin = time.monotonic()
        begin = self._seen = self._used()
        self._play()
        end = self._used()
        world.end_traffic(_FINISH_SECONDS)
        account.kernel_cuts = kernel_cuts() - cuts
        self.final = self.scene(begin, end)
        account.kinds = world.load.counts()
        account.origins = [origin.counts() for origin in world.origins]
        account.samples = [sample for sample in self.samples if sample.at >= self.warm]
        if account.lives:
            account.lives.append(self._of_this_process())
        world.end_former()
        world.apply(world.course.bare())
        self._settle()
        account.exit_code = world.drain()
        account.log = world.proxy.stderr
        account.changes = world.doings.changes.total()
        account.refused = world.doings.refused
        account.doings_wrong = world.doings.wrong
        account.kept_lines, account.dropped_lines = world.doings.kept_lines, world.dropped_lines
        return verdict.judge(account)

    def _play(self) -> None:
        world = self.world
        duties = [
            Duty(1.0, self._sample),
            Duty(4.0, world.change),
            Duty(31.0, world.spoil_file),
            Duty(23.0, world.hup),
            Duty(20.0, world.rotate),
            Duty(2.0, world.look_at_a_view),
            Duty(10.0, world.ask_blocks),
            Duty(7.0, world.next_toxic),
            Duty(5.0, world.kill_or_revive),
            Duty(1.0, self._show),
        ]
        for duty in duties:
            duty.due = self._at() + duty.every
        if self.upgrade_every is not None:
            duties.append(Duty(self.upgrade_every, self._upgrade, self._at() + self.upgrade_every))
        duties += [Duty(inf, world.stand_still, self.warm * share) for share in (0.3, 0.6)]
        while self._at() < self.seconds:
            for duty in duties:
                if self._at() >= duty.due:
                    duty.due = self._at() + duty.every
                    duty.act()
            world.check_alive()
            next_due = min(self.seconds, *(duty.due for duty in duties))
            time.sleep(max(0.0, next_due - self._at()))

    def _upgrade(self) -> None:
        self.account.lives.append(self._of_this_process())
        self.world.upgrade()
        self._begun = len(self.samples)

    def _of_this_process(self) -> list[Sample]:
        return self.samples[self._begun :]

    def _at(self) -> float:
        return time.monotonic() - self._begin

    def _sample(self) -> None:
        sample = take_sample(self.world.proxy.pid, self._at())
        self.samples.append(sample)
        if blocks := self.world.blocks():
            self.blocks.append((sample.at, blocks))

    def _show(self) -> None:
        if self.samples:
            self.screen.show(self.scene())

    def _used(self) -> Used:
        cpu = {name: cpu_ns(pids) for name, pids in self.world.cpu_pids().items()}
        return Used(self._at(), verdict.requests(self.world.load.counts()), cpu)

    def scene(self, then: Used | None = None, now: Used | None = None) -> Scene:
        """As it is; rates between these two moments, or since the last one that was shown."""
        world, at = self.world, self._at()
        now = now or self._used()
        then, self._seen = then or self._seen, now
        passed = max(now.at - then.at, 0.001)
        judged = [sample for sample in self.samples if sample.at >= self.warm]
        if len(judged) > 2 and at >= self._slope_at:
            self._slope, self._slope_at = slope(judged, lambda sample: sample.resident), at + _SHOWN_EVERY
        return Scene(
            seed=world.seed,
            at=at,
            seconds=self.seconds,
            warm=self.warm,
            kinds=world.load.counts(),
            rate=(now.requests - then.requests) / passed,
            # A restarted origin's clock begins anew.
            cpu={name: max(0, used - then.cpu_ns[name]) / passed / 1e9 for name, used in now.cpu_ns.items()},
            sample=self.samples[-1],
            slope=self._slope,
            blocks=world.blocks(),
            ledger=world.ledger(),
            doings=world.doings,
            notes=world.doings.wrong[-5:],
        )

    def _quiet_descriptors(self) -> Counter[str]:
        """Of a fastmesh that has answered some views and has no connection open any more."""
        for _ in range(8):
            self.world.look_at_a_view()
        self.world.ask_blocks()
        eventually(lambda: self.world.blocks() > 0, "the signal about memory to be answered", within=60)
        seen = [descriptors(self.world.proxy.pid)]

        def stays() -> bool:
            seen.append(descriptors(self.world.proxy.pid))
            return seen[-1] == seen[-2]

        eventually(stays, "descriptors to stay the same", within=60, every=0.2)
        return seen[-1]

    def _settle(self) -> None:
        """Waits for descriptors to be back, and for the ledger to be empty, or until that takes too long."""
        account, deadline = self.account, time.monotonic() + _SETTLE_SECONDS
        while True:
            account.ledger_after = self.world.ledger()
            account.descriptors_after = descriptors(self.world.proxy.pid)
            quiet = verdict.judge_descriptors(account).holds and verdict.judge_ledger(account).holds
            if quiet or time.monotonic() > deadline:
                return
            time.sleep(0.2)


def kernel_cuts() -> int:
    """Connections that the kernel has reset on this machine because memory for sockets had run out (its
    counter TCPAbortOnMemory); 0 where it does not say."""
    lines = Path("/proc/net/netstat").read_text().splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        counters = dict(zip(names.split(), values.split(), strict=True))
        if "TCPAbortOnMemory" in counters:
            return int(counters["TCPAbortOnMemory"])
    return 0


def report(soak: Soak, checks: Sequence[Check]) -> str:
    """What is printed at the end: the table as it was last, where memory went, the verdict."""
    lines = [*table(soak.final), "", *growth_by_part(soak)]
    lines += [f"  {text}" for text in soak.world.load.log().splitlines()[1:40] if text != "END"]
    lines += ["", *(check.text() for check in checks)]
    held = sum(check.holds for check in checks)
    seed = soak.world.seed
    return "\n".join([*lines, "", f"{held} checks hold, {len(checks) - held} do not; seed {seed}"])


def growth_by_part(soak: Soak) -> list[str]:
    """Slopes of what memory is made of: a leak of Python is in the blocks, one of the native half is not."""
    judged = soak.account.samples
    blocks = [(at, float(count)) for at, count in soak.blocks if at >= soak.warm]
    if len(judged) < 3 or not blocks:
        return []
    parts = {
        "resident": slope(judged, lambda sample: sample.resident),
        "anonymous": slope(judged, lambda sample: sample.anonymous),
        "private": slope(judged, lambda sample: sample.private),
    }
    text = ", ".join(f"{name} {found.value / MIB:+.2f} MiB/h" for name, found in parts.items())
    python = theil_sen(bucketed(blocks))
    return [f"{'growth':<17}{text}; Python {python.value:+,.0f} blocks/h"]


def as_json(soak: Soak, checks: Sequence[Check]) -> dict[str, Any]:
    account = soak.account
    return {
        "seed": soak.world.seed,
        "seconds": soak.seconds,
        "warm_up_seconds": soak.warm,
        "holds": all(check.holds for check in checks),
        "checks": [asdict(check) for check in checks],
        "kinds": [
            {name: value for name, value in asdict(kind).items() if name != "latency"}
            | {"p50_ms": kind.quantile_ms(0.5), "p99_ms": kind.quantile_ms(0.99)}
            for kind in account.kinds
        ],
        "doings": {**vars(soak.world.doings)},
        "descriptors": {"before": account.descriptors_before, "after": account.descriptors_after},
        "samples": [asdict(sample) for sample in soak.samples],
        "python_blocks": soak.blocks,
    }


def as_junit(checks: Sequence[Check]) -> str:
    """For `tools/tally`: a test for each check."""
    cases = "".join(
        f"<testcase classname='soak' name={quoteattr(check.name)}>"
        + ("" if check.holds else f"<failure message={quoteattr(ascii(check.text()))}/>")
        + "</testcase>"
        for check in checks
    )
    failed = sum(not check.holds for check in checks)
    return f"<testsuite name='soak' tests='{len(checks)}' failures='{failed}'>{cases}</testsuite>\n"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    raise_descriptor_limit()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {seed}, {options.seconds:g} s", flush=True)
    with workspace() as folder:
        try:
            with World(folder, seed, upgrades=options.upgrades is not None) as world:
                screen = Screen(quiet=options.quiet)
                soak = Soak(world, options.seconds, screen, upgrade_every=options.upgrades)
                checks = soak.run()
                print(report(soak, checks), flush=True)
                if options.report:
                    options.report.parent.mkdir(parents=True, exist_ok=True)
                    options.report.write_text(as_junit(checks))
                if options.json:
                    options.json.write_text(json.dumps(as_json(soak, checks), indent=1) + "\n")
        except (BenchError, AssertionError, OSError) as error:
            print(f"not played to its end: {type(error).__name__}: {error}; seed {seed}", flush=True)
            return 1
        except KeyboardInterrupt:
            print(f"interrupted; seed {seed}", flush=True)
            return 130
    return 0 if all(check.holds for check in checks) else 1


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    add = parser.add_argument
    add(
        "--for",
        dest="seconds",
        type=_seconds,
        default=3600.0,
        help="how long: 1h (so long without it), 3m, 90s",
    )
    add("--seed", type=int, help="of all random choices; drawn and printed without it")
    add("--upgrades", type=_seconds, metavar="EVERY", help="another process takes over so often, such as 30s")
    add("--quiet", action="store_true", help="only the report at the end")
    add("--json", type=Path, metavar="FILE", help="writes all figures there")
    add("--report", type=Path, metavar="FILE", help="writes the checks there as a JUnit file")
    return parser.parse_args(arguments)
