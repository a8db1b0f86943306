"""What `fastmesh sidecar iptables` leaves in the tables: one set of rules, or what was there before it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.netns import (
    APP,
    PROXY,
    Namespace,
    give_address,
    instead_of_sbin,
    namespaces,
)

pytestmark = [
    pytest.mark.no_sanitizer,  # the command starts programs without what a sanitizer preloads
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

MODES = ("nft", "legacy")
TOOLS = ("iptables", "ip6tables")
OPTIONS = ("--exclude-outbound-ports", "25,5000-6000", "--exclude-outbound-ranges", "10.9.0.0/16,fd09::/64")
OTHERS = """\
*nat
:ZEBRA - [0:0]
-A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 82
-A PREROUTING -j ZEBRA
-A OUTPUT -m comment --comment "about \\"-j FASTMESH_OUTPUT\\", a chain" -j ZEBRA
-A ZEBRA -m comment --comment "-j" -j RETURN
COMMIT
*filter
:GATE - [0:0]
-A INPUT -p udp -j GATE
COMMIT
"""
FULL = 2 * (4 + 2)  # chains and jumps of both families


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with namespaces("pod") as (pod,):
        yield pod


def entries(rules: list[str]) -> list[str]:
    """New chains and what leads into ours from elsewhere."""
    return [
        line
        for line in rules
        if "-N FASTMESH_" in line or re.search(r"-A (?!FASTMESH_).* -[jg] FASTMESH_\w+$", line)
    ]


def add_others(pod: Namespace, mode: str) -> list[str]:
    for tool in TOOLS:
        pod.restore(f"{tool}-{mode}", OTHERS)
    return pod.rules()


def test_applied_twice_is_applied_once(pod: Namespace, mode: str) -> None:
    pod.done("--apply", "--iptables-mode", mode)
    once = pod.rules()
    assert len(entries(once)) == FULL
    said = pod.done("--apply", "--iptables-mode", mode)
    assert said.count("as before") == 2
    assert pod.rules() == once
    pod.done("--apply", "--iptables-mode", mode, *OPTIONS)
    other = pod.rules()
    assert len(entries(other)) == FULL
    assert other != once
    assert "as before" not in pod.done("--apply", "--iptables-mode", mode)
    assert pod.rules() == once


def test_what_is_read_back_is_what_was_fed(pod: Namespace, mode: str) -> None:
    """So that a second time is known to be one."""
    pod.done(
        "--apply", "--iptables-mode", mode, *OPTIONS, "--proxy-gid", "77", "--include-inbound-ports", "1-99"
    )
    assert "as before" in pod.done(
        *(
            "--apply",
            "--iptables-mode",
            mode,
            *OPTIONS,
            "--proxy-gid",
            "77",
            "--include-inbound-ports",
            "1-99",
        )
    )


def test_removal_leaves_what_was_there(pod: Namespace, mode: str) -> None:
    before = add_others(pod, mode)
    assert "nothing to remove" in pod.done("--remove")
    assert pod.rules() == before
    pod.done("--apply")
    assert len(entries(pod.rules())) == FULL
    pod.done("--apply", *OPTIONS)
    assert pod.done("--remove").count("removed") == 2
    assert pod.rules() == before
    assert "nothing to remove" in pod.done("--remove")
    assert pod.rules() == before


def test_rules_stay_in_their_places(pod: Namespace, mode: str) -> None:
    """What somebody put behind a jump of ours stays behind it when other options are applied."""
    pod.done("--apply", "--iptables-mode", mode)
    add_others(pod, mode)
    order = [line for line in pod.rules() if " -A OUTPUT" in line or " -A PREROUTING" in line]
    pod.done("--apply", *OPTIONS)
    assert [line for line in pod.rules() if " -A OUTPUT" in line or " -A PREROUTING" in line] == order


def test_what_leads_into_our_chains_goes_with_them(pod: Namespace, mode: str) -> None:
    """Earlier versions and helping hands: jumps that are doubled, elsewhere, or into an old chain."""
    before = add_others(pod, mode)
    pod.done("--apply", "--iptables-mode", mode)
    for tool in TOOLS:
        pod.restore(
            f"{tool}-{mode}",
            "*nat\n:FASTMESH_OLD - [0:0]\n-A OUTPUT -p tcp -j FASTMESH_OUTPUT\n-A OUTPUT -j FASTMESH_OLD\n"
            "-A ZEBRA -g FASTMESH_INBOUND\n-A FASTMESH_OLD -j FASTMESH_REDIRECT\nCOMMIT\n",
        )
    assert len(entries(pod.rules())) > FULL
    pod.done("--apply")
    assert len(entries(pod.rules())) == FULL
    pod.done("--remove")
    assert pod.rules() == before


@pytest.mark.parametrize("first", MODES)
def test_only_one_kind_of_iptables_has_the_rules(pod: Namespace, first: str) -> None:
    second = MODES[1 - MODES.index(first)]
    pod.done("--apply", "--iptables-mode", first)
    pod.done("--apply", "--iptables-mode", second)
    rules = pod.own_rules()
    assert len(entries(rules)) == FULL
    assert all(f"-{second}-" in line for line in rules)
    pod.done("--remove")
    assert pod.rules() == []


def test_the_kind_in_use_is_taken(pod: Namespace, mode: str) -> None:
    add_others(pod, mode)
    pod.done("--apply")
    assert all(f"-{mode}-" in line for line in pod.own_rules())


def test_looking_does_not_make_tables(pod: Namespace) -> None:
    """To ask iptables-legacy for a table makes it, and then all others warn of it."""
    pod.done("--apply")
    pod.done("--remove")
    assert pod.run("cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names") == ""


def test_a_dry_run_prints_what_would_be_fed(pod: Namespace, mode: str) -> None:
    add_others(pod, mode)
    pod.done("--apply", "--iptables-mode", mode)  # so that there is something to replace
    for more in ((), ("--remove",)):
        old = pod.rules()
        said = pod.done("--dry-run", "--iptables-mode", mode, *more, *OPTIONS)
        assert pod.rules() == old
        texts = re.findall(r"^# (\S+) (--noflush.*)\n((?:[^#\n].*\n)+)", said, re.MULTILINE)
        assert [Path(command).name for command, _, _ in texts] == [f"{tool}-{mode}-restore" for tool in TOOLS]
        for command, arguments, text in texts:
            pod.run(command, *arguments.split(), text=text)
        fed = pod.rules()
        pod.done("--remove") if more else pod.done("--apply", "--iptables-mode", mode, *OPTIONS)
        assert pod.rules() == fed
        assert fed != old


def test_a_dry_run_needs_no_privilege(pod: Namespace) -> None:
    said = pod.iptables("--dry-run", under=("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"))
    assert said.returncode == 0, said.stderr
    assert "without NET_ADMIN" in said.stdout
    assert said.stdout.count("COMMIT") == 2


@pytest.mark.parametrize("action", ["--apply", "--remove"])
def test_without_net_admin_it_says_what_to_do(pod: Namespace, action: str) -> None:
    result = pod.iptables(action, under=("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"))
    assert result.returncode == 1
    assert "cap_add: [NET_ADMIN]" in result.stderr
    assert "init image" in result.stderr


def test_legacy_without_net_raw_says_what_to_do(pod: Namespace) -> None:
    without = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw")
    result = pod.iptables("--apply", "--iptables-mode", "legacy", under=without)
    assert result.returncode == 1
    assert "NET_RAW" in result.stderr
    assert pod.iptables("--apply", under=without).returncode == 0  # nft does not need it
    assert len(entries(pod.rules())) == FULL


# What is installed. A folder with copies stands for /usr/sbin of an image.

Sbin = Callable[..., tuple[str, ...]]


@pytest.fixture
def sbin(tmp_path: Path) -> Sbin:
    """Makes a folder of programs; names as they are, or `new=old`. Gives the command that goes before."""

    def make(*names: str) -> tuple[str, ...]:
        for name in names:
            new, _, old = name.partition("=")
            for end in ("", "-save", "-restore"):
                shutil.copy(f"/usr/sbin/{old or new}{end}", tmp_path / f"{old or new}{end}")
                (tmp_path / f"{old or new}{end}").rename(tmp_path / f"{new}{end}")
        shutil.copy(shutil.which("sh") or "", tmp_path / "sh")
        return instead_of_sbin(tmp_path)

    return make


def test_without_iptables_it_says_what_to_do(pod: Namespace, sbin: Sbin) -> None:
    result = pod.iptables("--apply", under=sbin())
    assert result.returncode == 1
    assert "there is no iptables here" in result.stderr
    assert "apt-get install iptables" in result.stderr
    assert "init image" in result.stderr


@pytest.mark.parametrize("kind", MODES)
def test_an_image_may_have_one_kind_under_the_plain_name(pod: Namespace, sbin: Sbin, kind: str) -> None:
    """A program of several names looks by which it was called, so that plain names lead to the kind's."""
    under = sbin(f"iptables-{kind}", f"ip6tables-{kind}")
    folder = Path(under[4].split()[2])
    for tool in TOOLS:
        for end in ("", "-save", "-restore"):
            hidden = folder / "hidden"
            hidden.mkdir(exist_ok=True)
            (folder / f"{tool}-{kind}{end}").rename(hidden / f"{tool}-{kind}{end}")
            plain = folder / f"{tool}{end}"
            plain.write_text(f'#!/bin/sh\nexec /usr/sbin/hidden/{tool}-{kind}{end} "$@"\n')
            plain.chmod(0o755)
    other = MODES[1 - MODES.index(kind)]
    result = pod.iptables("--apply", "--iptables-mode", other, under=under)
    assert result.returncode == 1
    assert f"of the kind {other}" in result.stderr
    result = pod.iptables("--apply", under=under)
    assert result.returncode == 0, result.stderr
    rules = pod.own_rules()
    assert len(entries(rules)) == FULL
    assert all(f"-{kind}-" in line for line in rules)


