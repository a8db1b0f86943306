"""Every row of the HTTP/1 acceptance list has a test that bears its number."""

from __future__ import annotations

import re
from pathlib import Path

ROWS = range(1, 113)


def test_every_row_has_a_test() -> None:
    named = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        named.update(
            int(number) for number in re.findall(r"^def test_case_(\d{3})_", file.read_text(), re.MULTILINE)
        )
    assert named == set(ROWS)
