"""Binding the admin address."""

import os
import socket
import stat

import pytest

from fastmesh.admin.sockets import (
    admin_addresses,
    admin_url,
    close_admin_sockets,
    open_admin,
    open_admin_sockets,
)
from fastmesh.errors import StartError
from fastmesh.model import Given


def test_a_port_in_use_says_so_and_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=f"{address} is in use.*set `admin` to another address"):
            open_admin_sockets(address)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
def test_the_url_names_the_real_port(bind):
    sockets = open_admin_sockets(bind)
    try:
        port = sockets[0].getsockname()[1]
        assert port
        assert admin_url(sockets[0]) == "http://" + bind.removesuffix(":0") + f":{port}/"
    finally:
        close_admin_sockets(sockets)


def test_a_foreign_address_is_explained():
    with pytest.raises(StartError, match="not an address of this machine"):
        open_admin_sockets("192.0.2.1:0")


def test_a_unix_socket_is_the_owners_alone_and_removed_at_the_end(tmp_path):
    path = tmp_path / "fm.sock"
    sockets = open_admin_sockets(f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert admin_url(sockets[0]) == f"unix:{path}"
    close_admin_sockets(sockets)
    assert not path.exists()


def test_a_stale_unix_socket_is_taken_over_and_a_live_one_is_not(tmp_path):
    path = tmp_path / "fm.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    sockets = open_admin_sockets(f"unix:{path}")
    with pytest.raises(StartError, match="in use"):
        open_admin_sockets(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))  # the first one still listens
    close_admin_sockets(sockets)


@pytest.mark.parametrize("ours", [False, True])
def test_a_socket_that_was_handed_in_is_used(tmp_path, ours):
    path = tmp_path / "fm.sock"
    with socket.socket(socket.AF_UNIX) as handed_in:
        handed_in.bind(str(path))
        handed_in.listen()
        admin = open_admin(f"unix:{path}", {f"unix:{path}": Given((handed_in,), ours)})
        assert admin.sockets == [handed_in]
        admin.close()
        assert handed_in.fileno() == -1
    assert path.exists() == (not ours)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_host_is_looked_for_by_its_address(host):
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        port = theirs.getsockname()[1]
        assert f"127.0.0.1:{port}" in admin_addresses(f"{host}:{port}")
        admin = open_admin(f"{host}:{port}", {f"127.0.0.1:{port}": Given((theirs,), ours=False)})
        assert theirs in admin.sockets
        assert not admin.ours
        admin.close()


def test_what_is_opened_here_is_ours(tmp_path):
    path = tmp_path / "fm.sock"
    admin = open_admin(f"unix:{path}", {"unix:/other": Given((), ours=False)})
    assert admin.ours
    admin.close()
    assert not path.exists()


def test_a_file_in_the_way_is_left_alone(tmp_path):
    path = tmp_path / "fm.sock"
    path.write_text("precious")
    with pytest.raises(StartError, match="not a socket"):
        open_admin_sockets(f"unix:{path}")
    assert path.read_text() == "precious"


def test_the_umask_is_put_back(tmp_path):
    before = os.umask(0o022)
    try:
        close_admin_sockets(open_admin_sockets(f"unix:{tmp_path / 'a.sock'}"))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


# ---------------------------------------------------------------- handed in and left


@pytest.mark.parametrize("ours", [True, False])
def test_a_socket_that_was_handed_in_is_used_for_its_bind_alone(tmp_path, ours):
    bind, other = f"unix:{tmp_path / 'a.sock'}", f"unix:{tmp_path / 'b.sock'}"
    (sock,) = open_admin_sockets(bind)
    given = {bind: Given((sock,), ours)}
    elsewhere = open_admin(other, given)
    assert elsewhere.sockets[0] is not sock
    assert elsewhere.ours
    elsewhere.close()
    here = open_admin(bind, given)
    assert here.sockets == [sock]
    here.close()
    assert sock.fileno() == -1
    assert (tmp_path / "a.sock").exists() is not ours
    assert not (tmp_path / "b.sock").exists()


def test_what_was_left_is_not_removed(tmp_path):
    admin = open_admin(f"unix:{tmp_path / 'a.sock'}")
    copy = admin.sockets[0].dup()
    admin.leave()
    admin.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "a.sock"))
    copy.close()