def test_ipv6_may_lack_where_it_has_no_address(pod: Namespace, sbin: Sbin) -> None:
    under = sbin("iptables-nft")
    result = pod.iptables("--apply", under=under)
    assert result.returncode == 0, result.stderr
    assert "IPv6: left out" in result.stdout
    assert len(entries(pod.rules())) == FULL // 2
    assert pod.iptables("--remove", under=under).returncode == 0
    assert pod.rules() == []


@pytest.mark.parametrize("action", ["--apply", "--remove"])
def test_ipv6_must_not_lack_where_it_has_an_address(pod: Namespace, sbin: Sbin, action: str) -> None:
    pod.done("--apply", *OPTIONS)
    before = pod.rules()
    give_address(pod, "lo", "fd77::9/128")
    result = pod.iptables(action, under=sbin("iptables-nft"))
    assert result.returncode == 1
    assert "fd77::9" in result.stderr
    assert "disable_ipv6" in result.stderr
    assert pod.rules() == before  # IPv4 had succeeded, and is as it was


def test_a_failure_half_way_is_undone(pod: Namespace, mode: str, sbin: Sbin) -> None:
    """IPv4 succeeds, then the kernel says no to IPv6. What was in force before is so again, in its places."""
    under = sbin(f"iptables-{mode}", f"ip6tables-{mode}")
    broken = Path(under[4].split()[2]) / f"ip6tables-{mode}-restore"
    broken.unlink()
    broken.write_text(
        "#!/bin/sh\necho 'RULE_APPEND failed (No space left on device): rule in chain X' >&2\nexit 4\n"
    )
    broken.chmod(0o755)
    other_rules = add_others(pod, mode)
    result = pod.iptables("--apply", under=under)
    assert (result.returncode, pod.rules()) == (1, other_rules)
    assert "No space left on device" in result.stderr

    pod.done("--apply", "--iptables-mode", mode)
    for tool in TOOLS:
        pod.restore(f"{tool}-{mode}", "*nat\n-A OUTPUT -p tcp -m tcp --dport 4 -j RETURN\nCOMMIT\n")
    before = pod.rules()
    for action in (("--apply", *OPTIONS), ("--remove",)):
        result = pod.iptables(*action, under=under)
        assert result.returncode == 1
        assert pod.rules() == before


