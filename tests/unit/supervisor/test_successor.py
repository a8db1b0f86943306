"""A process that goes on as nobody's child."""

import os
import sys

import trio

from fastmesh.supervisor import successor

TELL = """
import os, sys
from fastmesh.supervisor.successor import VARIABLE, detach
first = os.getpid()
detach()
open_ = [int(n) for n in os.listdir("/proc/self/fd") if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")]
told = [os.getpid() != first, os.getppid() != int(sys.argv[2]), VARIABLE in os.environ,
        any(os.get_inheritable(n) for n in open_)]
with open(sys.argv[1], "w") as file:
    print(os.getpid(), *told, file=file)
"""


def test_it_is_not_our_child_and_passes_nothing_on(tmp_path, monkeypatch):
    file = tmp_path / "told"
    command = [sys.executable, "-c", TELL, str(file), str(os.getpid())]
    monkeypatch.setattr(sys, "orig_argv", command)

    async def main():
        with trio.fail_after(20):
            started = await successor.start()
            await started.ended()
            return started.pid

    pid = trio.run(main)
    assert file.read_text().split() == [str(pid), "True", "True", "False", "False"]


def test_others_are_left_as_they_are(monkeypatch):
    monkeypatch.delenv(successor.VARIABLE, raising=False)
    before = os.getpid()
    successor.detach()
    assert os.getpid() == before
