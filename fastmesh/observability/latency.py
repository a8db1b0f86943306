"""`/api/v1/latency`: percentiles, and HdrHistogram's V2 encoding, by the ``hdrhistogram`` package.

The package is imported only when somebody asks (it takes memory that an idle proxy need not hold). Counts of
the ``hdr`` layout are handed over one to one, so the encodings of many proxies merge exactly
(``decode_and_add``). The small histograms of endpoints are converted: each count is entered at the middle of
what it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastmesh.model import histogram as layouts
from fastmesh.model.stats import Histogram, Stats
from fastmesh.observability import buckets

PERCENTILES = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9))
# An encoded histogram takes some 100 µs and some hundred bytes.
ENDPOINTS_SHOWN = 1000


def to_hdr(histograms: Iterable[Histogram]) -> Any:
    """The sum of ``histograms`` as an ``hdrh.histogram.HdrHistogram`` (of the native layout, in µs)."""
    from hdrh.histogram import HdrHistogram

    result = HdrHistogram(layouts.LOWEST, layouts.HIGHEST, layouts.DIGITS)
    for histogram in histograms:
        scale = buckets.scale(histogram.layout)
        one_to_one = histogram.layout == "hdr"
        for index, count in enumerate(buckets.counts_of(histogram)):
            if not count:
                continue
            if one_to_one:
                result.counts[index] += count
                result.total_count += count
                result.min_value = min(result.min_value, scale.lowest[index])
                result.max_value = max(result.max_value, scale.lowest[index])
            else:
                result.record_value(scale.middle[index], count)
    return result


def summary(histograms: Iterable[Histogram]) -> dict[str, Any]:
    """Percentiles and maximum in milliseconds (the highest value of their count), the count, the encoding."""
    merged = to_hdr(histograms)
    values = merged.get_percentile_to_value_dict([percentile for _, percentile in PERCENTILES])
    result: dict[str, Any] = {"count": merged.get_total_count()}
    for name, percentile in PERCENTILES:
        result[name] = values.get(percentile, 0) / 1000
    result["max"] = merged.get_max_value() / 1000
    result["encoded"] = merged.encode().decode("ascii")
    return result


def report(stats: Stats, endpoints_shown: int = ENDPOINTS_SHOWN) -> dict[str, Any]:
    """All latencies: for each listener, listener and service, service, and endpoint that had a request."""
    by_listener: dict[str, list[Histogram]] = {item.listener: [] for item in stats.listeners}
    for pair in stats.pairs:
        by_listener.setdefault(pair.listener, []).append(pair.duration)
    busy = [endpoint for endpoint in stats.endpoints if any(endpoint.latency.counts)]
    return {
        "unit": "milliseconds",
        "encoding": f"HdrHistogram V2, base64, microseconds, 1 to {layouts.HIGHEST}, {layouts.DIGITS} digits",
        "listeners": [
            {"listener": listener, **summary(histograms)} for listener, histograms in by_listener.items()
        ],
        "requests": [
            {"listener": pair.listener, "service": pair.service, **summary([pair.duration])}
            for pair in stats.pairs
        ],
        "services": [
            {"service": service.service, **summary([service.upstream_duration])} for service in stats.services
        ],
        "endpoints": [
            {"service": endpoint.service, "endpoint": endpoint.address, **summary([endpoint.latency])}
            for endpoint in busy[:endpoints_shown]
        ],
        "endpoints_left_out": max(0, len(busy) - endpoints_shown),
    }