def test_rules_that_do_not_stay_are_noticed_and_undone(pod: Namespace, mode: str, sbin: Sbin) -> None:
    """Another program takes away what was just made: here in the moment after each restore."""
    under = sbin(f"iptables-{mode}", f"ip6tables-{mode}")
    folder = Path(under[4].split()[2])
    restore = folder / f"iptables-{mode}-restore"
    hidden = folder / "hidden"
    hidden.mkdir()
    restore.rename(hidden / restore.name)
    restore.write_text(
        f'#!/bin/sh\n/usr/sbin/hidden/{restore.name} "$@" || exit\n'
        f"/usr/sbin/iptables-{mode} -t nat -F FASTMESH_REDIRECT 2>/dev/null || true\n"
    )
    restore.chmod(0o755)
    before = add_others(pod, mode)
    result = pod.iptables("--apply", under=under)
    assert result.returncode == 1
    assert "FASTMESH_REDIRECT" in result.stderr
    assert pod.rules() == before


# An application that runs as the proxy's user.


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_an_applications_socket_of_the_proxys_user_is_refused(pod: Namespace, host: str) -> None:
    with pod.listen(host, 8000, PROXY):
        result = pod.iptables("--apply")
        assert result.returncode == 3
        assert "port 8000" in result.stderr
        assert "uid 1337" in result.stderr
        assert 'user: "1000:1000"' in result.stderr
        assert pod.rules() == []
        assert pod.iptables("--apply", "--exclude-inbound-ports", "8000").returncode == 0
        assert pod.iptables("--apply", "--proxy-uid", "4000").returncode == 0
    with pod.listen(host, 8000, APP):
        assert pod.iptables("--apply").returncode == 0


def test_the_proxy_itself_is_not_refused(pod: Namespace) -> None:
    """By its ports, where the process cannot be seen."""
    with (
        pod.listen("0.0.0.0", 15006, PROXY),
        pod.listen("127.0.0.1", 15001, PROXY),
        pod.listen("::", 9400, PROXY),
    ):
        assert pod.iptables("--apply").returncode == 0


