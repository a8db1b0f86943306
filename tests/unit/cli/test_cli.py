"""The entry point."""

import subprocess
import sys

import pytest

import fastmesh.cli


def test_python_m_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "fastmesh", "version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("fastmesh ")


def test_another_system_gets_a_clear_message(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert fastmesh.cli.main(["version"]) == 1
    assert "needs Linux" in capsys.readouterr().err


def test_main_ends_with_the_exit_code():
    with pytest.raises(SystemExit) as ended:
        fastmesh.cli.main(["no-such-command"])
    assert ended.value.code == 2
