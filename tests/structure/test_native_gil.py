"""No data-plane function can touch the interpreter: read from the C that Cython generated.

A worker thread has no GIL, so anything of Python in a function that it may reach is a crash or a dead lock.
The sources say `noexcept nogil`; only the generated C tells whether the compiler put a call in nevertheless.
"""

from pathlib import Path

import pytest
from Cython.Compiler.Main import CompilationOptions
from Cython.Compiler.Main import compile as compile_cython

from support import native_source as native

# Sources whose functions run on the control thread and may use Python. No data-plane source may call them,
# which the compiler sees to: they are not `nogil`. Those of their functions that are `nogil` are checked.
CONTROL_THREAD = {
    "src_ext/fastmesh/_native/core/blocks.pyx": "builds the blocks of a snapshot of Python values",
    "src_ext/fastmesh/_native/core/engine.pyx": "the class that Python sees",
    "src_ext/fastmesh/_native/route/build.pyx": "builds a route table of Python values",
}


def data_plane_sources() -> list[native.Source]:
    return [
        source
        for source in native.all_sources()
        if not native.is_test_module(source.path)
        and str(source.path.with_suffix(".pyx")) not in CONTROL_THREAD
    ]


def test_listed_sources_exist() -> None:
    assert [path for path in CONTROL_THREAD if not (native.ROOT / path).exists()] == []


def test_every_data_plane_function_is_noexcept_nogil() -> None:
    wrong = [
        f"{source.path}:{function.line}: {function.qualname} is not `noexcept nogil`"
        for source in data_plane_sources()
        for function in source.functions
        if not (function.nogil and function.noexcept and not function.takes_gil)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_data_plane_function_calls_python() -> None:
    wanted = {f.c_name: f for source in native.all_sources() for f in source.functions if f.nogil}
    compiled = [s for s in native.all_sources() if s.path.suffix == ".pyx"]
    seen: set[str] = set()
    problems = []
    for source in compiled:
        generated = native.GENERATED / source.path.with_suffix(".c")
        if not generated.exists():
            assert native.is_test_module(source.path), f"{generated} is missing: run `make build`"
            continue
        for name, line, body in native.c_functions(generated.read_text()):
            if name in wanted:
                seen.add(name)
                problems += [
                    f"{wanted[name].module}.{wanted[name].qualname}: {call} ({generated}:{line})"
                    for call in native.python_calls(body)
                ]
    assert not problems, "\n".join(sorted(set(problems)))
    # A change of Cython's naming must not make this test look at nothing.
    unseen = [
        f.c_name
        for s in compiled
        for f in s.functions
        if f.nogil and f.c_name not in seen and not native.is_test_module(s.path)
    ]
    assert not unseen, f"not found in the generated C: {unseen}"


CLEAN = """
cdef enum: LIMIT = 4
cdef struct pair_t:
    int a
    unsigned char b[8]
cdef inline int half(int x) noexcept nogil:
    return x // 2
cdef int probed(pair_t *p, int i) noexcept nogil:
    cdef int k
    for k in range(LIMIT):
        p.a += half(p.b[i]) % 3
    return p.a
"""
PROBED = "cdef int probed(int x) noexcept nogil:\n    "
VIOLATIONS = {
    "a block with the GIL": PROBED + "with gil:\n        print(x)\n    return x\n",
    "raise": PROBED + "if x: raise ValueError(x)\n    return x\n",
    "assert": PROBED + "assert x > 0\n    return x\n",
    "a callee that may raise": (
        f"cdef int other(int x) except? -1 nogil:\n    return x\n{PROBED}return other(x)\n"
    ),
    "a callee without noexcept": (
        f"cdef void other(int x) nogil:\n    pass\n{PROBED}other(x)\n    return x\n"
    ),
    "division as Python does it": (
        "cimport cython\n@cython.cdivision(False)\n"
        "cdef int probed(int x, int y) noexcept nogil:\n    return x // y\n"
    ),
    "a checked index": (
        "cimport cython\n@cython.boundscheck(True)\n"
        "cdef int probed(int[:] v, int i) noexcept nogil:\n    return v[i]\n"
    ),
}


def calls_in(source: str, folder: Path) -> list[str]:
    """What ``probed`` uses of Python in the C that Cython makes of ``source``, with our directives."""
    path = folder / "fixture.pyx"
    path.write_text(source)
    options = CompilationOptions(
        language_level=3, compiler_directives={"cdivision": True, "boundscheck": False, "wraparound": False}
    )
    assert compile_cython(str(path), options).num_errors == 0
    parsed = native.parse(source, "fixture", path, is_pxd=False)
    (name,) = (f.c_name for f in parsed.functions if f.qualname == "probed")
    (body,) = (
        body for found, _, body in native.c_functions(path.with_suffix(".c").read_text()) if found == name
    )
    return native.python_calls(body)


def test_a_clean_function_passes(tmp_path: Path) -> None:
    assert calls_in(CLEAN, tmp_path) == []


@pytest.mark.parametrize("what", VIOLATIONS)
def test_a_violation_is_caught(what: str, tmp_path: Path) -> None:
    assert calls_in(VIOLATIONS[what], tmp_path)


def test_native_headers_do_not_include_python() -> None:
    wrong = [p for p in native.SOURCES.rglob("*.h") if "Python.h" in p.read_text()]
    assert not wrong
