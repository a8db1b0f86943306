import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.harness import openloop
from bench.harness.openloop import OpenLoopResult, Slice, parse_result
from bench.harness.place import BenchError

LINE = (
    "RESULT intended=10 answered=6 connect=1 reset=0 cut=0 status=2 timeout=1 protocol=0 status_404=1"
    " status_500=1 retry_after=1 stray=3 closed=4 bytes=600 duration_us=2000000 max_us=5000 late_max_us=2"
    " realtime=1\n"
)
FILE = (
    "latency 1000000 6\nlatency 5000000 1\nrefused 300000 2\nlate 500 4\nlate 2000 1\n"
    "slice 0 6 1 1000100\nslice 1 0 3 5000000\n"
)


def result(latency_us: list[float], late_us: list[float] = (0.5,)) -> OpenLoopResult:
    """A run that recorded these."""
    made = replace(parse_result(LINE, ""))
    for histogram, values in ((made.latency, latency_us), (made.late, late_us)):
        for value in values:
            assert histogram.record_value(int(value * 1000))
    return made


def test_everything_is_read() -> None:
    parsed = parse_result(LINE, FILE)
    assert (parsed.intended, parsed.answered, parsed.failed) == (10, 6, 4)
    assert parsed.errors == {"connect": 1, "reset": 0, "cut": 0, "status": 2, "timeout": 1, "protocol": 0}
    assert parsed.statuses == {404: 1, 500: 1}
    assert parsed.error_text() == "1 connect, 1 timeout, 1 status 404, 1 status 500"
    assert parsed.requests_per_second == pytest.approx(3)
    assert parsed.retry_after == 1
    assert (parsed.bytes, parsed.closed, parsed.stray, parsed.realtime) == (600, 4, 3, True)
    assert parsed.latency.get_total_count() == 7
    assert parsed.quantile_us(50) == pytest.approx(1000, rel=1e-3)
    assert parsed.max_us == pytest.approx(5000, rel=1e-3)
    assert parsed.late.get_total_count() == 5
    assert parsed.refused.get_total_count() == 2
    assert parsed.refused_quantile_us(99) == pytest.approx(300, rel=1e-3)
    assert parsed.timeline == [Slice(6, 1, 1000100), Slice(0, 3, 5000000)]


def test_no_result() -> None:
    with pytest.raises(BenchError, match="socket: Too many open files"):
        parse_result("socket: Too many open files\n", "")


def test_a_run_without_an_answer_has_quantiles_of_zero() -> None:
    assert parse_result(LINE, "").quantile_us(99) == 0


def test_millions_of_values_are_one_line_each() -> None:
    histogram = parse_result(LINE, "latency 1000 5000000\nlatency 60000000000 5000000\n").latency
    assert histogram.get_total_count() == 10_000_000
    assert histogram.get_value_at_percentile(50) == 1000


def test_merging_leaves_the_parts_as_they_were() -> None:
    first, second = result([100] * 3).latency, result([900]).latency
    both = openloop.merged([first, second])
    assert (both.get_total_count(), first.get_total_count(), second.get_total_count()) == (4, 3, 1)
    assert both.get_max_value() == pytest.approx(900_000, rel=1e-3)
    assert openloop.merged([]).get_total_count() == 0


def test_the_percentile_file(tmp_path: Path) -> None:
    openloop.write_hgrm(result([1000] * 90 + [3000] * 10).latency, tmp_path / "x.hgrm")
    text = (tmp_path / "x.hgrm").read_text()
    head, _, *rest = text.splitlines()
    assert head.split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    rows = [line.split() for line in rest if not line.startswith("#")]
    assert [float(row[0]) for row in (rows[0], rows[-1])] == pytest.approx([1.0, 3.0], rel=1e-3)  # ms
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    assert (rows[-1][1], rows[-1][2]) == ("1.000000000000", "100")
    figures = {n: float(v) for n, v in re.findall(r"(\w+) += +([\d.]+)", text)}
    assert figures["Mean"] == pytest.approx(1.2, rel=1e-3)
    assert figures["StdDeviation"] == pytest.approx(0.6, rel=1e-2)
    assert figures["Max"] == pytest.approx(3, rel=1e-3)
    assert figures["TotalCount"] == 100


def test_points_for_a_plot() -> None:
    points = openloop.distribution(result([*range(1, 1001)]).latency)
    percents, values = zip(*points, strict=True)
    assert (percents[0], percents[-1]) == (0, 100)
    assert list(percents) == sorted(set(percents))
    assert list(values) == sorted(values)
    assert values[-1] == pytest.approx(1000, rel=1e-3)
    for level in (50, 75, 87.5, 93.75):
        assert level in percents
        between = [p for p in percents if 100 - 2 * (100 - level) <= p < level]
        assert len(between) == 5
        assert values[percents.index(level)] == pytest.approx(level * 10, rel=5e-3)
    # No point between two requests: of 1,000, the last step before the end is one request.
    assert percents[-2] <= 99.9
    assert len(points) < 60


def test_points_of_little() -> None:
    assert openloop.distribution(openloop.new_histogram()) == []
    assert openloop.distribution(result([7]).latency)[-1] == [100.0, pytest.approx(7, rel=1e-3)]


DIRECT = [40.0] * 90 + [60.0] * 9 + [400.0]


@pytest.mark.parametrize(
    ("percent", "late", "own", "expected"),
    [
        (50, [1.0], [], 1),  # a typical direct request is no error, whatever it takes
        (99, [1.0], [], 20),
        (100, [1.0], [], 360),
        (99, [50.0], [], 50),  # greater than what is left of the direct latency
        (99, [1.0], [80.0], 80),  # late in the run that is judged
        (50, [1.0], [0.1], 1),
    ],
)
def test_the_error_is_the_greater_one(
    percent: float, late: list[float], own: list[float], expected: float
) -> None:
    run = [result([5000], own)] if own else ()
    assert openloop.error_us(result(DIRECT, late), percent, run) == pytest.approx(expected, rel=2e-2)


def test_the_error_of_several_direct_runs_is_that_of_all_their_requests() -> None:
    quiet, noisy = result([40.0] * 100), result([40.0] * 90 + [440.0] * 10)
    assert openloop.error_us([quiet, noisy], 96) == pytest.approx(400, rel=1e-2)
    assert openloop.error_us([quiet, noisy], 94) == pytest.approx(0.5, rel=1e-2)
    with pytest.raises(BenchError, match="direct"):
        openloop.error_us([], 50)


@pytest.mark.parametrize(("value", "is_shown"), [(99.0, False), (100.0, False), (101.0, True), (0.0, False)])
def test_shown_under_a_tenth(value: float, is_shown: bool) -> None:
    assert openloop.shown(value, 10.0) == is_shown
