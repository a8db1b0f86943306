"""The Prometheus text format."""

import pytest

from fastmesh.observability.exposition import Exposition, labels, number


def test_labels_are_escaped():
    assert labels({"a": 'x"y\\z\n'}) == '{a="x\\"y\\\\z\\n"}'
    assert labels({}) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3.0, "3"), (0.0005, "0.0005"), (2.5, "2.5"), (1.7e9, "1700000000"), (1 / 3, repr(1 / 3))],
)
def test_numbers_read_back(value, text):
    assert number(value) == text
    assert float(number(value)) == value


def test_a_histogram_has_buckets_sum_and_count():
    out = Exposition()
    out.family("d_seconds", "histogram", "How long.\nTwo lines.")
    out.histogram("d_seconds", {"s": "a"}, (0.5, 1.0), [1, 3, 4], 7.25)
    out.histogram("d_seconds", {}, (0.5, 1.0), [0, 0, 0], 0.0)
    assert out.text().splitlines() == [
        "# HELP d_seconds How long.\\nTwo lines.",
        "# TYPE d_seconds histogram",
        'd_seconds_bucket{s="a",le="0.5"} 1',
        'd_seconds_bucket{s="a",le="1"} 3',
        'd_seconds_bucket{s="a",le="+Inf"} 4',
        'd_seconds_sum{s="a"} 7.25',
        'd_seconds_count{s="a"} 4',
        'd_seconds_bucket{le="0.5"} 0',
        'd_seconds_bucket{le="1"} 0',
        'd_seconds_bucket{le="+Inf"} 0',
        "d_seconds_sum 0",
        "d_seconds_count 0",
    ]


def test_a_family_without_samples_is_still_announced():
    out = Exposition()
    out.simple("x_total", "counter", "Help.", [])
    assert out.text() == "# HELP x_total Help.\n# TYPE x_total counter\n"
