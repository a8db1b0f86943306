"""The table of inverted branches (`tools/inversions.toml`) speaks of code and tests that are there, and of
each module of the data plane. Whether the tests notice takes compiling: `make invert`."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import sys
from types import ModuleType

import pytest

from support import native_source as native


def load_tool() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("invert", str(native.ROOT / "tools/invert"))
    spec = importlib.util.spec_from_loader("invert", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["invert"] = module  # dataclasses look it up
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


tool = load_tool()
ROWS = tool.read_table()
# Modules without a branch of their own.
PLAIN = {
    "base/errors": "a table in a C header",
    "base/limits": "numbers",
    "proxy/access_t": "types, and a number by a function",
    "proto/ctext": "names of a C header",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.file}-{row.function}")
def test_a_row_speaks_of_what_is_there(row: object) -> None:
    text = (native.ROOT / tool.NATIVE / row.file).read_text()  # type: ignore[attr-defined]
    assert tool.invert(text, row) != text
    file, _, name = row.test.partition("::")  # type: ignore[attr-defined]
    tests = (native.ROOT / "tests" / file).read_text()
    assert re.search(rf"^def {name}\(", tests, re.MULTILINE), row.test  # type: ignore[attr-defined]
    for module in row.modules:  # type: ignore[attr-defined]
        assert (native.ROOT / tool.NATIVE / (module.replace(".", "/") + ".pyx")).exists()


def test_each_module_of_the_data_plane_has_a_row() -> None:
    have = {row.file.rpartition(".")[0] for row in ROWS}
    wanted = {
        "/".join(source.module.split(".")[2:])
        for source in native.all_sources()
        if source.functions and not native.is_test_module(source.path) and source.floor != "sys"
    }
    assert wanted - have - set(PLAIN) == set()


TWO_FUNCTIONS = """\
cdef int f(
    int a,
) noexcept:
    if a:
        return 1
    return 1

cdef int g(int a):
    if a:
"""


@pytest.mark.parametrize("line", ["if a:", "return 1"])
def test_a_line_must_be_there_once(line: str) -> None:
    row = tool.Inversion("base/x.pxd", "f", line, "changed", ("base._t_x",), "")
    if line == "if a:":
        assert tool.invert(TWO_FUNCTIONS, row) == TWO_FUNCTIONS.replace("if a:", "changed", 1)
    else:
        with pytest.raises(ValueError, match="2 times"):
            tool.invert(TWO_FUNCTIONS, row)


def test_a_function_must_be_there() -> None:
    with pytest.raises(ValueError, match="no such function"):
        tool.invert("x = 1\n", ROWS[0])