@pytest.mark.parametrize("port", [15006, 15001])
def test_a_proxy_of_another_user_is_refused(pod: Namespace, port: int) -> None:
    """Its own connections would be redirected to it, for ever."""
    with pod.listen("127.0.0.1", port, 4000):
        result = pod.iptables("--apply")
        assert result.returncode == 3
        assert f"port {port} runs as uid 4000" in result.stderr
        assert pod.rules() == []
        assert pod.iptables("--apply", "--proxy-uid", "4000").returncode == 0
        assert pod.iptables("--apply", "--proxy-gid", "4000").returncode == 0


def start(pod: Namespace, *command: str, uid: int = PROXY) -> subprocess.Popen[str]:
    """A process in there, which says `ready` and ends with its input."""
    process = subprocess.Popen(
        [
            *("ip", "netns", "exec", pod.name),
            *("setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", *command),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


LISTENS = """
import socket, sys
with socket.create_server(("127.0.0.1", 8000)):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_process_of_the_proxys_user_is_refused(pod: Namespace) -> None:
    """Also one that does not listen; one in another network is none of ours."""
    process = start(pod, "sh", "-c", "echo ready; read forever")
    try:
        result = pod.iptables("--apply")
        assert result.returncode == 3
        assert f"process {process.pid} (sh)" in result.stderr
        assert pod.iptables("--apply", "--proxy-uid", "4000", "--proxy-gid", str(PROXY)).returncode == 3
        with namespaces("other") as (other,):
            assert other.iptables("--apply").returncode == 0
    finally:
        process.communicate()
    assert pod.iptables("--apply").returncode == 0


def test_fastmesh_may_listen_elsewhere(pod: Namespace) -> None:
    """A process that is seen to be fastmesh is the proxy, on whatever port."""
    process = start(pod, sys.executable, "-c", LISTENS, "fastmesh")
    try:
        assert pod.iptables("--apply").returncode == 0
    finally:
        process.communicate()
    process = start(pod, sys.executable, "-c", LISTENS, "application")
    try:
        result = pod.iptables("--apply")
        assert result.returncode == 3
        assert "port 8000" in result.stderr
    finally:
        process.communicate()


# Whatever was there before.

PORT = st.integers(1, 65535)
CHAIN = st.sampled_from(["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "USER_A", "USER_B"])
COMMENT = st.text("ab -j\"'\\FASTMESH_OUTPUT#*:", min_size=1, max_size=40).map(str.strip).filter(bool)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


RULE = st.one_of(
    st.builds("-A {} -p tcp -m tcp --dport {} -j ACCEPT".format, CHAIN, PORT),
    st.builds("-A {} -p udp -m udp --sport {} -j RETURN".format, CHAIN, PORT),
    st.builds("-A {} -m comment --comment {} -j RETURN".format, CHAIN, COMMENT.map(quoted)),
    st.builds("-A {} -m comment --comment {}".format, CHAIN, COMMENT.map(quoted)),
    st.builds(
        "-A {} -p tcp -m tcp --dport {} -j REDIRECT --to-ports {}".format,
        st.sampled_from(["PREROUTING", "OUTPUT"]),
        PORT,
        PORT,
    ),
    st.builds("-A {} -m owner --uid-owner {} -j USER_A".format, st.just("OUTPUT"), PORT),
    st.just("-A POSTROUTING -o eth1 -j MASQUERADE"),
    st.just("-A PREROUTING -p tcp -j USER_B"),
    st.just("-A USER_B -g USER_A"),
)
STEP = st.sampled_from(
    [("--apply",), ("--apply", *OPTIONS), ("--apply", "--iptables-mode", "legacy"), ("--remove",)]
)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    before=st.lists(st.tuples(st.sampled_from(MODES), st.lists(RULE, max_size=8)), max_size=2),
    steps=st.lists(STEP, max_size=3),
)
@pytest.mark.timeout(600)
def test_any_rules_are_left_as_they_were(
    before: list[tuple[str, list[str]]], steps: list[tuple[str, ...]]
) -> None:
    with namespaces("pod") as (pod,):
        for mode, rules in before:
            for tool in TOOLS:
                chains = ":USER_A - [0:0]\n:USER_B - [0:0]\n"
                pod.restore(f"{tool}-{mode}", f"*nat\n{chains}" + "\n".join([*rules, "COMMIT\n"]))
        there = pod.rules()
        for step in steps:
            pod.done(*step)
            rules = pod.rules()
            assert len(entries(rules)) == (0 if step == ("--remove",) else FULL)
            assert [line for line in rules if line in there] == there
        pod.done("--remove")
        assert pod.rules() == there
