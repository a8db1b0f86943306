"""The short way means what the long one does."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from fastmesh.cli import commands, quick, waiting

WAITS = [
    [],
    ["app"],
    ["--", "app", "--timeout", "1s"],
    ["--timeout", "5s", "app"],
    ["--timeout=5s", "--", "-app"],
    ["--admin", "10.0.0.1:9400", "app", "-x"],
    ["--admin=unix:/run/fm.sock", "--timeout", "90s"],
    ["--admin", "http://localhost:9400/", "--", "app"],
    ["--admin", ":9400", "--admin", "9401"],
]


@pytest.fixture
def waited(monkeypatch):
    calls = []

    def wait(admin, seconds, command):
        calls.append((admin, seconds, command))
        return 0

    monkeypatch.setattr(waiting, "wait", wait)
    return calls


@pytest.mark.parametrize("arguments", WAITS, ids=" ".join)
@pytest.mark.parametrize("admin", ["", "10.9.9.9:1"])
def test_wait_is_read_alike(waited, monkeypatch, arguments, admin):
    monkeypatch.setenv("FASTMESH_ADMIN", admin)
    assert quick.run(["wait", *arguments]) == 0
    assert CliRunner().invoke(commands.cli, ["wait", *arguments]).exit_code == 0
    short, long = waited
    assert short == long


@pytest.mark.parametrize(
    "arguments",
    [
        *(["wait", *rest] for rest in (["--help"], ["-h"], ["--timeout", "2m"], ["--timeout", "1.5s"])),
        *(
            ["wait", *rest]
            for rest in (["--timeout"], ["--timeout", "s"], ["--timeout", "5"], ["--nope", "x"])
        ),
        *(["wait", "--admin", "nowhere"], ["wait", "-", "app"]),
        *(["run"], ["run", "--help"], ["run", "--takeover", "x", "f.yaml"], ["run", "a", "b"]),
        *([], ["--version"], ["healthcheck"], ["waits"]),
    ],
    ids=" ".join,
)
def test_what_is_not_plain_is_left_to_the_long_way(waited, monkeypatch, arguments):
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("executed"))
    assert quick.run(arguments) is None
    assert waited == []


def test_a_longer_time_is_read_as_in_the_file(waited):
    assert CliRunner().invoke(commands.cli, ["wait", "--timeout", "1m30s"]).exit_code == 0
    result = CliRunner().invoke(commands.cli, ["wait", "--timeout", "5"])
    assert result.exit_code == 2
    assert "`5` has no unit; write `5s`" in result.output
    assert waited == [("127.0.0.1:9400", 90.0, [])]


def test_run_turns_into_the_bare_supervisor(monkeypatch, tmp_path):
    called = []

    def execv(program, arguments):
        called.append((program, arguments))
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", execv)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        quick.run(["run", "some file.yaml"])
    # Away from where fastmesh is imported from, the working directory is no place to import from.
    assert called == [(sys.executable, [sys.executable, "-P", "-m", "fastmesh.supervisor", "some file.yaml"])]


@pytest.mark.parametrize("arguments", [["wait", "--timeout", "0s", "--", "true"], ["run", "x.yaml"]])
def test_the_short_way_imports_next_to_nothing(arguments):
    """An application waits for it."""
    code = (
        "import os, sys\nfrom fastmesh.cli import main\n"
        "os.execv = lambda *_: sys.exit(0)\n"
        f"try:\n    main([*{arguments!r}])\nexcept SystemExit:\n    pass\n"
        "heavy = {'trio', 'click', 'msgspec', 'yaml', 'h11', 'json', 're', 'typing', 'pathlib', 'inspect'}\n"
        "print('heavy:', sorted((heavy | {'encodings.idna', 'dataclasses'}) & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "heavy: []"
