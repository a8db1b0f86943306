"""The small HTTP client of the command line."""

import socket
import threading
from contextlib import suppress

import pytest

from fastmesh.cli import admin_client
from fastmesh.cli.admin_client import AdminUnreachable, normalise, request


class OneAnswer:
    """Accepts one connection, keeps what it was sent, answers with given bytes."""

    def __init__(self, listening, answer):
        self.listening = listening
        self.answer = answer
        self.received = b""
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        with suppress(OSError):  # a client that has read enough goes away
            connection, _ = self.listening.accept()
            with connection:
                while b"\r\n\r\n" not in self.received and (part := connection.recv(4096)):
                    self.received += part
                connection.sendall(self.answer)


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def address(listening):
    return f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_request_and_its_answer(listening):
    peer = OneAnswer(listening, b'HTTP/1.1 202 Accepted\r\ncontent-length: 13\r\n\r\n{"ok": "yes"}')
    answer = request("POST", "/api/v1/drain", address(listening), token="secret")
    assert (answer.status, answer.json()) == (202, {"ok": "yes"})
    head = peer.received.decode().split("\r\n")
    assert head[0] == "POST /api/v1/drain HTTP/1.1"
    assert f"host: {address(listening)}" in head
    assert "authorization: Bearer secret" in head
    assert "content-length: 0" in head


def test_over_a_unix_socket(tmp_path):
    path = tmp_path / "fm.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        peer = OneAnswer(listening, b"HTTP/1.1 200 OK\r\n\r\nready\n")
        assert request("GET", "/readyz", f"unix:{path}").body == "ready\n"
        assert b"host: localhost\r\n" in peer.received


def test_nobody_there(listening):
    gone = address(listening)
    listening.close()
    with pytest.raises(AdminUnreachable, match=r"is fastmesh running.*--admin"):
        request("GET", "/readyz", gone)
    with pytest.raises(AdminUnreachable):
        request("GET", "/readyz", "unix:/nonexistent/fm.sock")


def test_no_answer_in_time(listening):
    with pytest.raises(AdminUnreachable, match="no answer in time"):
        request("GET", "/readyz", address(listening), seconds=0.1)


def test_something_else_listens(listening):
    OneAnswer(listening, b"SSH-2.0-OpenSSH\r\n\r\n")
    with pytest.raises(AdminUnreachable, match="does not speak HTTP"):
        request("GET", "/readyz", address(listening))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9400", "127.0.0.1:9400"),
        ("http://localhost:9400/", "localhost:9400"),
        ("9400", "127.0.0.1:9400"),
        (":9400", ":9400"),
        ("[::1]:9400", "[::1]:9400"),
        ("unix:/run/fm.sock", "unix:/run/fm.sock"),
    ],
)
def test_addresses_as_people_write_them(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize("text", ["", "localhost", "host:", "host:99999", "::1:9400", "host:http"])
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="host:port or unix:/path"):
        normalise(text)


def test_wildcards_are_reached_over_the_loopback(listening):
    OneAnswer(listening, b"HTTP/1.1 200 OK\r\n\r\n")
    port = listening.getsockname()[1]
    assert request("GET", "/", f"0.0.0.0:{port}").status == 200


def test_an_endless_answer_is_cut_off(listening, monkeypatch):
    monkeypatch.setattr(admin_client, "ANSWER_BYTES", 1000)
    OneAnswer(listening, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000_000)
    assert len(request("GET", "/", address(listening)).body) < 200_000
