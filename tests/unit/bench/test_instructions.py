import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.harness import slowed
from bench.harness.place import ROOT, BenchError
from bench.instructions import callgrind
from bench.instructions.__main__ import choose
from bench.instructions.cases import CASES
from bench.instructions.table import count_table, instruction_table, load
from fastmesh._native.core import engine

# Two loops and the program's end, as callgrind 3.19 combines them.
DUMPS = """# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 8132
part: 1

desc: Trigger: --dump-before=fm_count_end
positions: line
events: Ir

ob=(3) /usr/lib/libc.so.6
fn=(12)
140 5
totals: 7110000

part: 2

desc: Trigger: --dump-before=fm_count_end
positions: line
events: Ir
fn=(12)
140 5
totals: 43550000

part: 3

desc: Trigger: Program termination
positions: line
events: Ir
fn=(12)
140 5
totals: 12345678
"""


def test_only_what_the_closing_mark_dumped_is_a_count() -> None:
    assert callgrind.parse_dumps(DUMPS) == [7_110_000, 43_550_000]


def test_no_dumps() -> None:
    assert callgrind.parse_dumps(DUMPS[DUMPS.index("part: 3") :]) == []


def document(counts: dict[str, float], cpu: str = "c", compiler: str = "gcc 12") -> dict[str, Any]:
    return {
        "schema_version": 2,
        "suite": "instructions",
        "finished": "2024-01-01T00:00:00+00:00",
        "environment": {"cpu": cpu, "versions": {"compiler": compiler, "valgrind": "3.19.0"}},
        "instructions": {
            name: {"per_operation": value, "operations": 10, "note": f"note of {name}"}
            for name, value in counts.items()
        },
    }


def cells(table: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_before_and_after() -> None:
    old = document({"a": 1000, "b": 200, "c": 57, "gone": 5})
    new = document({"a": 1010, "b": 198, "c": 57.1, "fresh": 12345.6})
    rows = cells(instruction_table(old, new))
    assert rows["a"] == ["1,000.0", "1,010.0", "+1.00%", "more"]
    assert rows["b"][:4] == ["200.0", "198.0", "-1.00%", "fewer"]
    assert rows["c"] == ["57.0", "57.1", "+0.18%"]
    assert rows["gone"][:2] == ["5.0", "-"]
    assert rows["fresh"][:2] == ["-", "12,346"]


def test_what_makes_counts_incomparable_is_said() -> None:
    counts = {"a": 1000.0}
    assert "differs" not in instruction_table(document(counts), document(counts))
    table = instruction_table(document(counts), document(counts, cpu="d", compiler="gcc 13"))
    assert "The cpu differs (c, d)" in table
    assert "The compiler differs (gcc 12, gcc 13)" in table


def test_a_table_of_one_run() -> None:
    assert cells(count_table(document({"a": 1000})))["a"] == ["1,000.0", "note of a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ('{"suite": "quick", "schema_version": 2}', "no result of python -m bench.instructions"),
        ('{"suite": "instructions", "schema_version": 1}', "schema_version is not 2"),
    ],
)
def test_a_file_of_something_else(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=message):
        load(path)
    path.write_text(json.dumps(document({})))
    assert load(path)["instructions"] == {}


def test_benchmarks_are_chosen_by_how_their_names_begin() -> None:
    assert choose([]) == list(CASES)
    names = [case.name for case in choose(["timer-wait", "parse-request"])]
    assert names == ["parse-request-small", "parse-request-browser", "timer-wait"]
    with pytest.raises(BenchError, match="no benchmark 'parsing'; there are: parse-request-small"):
        choose(["timer", "parsing"])


def test_names_are_unique_and_each_part_is_there() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {name.partition("-")[0] for name in names} == {
        *("parse", "forward", "chunk", "route", "pick", "histogram", "timer", "exchange", "apply")
    }


def test_the_stack_begins_at_the_same_address() -> None:
    """Whatever the path of the checkout, of the interpreter and of the work folder."""

    def size(program: list[str], extra: dict[str, str]) -> int:
        environment = callgrind._environment(program, extra)
        texts = [*program, program[0], *(f"{key}={value}" for key, value in environment.items())]
        return sum(len(text) + 1 for text in texts)

    short = size(["/usr/bin/python3", "-m", "x", "/tmp/a"], {})
    assert size(["/usr/local/bin/python3.11", "-m", "x", "/tmp/somewhere/else"], {}) == short


def test_valgrind_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="apt-get install valgrind"):
        callgrind.count(CASES[:1], tmp_path, print)


# ---------------------------------------------------------------- the slowed build


def test_an_ordinary_build_is_not_slowed() -> None:
    assert engine.SLOWDOWN_NS == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["bdist_wheel"], "never packed"),
        (["build_ext", "--inplace"], "would slow the modules in the source tree"),
    ],
)
def test_a_slowed_build_is_neither_packed_nor_in_place(command: list[str], message: str) -> None:
    # Without the native half there is nothing to generate; what is tried here ends before anything is built.
    environment = {**os.environ, "FASTMESH_SLOWDOWN_NS": "3000", "FASTMESH_SKIP_NATIVE": "1"}
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert message in result.stderr


@pytest.mark.parametrize("nanoseconds", [0, -1])
def test_a_slowed_fastmesh_is_slower(nanoseconds: int) -> None:
    with pytest.raises(BenchError, match="needs some nanoseconds"):
        slowed.slowed_python_path(nanoseconds)
