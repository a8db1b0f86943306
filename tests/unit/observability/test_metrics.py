"""`/metrics` from Stats: names, buckets, the cap on endpoint series, and promtool's opinion."""

import array
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fastmesh.health import EndpointHealth, ServiceHealth
from fastmesh.model import histogram as layouts
from fastmesh.model.stats import (
    EndpointStats,
    Histogram,
    ListenerStats,
    OverloadStats,
    PairStats,
    ResourceStats,
    ServiceStats,
    Stats,
    WorkerStats,
)
from fastmesh.observability.metrics import (
    BOUNDS,
    EndpointSeries,
    MetricsRenderer,
    ReloadCounts,
    bucket_counts,
)

EMPTY_SMALL = Histogram("small", b"")


def recorded(layout, values):
    counts = array.array("Q", bytes(8 * layouts.length(layout)))
    for value in values:
        counts[layouts.index(layout, value)] += 1
    return Histogram(layout, counts.tobytes())


def endpoint(address, requests=0, service="s", state="up", ejections=0):
    return EndpointStats(service, address, state, 1, 0, 1, 2, requests, 0, EMPTY_SMALL, ejections=ejections)


def checked(healthy, unhealthy=(), **results):
    """What checks found of a service with these endpoints."""
    states = {**dict.fromkeys(healthy, "healthy"), **dict.fromkeys(unhealthy, "unhealthy")}
    endpoints = {address: EndpointHealth(state, 0.0, "", ()) for address, state in states.items()}
    return ServiceHealth(False, len(healthy), results, endpoints)


OVERLOAD = OverloadStats(
    (
        ResourceStats("connections", 93, 100, 1),
        ResourceStats("descriptors", 7, 0),
        ResourceStats("memory", 3 << 20, 4 << 20),
    ),
    closed_clients=5,
    closed_endpoints=6,
)


def stats(endpoints=(), duration=None):
    duration = duration or recorded("hdr", [])
    return Stats(
        pairs=(PairStats("web", "s", {200: 5, 404: 1}, duration), PairStats("web", "", {404: 2}, duration)),
        services=(ServiceStats("s", duration),),
        endpoints=tuple(endpoints),
        listeners=(ListenerStats("web", ("127.0.0.1:80",), "http", 3, 9, 1000, 2000),),
        workers=(WorkerStats(0, 3, 1, 100, 50, 4, {}),),
        errors={"no_route": 2},
        access_lines_dropped=7,
        generation=4,
        overload=OVERLOAD,
    )


def samples(text):
    """{name and labels: value}"""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@given(st.lists(st.integers(0, layouts.HIGHEST), max_size=50))
def test_buckets_count_each_value_at_hdr_resolution(values):
    counts, total = bucket_counts(recorded("hdr", values))
    assert counts[-1] == len(values)
    for bound, count in zip(BOUNDS, counts, strict=False):
        micros = bound * 1_000_000
        # A value belongs to the bound that its count's lowest value does not exceed.
        lowest = [layouts.lowest("hdr", layouts.index("hdr", value)) for value in values]
        assert count == sum(low <= micros for low in lowest)
        assert sum(value <= micros for value in values) <= count <= sum(v <= micros * 1.008 for v in values)
    assert total == pytest.approx(sum(values) / 1e6, rel=0.01, abs=len(values) * 1e-6)


