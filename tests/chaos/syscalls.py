"""System calls of fastmesh's workers fail or do less than asked: short, EAGAIN, EMFILE, ENOMEM."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from bench.harness.native import built
from chaos.programs import BINARIES, SOURCES, IdOrigin, Load
from chaos.stage import Line, Stage, failures, running, unmet
from support.ports import free_port

# Percent of the calls, and whether requests may fail of it: not of bytes that come late.
MIXES = {
    "short": ("short=30", False),
    "again": ("again=20", False),
    "short, again": ("short=30,again=20", False),
    "emfile": ("emfile=10", True),
    "enomem": ("enomem=10", True),
    "all": ("short=20,again=10,emfile=5,enomem=5", True),
}
_STRUCK = re.compile(r"^syscall faults: short (\d+) again (\d+) refused (\d+)$", re.MULTILINE)


def preload(seed: int, faults: str) -> dict[str, str]:
    """The environment of a fastmesh whose system calls fail so; `syscall_faults.c`."""
    library = str(built("syscall_faults", SOURCES, BINARIES, ("-shared", "-fPIC", "-ldl")))
    before = os.environ.get("LD_PRELOAD")
    return {
        "LD_PRELOAD": f"{before}:{library}" if before else library,
        "FASTMESH_SYSCALL_FAULTS": f"seed={seed},{faults}",
    }


def syscalls(stage: Stage, requests: int = 20_000) -> Iterator[Line]:
    """Faults of system calls: no answer goes to another request, and all are answered."""
    for what, (faults, may_fail) in MIXES.items():
        yield play_mix(stage, what, faults, may_fail, stage.count(requests))


def play_mix(stage: Stage, what: str, faults: str, may_fail: bool, requests: int) -> Line:
    folder = stage.fresh_folder()
    origins = [IdOrigin(number, free_port(), folder) for number in range(3)]
    try:
        environment = preload(stage.seed, faults)
        endpoints = [origin.text for origin in origins]
        with stage.mesh(folder, endpoints, stage.policies[0], environment) as mesh:
            load = Load(
                mesh.port,
                folder / "load.log",
                requests=requests,
                post_share=0.3,
                timeout=10.0,
                sizes=(0, 17, 300, 3000),
                body_sizes=(0, 100, 3000),
                seed=stage.seed,
            )
            with running(load):
                result = load.result(300)
        struck = [sum(map(int, counts)) for counts in _STRUCK.findall(mesh.proxy.stderr)]
        wrong = sum(origin.counts()["wrong"] + origin.counts()["bad"] for origin in origins)
    finally:
        for origin in origins:
            origin.stop()
    figures = {
        **failures(result),
        "GET failed": result.failed(["get"]),
        "calls struck": sum(struck),
        "p99 ms": result.latency_ms("all_p99"),
    }
    return Line(
        "syscalls",
        what,
        figures,
        unmet(
            (sum(struck) > 0, "no call was struck"),
            (result.mixed_up + result.of("corrupt") == 0, "answers of other requests"),
            (wrong == 0, f"{wrong} requests reached an origin with another's bytes"),
            (result.of("timeout") == 0, f"{result.of('timeout')} requests were forgotten"),
            (may_fail or result.failed() == 0, f"{result.failed()} failed though nothing was lost"),
        ),
    )
