"""Small versions of the cases of `make chaos` whose endpoints are killed, slow or failing; `tests/chaos`."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.failing import all_failing_in, fast_failing_with, slow_open
from chaos.killed import Course, line
from chaos.programs import IdOrigin, Load
from chaos.stage import POLICIES, Stage, running
from support.ports import free_port

pytestmark = pytest.mark.no_sanitizer  # shares of a closed loop, over time
SLOW = ("round_robin", "random", "maglev")
SHORT = Course(origins=2, before=0.2, down=0.5, up=0.7)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    tmp_path.chmod(0o755)  # nginx's workers look into it
    seed = random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}")
    return Stage(tmp_path, seed, say=print)


@pytest.mark.parametrize(
    "policy",
    [*("least_request", "ring_hash"), *(pytest.param(policy, marks=pytest.mark.slow) for policy in SLOW)],
)
def test_no_get_fails_when_an_nginx_is_killed(stage: Stage, policy: str) -> None:
    """When it is back it may be left alone for longer than this test takes: `make chaos` looks at that."""
    played = line(stage, policy, SHORT, policy)
    print(played.text())
    assert played.figures["failed"] == 0, played.text()


def test_the_case_sees_failed_requests(stage: Stage) -> None:
    """With one nginx alone nothing can hide that it is gone."""
    played = line(stage, POLICIES[0], Course(origins=1, before=0.3, down=0.3, up=0.5), "alone")
    assert not played.holds
    assert int(str(played.figures["502"])) > 0, played.text()
    assert any("idempotent requests failed" in text for text in played.broken)


def test_the_load_sees_answers_of_other_requests(stage: Stage) -> None:
    """An origin that answers each request with the id before it."""
    origin = IdOrigin(0, free_port(), stage.folder)
    try:
        origin.tell("mix")
        load = Load(origin.port, stage.folder / "load.log", requests=200, seed=stage.seed)
        with running(load):
            result = load.result(20)
    finally:
        origin.stop()
    assert result.mixed_up == result.failed() > 150, result.numbers


def test_a_slow_endpoint(stage: Stage) -> None:
    """That the share of successes is measured: at 200 a second for 2 s hardly any request is lost."""
    played = slow_open(stage, POLICIES[0], 2.0)
    print(played.text())
    assert int(str(played.figures["failed"])) <= 20, played.text()


def test_all_endpoints_refuse_and_recover(stage: Stage) -> None:
    played = all_failing_in(stage, POLICIES[0], "refuse", seconds=1.0, recovery=5.0, after=0.3)
    print(played.text())
    assert played.figures["failed"] == played.figures["requests"]
    assert played.figures["full success after s"] <= 5.0, played.text()  # type: ignore[operator]


@pytest.mark.parametrize("detected", [True, False])
def test_the_share_of_an_endpoint_that_answers_500_at_once(stage: Stage, detected: bool) -> None:
    """Little, unless nobody looks at answers: then it has its fair share."""
    settings = {} if detected else {"outlier_detection": "off"}
    played = fast_failing_with(replace(stage, settings=settings), POLICIES[0], endpoints=3, settle=1, after=1)
    print(played.text())
    shares = [float(share) for share in str(played.figures["share of the fair one, by s"]).split()]
    assert len(shares) == 2
    assert all(share < 0.25 if detected else 0.5 < share < 1.5 for share in shares), played.text()
