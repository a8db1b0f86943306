"""Listening sockets: what is in the way is said, what is not ours is left alone."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastmesh.engine import sockets
from fastmesh.engine.sockets import UNSENT_BYTES, Listening, open_listening
from fastmesh.errors import StartError
from fastmesh.model import Bind, Given
from support.descriptors import open_descriptors

Open = Callable[..., Listening]


@pytest.fixture
def listen() -> Iterator[Open]:
    """`open_listening` for a listener `web`; what was opened is closed when the test ends."""
    opened: list[Listening] = []

    def listen(bind: Bind, workers: int = 1) -> Listening:
        opened.append(open_listening("web", bind, workers))
        return opened[-1]

    yield listen
    for listening in opened:
        listening.close()


def loopback(port: int = 0) -> Bind:
    return Bind("inet", "127.0.0.1", port)


def port_of(listening: Listening) -> int:
    port: int = listening.sockets[0].getsockname()[1]
    return port


def message(bind: Bind, workers: int = 1) -> str:
    with pytest.raises(StartError) as caught:
        open_listening("web", bind, workers)
    text = str(caught.value)
    assert text.startswith(f"listener web: {bind.text}"), text
    return text


# ---------------------------------------------------------------- TCP


def is_set_for_clients(sock: socket.socket) -> bool:
    lowat = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    return lowat == UNSENT_BYTES and bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def test_a_client_that_does_not_read_takes_little_of_the_kernel(listen: Open) -> None:
    """What its window does not let through is bounded, in a socket that was accepted too."""
    listening = listen(loopback(), 1)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port_of(listening)))
        accepted, _ = listening.sockets[0].accept()
        with accepted:
            assert is_set_for_clients(accepted)
            accepted.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 1 << 24:
                    sent += accepted.send(bytes(65536))
    assert UNSENT_BYTES <= sent < UNSENT_BYTES + (64 << 10)


def test_a_group_of_one_socket_a_worker(listen: Open) -> None:
    listening = listen(loopback(), 3)
    assert len({sock.fileno() for sock in listening.sockets}) == 3
    assert {sock.getsockname() for sock in listening.sockets} == {("127.0.0.1", port_of(listening))}
    watched = [fd for worker in range(3) for _, fd in listening.watched_by(worker, 3)]
    assert watched == [sock.fileno() for sock in listening.sockets]
    assert not listening.shared
    assert listening.bound_text() == f"127.0.0.1:{port_of(listening)}"
    for sock in listening.sockets:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert is_set_for_clients(sock)
        assert not sock.getblocking()
        assert not os.get_inheritable(sock.fileno())


def test_each_of_a_group_is_given_clients(listen: Open) -> None:
    listening = listen(loopback(), 2)
    clients = [socket.create_connection(("127.0.0.1", port_of(listening))) for _ in range(64)]
    taken = []
    for sock in listening.sockets:
        count = 0
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
        taken.append(count)
    for client in clients:
        client.close()
    assert sum(taken) == 64
    assert min(taken) > 0


def test_each_socket_has_an_identity(listen: Open) -> None:
    watched = [pair for _ in range(2) for pair in listen(loopback(), 2).watched_by(0, 1)]
    assert len({identity for identity, _ in watched}) == 4


# ---------------------------------------------------------------- handed in


def handed_in(listening: Listening, ours: bool = True) -> Given:
    """The same sockets, as another process would get them."""
    return Given(tuple(sock.dup() for sock in listening.sockets), ours)


def listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_handed_in_sockets_are_shared_out(listen: Open, workers: int) -> None:
    """None is left without a worker, and each worker has one."""
    before = listen(loopback(), 3)
    after = open_listening("web", before.bind, workers, handed_in(before))
    try:
        watched = [after.watched_by(worker, workers) for worker in range(workers)]
        assert {fd for pairs in watched for _, fd in pairs} == {sock.fileno() for sock in after.sockets}
        assert len(after.sockets) == max(3, workers)
        assert all(watched)
        assert after.bound_text() == before.bound_text()
        assert [listens(sock) for sock in after.sockets] == [True] * 3 + [False] * (workers - 3)
        after.begin()
        assert all(map(listens, after.sockets))
    finally:
        after.close()


def test_a_handed_in_socket_that_nothing_may_join_is_for_all(listen: Open) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    bind = Bind("inet", "127.0.0.1", sock.getsockname()[1])
    listening = open_listening("web", bind, 2, Given((sock,), ours=True))
    try:
        assert listening.shared
        assert [fd for worker in range(2) for _, fd in listening.watched_by(worker, 2)] == [sock.fileno()] * 2
        assert is_set_for_clients(sock)
        assert not sock.getblocking()
    finally:
        listening.close()


def test_a_handed_in_socket_that_we_may_not_join_is_for_all(
    listen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user bound it, or the port needs a privilege that is not there any more."""
    before = listen(loopback(), 2)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sockets, "_join", refuse)
    after = open_listening("web", before.bind, 3, handed_in(before))
    try:
        assert after.shared
        assert [len(after.watched_by(worker, 3)) for worker in range(3)] == [2, 2, 2]
    finally:
        after.close()


