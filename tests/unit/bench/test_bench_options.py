"""What is asked for is checked before anything is measured, and told in words."""

import json
from pathlib import Path

import pytest

from bench import __main__ as full
from bench import compare, quick, suite
from bench.harness.place import BenchError


@pytest.mark.parametrize("parse", [full.parse_options, quick.parse_options])
@pytest.mark.parametrize("option", ["--rounds", "--seconds"])
@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_rounds_and_seconds_are_at_least_one(
    parse: object, option: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([option, number])  # type: ignore[operator]
    assert option in capsys.readouterr().err


def test_an_earlier_run_is_read_first(tmp_path: Path) -> None:
    def named(text: str | None) -> object:
        path = tmp_path / "old.json"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        return suite.earlier_run(quick.parse_options(["--compare", str(path)]))

    with pytest.raises(BenchError, match=r"old\.json cannot be read: No such file"):
        named(None)
    with pytest.raises(BenchError, match="is not JSON"):
        named("nothing")
    with pytest.raises(BenchError, match="schema_version 1, not 2"):
        named('{"schema_version": 1}')
    with pytest.raises(BenchError, match="is no result of this suite"):
        named('{"schema_version": 2}')
    with pytest.raises(BenchError, match="is no result of this suite"):
        named("[]")
    whole = {"schema_version": 2, "finished": "", "environment": {}}
    with pytest.raises(BenchError, match="a count of instructions"):
        named(json.dumps({**whole, "suite": "instructions"}))
    assert named(json.dumps({**whole, "suite": "quick"})) is not None
    assert suite.earlier_run(quick.parse_options([])) is None


def test_the_result_cannot_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is a folder"):
        suite.earlier_run(quick.parse_options(["--out", str(tmp_path)]))


def test_a_program_of_ones_own_must_take_part() -> None:
    options = quick.parse_options(["--peer", "haproxy=/bin/true", "--contender", "nginx"])
    with pytest.raises(BenchError, match="haproxy does not take part; there are: nginx"):
        suite.chosen_contenders(options, ["nginx"])
    options = quick.parse_options(["--peer", "haproxy@other=/bin/true"])
    assert list(suite.chosen_contenders(options, ["floor", "haproxy"])) == [
        "floor",
        "haproxy",
        "haproxy@other",
    ]
    options = quick.parse_options(["--peer", "nginx=/bin/true"])
    with pytest.raises(BenchError, match="--peer nginx=/bin/true: is it nginx"):
        suite.chosen_contenders(options, ["nginx"])


def test_two_results_with_nothing_in_common() -> None:
    empty = {
        "suite": "quick",
        "finished": "2026-11-21",
        "environment": {"commit": "c" * 40, "cpu": "x"},
        "rows": [],
        "scenarios": [],
        "latency": [],
    }
    with pytest.raises(BenchError, match="nothing in common"):
        compare.compared(empty, empty)


def test_every_step_can_be_named() -> None:
    assert {"small", "latency-50", "policy-maglev", "fault-killed", "connections", "picks"} <= set(full.STEPS)
    assert len(full.STEPS) == len(set(full.STEPS))
