"""When a C program of the benchmarks is compiled again."""

import os
import subprocess
from pathlib import Path

from bench.harness.native import built


def test_a_changed_header_builds_anew(tmp_path: Path) -> None:
    def build() -> Path:
        return built("answer", tmp_path, tmp_path / "bin")

    (tmp_path / "answer.c").write_text('#include <stdio.h>\n#include "a.h"\nint main(void) { return A; }\n')
    (tmp_path / "a.h").write_text('#pragma once\n#include "b.h"\n#define A B\n')
    (tmp_path / "b.h").write_text('#include "a.h"\n#define B 3\n')
    program = build()
    assert subprocess.run([str(program)], check=False).returncode == 3
    old = program.stat().st_mtime_ns
    assert build().stat().st_mtime_ns == old
    (tmp_path / "b.h").write_text('#include "a.h"\n#define B 4\n')
    os.utime(tmp_path / "b.h", ns=(old + 10**9, old + 10**9))
    assert subprocess.run([str(build())], check=False).returncode == 4
