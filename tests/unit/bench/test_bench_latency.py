"""Rates, quantiles and the generator's error, computed from made-up rounds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import compare, report, rows
from bench.harness.openloop import OpenLoopResult, new_histogram
from bench.harness.place import BenchError
from bench.latency import LatencyOutcome, LatencySample, rate_of
from bench.measure import Outcome, Sample
from bench.scenarios import LATENCY, SMALL


def result(us: float, late_us: float = 0.1, **errors: int) -> OpenLoopResult:
    """100 answers that took `us`, all sent `late_us` late, and failures by kind."""
    latency, late = new_histogram(), new_histogram()
    latency.record_value(int(us * 1000), 100)
    late.record_value(int(late_us * 1000), 100)
    return OpenLoopResult(
        intended=100 + sum(errors.values()),
        answered=100,
        errors=errors,
        statuses={},
        duration_us=1_000_000,
        bytes=30_000,
        closed=0,
        stray=0,
        retry_after=0,
        realtime=True,
        latency=latency,
        refused=new_histogram(),
        late=late,
        timeline=[],
    )


def outcome(**rounds: list[OpenLoopResult]) -> LatencyOutcome:
    samples = [
        LatencySample(name, number, one, None if name == "direct" else 1_000_000, ())
        for name, results in rounds.items()
        for number, one in enumerate(results)
    ]
    return LatencyOutcome(LATENCY[1], 1000, samples)


def test_a_quantile_is_the_median_of_the_rounds() -> None:
    measured = outcome(direct=[result(20)] * 3, nginx=[result(100), result(900), result(110)])
    assert measured.quantiles("nginx")["50"]["value"] == pytest.approx(110, rel=0.01)


@pytest.mark.parametrize(("late_us", "shown"), [(9, True), (11, False)])
def test_a_quantile_is_shown_only_where_the_error_is_under_a_tenth(late_us: float, shown: bool) -> None:
    """How late the generator was in the contender's own rounds counts as well as direct access."""
    measured = outcome(direct=[result(20)] * 3, nginx=[result(100, late_us)] * 3)
    assert measured.quantiles("nginx")["99"]["shown"] is shown
    measured = outcome(direct=[result(20, late_us)] * 3, nginx=[result(100)] * 3)
    assert measured.quantiles("nginx")["99"]["shown"] is shown


def test_one_bad_round_of_direct_access_does_not_hide_all() -> None:
    measured = outcome(direct=[result(20, 1), result(20, 500), result(20, 1)], nginx=[result(100)] * 3)
    assert measured.generator_error_us(50) == pytest.approx(1, rel=0.01)


def test_nothing_is_shown_without_direct_access() -> None:
    measured = outcome(nginx=[result(100)] * 3)
    assert measured.generator_error_us(50) is None
    assert measured.quantiles("nginx")["50"]["shown"] is False


def test_a_failed_request_and_rounds_far_apart_are_invalid() -> None:
    assert outcome(nginx=[result(100), result(100, reset=1)]).failure("nginx") == "failed requests: 1 reset"
    steady, wild = [result(100)] * 5, [result(us) for us in (100, 200, 300, 90, 280)]
    measured = outcome(nginx=steady, haproxy=[result(120)] * 5, envoy=wild)
    assert "apart" in measured.error("envoy")
    assert measured.failure("envoy") == ""
    assert measured.error("haproxy") == ""


def test_the_rate_is_a_share_of_the_slowest_peers() -> None:
    def sample(name: str, speed: float) -> Sample:
        return Sample(name, 0, 1000, 300_000, speed, 10_000_000, 20_000_000, 1, 1, 1, 1, 0.0, 0.0)

    speeds = {"direct": 5, "floor": 10, "fastmesh": 70_000, "caddy": 15_060}
    measured = Outcome(SMALL, [sample(name, speed) for name, speed in speeds.items()])
    assert rate_of(LATENCY[1], measured) == 7500
    invalid = Outcome(SMALL, [replace(sample("caddy", 1), error="failed requests: 1 read")])
    with pytest.raises(BenchError, match="no capacity"):
        rate_of(LATENCY[1], invalid)


def test_percentile_files_tables_and_comparison(tmp_path: Path) -> None:
    results = rows.Results(latency={"latency-50": outcome(direct=[result(20)] * 3, nginx=[result(100)] * 3)})
    results.latency["latency-50"].write_hgrm(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "latency-50-direct.hgrm",
        "latency-50-nginx.hgrm",
    }
    table = report.latency_table(results.latency)
    assert "| latency-50 | nginx" in table
    environment = {"commit": "c" * 40, "cpu": "x"}
    old = json.loads(json.dumps(report.as_json("full", results, [], environment, 1.0)))
    new = json.loads(json.dumps(old))
    new["latency"][0]["summary"]["nginx"]["quantiles_us"]["99"]["value"] *= 2
    assert "+100.0%" in compare.latency_table(old, new)
