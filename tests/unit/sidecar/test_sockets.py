import os
import socket
import sys

import pytest

from fastmesh.sidecar import diag, own_user_complaint, owner_of_port, sockets
from fastmesh.sidecar.sockets import Listening, listening

# local address, state, uid, inode
TCP = (
    ("0100007F:1F40", "0A", 1337, 37551),
    ("00000000:1F41", "0A", 0, 22210),
    ("020A4D0A:1F42", "0A", 1000, 22211),
    ("0100007F:1F43", "01", 1000, 22212),
    ("0100007F:1F44", "0A", 1000, 22213),
)
TCP6 = (
    ("00000000000000000000000001000000:1F41", "0A", 1000, 24),
    ("B80D0120000000000000000001000000:1F42", "0A", 1001, 25),
)


def table(rows):
    """As proc_net_tcp.rst of the kernel has it."""
    lines = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    ]
    for number, (local, state, uid, inode) in enumerate(rows):
        queues = "00000000:0000" if state == "0A" else "0100007F:D431"
        lines.append(
            f"{number:4}: {local} {queues} {state} 00000000:00000000 00:00000000 00000000 {uid:5}        0 "
            f"{inode} 1 0000000000000000 100 0 0 10 0"
        )
    return "\n".join(lines) + "\n"


@pytest.fixture
def net(tmp_path):
    if sys.byteorder != "little":
        pytest.skip("the texts are of a little-endian machine")
    (tmp_path / "tcp").write_text(table(TCP))
    (tmp_path / "tcp6").write_text(table(TCP6))
    return tmp_path


def test_listening_sockets_are_read_up_to_the_first_other(net):
    assert listening(net) == [
        Listening(1337, "127.0.0.1", 8000, 37551),
        Listening(0, "0.0.0.0", 8001, 22210),
        Listening(1000, "10.77.10.2", 8002, 22211),
        Listening(1000, "::1", 8001, 24),
        Listening(1001, "2001:db8::1", 8002, 25),
    ]


def test_a_family_may_be_missing(net):
    (net / "tcp6").unlink()
    assert {item.host for item in listening(net)} == {"127.0.0.1", "0.0.0.0", "10.77.10.2"}
    (net / "tcp").unlink()
    assert listening(net) == []


def test_the_owner_is_the_one_whom_the_loopback_reaches(net):
    assert owner_of_port(8000, net) == 1337
    assert owner_of_port(8001, net) == 1000  # ::1, before 0.0.0.0
    assert owner_of_port(8002, net) == 1000  # the first, when none is of the loopback
    assert owner_of_port(8004, net) is None  # behind the listening ones
    assert owner_of_port(9, net) is None


def test_a_complaint_names_port_user_and_cure(net):
    text = own_user_complaint(1337, [8001, 8000], net)
    assert "port 8000" in text
    assert "uid 1337" in text
    assert "runAsUser: 1000" in text
    assert own_user_complaint(1337, [8001], net) is None
    assert own_user_complaint(1337, [9], net) is None
    assert own_user_complaint(0, [8000, 8001], net) is None
    assert own_user_complaint(1337, [], net) is None


def test_the_other_way_is_taken_where_one_does_not_work(net, monkeypatch):
    def fail():
        raise OSError

    monkeypatch.setattr(sockets, "NET", net)
    assert owner_of_port(8000) != 1337
    monkeypatch.setattr(diag, "listening", fail)
    assert owner_of_port(8000) == 1337
    assert "port 8000" in own_user_complaint(1337, [8000])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_real_sockets(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        mine = [item for item in listening(sockets.NET) if item.port == port and item.host == host]
        assert [item.uid for item in mine] == [os.geteuid()]
        assert mine[0].inode == os.fstat(server.fileno()).st_ino
        assert owner_of_port(port) == os.geteuid()
    assert owner_of_port(port) is None
