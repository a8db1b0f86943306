"""What is in the image, and what is not."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fastmesh import __version__
from support.engine import Engine
from support.native_source import ROOT

ADDED_AT_MOST = 30 << 20
# Prints what of the image's Python is amiss.
LOOK_AT_PYTHON = """
import importlib.util, os, pathlib, sys
for name in ("pip", "setuptools", "pkg_resources", "wheel", "Cython", "pytest"):
    if importlib.util.find_spec(name):
        print(name, "is there")
root = pathlib.Path("/opt/fastmesh")
for path in root.rglob("*"):
    if path.suffix == ".so" and b"\\0.debug_info\\0" in path.read_bytes():
        print(path, "has debugging symbols")
    if path.name.startswith("_t_") or path.name in ("tests", "test"):
        print(path, "is for tests")
    if os.access(path, os.W_OK) and not path.is_symlink():
        print(path, "can be written to")
import trio, fastmesh.cli.commands, fastmesh.supervisor.main, fastmesh.supervisor.app, fastmesh.admin.server
for module in list(sys.modules.values()):
    cached = getattr(module, "__cached__", None)
    if cached and module.__name__ != "__main__" and not pathlib.Path(cached).exists():
        print(module.__name__, "has no bytecode")
"""


def facts(engine: Engine, tag: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("image", "inspect", tag))[0]
    return found


def test_what_the_image_says_of_itself(engine: Engine, image: str) -> None:
    config = facts(engine, image)["Config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "fastmesh"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert {"org.opencontainers.image.source", "org.opencontainers.image.revision"} <= labels.keys()
    assert config["User"] == "1337:1337"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "fastmesh", "healthcheck"]
    assert config["Entrypoint"] == ["fastmesh"]
    assert config["Cmd"] == ["demo", "--host", "0.0.0.0"]


def test_nothing_is_in_it_that_serving_does_not_need(engine: Engine, image: str) -> None:
    """The user is that of the image, so what could be written to would be found by its own process."""
    found = engine.docker(
        "run", "--rm", "--entrypoint", "/opt/fastmesh/bin/python3", image, "-c", LOOK_AT_PYTHON
    )
    assert found == ""
    tools = "command -v gcc cc make pip pip3 strip || echo none"
    assert engine.docker("run", "--rm", "--entrypoint", "sh", image, "-c", tools).strip() == "none"


def test_the_version_and_the_user_are_right_inside(engine: Engine, image: str) -> None:
    assert engine.docker("run", "--rm", image, "version").startswith(f"fastmesh {__version__} ")
    user = engine.docker("run", "--rm", "--entrypoint", "id", image)
    assert user.startswith("uid=1337(fastmesh) gid=1337(fastmesh)")


def test_it_adds_at_most_30_mib_to_its_base(engine: Engine, image: str, base: str, tmp_path: Path) -> None:
    of_the_base = len(facts(engine, base)["RootFS"]["Layers"])
    engine.docker("save", "--output", str(tmp_path / "image.tar"), image)
    sizes = []
    with tarfile.open(tmp_path / "image.tar") as archive:
        listed = archive.extractfile("manifest.json")
        assert listed is not None
        for name in json.load(listed)[0]["Layers"][of_the_base:]:
            layer = archive.extractfile(name)
            assert layer is not None
            sizes.append(len(gzip.compress(layer.read(), 6)))
    print(f"added layers, compressed: {', '.join(f'{size / (1 << 20):.1f} MiB' for size in sizes)}")
    assert 1 << 20 < sum(sizes) <= ADDED_AT_MOST


def test_the_init_image_runs_as_root_and_has_iptables(engine: Engine, init_image: str) -> None:
    config = facts(engine, init_image)["Config"]
    assert config["User"] == "0:0"
    assert config["Entrypoint"] == ["fastmesh", "sidecar", "iptables"]
    assert config["Cmd"] == ["--apply"]
    assert config["Labels"]["org.opencontainers.image.title"] == "fastmesh-init"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    for program in ("iptables", "ip6tables", "iptables-save"):
        shown = engine.docker("run", "--rm", "--entrypoint", program, init_image, "--version")
        assert shown.startswith(f"{program} v")


@pytest.mark.timeout(600)
def test_make_image_builds_both(engine: Engine, base: str, image: str, init_image: str) -> None:
    """What is the same comes from the layers of the images above."""
    name = "fastmesh-test-made"
    make = ["make", "image", f"IMAGE={name}", f"BASE={base}"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    run = subprocess.run(
        make, cwd=ROOT, env={**kept, **engine.environment}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    try:
        assert engine.docker("run", "--rm", name, "version").startswith(f"fastmesh {__version__} ")
        assert facts(engine, f"{name}-init")["Config"]["User"] == "0:0"
        revision = facts(engine, name)["Config"]["Labels"]["org.opencontainers.image.revision"]
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert revision == head.stdout.strip()
    finally:
        tags = (f"{name}-init", name, f"{name}-init:{__version__}", f"{name}:{__version__}")
        engine.docker("rmi", *tags)
