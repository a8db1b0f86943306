"""``fastmesh demo`` as a new user meets it."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from support.ports import free_port
from support.proxy import ROOT
from support.waiting import eventually


class Demo:
    def __init__(self, folder, ports, *arguments):
        self.folder = folder
        self.output = folder / f"demo-{time.monotonic_ns()}.out"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastmesh", "demo", *ports, *arguments],
                cwd=folder,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        eventually(self._serves, f"the demo serves: {self.text}", within=20)
        found = re.search(r"^configuration +(\S+)$", self.text, re.MULTILINE)
        self.file = Path(found[1])
        self.proxy = re.search(r"^proxy +http://(\S+)/$", self.text, re.MULTILINE)[1]
        self.admin = re.search(r"^admin +http://(\S+)/$", self.text, re.MULTILINE)[1]
        # name -> (address, pid), as printed
        self.origins = {
            name: (address, int(pid))
            for name, address, pid in re.findall(r"^(origin-\d) +(\S+) \(pid (\d+)", self.text, re.MULTILINE)
        }

    def _serves(self):
        assert self.process.poll() is None, self.text
        return " serves " in self.text

    @property
    def text(self):
        return self.output.read_text()

    def get(self, path="/", address=None):
        """(status, body)"""
        connection = http.client.HTTPConnection(address or self.proxy, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def who(self):
        status, body = self.get()
        assert status == 200, body
        return re.match(r"hello from (\S+) ", body)[1]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@pytest.fixture
def start(tmp_path):
    demos = []
    # Ports of this test alone: those that are usual for the demo may be somebody's a moment later.
    names = ("--port", "--admin-port", "--origin-port")
    ports = [text for name in names for text in (name, str(free_port()))]

    def begin(*arguments, folder=tmp_path):
        demos.append(Demo(folder, ports, *arguments))
        return demos[-1]

    yield begin
    for demo in demos:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.wait()


def is_alive(pid):
    return Path(f"/proc/{pid}").exists()


def test_three_origins_answer_in_turn_and_end_with_the_demo(start):
    demo = start()
    assert len(demo.origins) == 3
    turn = [demo.who() for _ in range(6)]
    assert sorted(turn[:3]) == sorted(demo.origins)
    assert turn[3:] == turn[:3]
    assert demo.get("/ping") == (200, "pong\n")
    assert 'fastmesh_requests_total{listener="web",service="hello"' in demo.get("/metrics", demo.admin)[1]
    assert demo.stop() == 0
    assert not any(is_alive(pid) for _, pid in demo.origins.values())
    assert "Traceback" not in demo.text


def test_editing_a_weight_changes_the_split_within_a_second(start):
    demo = start()
    address, _ = demo.origins["origin-1"]
    text = demo.file.read_text()
    demo.file.write_text(text.replace(f"{address}, weight: 1", f"{address}, weight: 8"))
    began = time.monotonic()
    eventually(lambda: "weight 1 -> 8" in demo.text, "the change is applied")
    assert time.monotonic() - began < 1.5
    assert Counter(demo.who() for _ in range(20)) == {"origin-1": 16, "origin-2": 2, "origin-3": 2}
    assert demo.stop() == 0


def test_killing_an_origin_fails_no_request(start):
    demo = start()
    victim = "origin-2"
    for _ in range(3):
        demo.who()
    os.kill(demo.origins[victim][1], signal.SIGKILL)
    answers = [demo.who() for _ in range(9)]
    assert victim not in answers
    assert not is_alive(demo.origins[victim][1])  # and no zombie
    assert f"{victim} (pid {demo.origins[victim][1]}) has ended: killed by SIGKILL" in demo.text
    assert demo.stop() == 0


def test_killing_the_slow_origin_in_the_middle_of_a_request_fails_none(start):
    demo = start()
    _, pid = demo.origins["origin-3"]
    connections = []
    for _ in range(6):
        connection = http.client.HTTPConnection(demo.proxy, timeout=10)
        connection.request("GET", "/")
        connections.append(connection)
    os.kill(pid, signal.SIGKILL)
    for connection in connections:
        assert connection.getresponse().status == 200
        connection.close()
    assert demo.stop() == 0


def test_it_is_used_again_with_its_edits(start):
    demo = start()
    file = demo.file
    file.write_text(file.read_text().replace('"pong\\n"', '"edited\\n"'))
    assert demo.stop() == 0
    again = start()
    assert again.file == file
    assert again.get("/ping") == (200, "edited\n")
    assert again.origins["origin-1"][0] == demo.origins["origin-1"][0]
    assert again.stop() == 0


def test_two_demos_in_one_folder(start):
    first = start()
    second = start()
    assert first.file != second.file
    assert first.who()
    assert second.who()
    assert second.stop() == 0
    assert first.stop() == 0


def test_origins_end_even_if_the_demo_is_killed(start):
    demo = start()
    demo.process.kill()
    demo.process.wait()
    eventually(lambda: not any(is_alive(pid) for _, pid in demo.origins.values()), "the origins end")


def test_for_containers(start):
    demo = start("--host", "0.0.0.0")
    assert "bind: 0.0.0.0:" in demo.file.read_text()
    assert demo.who()
    assert demo.get("/readyz", demo.admin)[0] == 200
    assert demo.stop() == 0
