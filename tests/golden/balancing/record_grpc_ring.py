"""Records ``grpc_ring.json``: rings made by gRPC's Go implementation (``google.golang.org/grpc``).

Run by hand, with Go installed and the Go module proxy in reach::

    python tests/golden/balancing/record_grpc_ring.py

It unpacks the module into a temporary folder, puts ``ring_dump_test.go`` beside ``newRing`` and runs it.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

VERSION = "v1.85.0"
HERE = Path(__file__).parent
# Sizes that give the lightest endpoint a power of two, as fastmesh rounds it (see ring_hash.pxd).
CASES = [
    {"names": [f"10.0.0.{k}:8080" for k in range(1, 6)], "weights": [1] * 5, "ring_size": 5 * 256},
    {"names": ["10.0.0.9:80", "[::1]:80", "unix:/run/a.sock"], "weights": [3, 1, 2], "ring_size": 6 * 256},
    {
        "names": [f"10.1.{k}.7:90" for k in range(40)],
        "weights": [1 + k % 7 for k in range(40)],
        "ring_size": 155 * 16,
    },
    {"names": ["a:1", "b:1", "c:1"], "weights": [1, 99, 7], "ring_size": 107 * 16},
    {"names": ["only:1"], "weights": [5], "ring_size": 1024},
]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "go.mod").write_text("module record\ngo 1.21\n")
        answer = subprocess.run(
            ["go", "mod", "download", "-json", f"google.golang.org/grpc@{VERSION}"],
            cwd=work,
            check=True,
            capture_output=True,
            text=True,
        )
        source = work / "grpc"
        shutil.copytree(json.loads(answer.stdout)["Dir"], source, copy_function=shutil.copyfile)
        package = source / "balancer" / "ringhash"
        package.chmod(0o755)
        shutil.copyfile(HERE / "ring_dump_test.go", package / "ring_dump_test.go")
        (work / "cases.json").write_text(json.dumps(CASES))
        subprocess.run(
            ["go", "test", "-count=1", "-run", "TestDumpRings", "./balancer/ringhash"],
            cwd=source,
            check=True,
            env={
                **os.environ,
                "RING_CASES": str(work / "cases.json"),
                "RING_RESULT": str(work / "result.json"),
            },
        )
        cases = json.loads((work / "result.json").read_text())
        for path in [source, *source.rglob("*/")]:
            path.chmod(0o755)
    recorded = {
        "recorded_from": f"google.golang.org/grpc {VERSION}, balancer/ringhash newRing",
        "cases": cases,
    }
    (HERE / "grpc_ring.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