def test_bounds_run_from_half_a_millisecond_to_a_minute():
    assert BOUNDS[0] == 0.0005
    assert BOUNDS[-1] == 60
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_the_names_of_the_contract():
    text = MetricsRenderer().render(
        stats(
            [endpoint("10.0.0.1:80", 6), endpoint("10.0.0.2:80", 1, state="down")],
            recorded("hdr", [700, 3000]),
        ),
        ReloadCounts(applied=2, refused=1, last_successful=False),
    )
    found = samples(text)
    assert found['fastmesh_requests_total{listener="web",service="s",code="200"}'] == 5
    assert found['fastmesh_requests_total{listener="web",service="",code="404"}'] == 2
    bucket = 'fastmesh_request_duration_seconds_bucket{listener="web",service="s",le='
    assert found[bucket + '"0.0005"}'] == 0
    assert found[bucket + '"0.001"}'] == 1
    assert found[bucket + '"60"}'] == found[bucket + '"+Inf"}'] == 2
    assert found['fastmesh_upstream_duration_seconds_count{service="s"}'] == 2
    assert found['fastmesh_upstream_duration_seconds_sum{service="s"}'] == pytest.approx(0.0037, rel=0.01)
    assert found['fastmesh_connections_active{listener="web"}'] == 3
    assert found['fastmesh_connections_total{listener="web"}'] == 9
    assert found['fastmesh_upstream_connections_active{service="s"}'] == 6
    assert found['fastmesh_endpoint_up{service="s",endpoint="10.0.0.1:80"}'] == 1
    assert found['fastmesh_endpoint_up{service="s",endpoint="10.0.0.2:80"}'] == 0
    assert found['fastmesh_endpoint_requests_total{service="s",endpoint="10.0.0.1:80"}'] == 6
    assert found['fastmesh_bytes_total{listener="web",direction="received"}'] == 1000
    assert found['fastmesh_bytes_total{listener="web",direction="sent"}'] == 2000
    assert found['fastmesh_errors_total{code="no_route"}'] == 2
    assert found['fastmesh_config_reloads_total{result="applied"}'] == 2
    assert found['fastmesh_config_reloads_total{result="unchanged"}'] == 0
    assert found['fastmesh_config_reloads_total{result="refused"}'] == 1
    assert found["fastmesh_config_last_reload_successful"] == 0
    assert found["fastmesh_access_log_lines_dropped_total"] == 7
    assert any(name.startswith('fastmesh_build_info{version="') for name in found)
    assert found["process_resident_memory_bytes"] > 1_000_000


@pytest.mark.skipif(not shutil.which("promtool"), reason="Debian's prometheus package is not installed")
def test_what_stood_still_is_counted():
    found = stats()
    worker = WorkerStats(1, 0, 0, 9, 1_500_000, 4, {}, slow_turns=3, stalls=2)
    found = replace(found, workers=(*found.workers, worker), control_stalls=5, control_failures=6)
    shown = samples(MetricsRenderer().render(found, ReloadCounts()))
    assert shown['fastmesh_worker_slow_turns_total{worker="0"}'] == 0
    assert shown['fastmesh_worker_slow_turns_total{worker="1"}'] == 3
    assert shown['fastmesh_worker_stalls_total{worker="1"}'] == 2
    assert shown["fastmesh_control_plane_stalls_total"] == 5
    assert shown["fastmesh_control_plane_failures_total"] == 6


def test_promtool_has_nothing_to_say():
    endpoints = [endpoint(f'10.0.0.{i}:80"\n\\', i) for i in range(9)]
    text = MetricsRenderer(series_limit=5).render(
        stats(endpoints, recorded("hdr", [1, 2, 10**9])), ReloadCounts()
    )
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_rest_of_many_endpoints_is_summed():
    endpoints = [endpoint(f"e{i}", i) for i in range(6)] + [endpoint("x", 9, "t", "down")]
    found = samples(MetricsRenderer(series_limit=4).render(stats(endpoints), ReloadCounts()))
    requests = {
        name: value for name, value in found.items() if name.startswith("fastmesh_endpoint_requests_total")
    }
    assert requests == {
        **{f'fastmesh_endpoint_requests_total{{service="s",endpoint="e{i}"}}': i for i in range(4)},
        'fastmesh_endpoint_requests_total{service="s",endpoint="other"}': 4 + 5,
        'fastmesh_endpoint_requests_total{service="t",endpoint="other"}': 9,
    }
    assert found['fastmesh_endpoint_up{service="s",endpoint="other"}'] == 2
    assert found['fastmesh_endpoint_up{service="t",endpoint="other"}'] == 0


