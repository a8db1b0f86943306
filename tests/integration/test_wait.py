"""`fastmesh wait`: the application starts when the proxy is ready, in the place of what waited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.origin import Origin
from support.ports import free_port
from support.proxy import ROOT, Proxy
from support.waiting import eventually

Start = Callable[..., Proxy]
BARE = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


def wait(*arguments: str, under: tuple[str, ...] = (), **settings: Any) -> subprocess.Popen[str]:
    command = [*under, sys.executable, "-m", "fastmesh", "wait", *arguments]
    settings.setdefault("env", {**os.environ, **BARE})
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe, **settings)


def ended(process: subprocess.Popen[str], text: str | None = None) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)"""
    out, err = process.communicate(text, timeout=30)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The admin address of a proxy that is ready."""
    config = {
        "workers": 1,
        "listeners": {"web": {"bind": f"127.0.0.1:{free_port()}", "service": "o"}},
        "services": {"o": {"endpoints": ["127.0.0.1:1"]}},
    }
    proxy = Proxy(tmp_path_factory.mktemp("wait"), config).start()
    yield f"127.0.0.1:{proxy.admin_port}"
    proxy.stop()


def test_the_exit_code_is_that_of_the_application(ready: str) -> None:
    assert ended(wait("--admin", ready, "--", "sh", "-c", "exit 7")) == (7, "", "")


def test_standard_input_and_output_are_the_application_s(ready: str) -> None:
    assert ended(wait("--admin", ready, "--", "cat"), "said") == (0, "said", "")


def test_options_behind_the_application_are_its_own(ready: str) -> None:
    assert ended(wait("--admin", ready, "echo", "--timeout", "x"))[1] == "--timeout x\n"


def test_it_keeps_its_pid_and_signals_end_it(ready: str) -> None:
    process = wait("--admin", ready, "--", "sleep", "600")
    eventually(
        lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "the application", within=20
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == -signal.SIGTERM


@pytest.mark.parametrize("field", ["SigIgn", "SigBlk", "SigCgt"])
def test_signals_are_as_they_were(ready: str, field: str) -> None:
    """Python ignores SIGPIPE, and so would an application that did not set it anew."""
    look = ["grep", field, "/proc/self/status"]
    direct = subprocess.run(look, capture_output=True, text=True, check=True)
    assert ended(wait("--admin", ready, "--", *look))[1] == direct.stdout


def test_what_is_ignored_stays_so(ready: str) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    look = ["grep", "SigIgn", "/proc/self/status"]
    direct = subprocess.run(look, capture_output=True, text=True, check=True, preexec_fn=ignore)
    assert int(direct.stdout.split()[1], 16) & 1 << (signal.SIGTERM - 1)
    assert ended(wait("--admin", ready, "--", *look, preexec_fn=ignore))[1] == direct.stdout


def test_the_environment_is_as_it_was(ready: str) -> None:
    """Without a locale Python sets LC_CTYPE, for itself."""
    out = ended(wait("--admin", ready, "--", "env", env=BARE))[1]
    assert dict(line.split("=", 1) for line in out.splitlines()) == BARE


def test_descriptors_are_as_they_were(ready: str) -> None:
    assert ended(wait("--admin", ready, "--", "ls", "/proc/self/fd"))[1].split() == ["0", "1", "2", "3"]


def test_without_an_application_it_only_waits(ready: str) -> None:
    assert ended(wait(env={**os.environ, **BARE, "FASTMESH_ADMIN": ready})) == (0, "", "")


def test_a_program_that_is_not_there(ready: str) -> None:
    code, _, err = ended(wait("--admin", ready, "--", "no-such-program"))
    assert (code, err) == (127, "fastmesh wait: no-such-program: there is no such program\n")


def test_a_program_that_cannot_be_started(ready: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    code, _, err = ended(wait("--admin", ready, "--", str(tmp_path / "data")))
    assert (code, err) == (126, f"fastmesh wait: {tmp_path}/data cannot be started: Permission denied\n")


def test_nobody_there_in_time(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    port = free_port()
    code, _, err = ended(wait("--admin", f"{port}", "--timeout", "300ms", "--", "touch", str(ran)))
    assert code == 124
    assert err.startswith(
        f"fastmesh wait: not ready within 0.3 s: no answer from the admin API at 127.0.0.1:{port} "
        "(Connection refused)"
    )
    assert not ran.exists()


def test_not_ready_in_time_says_what_is_missing(start: Start, origins: Callable[..., Origin]) -> None:
    check = {"path": "/", "timeout": "60s"}
    silent = origins()
    with silent.answering("/", lambda exchange: exchange.wait_peer_end(60)):
        proxy = start(
            {
                "ready_timeout": "2s",
                "listeners": {"web": {"bind": f"127.0.0.1:{free_port()}", "service": "o"}},
                "services": {"o": {"endpoints": [silent.text], "health": check}},
            },
            ready=False,
        )
        admin = f"127.0.0.1:{proxy.admin_port}"
        eventually(lambda: "fastmesh 0" in proxy.stderr, "serving", within=20)
        code, _, err = ended(wait("--admin", admin, "--timeout", "100ms", "--", "true"))
        assert (code, err) == (
            124,
            f"fastmesh wait: not ready within 0.1 s: {admin} says 503: "
            "no check of 1 endpoint of service o has ended yet\n",
        )
        assert ended(wait("--admin", admin, "--", "true"))[0] == 0, "it becomes so"


def test_it_may_come_before_the_proxy(start: Start, tmp_path: Path) -> None:
    proxy = Proxy(
        tmp_path,
        {
            "workers": 1,
            "listeners": {"web": {"bind": f"127.0.0.1:{free_port()}", "service": "o"}},
            "services": {"o": {"endpoints": ["127.0.0.1:1"]}},
        },
    )
    process = wait("--admin", f"127.0.0.1:{proxy.admin_port}", "--", "echo", "there")
    try:
        proxy.start(ready=False)
        assert ended(process) == (0, "there\n", "")
    finally:
        proxy.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_waiting(number: signal.Signals, tmp_path: Path) -> None:
    """By an exit code, for the kernel keeps signals without a handler from who has pid 1."""

    def heed() -> None:
        signal.signal(number, signal.SIG_DFL)  # in the background of a script INT is ignored

    process = wait("--admin", f"127.0.0.1:{free_port()}", "--", "true", preexec_fn=heed)
    caught = 1 << (number - 1)

    def catches() -> bool:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        handled = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
        return bool(handled & caught) and bool(handled & 1 << (signal.SIGTERM - 1))

    eventually(catches, "it waits", within=20)
    process.send_signal(number)
    code, _, err = ended(process)
    assert (code, err) == (128 + number, "")


@pytest.mark.parametrize(("user", "code"), [(0, 125), (1337, 7)])
def test_an_application_of_the_proxy_s_own_user_is_refused(tmp_path: Path, user: int, code: int) -> None:
    """Where connections are intercepted; in a network namespace, since the ports are fixed."""
    admin = f"unix:{tmp_path}/admin.sock"
    config = {"admin": admin, "workers": 1, "sidecar": {"mode": "transparent", "app": 8000}}
    proxy = Proxy(tmp_path, yaml.safe_dump(config), under=("unshare", "--net"))
    try:
        proxy.start(ready=False)
        eventually(lambda: "fastmesh 0" in proxy.stderr, "serving", within=20)
        # As root elsewhere, and so able to read what this test runs.
        become = ("unshare", "--user", f"--map-user={user}")
        found, _, said = ended(wait("--admin", admin, "--", "sh", "-c", "exit 7", under=become))
        assert found == code
        assert ("those of its own user (uid 0) are exempt" in said) is (user == 0)
    finally:
        proxy.stop()
