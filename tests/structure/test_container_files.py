"""The files that images are built from say what the package says."""

import re
from pathlib import Path

from fastmesh import __version__
from support.native_source import ROOT

DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


def test_the_version_of_the_image_is_that_of_the_package() -> None:
    assert re.findall(r"^ARG VERSION=(.*)$", DOCKERFILE, re.MULTILINE) == [__version__]


def test_nothing_needs_more_than_an_old_builder() -> None:
    """Debian's engine builds without BuildKit: no mounts, no here-documents, no front end to pull."""
    for path in (ROOT / "docker").iterdir():
        text = path.read_text()
        assert not re.search(r"--mount|<<|^# *syntax=|--chmod|--link", text, re.MULTILINE), path


def test_the_context_lets_through_all_that_a_wheel_is_made_of() -> None:
    """What stands in .dockerignore is a list of what is let through: a new source folder must be added."""
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        Path(name).parts[0]
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for name in line.split()
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)
