"""The example units as systemd's own checker reads them."""

import re
import subprocess
from pathlib import Path

import pytest

from support.proxy import ROOT
from support.real import environment, program

UNITS = ROOT / "examples/systemd"
# Of 10. Whoever loosens the unit should know: docs/operations.md says what it may do.
EXPOSURE_AT_MOST = 2.0


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a command that this machine has."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/local/bin/fastmesh", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("systemd-analyze"), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        check=False,
    )


def test_systemd_has_nothing_to_say_of_them(units: Path) -> None:
    result = analyze("verify", "--man=no", "--recursive-errors=no", *sorted(units.iterdir()))
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.parametrize("mistake", ["Typ=notify", "WatchdogSec=often", "SystemCallFilter=@nonsense"])
def test_a_mistake_would_be_seen(units: Path, mistake: str) -> None:
    unit = units / "fastmesh.service"
    unit.write_text(unit.read_text().replace("[Service]\n", f"[Service]\n{mistake}\n"))
    result = analyze("verify", "--man=no", "--recursive-errors=no", unit)
    assert "fastmesh.service:" in result.stderr


def test_the_service_is_shut_in(units: Path) -> None:
    result = analyze("security", "--offline=true", "--no-pager", units / "fastmesh.service")
    level = re.search(r"Overall exposure level for fastmesh.service: ([0-9.]+)", result.stdout)
    assert level is not None, result.stdout + result.stderr
    assert float(level[1]) <= EXPOSURE_AT_MOST, result.stdout
