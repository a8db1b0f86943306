"""What a wheel and a source archive hold."""

import fcntl
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import native_source as native

ROOT = native.ROOT
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive made of the tree as it stands, with everything that was built in it."""
    folder = tmp_path_factory.mktemp("sdist")
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "sdist.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of pytest may be at it
        build("sdist", folder, ROOT)
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel_names(source_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The files of a wheel that was made of the source archive, while test modules were asked for."""
    folder = tmp_path_factory.mktemp("wheel")
    # Not by tarfile: `filter` came within 3.11, and without it newer versions warn.
    subprocess.run(["tar", "-xzf", str(source_archive), "-C", str(folder)], check=True)
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    # What an in-place build leaves behind must not get in either.
    stray = unpacked / "fastmesh/_native/sys/_t_stray.so"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"")
    build("wheel", folder, unpacked)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        yield opened.namelist()


def build(kind: str, into: Path, tree: Path) -> None:
    call = f"import setuptools.build_meta as b; b.build_{kind}({str(into)!r})"
    environment = {**os.environ, "FASTMESH_TEST_MODULES": "1", "FASTMESH_CFLAGS": "-O0 -w"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", call],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_test_modules_stay_out(wheel_names: list[str]) -> None:
    assert [name for name in wheel_names if "/_t_" in name] == []


def test_every_module_is_in(wheel_names: list[str]) -> None:
    python = {str(p.relative_to(ROOT)) for p in (ROOT / "fastmesh").rglob("*.py")}
    assert python <= set(wheel_names)
    compiled = {name.split(".")[0] for name in wheel_names if name.endswith(".so")}
    wanted = {
        str(s.path.relative_to("src_ext").with_suffix(""))
        for s in native.all_sources()
        if s.path.suffix == ".pyx" and not native.is_test_module(s.path)
    }
    assert compiled == wanted


def test_types_are_in(wheel_names: list[str]) -> None:
    stubs = {str(p.relative_to(ROOT)) for p in (ROOT / "fastmesh").rglob("*.pyi") if "_t_" not in p.name}
    assert {"fastmesh/py.typed", *stubs} <= set(wheel_names)


def test_nothing_else_is_in(wheel_names: list[str]) -> None:
    beside = {name.split("/")[0] for name in wheel_names if not name.startswith("fastmesh/")}
    assert [name for name in beside if not name.endswith(".dist-info")] == []
    assert {Path(name).suffix for name in wheel_names if name.startswith("fastmesh/")} <= {
        *(".py", ".pyi", ".so", ".typed")
    }


def test_the_source_archive_holds_what_a_build_needs(source_archive: Path) -> None:
    with tarfile.open(source_archive) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(p.relative_to(ROOT)) for p in native.SOURCES.rglob("*") if p.is_file()}
    assert sources <= names
    assert [name for name in names if name.endswith((".so", ".c", ".pyc")) or name.startswith("build/")] == []
