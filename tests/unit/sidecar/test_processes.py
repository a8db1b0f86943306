import os
import subprocess
import sys

import pytest

from fastmesh.sidecar.processes import is_fastmesh, visible


@pytest.mark.parametrize(
    "command",
    [
        "fastmesh run /etc/fastmesh.yaml",
        "/usr/bin/python3 /usr/local/bin/fastmesh healthcheck",
        "/usr/bin/python3 -P -m fastmesh.supervisor file",
        "python -m fastmesh run file",
        "/sbin/docker-init -- fastmesh run file",
    ],
)
def test_command_lines_of_fastmesh(command):
    assert is_fastmesh(command.split())


@pytest.mark.parametrize(
    "command", ["", "gunicorn app:app", "python -m http.server 8000", "fastmesh2 -m", "python -m"]
)
def test_command_lines_of_others(command):
    assert not is_fastmesh(command.split())


def test_processes_of_this_network_are_seen():
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout.readline() == b"\n"
        seen = {process.pid: process for process in visible()}
        assert os.getpid() not in seen
        assert (seen[child.pid].uid, seen[child.pid].gid) == (os.geteuid(), os.getegid())
        assert seen[child.pid].name.startswith("python")
        assert not seen[child.pid].is_fastmesh
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays, as a zombie
        assert child.pid not in {process.pid for process in visible()}