@pytest.mark.parametrize("ours", [False, True])
def test_what_another_process_holds_is_left(tmp_path: Path, listen: Open, ours: bool) -> None:
    bind = Bind("unix", path=str(tmp_path / "s.sock"))
    before = listen(bind)
    after = open_listening("web", bind, 2, handed_in(before, ours=ours))
    before.leave()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(bind.path)
    after.close()
    assert Path(bind.path).exists() == (not ours)


@pytest.mark.parametrize("ours", [False, True])
def test_what_another_process_holds_is_given_back(listen: Open, ours: bool) -> None:
    before = listen(loopback())
    given = handed_in(before, ours=ours)
    after = open_listening("web", before.bind, 2, given)
    assert after.release() is (None if ours else given)
    assert [sock.fileno() == -1 for sock in after.sockets] == [ours, True]
    given.sockets[0].close()


def test_a_socket_that_cannot_begin_to_listen_says_why(listen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listen(loopback())
    after = open_listening("web", before.bind, 2, handed_in(before))
    try:
        after.sockets[1].close()
        with pytest.raises(StartError, match=f"^{before.bind.text}: Bad file descriptor"):
            after.begin()
    finally:
        after.close()


def test_the_file_of_a_socket_that_another_process_keeps_is_left(tmp_path: Path, listen: Open) -> None:
    bind = Bind("unix", path=str(tmp_path / "s.sock"))
    keeper = listen(bind)
    open_listening("web", bind, 2, handed_in(keeper, ours=False)).close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(bind.path)


def test_what_another_process_keeps_is_released_and_the_rest_closed(listen: Open) -> None:
    keeper = listen(loopback(), 1)
    given = handed_in(keeper, ours=False)
    group = open_listening("web", keeper.bind, 3, given)
    joined = group.sockets[1:]
    assert len(joined) == 2
    assert group.release() is given
    assert [sock.fileno() for sock in joined] == [-1, -1]
    again = open_listening("web", keeper.bind, 1, given)
    with socket.create_connection(("127.0.0.1", port_of(keeper))):
        again.sockets[0].accept()[0].close()
    again.close()


def test_what_is_ours_is_closed_when_it_is_released(listen: Open, tmp_path: Path) -> None:
    for given in (False, True):
        bind = Bind("unix", path=str(tmp_path / f"{given}.sock"))
        listening = listen(bind)
        if given:
            before, listening = listening, open_listening("web", bind, 1, handed_in(listening))
            before.leave()
        assert listening.release() is None
        assert listening.sockets[0].fileno() == -1
        assert not Path(bind.path).exists()


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_port_in_use(reuse_port: bool) -> None:
    """Seen even when the other has SO_REUSEPORT: the first of a group is bound without it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        text = message(loopback(port), 2)
    assert "in use" in text
    assert f"ss -ltnp 'sport = :{port}'" in text


def test_two_of_ours_cannot_share_a_port(listen: Open) -> None:
    port = port_of(listen(loopback(), 2))
    assert "in use" in message(loopback(port), 2)


def test_a_port_of_closed_connections_can_be_taken(listen: Open) -> None:
    """Connections in TIME_WAIT do not keep a restart waiting."""
    listening = listen(loopback())
    port = port_of(listening)
    client = socket.create_connection(("127.0.0.1", port))
    listening.sockets[0].setblocking(True)
    accepted = listening.sockets[0].accept()[0]
    accepted.close()
    client.close()
    listening.close()
    assert port_of(listen(loopback(port))) == port


def test_an_address_that_the_machine_does_not_have() -> None:
    assert "ip addr" in message(Bind("inet", "192.0.2.1", 8080))


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sockets, "_open_tcp", refuse)
    monkeypatch.setattr(sockets, "_open_unix", refuse)
    text = message(loopback(80))
    assert "CAP_NET_BIND_SERVICE" in text
    assert "ports below" in text
    assert "folder" in message(Bind("unix", path="/x/y.sock"))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_no_descriptor(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "too many")

    monkeypatch.setattr(sockets, "_open_tcp", refuse)
    assert "ulimit -n" in message(loopback(8080))


def test_another_failure_is_told_as_the_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setattr(sockets, "_open_tcp", refuse)
    assert message(loopback(8080)).endswith(": No buffer space available")


def test_a_failure_leaves_no_socket_open() -> None:
    before = set(open_descriptors("socket:"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        message(loopback(other.getsockname()[1]), 4)
    assert not set(open_descriptors("socket:")) - before


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
def test_ipv6_only_and_both(listen: Open) -> None:
    only = listen(Bind("inet6", "::", 0))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(only)))
    socket.create_connection(("::1", port_of(only))).close()
    both = listen(Bind("inet6", "", 0), 2)
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port_of(both))).close()
    assert both.bound_text() == f":{port_of(both)}"
    assert only.bound_text() == f"[::]:{port_of(only)}"


def test_without_ipv6_every_address_means_those_of_ipv4(
    listen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_has_ipv6", lambda: False)
    listening = listen(Bind("inet6", "", 0))
    assert listening.sockets[0].family == socket.AF_INET
    socket.create_connection(("127.0.0.1", port_of(listening))).close()


# ---------------------------------------------------------------- Unix


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


def unix(path: Path) -> Bind:
    return Bind("unix", path=str(path))


def test_one_socket_for_all_workers(listen: Open, path: Path) -> None:
    listening = listen(unix(path), 3)
    assert listening.shared
    assert len({fd for worker in range(3) for _, fd in listening.watched_by(worker, 3)}) == 1
    assert listening.bound_text() == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_path_goes_with_the_socket(listen: Open, path: Path) -> None:
    listening = listen(unix(path))
    listening.close()
    assert not path.exists()
    listening.close()  # again does no harm


def test_a_path_that_nobody_listens_on_is_replaced(listen: Open, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listen(unix(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_path_that_someone_listens_on_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        inode = path.stat().st_ino
        assert "in use" in message(unix(path))
        assert path.stat().st_ino == inode
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file"])
def test_anything_else_in_its_place_is_left_alone(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("precious")
    else:
        (path.parent / "target").write_text("precious")
        path.symlink_to(path.parent / "target")
    assert "something else than a socket is there" in message(unix(path))
    assert path.is_dir() if kind == "folder" else path.read_text() == "precious"


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert "folder does not exist" in message(unix(tmp_path / "no" / "s.sock"))


def test_nobody_new_joins_a_queue_that_is_to_go(listen: Open) -> None:
    """And who waits in it can still be accepted: closing it would reset them."""
    listening = listen(loopback())
    address = listening.sockets[0].getsockname()
    with socket.create_connection(address, 5) as waiting:
        listening.refuse_new()
        with socket.socket() as late:
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.connect(address)
        accepted, _ = listening.sockets[0].accept()
        with accepted:
            waiting.sendall(b"request")
            assert accepted.recv(100) == b"request"
        with pytest.raises(BlockingIOError):
            listening.sockets[0].accept()
    listening.close()
    with socket.socket() as later:
        assert later.connect_ex(address) == errno.ECONNREFUSED


def test_a_queue_that_others_hold_stays_open(listen: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        given = Given((held.dup(),), ours=False)
        listening = open_listening("web", loopback(held.getsockname()[1]), 1, given)
        listening.refuse_new()
        with socket.create_connection(held.getsockname(), 5):
            listening.close()
            held.settimeout(5)
            held.accept()[0].close()


def test_the_file_goes_before_the_queue_is_taken(listen: Open, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    listening = listen(Bind("unix", path=str(path)))
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        listening.refuse_new()
        assert not path.exists()
        accepted, _ = listening.sockets[0].accept()
        with accepted, socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            listening.close()
            assert path.exists(), "it is another process's"
