"""From a validated model to its adoption by all workers: `python -m bench.publish [--json]`.

Runs in one process with the engine, without a client: the configuration is loaded and validated first, then
the clock runs from `DataPlane.apply` until every worker's acknowledged generation is the new one. Each size
is applied several times, with a change each time that rebuilds the whole of it; the median counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.harness.place import BenchError, free_ports
from bench.session import exit_code_of

REPEATS = 5
_DEADLINE_SECONDS = 10.0


def routes_text(port: int, count: int, repeat: int) -> str:
    """A listener with `count` routes, all of whose paths differ from one repeat to the next."""
    routes = "\n".join(f"      - {{path: /r{repeat}/{i}, service: s{i % 10}}}" for i in range(count))
    services = "\n".join(f"  s{i}: {{endpoints: [127.0.0.1:{1000 + i}]}}" for i in range(10))
    return f"listeners:\n  web:\n    bind: 127.0.0.1:{port}\n    routes:\n{routes}\nservices:\n{services}\n"


def endpoints_text(port: int, count: int, repeat: int) -> str:
    """A service with `count` endpoints, a tenth of which differ from one repeat to the next."""
    addresses = [f"10.{repeat if i % 10 == 0 else 100}.{i // 250}.{i % 250 + 1}:80" for i in range(count)]
    head = f"listeners:\n  web:\n    bind: 127.0.0.1:{port}\n    routes: {{/: big}}\nservices:\n  big:\n"
    return head + "    balance: round_robin\n    endpoints: [" + ", ".join(addresses) + "]\n"


def load_config(text: str, folder: Path) -> Any:
    from fastmesh.config import load

    path = folder / "fastmesh.yaml"
    path.write_text(text)
    return load(path).config


def adopted_ms(data_plane: Any, config: Any) -> float:
    """Milliseconds from the model to the last worker's acknowledgement, which `apply` waits for."""
    begin = time.perf_counter()
    generation = data_plane.apply(config, {}).generation
    milliseconds = (time.perf_counter() - begin) * 1000
    while any(worker.generation < generation for worker in data_plane.stats().workers):
        if time.perf_counter() - begin > _DEADLINE_SECONDS:
            raise BenchError(f"generation {generation} was not adopted within {_DEADLINE_SECONDS:g} s")
        milliseconds = (time.perf_counter() - begin) * 1000
    return milliseconds


def measure() -> dict[str, float]:
    """Median milliseconds by size."""
    from fastmesh.engine import DataPlane

    figures: dict[str, float] = {}
    cases = {"routes_1000": (routes_text, 1000), "endpoints_10000": (endpoints_text, 10_000)}
    with tempfile.TemporaryDirectory() as name:
        for case, (make_text, count) in cases.items():
            port = free_ports(1)[0]
            configs = [
                load_config(make_text(port, count, repeat), Path(name)) for repeat in range(REPEATS + 1)
            ]
            data_plane = DataPlane(workers=2, connection_limit=1000)
            data_plane.apply(configs[0], {})
            data_plane.start()
            try:
                figures[case] = statistics.median(adopted_ms(data_plane, config) for config in configs[1:])
            finally:
                data_plane.stop()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.publish", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    figures = measure()
    if options.json:
        print(json.dumps(figures))
    else:
        for case, milliseconds in figures.items():
            print(f"{case}: {milliseconds:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
