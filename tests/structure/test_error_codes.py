"""The table of error codes in docs/operations.md is the one in base/fm_errors.h."""

import re

from support.native_source import ROOT, SOURCES

SIDES = {"C": "client", "U": "upstream", "O": "proxy"}
ENTRY = re.compile(r"X\((FM_E_\w+), (\d+), '([CUO])', ([01]), (\d{3}), \"(\w+)\", \"([^\"]+)\"\)")


def table_of_the_header() -> list[tuple[str, str, str]]:
    """(code, status, side) in the order of the header."""
    entries = ENTRY.findall((SOURCES / "fastmesh/_native/base/fm_errors.h").read_text())
    return [(code, status, SIDES[side]) for _, _, side, _, status, code, _ in entries]


def test_the_header_is_read_whole() -> None:
    text = (SOURCES / "fastmesh/_native/base/fm_errors.h").read_text()
    assert len(table_of_the_header()) == text.count("X(FM_E_")
    values = [int(value) for _, value, *_ in ENTRY.findall(text)]
    assert len(set(values)) == len(values)
    assert max(values) < 64


def test_the_document_lists_each_code_with_its_status_and_side() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d, ]+) \| (client|upstream|proxy) \|",
        (ROOT / "docs/operations.md").read_text(),
        re.MULTILINE,
    )
    documented = {(code, status, side) for code, many, side in rows for status in many.split(", ")}
    expected = set(table_of_the_header())
    assert documented == expected, (
        f"missing: {sorted(expected - documented)}, stale: {sorted(documented - expected)}"
    )
