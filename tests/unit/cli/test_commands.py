"""Commands, their help, options and exit codes."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fastmesh import __version__
from fastmesh.cli import admin_client, commands
from fastmesh.cli.admin_client import AdminUnreachable, Answer

NAMES = ("run", "validate", "schema", "demo", "reload", "drain", "healthcheck", "version", "completion")


def invoke(*arguments):
    return CliRunner().invoke(commands.cli, arguments, prog_name="fastmesh")


@pytest.fixture
def admin(monkeypatch):
    """Answers by path; what was asked is in `asked`."""

    class Admin:
        def __init__(self):
            self.answers = {}
            self.asked = []

        def request(self, method, path, address, *, token=None, seconds=5.0):
            self.asked.append((method, path, address, token))
            answer = self.answers[path]
            if isinstance(answer, list):
                answer = answer.pop(0)
            if isinstance(answer, Exception):
                raise answer
            status, body = answer
            return Answer(status, body if isinstance(body, str) else json.dumps(body))

    fake = Admin()
    monkeypatch.setattr(admin_client, "request", fake.request)
    return fake


def test_every_command_has_help_and_an_example():
    assert set(commands.cli.commands) == set(NAMES)
    for name in NAMES:
        result = invoke(name, "--help")
        assert result.exit_code == 0
        assert "Example" in result.output
        assert f"fastmesh {name}" in result.output
        assert commands.cli.commands[name].help


def test_the_list_shows_exit_codes_and_completion():
    output = invoke("--help").output
    assert "4 drain deadline passed" in output
    assert "completion bash" in output


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["validate"], ["nope"], ["validate", "--format", "xml", "f"], ["drain", "--admin", "nowhere"]],
)
def test_usage_errors_exit_2(arguments):
    assert invoke(*arguments).exit_code == 2


def test_version():
    assert __version__ in invoke("version").output
    assert __version__ in invoke("--version").output
    assert json.loads(invoke("version", "--format", "json").output)["version"] == __version__


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_FASTMESH_COMPLETE" in result.output


def test_healthcheck(admin):
    admin.answers["/readyz"] = [(200, "ready\n"), (503, "draining\n"), AdminUnreachable("nobody")]
    assert (invoke("healthcheck").exit_code, invoke("healthcheck").exit_code) == (0, 1)
    result = invoke("healthcheck", "--admin", "unix:/x")
    assert result.exit_code == 1
    assert "nobody" in result.output
    assert admin.asked[0][:3] == ("GET", "/readyz", "127.0.0.1:9400")
    assert admin.asked[2][2] == "unix:/x"


def test_the_admin_address_comes_from_the_environment(admin):
    admin.answers["/readyz"] = (200, "ready\n")
    CliRunner().invoke(commands.cli, ["healthcheck"], env={"FASTMESH_ADMIN": "10.0.0.1:1"})
    assert admin.asked[0][2] == "10.0.0.1:1"


def test_reload_says_what_became_of_it(admin):
    admin.answers["/api/v1/reload"] = [
        (
            200,
            {
                "result": "applied",
                "changes": ["service a: endpoint b added"],
                "warnings": ["`workers` changed"],
            },
        ),
        (409, {"result": "refused", "problems": [{"file": "f", "line": 2, "column": 3, "message": "no"}]}),
        (409, {"result": "refused", "error": "1.2.3.4:80 is in use"}),
        (403, {"message": "refused here", "hint": "do that"}),
        (500, "oops"),
    ]
    applied = invoke("reload", "--token", "t")
    assert (applied.exit_code, applied.output.splitlines()) == (
        0,
        ["applied", "  service a: endpoint b added", "  `workers` changed"],
    )
    assert admin.asked[0][3] == "t"
    refused = invoke("reload")
    assert refused.exit_code == 1
    assert "f:2:3: no" in refused.output
    assert "1.2.3.4:80 is in use" in invoke("reload").output
    assert "refused here; do that" in invoke("reload").output
    failed = invoke("reload")
    assert (failed.exit_code, "500: oops" in failed.output) == (1, True)


def test_drain_can_wait_for_the_end(admin):
    admin.answers["/api/v1/drain"] = (202, {"result": "draining"})
    admin.answers["/healthz"] = [(200, "ok"), (200, "ok"), AdminUnreachable("gone")]
    assert invoke("drain").output == "draining\n"
    assert len(admin.asked) == 1
    assert invoke("drain", "--wait").output == "draining\nended\n"
    assert [path for _, path, _, _ in admin.asked[2:]] == ["/healthz"] * 3


@pytest.mark.parametrize(
    "arguments", [["healthcheck", "--admin", "127.0.0.1:1"], ["version"], ["reload", "--help"]]
)
def test_light_commands_import_nothing_heavy(arguments):
    code = (
        "import sys\nfrom fastmesh.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'trio', 'cryptography', 'hdrh', 'yaml', 'msgspec', 'h11'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "heavy: []"


def test_run_turns_into_the_bare_supervisor(monkeypatch, tmp_path):
    called = []

    def execv(program, arguments):
        called.append((program, arguments))
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", execv)
    monkeypatch.chdir(tmp_path)
    invoke("run", "some file.yaml")
    program, arguments = called[0]
    assert program == sys.executable
    # Away from where fastmesh is imported from, the working directory is no place to import from.
    assert arguments[1:] == ["-P", "-m", "fastmesh.supervisor", "some file.yaml"]
