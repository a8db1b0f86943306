import pytest
from click.testing import CliRunner

from fastmesh.cli import commands
from fastmesh.sidecar import interception
from fastmesh.sidecar.interception import WrongUser
from fastmesh.sidecar.ranges import parse_networks
from fastmesh.sidecar.rules import Interception
from fastmesh.sidecar.tools import InterceptionError


def invoke(*arguments):
    return CliRunner().invoke(commands.cli, ("sidecar", "iptables", *arguments), prog_name="fastmesh")


@pytest.fixture
def asked(monkeypatch):
    """What `fastmesh.sidecar.interception` was asked for; it answers with a line."""
    calls = []

    def function(name):
        def call(*arguments):
            calls.append((name, *arguments))
            return ["done"]

        return call

    for name in ("apply", "remove", "dry_run"):
        monkeypatch.setattr(interception, name, function(name))
    return calls


@pytest.mark.parametrize(
    ("options", "call"),
    [
        (["--apply"], ("apply", Interception(), None)),
        (["--remove"], ("remove",)),
        (["--dry-run"], ("dry_run", Interception(), None)),
        (["--apply", "--dry-run"], ("dry_run", Interception(), None)),
        (["--remove", "--dry-run"], ("dry_run", None, None)),
        (["--apply", "--iptables-mode", "legacy"], ("apply", Interception(), "legacy")),
        (
            ["--apply", "--proxy-uid", "5", "--proxy-uid", "6", "--proxy-gid", "7", "--proxy-uid", "5"],
            ("apply", Interception(uids=(5, 6), gids=(7,)), None),
        ),
        (
            ["--apply", "--inbound-port", "1", "--outbound-port", "2", "--admin-port", "3"],
            ("apply", Interception(inbound_port=1, outbound_port=2, admin_port=3), None),
        ),
        (
            ["--apply", "--include-inbound-ports", "80", "--exclude-inbound-ports", "22,25-30"],
            (
                "apply",
                Interception(include_inbound_ports=((80, 80),), exclude_inbound_ports=((22, 22), (25, 30))),
                None,
            ),
        ),
        (
            ["--apply", "--include-outbound-ports", "80", "--exclude-outbound-ports", "22"],
            (
                "apply",
                Interception(include_outbound_ports=((80, 80),), exclude_outbound_ports=((22, 22),)),
                None,
            ),
        ),
        (
            [
                "--apply",
                "--include-outbound-ranges",
                "10.0.0.0/8",
                "--exclude-outbound-ranges",
                "10.1.0.0/16",
            ],
            (
                "apply",
                Interception(
                    include_outbound_ranges=parse_networks(["10.0.0.0/8"]),
                    exclude_outbound_ranges=parse_networks(["10.1.0.0/16"]),
                ),
                None,
            ),
        ),
    ],
)
def test_options(asked, options, call):
    result = invoke(*options)
    assert (result.exit_code, result.output) == (0, "done\n")
    assert asked == [call]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--apply, --remove and --dry-run"),
        (["--apply", "--remove"], "--apply, --remove and --dry-run"),
        (["--apply", "--proxy-uid", "0"], "0 is root"),
        (["--apply", "--proxy-gid", "0"], "0 is root"),
        (["--apply", "--proxy-uid", "-1"], "range"),
        (["--apply", "--inbound-port", "15001"], "must differ"),
        (["--apply", "--inbound-port", "9400"], "must differ"),
        (["--apply", "--admin-port", "15001"], "must differ"),
        (["--apply", "--exclude-inbound-ports", "http"], "`http` is no port"),
        (["--apply", "--exclude-outbound-ranges", "10.0.0.1/8"], "the range is `10.0.0.0/8`"),
        (["--apply", "--iptables-mode", "bpf"], "bpf"),
        (["--apply", "--include-inbound-ports", "none", "--include-outbound-ranges", "none"], "nothing"),
        (["--apply", "--include-inbound-ports", "none", "--include-outbound-ports", "none"], "nothing"),
    ],
)
def test_wrong_usage(asked, options, said):
    result = invoke(*options)
    assert result.exit_code == 2
    assert said in result.output
    assert asked == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(InterceptionError("no such kernel"), 1, "no such kernel"), (WrongUser("who"), 3, "refused: who")],
)
def test_failures_have_their_exit_codes(monkeypatch, error, code, said):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(interception, "apply", fail)
    result = invoke("--apply")
    assert result.exit_code == code
    assert said in result.output


def test_help_has_examples_and_exit_codes():
    result = invoke("--help")
    assert result.exit_code == 0
    assert "fastmesh sidecar iptables --remove\n" in result.output  # lines are as they were written
    assert "3 refused" in result.output
