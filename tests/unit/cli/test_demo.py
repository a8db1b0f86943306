"""The demo's processes and what it prints."""

import http.client
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from fastmesh.cli import demo, demo_file
from support.ports import free_port


@pytest.fixture
def found(tmp_path):
    places = demo_file.Places("127.0.0.1", free_port(), free_port(), free_port())
    return demo_file.find_or_write(tmp_path, places, tuple(demo.ORIGINS))


def ask(address):
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def is_alive(pid):
    return Path(f"/proc/{pid}").exists()


def test_three_origins_run_and_end(found):
    with demo.running_origins(found.file, found.sockets) as origins:
        for origin in origins:
            assert f"hello from {origin.name} (pid {origin.process.pid})" in ask(origin.address)
        pids = [origin.process.pid for origin in origins]
        assert all(is_alive(pid) for pid in pids)
    assert not any(is_alive(pid) for pid in pids)


def test_a_killed_origin_is_reaped_and_its_port_refuses(found, capfd):
    with demo.running_origins(found.file, found.sockets) as origins:
        victim = origins[1]
        ask(victim.address)
        os.kill(victim.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while is_alive(victim.process.pid):
            assert time.monotonic() < deadline, "a zombie is left"
            time.sleep(0.01)
        with pytest.raises(ConnectionRefusedError):
            ask(victim.address)
        assert "hello" in ask(origins[0].address)
        victim.process.wait()
    assert f"{victim.name} (pid {victim.process.pid}) has ended: killed by SIGKILL" in capfd.readouterr().err


def test_what_to_try_can_be_copied(found, monkeypatch):
    monkeypatch.setattr(demo, "_in_a_container", lambda: False)
    with demo.running_origins(found.file, found.sockets) as origins:
        text = demo.what_to_try(found.file, origins)
        for origin in origins:
            assert f"{origin.address} (pid {origin.process.pid}" in text
        assert "slow: 200 ms" in text
        assert f"curl http://{found.file.listen}/" in text
        assert f"curl http://{found.file.admin}/metrics" in text
        assert f"kill -9 {origins[1].process.pid}" in text
        edit = next(line.strip() for line in text.splitlines() if "sed -i" in line)
        assert os.system(edit) == 0
    assert found.file.path.read_text().count("weight: 8") == 1


def test_in_a_container_what_is_within_is_done_within(found, monkeypatch):
    """A pid of the container, killed on the machine around it, would be somebody else's."""
    monkeypatch.setattr(demo, "_in_a_container", lambda: True)
    with demo.running_origins(found.file, found.sockets) as origins:
        text = demo.what_to_try(found.file, origins)
        inside = f"  docker exec {socket.gethostname()} "
        assert f"{inside}sh -c 'kill -9 {origins[1].process.pid}'\n" in text
        assert f"{inside}sed -i '/{origins[0].address}/s/weight: 1/weight: 8/' {found.file.path}\n" in text
        assert f"  curl http://{found.file.listen}/" in text


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::]:1", "[::1]:1"),
        (":1", "127.0.0.1:1"),
        ("10.0.0.1:1", "10.0.0.1:1"),
    ],
)
def test_wildcards_are_shown_as_what_to_connect_to(address, expected):
    assert demo._reachable(address) == expected
