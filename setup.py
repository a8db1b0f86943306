"""Builds the native half: every ``.pyx`` under ``src_ext`` becomes a module of the same dotted name.

Environment:
``FASTMESH_SANITIZE``     ``address``, ``undefined`` or ``thread`` (a comma joins several): a sanitizer build.
``FASTMESH_TEST_MODULES`` ``1`` also builds the ``_t_*`` modules, which only tests import.
``FASTMESH_CFLAGS``       further compiler flags, for example ``-O1 -g``.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    sys.exit(f"fastmesh needs Linux (it is built on epoll and splice); this is {sys.platform}.")

from Cython.Build import cythonize  # noqa: E402  (after the platform check, so that its message is seen first)
from setuptools.command.build_ext import build_ext  # noqa: E402

ROOT = Path(__file__).parent
SOURCES = ROOT / "src_ext"
SANITIZERS = [name for name in os.environ.get("FASTMESH_SANITIZE", "").split(",") if name]
WITH_TEST_MODULES = os.environ.get("FASTMESH_TEST_MODULES") == "1"

COMPILE_ARGS = [
    "-O3",
    "-g1",
    "-std=gnu11",
    "-fno-semantic-interposition",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-unused-variable",
    "-Wno-unused-but-set-variable",
    "-Wno-missing-field-initializers",
    "-Wno-sign-compare",
    "-Wno-cast-function-type",
    "-Wno-maybe-uninitialized",
]
LINK_ARGS: list[str] = ["-lpthread"]
if SANITIZERS:
    flags = [f"-fsanitize={name}" for name in SANITIZERS]
    COMPILE_ARGS += [*flags, "-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
    LINK_ARGS += flags
COMPILE_ARGS += os.environ.get("FASTMESH_CFLAGS", "").split()


def native_modules() -> list[Extension]:
    modules = []
    for source in sorted(SOURCES.rglob("*.pyx")):
        if source.name.startswith("_t_") and not WITH_TEST_MODULES:
            continue
        name = ".".join(source.relative_to(SOURCES).with_suffix("").parts)
        modules.append(
            Extension(
                name,
                [str(source.relative_to(ROOT))],
                include_dirs=["src_ext/fastmesh/_native/sys"],
                extra_compile_args=COMPILE_ARGS,
                extra_link_args=LINK_ARGS,
            )
        )
    return modules


class ParallelBuild(build_ext):
    """Compiles as many modules at once as there are CPUs, unless told otherwise."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.parallel is None:
            self.parallel = len(os.sched_getaffinity(0))


setup(
    cmdclass={"build_ext": ParallelBuild},
    ext_modules=cythonize(
        native_modules(),
        include_path=["src_ext"],
        build_dir="build/cython" + ("-" + "-".join(SANITIZERS) if SANITIZERS else ""),
        nthreads=len(os.sched_getaffinity(0)),
        language_level=3,
        compiler_directives={
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "nonecheck": False,
            "embedsignature": True,
        },
    ),
)
