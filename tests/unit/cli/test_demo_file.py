"""Where the demo's file goes, and that it never touches somebody else's."""

import contextlib
import os
import socket

import pytest

from fastmesh import config
from fastmesh.cli import demo_file
from fastmesh.cli.demo_file import Places, find_or_write, read
from support.ports import free_port

NAMES = ("origin-1", "origin-2", "origin-3")


@pytest.fixture
def find(tmp_path):
    """Calls `find_or_write` and closes what it opened at the end (or at once: ``keep=False``)."""
    found = []

    ports = {"port": free_port(), "admin_port": free_port(), "origin_port": free_port()}

    def call(folder=tmp_path, keep=True, **places):
        result = find_or_write(folder, Places(**{**ports, **places}), NAMES)
        if keep:
            found.append(result)
        else:
            close(result)
        return result

    yield call
    for result in found:
        close(result)


def close(found):
    for item in found.sockets:
        item.close()


def test_a_fresh_folder_gets_a_valid_commented_file(find, tmp_path):
    found = find()
    assert found.file.path == tmp_path / "fastmesh.yaml"
    assert found.remarks == [f"Wrote {found.file.path}."]
    loaded = config.load(found.file.path)
    assert not loaded.warnings
    endpoints = loaded.config.services["hello"].endpoints
    assert [e.address.text for e in endpoints] == list(found.file.origins.values())
    assert loaded.config.services["hello"].balance.policy == "round_robin"
    assert loaded.config.admin.bind == found.file.admin
    assert [bind.text for bind in loaded.config.listeners["web"].binds] == [found.file.listen]
    bound = [f"127.0.0.1:{item.getsockname()[1]}" for item in found.sockets]
    assert bound == list(found.file.origins.values())


def test_it_is_recognised_and_used_again_with_edits(find, tmp_path):
    first = find(keep=False)
    path = first.file.path
    edited = path.read_text().replace("weight: 1}", "weight: 8}", 1)
    path.write_text(edited)
    again = find()
    assert again.file == first.file
    assert path.read_text() == edited
    assert "with your edits" in again.remarks[0]


def test_a_file_of_the_user_is_left_alone(find, tmp_path):
    mine = tmp_path / "fastmesh.yaml"
    mine.write_text("listeners: {}\n")
    found = find()
    assert mine.read_text() == "listeners: {}\n"
    assert found.file.path == tmp_path / "fastmesh-demo.yaml"
    assert f"{mine} is not the demo's" in found.remarks[0]


def test_a_dangling_link_is_left_alone(find, tmp_path):
    (tmp_path / "fastmesh.yaml").symlink_to(tmp_path / "elsewhere")
    assert find().file.path.name == "fastmesh-demo.yaml"
    assert not (tmp_path / "elsewhere").exists()


def test_a_second_demo_beside_the_first(find):
    first, second = find(), find()
    assert second.file.path != first.file.path
    assert "ports are taken now" in second.remarks[0]
    assert not set(first.file.origins.values()) & set(second.file.origins.values())


def test_taken_ports_are_replaced_in_the_file(find):
    with contextlib.ExitStack() as taken:
        ports = [
            taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)
        ]
        found = find(port=ports[0], admin_port=ports[1], origin_port=ports[2])
        text = found.file.path.read_text()
    assert not any(f":{port}" in text for port in ports)


@pytest.mark.parametrize("which", ["listen", "admin"])
def test_an_earlier_file_whose_proxy_ports_are_taken_is_not_used(find, which):
    first = find(keep=False)
    host, _, port = getattr(first.file, which).rpartition(":")
    before = first.file.path.read_text()
    with socket.create_server((host, int(port))):
        again = find()
    assert again.file.path != first.file.path
    assert getattr(again.file, which) != getattr(first.file, which)
    assert first.file.path.read_text() == before


def test_the_ports_of_the_documentation():
    assert Places() == Places("127.0.0.1", 8080, 9400, 9001)


def test_a_folder_that_cannot_be_written_means_shared_memory(find, tmp_path, monkeypatch):
    shared = tmp_path / "shm"
    shared.mkdir()
    monkeypatch.setattr(demo_file, "SHARED_MEMORY", shared)
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = find()
    assert found.file.path == shared / f"fastmesh-demo-{os.geteuid()}" / "fastmesh.yaml"
    assert "cannot be written" in found.remarks[0]
    assert str(found.file.path) in found.remarks[1]


def test_a_folder_in_shared_memory_that_others_may_write_is_not_used(find, tmp_path, monkeypatch):
    shared = tmp_path / "shm"
    own = shared / f"fastmesh-demo-{os.geteuid()}"
    own.mkdir(parents=True)
    own.chmod(0o777)
    monkeypatch.setattr(demo_file, "SHARED_MEMORY", shared)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(demo_file.StartError, match="found no place"):
        find()


def test_a_host_for_containers(find):
    found = find(host="0.0.0.0")
    loaded = config.load(found.file.path)
    assert loaded.config.listeners["web"].binds[0].host == "0.0.0.0"
    assert loaded.config.admin.bind.startswith("0.0.0.0:")
    assert all(address.startswith("127.0.0.1:") for address in found.file.origins.values())


def test_a_host_that_is_not_ours(find):
    with pytest.raises(demo_file.StartError, match="address of this machine"):
        find(host="192.0.2.1")


def test_only_its_own_files_are_read(tmp_path):
    file = tmp_path / "x"
    assert read(file) is None
    file.write_text("# Written by `fastmesh demo`, or so it says\n")
    assert read(file) is None
    file.write_bytes(b"\xff\xfe")
    assert read(file) is None
