"""Rows, verdicts, reports: computed from made-up measurements."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from bench import compare, report, rows
from bench.changes import ChangesUnderLoad
from bench.environment import environment
from bench.gauges import ConnectionMemory, SystemCalls
from bench.harness.meters import Memory
from bench.harness.place import BENCH, BenchError, Pinning
from bench.measure import Outcome, Sample
from bench.scenarios import SMALL


def sample(contender: str, number: int, cpu_us: float, requests: int = 1000, error: str = "") -> Sample:
    return Sample(
        contender=contender,
        round=number,
        requests=requests,
        bytes=requests * 300,
        requests_per_second=requests / 2,
        cpu_ns=int(cpu_us * 1000 * requests),
        machine_ns=int(2 * cpu_us * 1000 * requests),
        p50_us=900,
        p90_us=1000,
        p99_us=2000,
        max_us=3000,
        proxy_core_idle=0.0,
        foreign_share=0.0,
        error=error,
    )


def outcome(**costs: list[float]) -> Outcome:
    """Of the small scenario: CPU µs of each round by contender."""
    samples = [sample(name, i, cost) for name, values in costs.items() for i, cost in enumerate(values)]
    return Outcome(SMALL, samples)


def row(name: str) -> rows.Row:
    return next(row for row in rows.ROWS if row.name == name)


def test_the_ratio_is_the_median_of_each_rounds_own_ratio() -> None:
    # The machine slows down threefold in the second round, for all alike.
    measured = outcome(fastmesh=[11, 33, 12], floor=[10, 30, 10])
    judged = row("small-floor").judge(rows.Results(outcomes={"small": measured}))
    assert judged.figure is not None
    assert judged.figure.value == pytest.approx(1.1)
    assert (judged.figure.low, judged.figure.high) == (pytest.approx(1.1), pytest.approx(1.2))


def test_the_better_peer_is_the_cheaper_one() -> None:
    measured = outcome(fastmesh=[15, 15], nginx=[20, 20], haproxy=[16, 16])
    figure = rows.cpu_ratio("small", "nginx", "haproxy")(rows.Results(outcomes={"small": measured}))
    assert figure.value == pytest.approx(15 / 16)
    assert "haproxy" in figure.basis


@pytest.mark.parametrize(
    ("cost", "verdict"), [(10.9, "GOAL"), (11.0, "GOAL"), (11.1, "ok"), (12.0, "ok"), (12.1, "MISS")]
)
def test_verdicts_at_the_edges(cost: float, verdict: str) -> None:
    measured = outcome(fastmesh=[cost] * 3, floor=[10.0] * 3)
    assert row("small-floor").judge(rows.Results(outcomes={"small": measured})).verdict == verdict


@pytest.mark.parametrize("broken", ["fastmesh", "floor"])
def test_one_failed_request_on_either_side_makes_the_row_invalid(broken: str) -> None:
    measured = outcome(fastmesh=[10, 10], floor=[10, 10])
    measured.samples.append(sample(broken, 2, 10, error="failed requests: 1 read"))
    judged = row("small-floor").judge(rows.Results(outcomes={"small": measured}))
    assert judged.verdict == "INVALID"
    assert "1 read" in judged.note


def test_an_absent_contender_makes_no_figure() -> None:
    measured = outcome(floor=[10, 10])
    measured.absent["fastmesh"] = "ended with exit code 1:\nlong story"
    judged = row("small-floor").judge(rows.Results(outcomes={"small": measured}))
    assert (judged.verdict, judged.figure) == ("NONE", None)
    assert "exit code 1" in judged.note


def test_a_proxy_that_died_between_rounds_is_invalid() -> None:
    measured = outcome(fastmesh=[10], floor=[10, 10])
    measured.absent["fastmesh"] = "fastmesh ended with exit code -11"
    assert row("small-floor").judge(rows.Results(outcomes={"small": measured})).verdict == "INVALID"


def test_wide_rounds_are_told() -> None:
    measured = outcome(fastmesh=[10, 10, 13], floor=[10, 10, 10])
    assert "differ by 30%" in row("small-floor").judge(rows.Results(outcomes={"small": measured})).note


def test_rounds_too_far_apart_are_invalid() -> None:
    measured = outcome(fastmesh=[10, 14, 18, 10, 17], floor=[10] * 5)
    judged = row("small-floor").judge(rows.Results(outcomes={"small": measured}))
    assert judged.verdict == "INVALID"
    assert "apart" in judged.note


def test_a_machine_that_slows_down_for_all_makes_nothing_invalid() -> None:
    measured = outcome(
        fastmesh=[10, 14, 18, 10, 17], floor=[9, 12.6, 16.2, 9, 15.3], nginx=[20, 28, 36, 20, 34]
    )
    assert [measured.error(name) for name in ("fastmesh", "floor", "nginx")] == ["", "", ""]


def test_one_contender_that_goes_wild_puts_no_doubt_on_the_others() -> None:
    measured = outcome(fastmesh=[10, 10, 10, 10, 10], floor=[9] * 5, nginx=[20, 50, 90, 22, 70])
    assert [bool(measured.error(name)) for name in ("fastmesh", "floor", "nginx")] == [False, False, True]


def test_direct_access_has_no_cost_of_its_own() -> None:
    measured = outcome(fastmesh=[10, 11, 10])
    measured.samples += [replace(sample("direct", number, 0), cpu_ns=None) for number in range(3)]
    found = measured.summary("direct")
    assert (found["cpu_us_per_request"], found["low"], found["invalid"]) == (None, None, "")
    assert measured.error("fastmesh") == ""
    table = report.scenario_table({"small": measured})
    assert re.search(r"\| direct +\| +500 \| +- \|", table)


def test_a_second_build_is_reported_too() -> None:
    measured = outcome(**{"fastmesh": [10, 10, 10], "fastmesh@old": [12, 12, 12]})
    assert "fastmesh@old" in report.scenario_table({"small": measured})


def pick(policy: str, endpoints: int, ratio: float, shape: str = "") -> dict[str, object]:
    return {"policy": policy, "shape": shape, "endpoints": endpoints, "ns": ratio * 5, "ratio": ratio}


PICKS = [
    pick("maglev", 100, 1.5),
    pick("round_robin", 100, 1.5),
    pick("round_robin", 100, 2.5, "weighted"),
    pick("least_request", 100, 2.0),
    pick("ring_hash", 100, 99.0),  # no budget
    *(pick(policy, 10_000, 4.0) for policy in ("maglev", "round_robin", "least_request")),
]


def full_results() -> rows.Results:
    connections = ConnectionMemory(Memory(34 << 20, 30 << 20), Memory(50 << 20, 45 << 20), 10_000)
    return rows.Results(
        outcomes={"small": outcome(fastmesh=[11], floor=[10], nginx=[15], haproxy=[14])},
        system_calls={"fastmesh": SystemCalls(1000, {"recvfrom": 2100, "sendto": 2000, "epoll_ctl": 40})},
        idle={"fastmesh": Memory(30 << 20, 29 << 20)},
        connections={"fastmesh": connections},
        picks=PICKS,
        changes=ChangesUnderLoad(100, 50_000, 1, "1 read", [0.01] * 100),
        publish={"routes_1000": 9.0, "endpoints_10000": 150.0},
        problems={"body-1m": "wrk did not end | " + "and said\nmuch " * 40},
    )


def test_each_kind_of_row() -> None:
    verdicts = {item.row.name: item for item in rows.judge_all(full_results())}
    assert verdicts["syscalls"].figure is not None
    assert verdicts["syscalls"].figure.value == pytest.approx(4.1)
    assert verdicts["memory-idle"].figure is not None
    assert verdicts["memory-idle"].figure.value == pytest.approx(30)
    assert verdicts["memory-connection"].figure is not None
    assert verdicts["memory-connection"].figure.value == pytest.approx(15 * 1024 / 10_000)
    assert verdicts["picks-100"].verdict == "ok"
    assert verdicts["picks-100"].figure is not None
    assert verdicts["picks-100"].figure.value == 2.5
    assert verdicts["picks-10000"].verdict == "GOAL"
    assert verdicts["changes"].verdict == "MISS"
    assert verdicts["publish-routes"].verdict == "GOAL"
    assert verdicts["publish-endpoints"].verdict == "ok"
    assert verdicts["body-http"].note.startswith("wrk did not end | and said\n")


def test_a_policy_that_was_not_measured_makes_no_figure() -> None:
    results = rows.Results(picks=[pick("maglev", 100, 1.0)])
    assert row("picks-100").judge(results).note == "not measured: round_robin, least_request"


def document() -> dict[str, object]:
    results = full_results()
    described = environment(Pinning(0, 1), {"floor": "bench/relay_floor.c"})
    return report.as_json("quick", results, rows.judge_all(results), described, 12.3)


def test_the_json_follows_the_schema() -> None:
    schema = json.loads((BENCH / "schema.json").read_text())
    written = json.loads(json.dumps(document(), allow_nan=False))
    jsonschema.validate(written, schema)
    del written["rows"][0]["verdict"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, schema)


def test_tables_line_up() -> None:
    results = full_results()
    tables = report.as_text(results, rows.judge_all(results)).strip().split("\n\n")
    assert tables.pop().startswith("THIS RUN IS INVALID:\n- body-1m: wrk did not end")
    for table in tables:
        lines = table.splitlines()
        assert len({len(line) for line in lines}) == 1, table
        assert len({line.count("|") for line in lines}) == 1, table


def test_compare_shows_change_and_noise(tmp_path: Path) -> None:
    old = json.loads(json.dumps(document()))
    new = json.loads(json.dumps(document()))
    new["scenarios"][0]["summary"]["fastmesh"]["cpu_us_per_request"] *= 1.3
    table = compare.cost_table(old, new)
    lines = {line.split("|")[2].strip(): line for line in table.splitlines()[2:]}
    assert "+30.0%" in lines["fastmesh"]
    assert "noise" not in lines["fastmesh"]
    assert "within noise" in lines["nginx"]
    new["rows"][0]["verdict"] = "MISS"
    assert "GOAL -> MISS" in compare.row_table(old, new)
    (tmp_path / "other.json").write_text('{"schema_version": 0}')
    with pytest.raises(BenchError, match="schema_version"):
        compare.load(tmp_path / "other.json")
