"""A whole result of the benchmark suite, made up: what the tests of its pictures and its page read.

The figures are plausible and always the same. In it, caddy has no TCP mode, traefik is invalid in `close` and
envoy in `killed`, and the generator's error hides some quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.report import SCHEMA_VERSION

ORDER = ("direct", "floor", "fastmesh", "nginx", "haproxy", "envoy", "traefik", "caddy")
FURTHER = ("floor", "fastmesh", "nginx", "haproxy", "envoy")
# What each contender costs, relative to the relay floor.
_WEIGHTS = {
    "direct": 0.0,
    "floor": 1.0,
    "fastmesh": 1.06,
    "nginx": 1.51,
    "haproxy": 1.58,
    "envoy": 3.4,
    "traefik": 5.2,
    "caddy": 5.9,
}
_VERSIONS = {
    "direct": "no proxy: bench/origin.c",
    "floor": "bench/relay_floor.c",
    "fastmesh": "fastmesh 0.1.0 Python 3.11.7",
    "nginx": "nginx/1.22.1",
    "haproxy": "HAProxy version 2.6.12-1+deb12u1",
    "envoy": "envoy 1.40.0",
    "traefik": "traefik 3.7.15",
    "caddy": "caddy 2.11.7",
}
_MIB = 1 << 20


def figures(cost: float | None, seed: int = 0, invalid: str = "") -> dict[str, Any]:
    """The summary of one contender in one scenario; `cost` in CPU µs a request."""
    work = cost or 6.0
    wobble = 0.02 + 0.01 * (seed % 4)
    return {
        "requests_per_second": 1e6 / (work + 12),
        "cpu_us_per_request": cost,
        "low": None if cost is None else cost * (1 - wobble),
        "high": None if cost is None else cost * (1 + 2 * wobble),
        "spread": wobble,
        "machine_us_per_request": work * 2 + 11,
        "p50_us": int(work * 70),
        "p99_us": int(work * 260),
        "proxy_core_idle": 0.02 * (seed % 4),
        "marks": ["load-limited"] if seed % 5 == 1 else [],
        "invalid": invalid,
    }


def scenario(
    name: str,
    title: str,
    floor_us: float,
    *,
    group: str = "core",
    names: Sequence[str] = ORDER,
    absent: Mapping[str, str] | None = None,
    invalid: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    summary = {
        contender: figures(
            None if contender == "direct" else floor_us * _WEIGHTS[contender],
            seed,
            (invalid or {}).get(contender, ""),
        )
        for seed, contender in enumerate(names)
        if contender not in (absent or {})
    }
    samples = [
        {"contender": who, "round": number, "cpu_us_per_request": values["cpu_us_per_request"]}
        for number in range(5)
        for who, values in summary.items()
    ]
    return {
        "name": name,
        "title": title,
        "group": group,
        "connections": 64,
        "seconds": 3,
        "path": "/",
        "listener": "tcp" if name == "tcp" else "http",
        "absent": dict(absent or {}),
        "summary": summary,
        "samples": samples,
    }


def scenarios() -> list[dict[str, Any]]:
    policies = ("round_robin", "least_request", "random", "ring_hash", "maglev")
    left_out = dict.fromkeys(("direct", "traefik", "caddy"), "left out of further scenarios")
    return [
        scenario("small", "small answers, 64 keep-alive connections", 9.95),
        scenario("connections-1024", "small answers, 1,024 keep-alive connections", 11.2),
        scenario("body-16k", "answers of 16 KiB", 14.1),
        scenario("body-1m", "answers of 1 MiB", 152.0),
        scenario("close", "a connection per request", 24.4, invalid={"traefik": "failed requests: 12 read"}),
        scenario("tcp", "TCP mode, small answers", 9.9, absent={"caddy": "has no TCP mode"}),
        scenario("connections-1", "1 connection", 13.0, group="further", names=FURTHER, absent=left_out),
        scenario("post-64k", "POST of 64 KiB", 31.0, group="further", names=FURTHER, absent=left_out),
        *(
            scenario(
                f"policy-{policy}", f"policy {policy}", 10.0, group="policy", names=("floor", "fastmesh")
            )
            for policy in policies
        ),
    ]


def distribution(p50_us: float, tail: float) -> list[list[float]]:
    """[percentile, µs] as HdrHistogram prints them: five points for each halving of the distance to 100."""
    points = []
    for step in range(70):
        distance = 0.5 ** (step / 5)
        latency = p50_us * (0.6 + 0.4 * (1 - math.log2(distance) * tail) ** 1.6)
        points.append([round(100 * (1 - distance), 6), round(latency, 1)])
    return [*points, [100.0, points[-1][1]]]


def latency_figures(p50_us: float, tail: float, error_us: Mapping[str, float]) -> dict[str, Any]:
    """The summary of one contender at one rate; shown is a quantile with an error under a tenth of it."""
    points = distribution(p50_us, tail)
    quantiles = {}
    for name, error in error_us.items():
        value = next(us for percentile, us in points if percentile >= float(name))
        quantiles[name] = {"value": value, "shown": error < value / 10}
    return {
        "answered": 120_000,
        "failed": 0,
        "errors": {},
        "quantiles_us": quantiles,
        "max_us": points[-1][1],
        "cpu_us_per_request": None if tail == 0.05 else 10 + p50_us / 50,
        "distribution": points,
        "marks": [],
        "invalid": "",
        "hgrm": "",
    }


def latency() -> list[dict[str, Any]]:
    steps = []
    for share, rate, load in ((0.25, 3000, 1.0), (0.5, 6000, 1.6), (0.75, 9000, 3.2)):
        name = f"latency-{share:.0%}".rstrip("%")
        error = {key: us * load for key, us in {"50": 4.0, "90": 6.0, "99": 12.0, "99.9": 90.0}.items()}
        summary = {
            contender: {
                **latency_figures(
                    (38 + 45 * _WEIGHTS[contender]) * math.sqrt(load), 0.05 + 0.03 * place * load, error
                ),
                "hgrm": f"{name}-{contender}.hgrm",
            }
            for place, contender in enumerate(ORDER)
        }
        steps.append(
            {
                "name": name,
                "title": f"latency at {share:.0%} of the slowest peer's capacity",
                "share": share,
                "rate": rate,
                "connections": 64,
                "seconds": 20,
                "absent": {},
                "generator_error_us": error,
                "summary": summary,
            }
        )
    return steps


def fault_figures(failed: int, p99_us: float, invalid: str = "") -> dict[str, Any]:
    return {
        "requests": 30_000,
        "failed": failed,
        "errors": {"status": failed} if failed else {},
        "p50_us": 220.0,
        "p99_us": p99_us,
        "max_us": p99_us * 9,
        "figures": {},
        "invalid": invalid,
    }


def faults() -> list[dict[str, Any]]:
    peers = ("fastmesh", "nginx", "haproxy", "envoy")
    left_out = dict.fromkeys(("direct", "floor", "traefik", "caddy"), "left out of faults")
    failed = {
        "changes": (0, 4, 7, 0),
        "killed": (3, 1, 9, 0),
        "slow": (0, 0, 0, 0),
        "failing": (12, 40, 38, 20),
        "drain": (0, 0, 2, 0),
    }
    titles = {
        "changes": "100 effective changes of configuration under load",
        "killed": "one endpoint of four is killed",
        "slow": "one endpoint of four becomes slow",
        "failing": "one endpoint of four answers 503",
        "drain": "drain under load",
    }
    found = []
    for name, counts in failed.items():
        summary = {
            peer: fault_figures(count, 900.0 + 100 * count) for peer, count in zip(peers, counts, strict=True)
        }
        if name == "changes":
            summary["fastmesh"]["figures"] = {"changes": 100, "slowest change, ms": 88.4}
        if name == "killed":
            summary["envoy"]["invalid"] = "ended with exit code 1"
        found.append({"name": name, "title": titles[name], "absent": left_out, "summary": summary})
    return found


def memory() -> tuple[dict[str, Any], dict[str, Any]]:
    """(idle_memory, connection_memory) in bytes; the floor keeps nothing that would be worth a figure."""
    idle = {
        "fastmesh": (31.7, 23.0),
        "nginx": (15.5, 8.8),
        "haproxy": (15.6, 11.5),
        "envoy": (58.2, 51.4),
        "traefik": (96.4, 88.1),
        "caddy": (47.0, 44.9),
    }
    each = {"fastmesh": 0.24, "nginx": 0.49, "haproxy": 1.22, "envoy": 11.8, "traefik": 39.6, "caddy": 31.3}
    sizes = {
        name: {"resident": int(resident * _MIB), "proportional": int(proportional * _MIB)}
        for name, (resident, proportional) in idle.items()
    }
    connections = {}
    for name, kib in each.items():
        growth = int(kib * 1024 * 9_500)
        connections[name] = {
            "before": sizes[name],
            "with_connections": {key: value + growth for key, value in sizes[name].items()},
            "connections": 9_500,
            "per_connection": growth / 9_500,
        }
    return sizes, connections


def full_document() -> dict[str, Any]:
    idle, connections = memory()
    calls = {"recvfrom": 2005, "sendto": 2005, "epoll_ctl": 13, "epoll_wait": 30}
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": "full",
        "finished": "2025-03-14T15:09:26+00:00",
        "seconds": 2111.0,
        "environment": {
            "kernel": "6.18.5",
            "machine": "x86_64",
            "cpu": "AMD EPYC",
            "cpus": 2,
            "pinning": {"load": 0, "proxy": 1},
            "load_average_before": 0.21,
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "changed_files": 0,
            "versions": dict(_VERSIONS),
        },
        "rows": [
            {
                "name": "small-floor",
                "title": "CPU per small keep-alive request, 64 connections, ÷ relay floor",
                "unit": "×",
                "must": 1.2,
                "goal": 1.1,
                "value": 1.06,
                "low": 1.03,
                "high": 1.09,
                "basis": "10.55 µs ÷ floor 9.95 µs",
                "verdict": "GOAL",
                "note": "",
            }
        ],
        "scenarios": scenarios(),
        "latency": latency(),
        "faults": faults(),
        "system_calls": {
            "fastmesh": {"requests": 1000, "reads_and_writes_per_request": 4.01, "by_name": calls}
        },
        "idle_memory": idle,
        "connection_memory": connections,
        "picks": None,
        "changes": None,
        "publish_ms": None,
        "problems": {},
    }
