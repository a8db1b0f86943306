"""Commands, their help, options and exit codes."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fastmesh import __version__
from fastmesh.cli import admin_client, commands
from fastmesh.cli.admin_client import AdminUnreachable, Answer

NAMES = (
    "run",
    "validate",
    "schema",
    "demo",
    "reload",
    "drain",
    "wait",
    "healthcheck",
    "sidecar",
    "version",
    "completion",
)


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


def progress(**changes):
    process = {"state": "draining", "in_progress": 0, "tunnels": 0, "connections": 0, "seconds": 1.2}
    return (200, {"process": {**process, "timeout": 30.0, "exit_code": None, **changes}, "drains": []})


@pytest.mark.parametrize(("code", "word"), [(0, "ended\n"), (4, "3 in progress were cut off\n")])
def test_drain_can_wait_for_the_end(admin, code, word):
    admin.answers["/api/v1/drain"] = (202, {"result": "draining"})
    assert invoke("drain").output == "draining\n"
    assert len(admin.asked) == 1
    admin.answers["/api/v1/drain?watch"] = [
        (202, {"result": "draining"}),
        progress(in_progress=3, connections=1000, tunnels=1),
        progress(state="ended", exit_code=code, in_progress=3 if code else 0),
    ]
    admin.answers["/healthz"] = [(200, "ok"), AdminUnreachable("gone")]
    result = invoke("drain", "--wait")
    first, second, last = result.output.splitlines(keepends=True)
    assert first == "draining\n"
    assert second == "draining: 3 in progress (1 tunnels or TCP), 1,000 connections, 1 s of 30 s\n"
    assert last.endswith(word)
    assert result.exit_code == code


def test_a_process_that_is_gone_without_a_word(admin):
    admin.answers["/api/v1/drain?watch"] = [(202, {"result": "draining"}), AdminUnreachable("gone")]
    result = invoke("drain", "--wait")
    assert result.exit_code == 1
    assert "without a word" in result.output


def test_another_process_that_answers_in_its_place(admin):
    admin.answers["/api/v1/drain?watch"] = [
        (202, {"result": "draining"}),
        progress(),
        progress(state="serving", seconds=None, timeout=None),
    ]
    result = invoke("drain", "--wait")
    assert result.exit_code == 1
    assert "another process answers there" in result.output


TARGETS = [
    (["--listener", "web"], "listener=web", {"kind": "listener", "listener": "web"}, "listener web"),
    (["--service", "a b"], "service=a+b", {"kind": "service", "service": "a b"}, "service a b"),
    (
        ["--service", "u", "--endpoint", "10.0.0.1:80"],
        "service=u&endpoint=10.0.0.1%3A80",
        {"kind": "endpoint", "service": "u", "endpoint": "10.0.0.1:80"},
        "endpoint 10.0.0.1:80 of service u",
    ),
]


@pytest.mark.parametrize(
    ("options", "query", "target", "text"), TARGETS, ids=["listener", "service", "endpoint"]
)
def test_a_part_can_drain(admin, options, query, target, text):
    answer = {"result": "draining", "message": f"{text} drains", "target": target, "note": "until a restart"}
    admin.answers[f"/api/v1/drain?{query}"] = (200, answer)
    result = invoke("drain", *options)
    assert (result.exit_code, result.output) == (0, f"{text} drains\nuntil a restart\n")
    entry = {**target, "by": "api", "in_flight": 2, "connections": 5, "done": False}
    other = {"kind": "listener", "listener": "other", "in_flight": None, "connections": 9, "done": False}
    listed = [[other, entry], [other, {**entry, "done": True}]]
    admin.answers["/api/v1/drain"] = [(200, {"drains": drains}) for drains in listed]
    result = invoke("drain", *options, "--wait")
    assert result.output.splitlines() == [
        f"{text} drains",
        f"{text} drains: 2 in flight, 5 connections",
        f"{text} has drained",
    ]
    assert result.exit_code == 0
    admin.answers[f"/api/v1/undrain?{query}"] = (200, {"message": f"{text} drains no more", "target": target})
    assert invoke("drain", *options, "--undo").output == f"{text} drains no more\n"


def test_a_drain_that_somebody_takes_back_is_not_waited_for(admin):
    _, query, target, text = TARGETS[0]
    admin.answers[f"/api/v1/drain?{query}"] = (200, {"message": f"{text} drains", "target": target})
    admin.answers["/api/v1/drain"] = [(200, {"drains": []})]
    result = invoke("drain", "--listener", "web", "--wait")
    assert (result.exit_code, result.output.splitlines()[-1]) == (1, "listener web does not drain any more")


def test_a_drain_that_is_refused(admin):
    problem = {"message": "there is no listener `wbe`", "hint": "did you mean `web`?"}
    admin.answers["/api/v1/drain?listener=wbe"] = (404, problem)
    result = invoke("drain", "--listener", "wbe")
    assert (result.exit_code, result.output) == (1, "there is no listener `wbe`; did you mean `web`?\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listener", "web", "--service", "s"],
        ["--endpoint", "10.0.0.1:80"],
        ["--undo"],
        ["--undo", "--wait", "--service", "s"],
    ],
)
def test_what_cannot_be_meant_by_drain(admin, arguments):
    assert invoke("drain", *arguments).exit_code == 2
    assert admin.asked == []


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