def test_what_is_used_of_what_may_be():
    found = samples(MetricsRenderer().render(stats(), ReloadCounts()))
    level, ratio = "fastmesh_overload_level", "fastmesh_resource_usage_ratio"
    assert found[level + '{resource="connections"}'] == 1
    assert found[level + '{resource="memory"}'] == 0
    assert found[ratio + '{resource="connections"}'] == 0.93
    assert found[ratio + '{resource="descriptors"}'] == 0
    assert found[ratio + '{resource="memory"}'] == 0.75
    assert found["fastmesh_connections_limit"] == 100
    assert found["fastmesh_memory_limit_bytes"] == 4 << 20
    assert "fastmesh_descriptors_limit" not in found, "there is none"
    assert found['fastmesh_overload_closed_total{side="client"}'] == 5
    assert found['fastmesh_overload_closed_total{side="endpoint"}'] == 6


def test_checks_and_ejections():
    endpoints = [endpoint(f"e{i}", ejections=i) for i in range(4)] + [endpoint("x", service="t")]
    health = {"s": checked(["e0", "e2"], ["e1", "e3"], passed=7, failed=4, error=1)}
    found = samples(MetricsRenderer().render(stats(endpoints), ReloadCounts(), health))
    assert {name: value for name, value in found.items() if "_healthy" in name} == {
        f'fastmesh_endpoint_healthy{{service="s",endpoint="e{i}"}}': int(i in (0, 2)) for i in range(4)
    }
    assert {name: value for name, value in found.items() if "checks_total" in name} == {
        'fastmesh_health_checks_total{service="s",result="passed"}': 7,
        'fastmesh_health_checks_total{service="s",result="failed"}': 4,
        'fastmesh_health_checks_total{service="s",result="error"}': 1,
    }
    assert found['fastmesh_endpoint_ejections_total{service="s",endpoint="e3"}'] == 3
    assert found['fastmesh_endpoint_ejections_total{service="t",endpoint="x"}'] == 0


def test_checks_and_ejections_of_the_rest_are_summed():
    endpoints = [endpoint(f"e{i}", ejections=i) for i in range(4)] + [endpoint("x", service="t", ejections=5)]
    health = {"s": checked(["e0", "e2", "e3"], ["e1"])}
    renderer = MetricsRenderer(series_limit=1)
    found = samples(renderer.render(stats(endpoints), ReloadCounts(), health))
    assert found['fastmesh_endpoint_healthy{service="s",endpoint="e0"}'] == 1
    assert found['fastmesh_endpoint_healthy{service="s",endpoint="other"}'] == 2
    assert 'fastmesh_endpoint_healthy{service="t",endpoint="other"}' not in found
    other = 'fastmesh_endpoint_ejections_total{service="s",endpoint="other"}'
    assert found[other] == 1 + 2 + 3
    assert samples(renderer.render(stats(endpoints[:2]), ReloadCounts(), health))[other] == 1 + 2 + 3


def test_other_never_goes_down_and_an_endpoint_never_changes_sides():
    series = EndpointSeries(limit=2)
    shown, rest = series.split([endpoint("a", 1), endpoint("b", 1), endpoint("c", 10), endpoint("d", 20)])
    assert [e.address for e in shown] == ["a", "b"]
    assert (rest["s"].requests, rest["s"].up) == (30, 2)
    # `a` goes, which leaves room: `c` stays in the sum, a new one takes the place; `d` goes, its count stays.
    shown, rest = series.split([endpoint("b", 1), endpoint("c", 15), endpoint("e", 3)])
    assert [e.address for e in shown] == ["b", "e"]
    assert (rest["s"].requests, rest["s"].up) == (20 + 15, 1)
    # All of the rest are gone.
    shown, rest = series.split([endpoint("b", 1)])
    assert (rest["s"].requests, rest["s"].up) == (35, 0)
    # One whose counter began anew.
    _, rest = series.split([endpoint("b"), endpoint("e"), endpoint("c", 2)])
    assert (rest["s"].requests, rest["s"].up) == (37, 1)
    _, rest = series.split([endpoint("b"), endpoint("e"), endpoint("c", 1)])
    assert (rest["s"].requests, rest["s"].up) == (38, 1)
