"""Latency: what hdrh decodes equals what was recorded, and the encodings of two proxies merge exactly."""

import array
import json
import subprocess
import sys

from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.model import histogram as layouts
from fastmesh.model.stats import EndpointStats, Histogram, ListenerStats, PairStats, ServiceStats, Stats
from fastmesh.observability import latency

VALUES = st.lists(st.integers(0, layouts.HIGHEST), max_size=60)


def recorded(layout, values):
    counts = array.array("Q", bytes(8 * layouts.length(layout)))
    for value in values:
        counts[layouts.index(layout, value)] += 1
    return Histogram(layout, counts.tobytes())


def reference(values):
    histogram = HdrHistogram(layouts.LOWEST, layouts.HIGHEST, layouts.DIGITS)
    for value in values:
        histogram.record_value(value)
    return histogram


def all_counts(histogram):
    return [histogram.get_count_at_index(index) for index in range(histogram.counts_len)]


@given(VALUES)
def test_counts_map_one_to_one(values):
    assert all_counts(latency.to_hdr([recorded("hdr", values)])) == all_counts(reference(values))


@given(VALUES)
def test_the_summary_equals_that_of_hdrh(values):
    summary = latency.summary([recorded("hdr", values)])
    expected = reference(values)
    assert summary["count"] == len(values)
    assert summary["max"] == expected.get_max_value() / 1000
    for name, percentile in latency.PERCENTILES:
        assert summary[name] == (expected.get_value_at_percentile(percentile) / 1000 if values else 0)
    decoded = HdrHistogram.decode(summary["encoded"])
    assert all_counts(decoded) == all_counts(expected)


@given(VALUES, VALUES)
def test_encodings_of_two_proxies_merge_exactly(one, other):
    merged = HdrHistogram(layouts.LOWEST, layouts.HIGHEST, layouts.DIGITS)
    for values in (one, other):
        merged.decode_and_add(latency.summary([recorded("hdr", values)])["encoded"])
    assert all_counts(merged) == all_counts(reference(one + other))
    assert merged.get_total_count() == len(one) + len(other)


def test_small_histograms_are_entered_at_the_middle():
    converted = latency.to_hdr([recorded("small", [1000, 1000, 5])])
    assert converted.get_total_count() == 3
    # 1000 is counted with 896 to 1023, whose middle is 960.
    assert converted.get_count_at_value(960) == 2
    assert converted.get_count_at_value(5) == 1


def test_the_report_sums_listeners_and_leaves_idle_endpoints_out():
    def endpoint(address, values):
        return EndpointStats("s", address, "up", 1, 0, 0, 0, 0, 0, recorded("small", values))

    stats = Stats(
        pairs=(
            PairStats("web", "s", {}, recorded("hdr", [100])),
            PairStats("web", "t", {}, recorded("hdr", [200, 300])),
        ),
        services=(ServiceStats("s", recorded("hdr", [100])),),
        endpoints=(endpoint("a", [100]), endpoint("b", []), endpoint("c", [1]), endpoint("d", [1])),
        listeners=(
            ListenerStats("web", (), "http", 0, 0, 0, 0),
            ListenerStats("idle", (), "http", 0, 0, 0, 0),
        ),
        workers=(),
        errors={},
        access_lines_dropped=0,
        generation=1,
    )
    report = latency.report(stats, endpoints_shown=2)
    assert [(item["listener"], item["count"]) for item in report["listeners"]] == [("web", 3), ("idle", 0)]
    assert [(item["service"], item["count"]) for item in report["requests"]] == [("s", 1), ("t", 2)]
    assert [item["endpoint"] for item in report["endpoints"]] == ["a", "c"]
    assert report["endpoints_left_out"] == 1
    assert report["listeners"][0]["p50"] == 0.2
    json.dumps(report)


def test_hdrh_is_only_imported_when_somebody_asks():
    code = (
        "import sys, fastmesh.observability.latency; print([m for m in sys.modules if m.startswith('hdrh')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
