import pytest

from fastmesh.sidecar import tools
from fastmesh.sidecar.table import Table
from fastmesh.sidecar.tools import InterceptionError, Tool, Unsupported


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Makes programs of a folder that alone is looked at: name=script."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(tools, "_MORE_PLACES", ())
    # /bin is for the scripts alone.
    found = tools.shutil.which
    monkeypatch.setattr(tools.shutil, "which", lambda name, path=None: found(name, path=str(tmp_path)))

    def make(name, script="", *, companions=("-save", "-restore")):
        for end in companions:
            file = tmp_path / (name + end)
            file.write_text(f"#!/bin/sh\n{script}\n")
            file.chmod(0o755)
        return str(tmp_path / name)

    return make


def test_kinds_are_found_by_their_names(programs):
    assert tools.find("IPv4") == []
    legacy, nft = programs("iptables-legacy"), programs("iptables-nft")
    programs("iptables", "exit 1")
    assert tools.find("IPv4") == [Tool("IPv4", "nft", nft), Tool("IPv4", "legacy", legacy)]
    assert tools.find("IPv6") == []


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ("iptables-restore v1.8.9 (nf_tables)", "nft"),
        ("iptables-restore v1.8.9 (legacy)", "legacy"),
        ("iptables-restore v1.6.1", "legacy"),
    ],
)
def test_the_plain_name_says_its_kind(programs, version, mode):
    plain = programs("ip6tables", f'echo "{version}"')
    assert tools.find("IPv6") == [Tool("IPv6", mode, plain)]
    named = programs(f"ip6tables-{mode}")
    assert tools.find("IPv6") == [Tool("IPv6", mode, named)]


def test_a_program_without_its_companion_is_none(programs):
    programs("iptables-nft", companions=("-restore",))
    assert tools.find("IPv4") == []


def failing(programs, said):
    return Tool("IPv4", "nft", programs("iptables-nft", f"echo '{said}' >&2; exit 4"))


@pytest.mark.parametrize(
    ("said", "kind", "advice"),
    [
        ("Failed to initialize nft: Protocol not supported", Unsupported, "modprobe -a nf_tables"),
        ("can't initialize: Table does not exist (do you need to insmod?)", Unsupported, "modprobe"),
        ("iptables-restore: unable to initialize table `nat'", None, ""),
        (
            "Warning: Extension owner revision 0 not supported, missing kernel module?",
            Unsupported,
            "xt_owner",
        ),
        (
            "Fatal: can't open lock file /run/xtables.lock: Read-only file system",
            InterceptionError,
            "tmpfs at /run",
        ),
        ("Another app is currently holding the xtables lock.", InterceptionError, "try again"),
        (
            "Could not fetch rule set generation id: Permission denied (you must be root)",
            InterceptionError,
            "",
        ),
        ("line 3 failed", InterceptionError, "line 3 failed"),
    ],
)
def test_failures_say_what_to_do(programs, said, kind, advice):
    tool = failing(programs, said.replace("'", "'\\''"))
    for do in (tool.read, lambda: tool.restore("*nat\nCOMMIT\n")):
        with pytest.raises(InterceptionError) as raised:
            do()
        assert said in str(raised.value)
        assert "exit code 4" in str(raised.value)
        assert advice in str(raised.value)
        assert kind is None or type(raised.value) is kind


@pytest.mark.parametrize(
    ("held", "advice"), [((), "NET_ADMIN]"), ((12,), "something else"), ((12, 13), "something")]
)
def test_what_is_forbidden_names_what_is_missing(programs, monkeypatch, held, advice):
    monkeypatch.setattr(tools, "has_capability", lambda number: number in held)
    with pytest.raises(InterceptionError, match=advice):
        failing(programs, "Operation not permitted").read()


def test_a_program_that_cannot_be_started(tmp_path):
    with pytest.raises(Unsupported, match="cannot be started"):
        Tool("IPv4", "nft", str(tmp_path / "iptables")).read()


def test_texts_are_fed_and_read(programs, tmp_path):
    tool = Tool(
        "IPv4",
        "nft",
        programs("iptables-nft", f'echo "$*" >>{tmp_path}/log; cat >>{tmp_path}/log; cat {tmp_path}/log'),
    )
    tool.restore("*nat\nCOMMIT\n")
    assert (tmp_path / "log").read_text() == "--noflush -w 10\n*nat\nCOMMIT\n"
    (tmp_path / "log").write_text(":A - [0:0]\n-A A -j RETURN\n")
    assert tool.read() == Table(("A",), ("-A A -j RETURN",))


def test_capabilities_of_this_process_are_read():
    text = tools.Path("/proc/self/status").read_text()
    mask = int(text.partition("CapEff:")[2].split()[0], 16)
    assert [tools.has_capability(number) for number in range(41)] == [
        bool(mask >> number & 1) for number in range(41)
    ]


def test_what_is_missing_is_named():
    assert "no iptables here" in str(tools.missing("IPv4", None))
    assert "ip6tables of the kind legacy" in str(tools.missing("IPv6", "legacy"))
