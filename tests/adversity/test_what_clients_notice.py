"""Small versions of the cases of `make chaos` that change, overload, beset and drain; `tests/chaos`.

They look at what is answered and how it ends. Times, rates and memory are for `make chaos`.
"""

from __future__ import annotations

import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from bench.harness.place import raise_descriptor_limit
from chaos import changes, draining, overload, slow_clients
from chaos.changes import Changing
from chaos.stage import Stage

pytestmark = pytest.mark.no_sanitizer  # loads at a constant rate

FEW_CHANGES = changes.Course(changes=6, every=0.1, rate=200)
BRIEF = [replace(offer, warm=0.3, seconds=0.8) for offer in overload.OFFERS]
SHORT_DRAIN = draining.Course(
    clients=40,
    think=0.5,
    downloads=2,
    size=24 << 20,  # more than sockets on the way hold
    pace=12 << 20,
    tunnels=3,
    tunnel_seconds=0.8,
    timeout=20.0,
    arrivals=0,  # one that comes while a listener closes may be reset: `make chaos` counts that
)
# Each attack is ended by a time-out of two seconds, long before the slow clients would be. The kept
# connections of the honest rest for one when the machine stands still.
HASTY = {"defaults": {"timeouts": {"header": "2s", "idle": "2s"}}}
FEW_SLOW = slow_clients.Scale(
    clients=50, rate=50, interval=5, seconds=20, look_seconds=0.5, honest_seconds=1.0
)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    raise_descriptor_limit()
    seed = random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}")
    return Stage(tmp_path, seed, say=print, unhurried=True)


# ---------------------------------------------------------------- changes


def test_changes_cost_no_connection(stage: Stage) -> None:
    played = changes.reloads(stage, FEW_CHANGES)
    print(played.text())
    assert played.holds, played.text()


def test_upgrades_cost_no_connection(stage: Stage) -> None:
    played = changes.upgrades(stage, replace(FEW_CHANGES, changes=2))
    assert played.holds, played.text()


def test_a_restart_in_the_place_of_a_change_is_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def restart(changing: Changing) -> None:
        changing.proxy.kill()
        changing.proxy.start()

    monkeypatch.setattr(Changing, "change", restart)
    played = changes.reloads(stage, replace(FEW_CHANGES, changes=1))
    assert int(str(played.figures["refused"])) > 0, played.text()
    assert any("refused" in text for text in played.broken), played.text()


# ---------------------------------------------------------------- overload


def test_what_cannot_be_served_is_told_so(stage: Stage) -> None:
    stage.settings = {"limits": overload.LIMITS}
    *offers, verdict = overload.play(stage, BRIEF, "with limits")
    for line in (*offers, verdict):
        print(line.text())
        assert line.holds, line.text()
    assert offers[-1].figures["refused"] != "0.0%"


def test_without_limits_overload_is_seen(stage: Stage) -> None:
    """All waits in the endpoint's queue, longer and longer."""
    stage.unhurried = False
    *_, verdict = overload.play(stage, BRIEF, "without limits")
    assert verdict.broken, verdict.text()


# ---------------------------------------------------------------- slow clients


@pytest.mark.parametrize(
    "attack",
    # Slow readers are for `make chaos`: what waits in their sockets is many times what fastmesh holds.
    [slow_clients.ATTACKS[0], pytest.param(slow_clients.ATTACKS[1], marks=pytest.mark.slow)],
    ids=lambda attack: attack.name,
)
def test_slow_clients_are_ended(stage: Stage, attack: slow_clients.Attack) -> None:
    stage.top = HASTY
    played = slow_clients.play(stage, attack, FEW_SLOW)
    print(played.text())
    assert played.holds, played.text()


def test_slow_clients_that_are_left_alone_are_seen(stage: Stage) -> None:
    stage.top = {"defaults": {"timeouts": {"header": "none"}}}
    played = slow_clients.play(stage, slow_clients.ATTACKS[0], replace(FEW_SLOW, interval=2, seconds=4))
    assert any("never ended" in text for text in played.broken), played.text()


# ---------------------------------------------------------------- drain


def test_a_drain_ends_whole(stage: Stage) -> None:
    played = draining.drain(stage, SHORT_DRAIN)
    print(played.text())
    assert played.holds, played.text()


def test_a_drain_that_takes_too_long_cuts_off_what_stays(stage: Stage) -> None:
    played = draining.drain(stage, replace(SHORT_DRAIN, staying=1, timeout=2.5))
    print(played.text())
    assert played.holds, played.text()


def test_a_process_that_just_ends_is_noticed(stage: Stage) -> None:
    played = draining.drain(stage, SHORT_DRAIN, signal.SIGKILL)
    assert {"exit code -9, not 0", "downloads did not end whole", "tunnels did not end whole"} <= {
        *played.broken
    }, played.text()
