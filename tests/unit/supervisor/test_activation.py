import contextlib
import os
import socket
from pathlib import Path

import pytest

from fastmesh import config as configuration
from fastmesh.errors import StartError
from fastmesh.model import Given
from fastmesh.supervisor import activation

IPV6 = pytest.mark.skipif(not activation.IPV6_ADDRESSES.exists(), reason="this kernel has no IPv6")


@pytest.fixture
def hand_in(monkeypatch):
    """Puts sockets at descriptors in a row, as systemd does at 3, and sets the variables."""
    at = []

    def hand_in(*items, names=None, pid=None, count=None):
        first = os.open("/dev/null", os.O_RDONLY)
        os.close(first)
        first += 200
        for number, item in enumerate(items):
            os.dup2(item.fileno(), first + number, inheritable=True)
            at.append(first + number)
        monkeypatch.setenv("LISTEN_PID", str(os.getpid() if pid is None else pid))
        monkeypatch.setenv("LISTEN_FDS", str(len(items)) if count is None else count)
        if names is not None:
            monkeypatch.setenv("LISTEN_FDNAMES", names)
        return first

    yield hand_in
    for descriptor in at:
        with contextlib.suppress(OSError):
            os.close(descriptor)


@pytest.fixture
def listen():
    opened = []

    def listen(host="127.0.0.1", *, v6only=True, path=None):
        family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        opened.append(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        sock.bind(path or (host, 0))
        sock.listen()
        return sock

    yield listen
    for sock in opened:
        sock.close()


@contextlib.contextmanager
def taken(first):
    given = activation.take_sockets(first)
    yield given
    for sock in sockets_of(given):
        sock.close()


def sockets_of(given):
    return [sock for item in given.values() for sock in item.sockets]


def port_of(sock):
    return sock.getsockname()[1]


def config_with(tmp_path, *binds, admin="off"):
    file = tmp_path / "fastmesh.yaml"
    lines = [f'  l{number}: {{bind: "{bind}", routes: {{/: a}}}}' for number, bind in enumerate(binds)]
    file.write_text(
        f"admin: {admin}\nlisteners:\n"
        + "\n".join(lines)
        + "\nservices:\n  a: {endpoints: ['127.0.0.1:1']}\n"
    )
    return configuration.load(str(file)).config


def test_without_systemd_there_is_nothing(monkeypatch):
    for name in activation.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert activation.take_sockets() == {}


def test_sockets_are_known_by_their_address(hand_in, listen, tmp_path):
    path = str(tmp_path / "web.sock")
    first, second, third = listen(), listen("127.0.0.2"), listen(path=path)
    with taken(hand_in(first, second, third, names="a:b")) as given:
        assert list(given) == [
            f"127.0.0.1:{port_of(first)}",
            f"127.0.0.2:{port_of(second)}",
            f"unix:{path}",
        ]
        assert not any(item.ours for item in given.values())
        assert not any(sock.get_inheritable() for sock in sockets_of(given))
    assert not set(activation.VARIABLES) & os.environ.keys()


@IPV6
def test_one_family_and_both_are_told_apart(hand_in, listen):
    only, both, loopback = listen("::"), listen("::", v6only=False), listen("::1")
    with taken(hand_in(only, both, loopback)) as given:
        assert list(given) == [f"[::]:{port_of(only)}", f":{port_of(both)}", f"[::1]:{port_of(loopback)}"]


def test_a_group_of_one_address_stays_together(hand_in, listen):
    sock = listen()
    with taken(hand_in(sock, sock)) as given:
        assert [len(item.sockets) for item in given.values()] == [2]


def test_what_is_for_another_process_is_left_and_not_passed_on(hand_in, listen):
    sock = listen()
    first = hand_in(sock, pid=os.getpid() + 1)
    assert activation.take_sockets(first) == {}
    assert os.get_inheritable(first)
    assert not set(activation.VARIABLES) & os.environ.keys()


@pytest.mark.parametrize("kind", ["datagram", "not listening", "file", "connection"])
def test_what_cannot_be_served_is_closed_with_a_warning(hand_in, listen, caplog, tmp_path, kind):
    with contextlib.ExitStack() as stack:
        good = listen()
        if kind == "datagram":
            bad = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        elif kind == "not listening":
            bad = stack.enter_context(socket.socket())
        elif kind == "file":
            bad = stack.enter_context((tmp_path / "file").open("w"))
        else:
            bad = stack.enter_context(socket.create_connection(good.getsockname()))
        first = hand_in(bad, good, names="odd:web")
        with taken(first) as given:
            assert list(given) == [f"127.0.0.1:{port_of(good)}"]
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(first)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "(odd)" in warnings[0]
    assert "Accept=no" in warnings[0]


def test_a_count_that_is_none(hand_in):
    with pytest.raises(StartError, match="LISTEN_FDS is `many`"):
        activation.take_sockets(hand_in(count="many"))


def test_a_descriptor_that_was_closed_on_the_way(hand_in):
    with pytest.raises(StartError, match=r"\(unknown\).*is not open"):
        activation.take_sockets(hand_in(count="1"))


# ---------------------------------------------------------------- and the configuration


def given_at(*texts, ours=False):
    return {text: Given((), ours) for text in texts}


def test_what_a_listener_binds_is_no_surprise(tmp_path, caplog):
    given = given_at("127.0.0.1:80", ":81", f"unix:{tmp_path}/a.sock")
    activation.share_out(given, config_with(tmp_path, "127.0.0.1:80", ":81", f"unix:{tmp_path}/a.sock"))
    assert not caplog.records


def test_what_nobody_binds_is_named_and_kept(tmp_path, caplog):
    given = given_at("127.0.0.1:80", "unix:@name")
    activation.share_out(given, config_with(tmp_path, "127.0.0.1:90"))
    first, second = (record.message for record in caplog.records)
    assert "127.0.0.1:80, which no listener binds" in first
    assert "`bind: 127.0.0.1:80`" in first
    assert "at paths only" in second
    assert len(given) == 2


def test_the_admin_api_has_its_own(tmp_path):
    given = given_at("127.0.0.1:80", "127.0.0.1:9400", "unix:/run/a.sock", "0.0.0.0:9401")
    for bind, taken in [
        ("off", []),
        ("127.0.0.1:9400", ["127.0.0.1:9400"]),
        ("unix:/run/a.sock", ["unix:/run/a.sock"]),
        (":9401", ["0.0.0.0:9401"]),
    ]:
        config = config_with(tmp_path, "127.0.0.1:80", admin=bind)
        assert list(activation.share_out(given, config)) == taken
    assert list(given) == ["127.0.0.1:80"]


def test_what_another_fastmesh_handed_over_is_no_surprise(tmp_path, caplog):
    activation.share_out(given_at("127.0.0.1:80", ours=True), config_with(tmp_path, "127.0.0.1:90"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "bind", "advice"),
    [
        (":80", "[::]:80", "BindIPv6Only=ipv6-only"),
        ("[::]:80", ":80", "BindIPv6Only=both"),
        ("0.0.0.0:80", ":80", "ListenStream=80"),
    ],
)
def test_another_family_than_is_meant(tmp_path, caplog, monkeypatch, text, bind, advice):
    monkeypatch.setattr(activation, "IPV6_ADDRESSES", Path("/dev/null"))
    activation.share_out(given_at(text), config_with(tmp_path, bind))
    assert advice in caplog.text


def test_every_address_where_the_kernel_has_no_ipv6(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(activation, "IPV6_ADDRESSES", tmp_path / "none")
    given = given_at("0.0.0.0:80", "0.0.0.0:81")
    activation.share_out(given, config_with(tmp_path, ":80", "0.0.0.0:81"))
    assert list(given) == ["0.0.0.0:81", ":80"]
    assert not caplog.records


def test_a_folder_by_another_name(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "var-run").symlink_to("run")
    given = given_at(f"unix:{tmp_path}/run/a.sock")
    activation.share_out(given, config_with(tmp_path, f"unix:{tmp_path}/var-run/a.sock"))
    assert list(given) == [f"unix:{tmp_path}/var-run/a.sock"]
