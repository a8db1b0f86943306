"""Builds the native half: every ``.pyx`` under ``src_ext`` becomes a module of the same dotted name.

Environment:
``FASTMESH_SANITIZE``     ``address``, ``undefined`` or ``thread`` (a comma joins several): a sanitizer build.
``FASTMESH_TEST_MODULES`` ``1`` also builds the ``_t_*`` modules, which only tests import. Never in a wheel.
``FASTMESH_CFLAGS``       further compiler flags, for example ``-O1 -g``.
``FASTMESH_SLOWDOWN_NS``  each exchange burns so many nanoseconds of CPU time, for the benchmarks to prove
                          that they would see it (``bench/harness/slowed.py``). Never in a wheel or in place.
``FASTMESH_SKIP_NATIVE``  ``1`` leaves the native half out of this one command: ``make`` installs the package
                          in editable mode first and then compiles in place, which only redoes what changed.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    sys.exit(f"fastmesh needs Linux (it is built on epoll and splice); this is {sys.platform}.")

# After the check of the platform, so that its message is seen first.
from Cython.Build import cythonize
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
SOURCES = ROOT / "src_ext"
SANITIZERS = [name for name in os.environ.get("FASTMESH_SANITIZE", "").split(",") if name]
FOR_A_WHEEL = "bdist_wheel" in sys.argv
WITH_TEST_MODULES = os.environ.get("FASTMESH_TEST_MODULES") == "1" and not FOR_A_WHEEL
SKIP_NATIVE = os.environ.get("FASTMESH_SKIP_NATIVE") == "1" and not FOR_A_WHEEL
SLOWDOWN_NS = os.environ.get("FASTMESH_SLOWDOWN_NS", "").lstrip("0")
CPUS = len(os.sched_getaffinity(0))

if SLOWDOWN_NS and not SLOWDOWN_NS.isdecimal():
    sys.exit(f"FASTMESH_SLOWDOWN_NS is a whole number of nanoseconds, not {SLOWDOWN_NS!r}.")
if SLOWDOWN_NS and FOR_A_WHEEL:
    sys.exit("FASTMESH_SLOWDOWN_NS is set: a slowed fastmesh is for the benchmarks alone and never packed.")

COMPILE_ARGS = [
    "-O3",
    "-g1",
    "-std=gnu11",
    "-fno-semantic-interposition",
    "-fno-strict-aliasing",
    "-ffp-contract=off",  # tables of points are the same on every machine
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
if SLOWDOWN_NS:
    COMPILE_ARGS.append(f"-DFM_SLOWDOWN_NS={SLOWDOWN_NS}")
COMPILE_ARGS += os.environ.get("FASTMESH_CFLAGS", "").split()

# The generated C is the same for every set of compiler flags, so all builds share it. A change of this file
# may change Cython's directives, which cythonize does not notice by itself.
GENERATED = Path("build/cython")


def relative_to_root(paths: list[Path]) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def native_modules() -> list[Extension]:
    # Compiled again when a C header or this file (compiler flags) changed; cythonize follows cimports itself.
    depends = [*relative_to_root(list(SOURCES.rglob("*.h"))), "setup.py"]
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
                depends=depends,
                extra_compile_args=COMPILE_ARGS,
                extra_link_args=LINK_ARGS,
            )
        )
    return modules


def generated_is_older_than_this_file() -> bool:
    written = [path.stat().st_mtime for path in (ROOT / GENERATED).rglob("*.c")]
    return bool(written) and min(written) < Path(__file__).stat().st_mtime


class ParallelBuild(build_ext):
    """Compiles as many modules at once as there are CPUs, and keeps the objects of each kind of build apart.

    An in-place build has its own folder: ``bdist_wheel`` packs whatever lies in ``build/lib…``, so a test
    module that was once built there would end in a wheel.
    """

    def finalize_options(self) -> None:
        if self.inplace and SLOWDOWN_NS:
            sys.exit(
                "FASTMESH_SLOWDOWN_NS is set, and would slow the modules in the source tree;"
                " bench/harness/slowed.py builds a copy."
            )
        if self.inplace and self.build_lib is None and self.build_temp is None:
            base = Path("build", "-".join(["inplace", *SANITIZERS]))
            self.build_lib, self.build_temp = str(base / "lib"), str(base / "objects")
        super().finalize_options()
        if self.parallel is None:
            self.parallel = CPUS


setup(
    cmdclass={"build_ext": ParallelBuild},
    ext_modules=[]
    if SKIP_NATIVE
    else cythonize(
        native_modules(),
        include_path=["src_ext"],
        build_dir=str(GENERATED),
        force=generated_is_older_than_this_file(),
        nthreads=CPUS,
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
