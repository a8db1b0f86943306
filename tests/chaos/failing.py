"""Endpoints that answer too late, that fail at once, and services all of whose endpoints fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.harness.openloop import OpenLoop
from bench.harness.origin import Origin
from chaos.programs import Load, LoadResult
from chaos.stage import CONNECTIONS, Line, Mesh, Stage, failures, local, pause, running, unmet
from support.ports import free_port

SUCCESS = 0.999
_MIB = 1 << 20


@contextmanager
def origin_ports(folder: Path, count: int) -> Iterator[Origin]:
    """The origin of the benchmarks on so many ports."""
    origin = Origin([free_port() for _ in range(count)], cpu=None, folder=folder)
    try:
        yield origin
    finally:
        origin.stop()


# ---------------------------------------------------------------- one is slow


def slow(stage: Stage, seconds: float = 30.0) -> Iterator[Line]:
    """One of eleven answers after 2 s; the clients wait 1 s."""
    for policy in stage.policies[:1]:
        yield _slow_closed(stage, policy, seconds)
        yield slow_open(stage, policy, seconds)


def _slow_closed(stage: Stage, policy: str, seconds: float) -> Line:
    folder = stage.fresh_folder()
    with origin_ports(folder, 11) as origin, stage.mesh(folder, local(origin.ports), policy) as mesh:
        origin.behave(origin.ports[0], "delay fixed 2s")
        result = _closed(mesh, folder, stage, seconds, timeout=1.0)
        sent = origin.count(origin.ports[0])
    share = result.ok / max(1, result.sent)
    figures = {**failures(result), "success": f"{share:.4%}", "sent to the slow one": sent}
    holds = (share >= SUCCESS, f"success {share:.4%} is below {SUCCESS:.1%}")
    return Line("slow", f"64 closed loops, {policy}", figures, unmet(holds))


def slow_open(stage: Stage, policy: str, seconds: float) -> Line:
    folder = stage.fresh_folder()
    with origin_ports(folder, 11) as origin, stage.mesh(folder, local(origin.ports), policy) as mesh:
        origin.behave(origin.ports[0], "delay fixed 2s")
        load = OpenLoop(
            mesh.port,
            "/",
            rate=200,
            seconds=seconds,
            log=folder / "openloop.log",
            cpu=None,
            connections=256,
            timeout_seconds=1.0,
        )
        result = load.result()
        sent = origin.count(origin.ports[0])
    share = result.answered / max(1, result.intended)
    figures = {
        "requests": result.intended,
        "failed": result.failed,
        "by": result.error_text() or "-",
        "success": f"{share:.4%}",
        "p99 ms": result.quantile_us(99) / 1000,
        "sent to the slow one": sent,
    }
    holds = (share >= SUCCESS, f"success {share:.4%} is below {SUCCESS:.1%}")
    return Line("slow", f"open loop, 200 requests/s, {policy}", figures, unmet(holds))


def _closed(mesh: Mesh, folder: Path, stage: Stage, seconds: float, timeout: float = 5.0) -> LoadResult:
    load = Load(
        mesh.port,
        folder / "load.log",
        seconds=seconds,
        connections=CONNECTIONS,
        timeout=timeout,
        seed=stage.seed,
        echo=False,
    )
    try:
        return load.result(seconds + timeout + 30)
    finally:
        load.stop()


# ---------------------------------------------------------------- one fails fast


def fast_failing(stage: Stage, settle: int = 5, after: int = 5) -> Iterator[Line]:
    """One answers 500 at once: from `settle` seconds on, in each of the `after` seconds, it gets little."""
    for policy in stage.policies[:1]:
        for endpoints in (3, 11):
            yield fast_failing_with(stage, policy, endpoints, settle, after)


def fast_failing_with(stage: Stage, policy: str, endpoints: int, settle: int, after: int) -> Line:
    folder = stage.fresh_folder()
    shares = []
    with origin_ports(folder, endpoints) as origin, stage.mesh(folder, local(origin.ports), policy) as mesh:
        load = Load(mesh.port, folder / "load.log", seconds=3600, seed=stage.seed, echo=False)
        with running(load):
            pause(load, 1.0)
            origin.behave(origin.ports[0], "fail status 500")
            begin, before = time.monotonic(), _counts(origin)
            for second in range(1, settle + after + 1):
                pause(load, max(0.0, begin + second - time.monotonic()))
                now = _counts(origin)
                sent = [count - then for count, then in zip(now, before, strict=True)]
                shares.append(sent[0] / max(1, sum(sent)) * endpoints)
                before = now
            result = load.finish()
    worst = max(shares[settle:])
    return Line(
        "fast-failing",
        f"one of {endpoints} answers 500, {policy}",
        {**failures(result), "share of the fair one, by s": " ".join(f"{share:.2f}" for share in shares)},
        unmet((worst <= 0.25, f"{worst:.2f} of its fair share after {settle} s, more than a quarter")),
    )


def _counts(origin: Origin) -> list[int]:
    return [origin.count(port) for port in origin.ports]


# ---------------------------------------------------------------- all fail

WAYS_TO_FAIL = ("status 503", "status 500", "reset", "close", "refuse")
MOST_SENDS = 1.25
MOST_P99_MS = 250.0
MOST_CONNECTIONS = 4 * CONNECTIONS
MOST_MEMORY = 32 * _MIB


def all_failing(
    stage: Stage, seconds: float = 5.0, recovery: float = 5.0, after: float = 3.0
) -> Iterator[Line]:
    """All three fail, then all are well again."""
    for policy in stage.policies[:1]:
        for way in WAYS_TO_FAIL:
            yield all_failing_in(stage, policy, way, seconds, recovery, after)


def all_failing_in(
    stage: Stage, policy: str, way: str, seconds: float, recovery: float, after: float
) -> Line:
    folder = stage.fresh_folder()
    with origin_ports(folder, 3) as origin, stage.mesh(folder, local(origin.ports), policy) as mesh:
        warm = _closed(mesh, folder, stage, 1.0)
        memory, connections = mesh.proxy.resident_bytes(), 0
        for port in origin.ports:
            origin.behave(port, f"fail {way}")
        sends = _sends(origin, way)
        load = Load(mesh.port, folder / "load.log", seconds=seconds, seed=stage.seed, echo=False)
        with running(load):
            while not load.wait(0.25):
                connections = max(connections, mesh.upstream_connections())
            failing = load.result(30)
        sends = _sends(origin, way) - sends
        memory = mesh.proxy.resident_bytes() - memory
        for port in origin.ports:
            origin.behave(port, "normal")
        begin = time.monotonic()
        well = _closed(mesh, folder, stage, recovery + after)
    ratio = sends / max(1, failing.sent)
    full_after = _last_failure(well, begin)
    return Line(
        "all-failing",
        f"{way}, {policy}",
        {
            **failures(failing),
            "sends/request": ratio,
            "p50 ms": failing.latency_ms("all_p50"),
            "p99 ms": failing.latency_ms("all_p99"),
            "connections": connections,
            "MiB more": memory / _MIB,
            "full success after s": full_after,
        },
        unmet(
            (warm.failed() == 0, f"{warm.failed()} failed before the endpoints did"),
            (failing.ok == 0 and failing.sent > 0, f"{failing.ok} of {failing.sent} requests did not fail"),
            (ratio <= MOST_SENDS, f"{ratio:.2f} sends a request"),
            (failing.of("status") == failing.failed(), "not every failure was answered"),
            (failing.latency_ms("all_p99") <= MOST_P99_MS, "not answered at once"),
            (connections <= MOST_CONNECTIONS, "connections piled up"),
            (memory <= MOST_MEMORY, "memory piled up"),
            (well.ok > 0 and full_after <= recovery, f"failures {full_after:.1f} s after the recovery"),
        ),
    )


def _sends(origin: Origin, way: str) -> int:
    """Requests that the endpoints got; when they refuse, connects that failed on this machine."""
    if way != "refuse":
        return sum(_counts(origin))
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")
    )
    return int(values[names.index("AttemptFails")])


def _last_failure(result: LoadResult, begin: float) -> float:
    """Seconds from `begin` to the end of the last slice with a failure; 0 without one."""
    failed = [index for index, item in enumerate(result.slices) if item.failed]
    return max(0.0, result.start - begin + (failed[-1] + 1) * 0.1) if failed else 0.0
