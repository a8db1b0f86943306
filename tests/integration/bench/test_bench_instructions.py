"""Counting instructions under the real callgrind, and a fastmesh that was built to be slower."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bench.harness.place import ROOT, BenchError
from bench.harness.slowed import slowed_python_path
from bench.instructions import callgrind, cases
from bench.instructions.cases import CASES, Case

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("name", BY_NAME)
def test_each_loop_runs_without_callgrind_too(name: str) -> None:
    assert BY_NAME[name].run() >= 1


def count(folder: Path, names: Sequence[str]) -> Mapping[str, float]:
    folder.mkdir()
    counts = callgrind.count([BY_NAME[name] for name in names], folder, lambda _: None)
    assert [found.name for found in counts] == list(names)
    return {found.name: found.per_operation for found in counts}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_counts_repeat_exactly_whatever_ran_before(tmp_path: Path) -> None:
    first = count(tmp_path / "first", ["timer-arm-cancel", "route-header-1000"])
    others = ["parse-request-browser", "pick-maglev-100", "route-header-1000", "timer-arm-cancel"]
    second = count(tmp_path / "a longer name of the folder", others)
    assert {name: second[name] for name in first} == first
    assert 10 < first["timer-arm-cancel"] < first["route-header-1000"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_count_is_of_the_loop_alone(tmp_path: Path) -> None:
    """Twice the picks are twice the instructions; nothing of what makes the endpoints is among them."""
    (few,) = callgrind.count([BY_NAME["pick-random-10000"]], tmp_path, lambda _: None)
    assert few.operations == 20_000
    # A pick is a table look-up: a multiply, some loads and a comparison.
    assert 20 < few.per_operation < 200
    # The loop's own beginning and end would show here as a broken number.
    assert few.per_operation == pytest.approx(round(few.per_operation), abs=0.01)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_command_shows_a_change(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    command = [sys.executable, "-m", "bench.instructions", "--only", "histogram"]

    def run(*more: str) -> str:
        result = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "histogram-record-small" in result.stderr  # progress
        return result.stdout

    assert "| histogram-record " in run("--out", str(old))
    document = json.loads(old.read_text())
    assert (document["schema_version"], document["suite"]) == (2, "instructions")
    assert document["environment"]["versions"]["valgrind"]
    counts = document["instructions"]
    assert set(counts) == {"histogram-record", "histogram-record-small"}
    assert counts["histogram-record"]["operations"] == 20_000

    counts["histogram-record"]["per_operation"] /= 1.01
    old.write_text(json.dumps(document))
    table = run("--out", str(new), "--compare", str(old))
    assert [line.split("|")[4].strip() for line in table.splitlines()[2:4]] == ["+1.00%", "+0.00%"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_loop_that_fails_is_told_with_its_output(tmp_path: Path) -> None:
    unknown = Case("no-such-loop", "", lambda: 1)
    with pytest.raises(BenchError, match=r"(?s)KeyError: 'no-such-loop'.*build the test modules"):
        callgrind.count([unknown], tmp_path, lambda _: None)


def test_marks_that_are_missing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: Sequence[str], _environment: object, _log: Path, _say: object) -> None:
        Path(argv[-1]).write_text("[10]")
        out = next(word for word in argv if word.startswith("--callgrind-out-file="))
        Path(out.partition("=")[2]).write_text("desc: Trigger: Program termination\ntotals: 5\n")

    monkeypatch.setattr(callgrind, "_run", run)
    with pytest.raises(BenchError, match="1 benchmarks ran and 0 were counted; build the test modules"):
        callgrind.count(cases.CASES[:1], tmp_path, print)


SLOWED_NS = 2_000_000
REQUESTS = 50
TALK = f"""
import socket, time
from fastmesh._native.core import engine
from fastmesh.engine import DataPlane
from fastmesh.model import Bind, Config, Listener, Respond, Route

data_plane = DataPlane(workers=1, connection_limit=10)
listener = Listener("web", (Bind("inet", "127.0.0.1", 0),), routes=(Route(Respond(204)),))
data_plane.apply(Config({{"web": listener}}, {{}}), {{}})
data_plane.start()
host, _, port = data_plane._reader.view.binds["web"][0].rpartition(":")
begin, cpu = time.monotonic(), time.process_time()
with socket.create_connection((host, int(port))) as client:
    for _ in range({REQUESTS}):
        client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 204 ")
print(engine.SLOWDOWN_NS, time.monotonic() - begin, time.process_time() - cpu)
data_plane.stop()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_request_of_a_slowed_fastmesh_burns_its_time(tmp_path: Path) -> None:
    said: list[str] = []
    folder = slowed_python_path(SLOWED_NS, said.append)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    result = subprocess.run(
        [sys.executable, "-c", TALK], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    slowdown, elapsed, cpu = (float(word) for word in result.stdout.split())
    assert slowdown == SLOWED_NS
    assert elapsed >= REQUESTS * SLOWED_NS / 1e9
    # Not by sleep; others on the machine may have had a part of the time.
    assert cpu >= 0.2 * REQUESTS * SLOWED_NS / 1e9

    said.clear()
    assert slowed_python_path(SLOWED_NS, said.append) == folder
    assert said == []  # nothing was built again
